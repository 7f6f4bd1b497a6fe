/* Builds the index of a set, once for all frames that are coded against it. */
#include "index.h"

#include <stdlib.h>

#define MOST_BUCKET_BITS 18

/* In eighths of a byte. They are where a copy of one more byte stops paying: between such steps nothing changes. Coloured
 * frames have so many short copies that the next step would make them a sixteenth larger. */
enum { TAX = 24, TAX_ON_COLOURS = 8 };

static const Level LEVELS[] = {{4, 8, 16}, {4, 8, 1}, {8, 16, 1}, {16, 24, 1}, {64, 48, 1}};

static unsigned lanes_for(unsigned references) {
    if (references <= 8) return 8;
    if (references <= 16) return 16;
    if (references <= 32) return 32;
    return (references + 63) / 64 * 64;
}

static size_t buckets_bytes(const Index *index) { return (size_t)4 * index->level.ways << index->bucket_bits; }

size_t index_bytes(const Index *index) {
    return sizeof(Index) + index->shape.frame_bytes * (index->lanes + sizeof(uint16_t)) +
           (index->buckets ? buckets_bytes(index) : 0);
}

const Shape *index_shape(const Index *index) { return &index->shape; }
size_t index_set_bytes(const Index *index) { return index->set_bytes; }

static void fill_values(Index *index, const uint8_t *set) {
    const size_t frame_bytes = index->shape.frame_bytes;
    size_t agreed = 0;
    for (size_t place = 0; place < frame_bytes; place++) {
        uint8_t *values = index->values + place * index->lanes;
        unsigned differ = 0;
        for (unsigned lane = 0; lane < index->lanes; lane++) {
            const unsigned reference = lane < index->references ? lane : 0;
            values[lane] = set[reference * frame_bytes + place];
            differ |= values[lane] ^ set[place];
        }
        agreed = differ ? 0 : agreed < UINT16_MAX ? agreed + 1 : agreed;
        index->agreed[place] = (uint16_t)agreed;
    }
}

/* Note in a bucket that a run of bytes is at `here`, first, unless it is known to be at this place of a reference. */
static void fill_bucket(const Index *index, const uint8_t *set, uint32_t *bucket, uint32_t here, uint64_t bytes) {
    const unsigned ways = index->level.ways;
    const size_t place = here & place_mask(index);
    for (unsigned i = 0; i < ways && bucket[i] != NOWHERE; i++)
        if (((bucket[i] ^ here) & 0xffffff) == 0 &&
            load64(set + (bucket[i] >> 24) * index->shape.frame_bytes + place) == bytes)
            return;
    memmove(bucket + 1, bucket, 4 * (ways - 1));
    bucket[0] = here;
}

static void fill_buckets(Index *index, const uint8_t *set) {
    const size_t frame_bytes = index->shape.frame_bytes;
    memset(index->buckets, 0xff, buckets_bytes(index));
    for (uint32_t reference = 0; reference < index->references; reference++) {
        const uint8_t *frame = set + reference * frame_bytes;
        for (size_t place = 0; place + 8 <= frame_bytes; place++) {
            const uint64_t bytes = load64(frame + place), hash = hash_run(bytes, RUN_BYTES);
            const uint32_t here = reference << 24 | tag_of(index, hash) | (uint32_t)place;
            fill_bucket(index, set, bucket_of(index, hash), here, bytes);
        }
    }
}

Index *index_new(const uint8_t *set, size_t set_bytes, const Shape *shape, int level) {
    Index *index = calloc(1, sizeof(Index));
    if (!index) return NULL;
    index->shape = *shape;
    index->set_bytes = set_bytes;
    index->references = (unsigned)(set_bytes / shape->frame_bytes);
    index->tax = shape->pixel_bytes == 1 ? TAX : TAX_ON_COLOURS;
    if (!index->references) return index;
    index->lanes = lanes_for(index->references);
    index->values = malloc(shape->frame_bytes * index->lanes);
    index->agreed = malloc(shape->frame_bytes * sizeof(uint16_t));
    if (!index->values || !index->agreed) goto failed;
    fill_values(index, set);
    if (shape->frame_bytes >= 8) {
        index->level = LEVELS[level < 1 ? 0 : level > 5 ? 4 : level - 1];
        while (((size_t)1 << index->place_bits) < shape->frame_bytes) index->place_bits++;
        index->bucket_bits = 10;
        while (index->bucket_bits < MOST_BUCKET_BITS &&
               ((size_t)index->level.ways << index->bucket_bits) < set_bytes / 4)
            index->bucket_bits++;
        index->buckets = malloc(buckets_bytes(index));
        if (!index->buckets) goto failed;
        fill_buckets(index, set);
    }
    return index;
failed:
    index_free(index);
    return NULL;
}

void index_free(Index *index) {
    if (index) {
        free(index->values);
        free(index->agreed);
        free(index->buckets);
        free(index);
    }
}
