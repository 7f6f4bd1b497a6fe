/* What the encoder knows of a set of references: their values at each place, and where in them runs of bytes occur. */
#ifndef DIFFREPLAY_INDEX_H
#define DIFFREPLAY_INDEX_H

#include "encode.h"

#define RUN_BYTES 6 /* that are looked for in the set */
#define NOWHERE UINT32_MAX

/* What a level looks for: candidates of a search in the set (a multiple of 4), below which length of a copy from the same
 * place there is one, and for how many bytes of the frame. */
typedef struct {
    unsigned ways, search_below;
    size_t place_cost;
} Level;

struct Index {
    Shape shape;
    size_t set_bytes;
    unsigned references, lanes; /* lanes: references, and what fills them up */
    Level level;
    unsigned tax; /* the cost of a token, besides its bytes, for the time that it takes to decode; in ONEs */
    unsigned bucket_bits, place_bits;
    uint8_t *values;   /* (frame_bytes, lanes) the references' values at a place */
    uint16_t *agreed;  /* (frame_bytes) for how many bytes up to a place all references agree */
    uint32_t *buckets; /* (1 << bucket_bits, ways) where in the set a run of bytes begins: reference, tag, place */
};

/* Of the first `count` of 8 bytes; its upper bits are the best. */
static inline uint64_t hash_run(uint64_t bytes, unsigned count) {
    return (bytes << (64 - 8 * count)) * 0x9E3779B97F4A7C15ull;
}

static inline uint32_t *bucket_of(const Index *index, uint64_t hash) {
    return index->buckets + index->level.ways * (size_t)(hash >> (64 - index->bucket_bits));
}

static inline uint32_t place_mask(const Index *index) { return ((uint32_t)1 << index->place_bits) - 1; }

/* Bits of a hash that the bucket does not tell, as many as there is room for, where an entry has them. */
static inline uint32_t tag_of(const Index *index, uint64_t hash) {
    return (uint32_t)((hash << index->bucket_bits) >> 40) & ~place_mask(index);
}

/* The first of 8 bytes that is not 0. */
static inline size_t first_byte(uint64_t bytes) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return (size_t)(__builtin_ctzll(bytes) >> 3);
#else
    return (size_t)(__builtin_clzll(bytes) >> 3);
#endif
}

/* For how many bytes, at most `most`, two runs are the same. */
static inline size_t same_bytes(const uint8_t *a, const uint8_t *b, size_t most) {
    size_t i = 0;
    while (i + 8 <= most) {
        const uint64_t differ = load64(a + i) ^ load64(b + i);
        if (differ) return i + first_byte(differ);
        i += 8;
    }
    while (i < most && a[i] == b[i]) i++;
    return i;
}

#endif
