/* Many frames in one call. Log and sets may be shared memory that another process goes on to write. */
#include "batch.h"

#include <stdlib.h>

#include "decode.h"

#define LINE 64
#define LINES_AHEAD 16
#define AHEAD 2 /* frames */
#define BUCKETS 1024 /* that frames are ordered by */

/* (pixels, channels) to (channels, pixels). */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__) && !defined(ONE_PATH)
__attribute__((target_clones("avx2", "ssse3", "default")))
#endif
static void to_planes(const uint8_t *restrict from, uint8_t *restrict to, size_t pixels, size_t channels) {
    if (channels == 3) {
        uint8_t *restrict red = to, *restrict green = to + pixels, *restrict blue = to + 2 * pixels;
        for (size_t i = 0; i < pixels; i++) {
            red[i] = from[3 * i];
            green[i] = from[3 * i + 1];
            blue[i] = from[3 * i + 2];
        }
        return;
    }
    for (size_t c = 0; c < channels; c++)
        for (size_t i = 0; i < pixels; i++) to[c * pixels + i] = from[i * channels + c];
}

static inline int64_t number(const uint8_t *numbers, size_t i) {
    int64_t value;
    memcpy(&value, numbers + 8 * i, 8);
    return value;
}

/* Whether [start, start + size) lies within `bytes`. */
static inline int within(int64_t start, int64_t size, size_t bytes) {
    return start >= 0 && size >= 0 && (uint64_t)start <= bytes && (uint64_t)size <= bytes - (uint64_t)start;
}

static inline void prefetch(const Batch *batch, size_t i) {
    const int64_t start = number(batch->starts, i), length = number(batch->lengths, i);
    if (!within(start, length, batch->log_bytes)) return;
    const int64_t most = length < LINE * LINES_AHEAD ? length : LINE * LINES_AHEAD;
    for (int64_t at = 0; at < most; at += LINE) __builtin_prefetch(batch->log + start + at);
}

static int decode_one(const Batch *batch, const Decoder *decoder, size_t i, uint8_t *coded, uint8_t *pixels) {
    const size_t frame_bytes = batch->shape.frame_bytes, channels = batch->shape.pixel_bytes;
    const int64_t start = number(batch->starts, i), length = number(batch->lengths, i);
    const int64_t place = number(batch->places, i);
    if (!within(place, (int64_t)frame_bytes, batch->out_bytes)) return -1;
    uint8_t *out = batch->out + place;
    if (length == -1) {
        memset(out, 0, frame_bytes);
        return 0;
    }
    if (!within(start, length, batch->log_bytes) || (uint64_t)length > frame_bytes) return -1;
    const int planar = batch->planar && channels > 1;
    if ((size_t)length == frame_bytes) {
        if (planar)
            to_planes(batch->log + start, out, frame_bytes / channels, channels);
        else
            memcpy(out, batch->log + start, frame_bytes);
        return 0;
    }
    const int64_t set_start = number(batch->set_starts, i), set_length = number(batch->set_lengths, i);
    if (!within(set_start, set_length, batch->sets_bytes)) return -1;
    /* Decided upon only in a copy that nobody changes. */
    memcpy(coded, batch->log + start, (size_t)length);
    const int result = decode_frame(decoder, coded, (size_t)length, batch->sets + set_start, (size_t)set_length,
                                    planar ? pixels : out);
    if (!result && planar) to_planes(pixels, out, frame_bytes / channels, channels);
    return result;
}

/* Which of BUCKETS parts of the log, from `least` on, a frame begins in. */
static inline size_t bucket_of(const Batch *batch, size_t i, uint64_t least, unsigned shift) {
    return (size_t)(((uint64_t)number(batch->starts, i) - least) >> shift);
}

/* The order in which frames lie in the log, roughly: near ones were coded against the same references, which are then
 * in cache. `order` has room for them all. */
static void order_by_place(const Batch *batch, size_t *order) {
    size_t firsts[BUCKETS + 1] = {0};
    uint64_t least = UINT64_MAX, most = 0;
    unsigned shift = 0;
    for (size_t i = 0; i < batch->count; i++) {
        const uint64_t start = (uint64_t)number(batch->starts, i);
        if (start < least) least = start;
        if (start > most) most = start;
    }
    while ((most - least) >> shift >= BUCKETS) shift++;
    for (size_t i = 0; i < batch->count; i++) firsts[1 + bucket_of(batch, i, least, shift)]++;
    for (size_t b = 0; b < BUCKETS; b++) firsts[b + 1] += firsts[b];
    for (size_t i = 0; i < batch->count; i++) order[firsts[bucket_of(batch, i, least, shift)]++] = i;
}

ptrdiff_t decode_batch(const Batch *batch) {
    const size_t frame_bytes = batch->shape.frame_bytes;
    uint8_t *coded = calloc(1, 2 * frame_bytes + DECODE_SLACK);
    size_t *order = calloc(batch->count ? batch->count : 1, sizeof *order);
    ptrdiff_t damaged = -1;
    if (coded && order) {
        Decoder decoder;
        decoder_init(&decoder, &batch->shape);
        order_by_place(batch, order);
        for (size_t i = 0; i < batch->count; i++) {
            if (i + AHEAD < batch->count) prefetch(batch, order[i + AHEAD]);
            if (decode_one(batch, &decoder, order[i], coded, coded + frame_bytes + DECODE_SLACK) &&
                (damaged < 0 || (ptrdiff_t)order[i] < damaged))
                damaged = (ptrdiff_t)order[i];
        }
    } else {
        damaged = -2;
    }
    free(coded);
    free(order);
    return damaged;
}
