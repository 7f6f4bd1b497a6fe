#ifndef DIFFREPLAY_BATCH_H
#define DIFFREPLAY_BATCH_H

#include "token.h"

/* Frames of a log, each with its reference set, and where they go. All numbers are int64 of any alignment. */
typedef struct {
    const uint8_t *log, *sets;
    uint8_t *out;
    size_t log_bytes, sets_bytes, out_bytes, count;
    const uint8_t *starts, *lengths, *set_starts, *set_lengths, *places;
    Shape shape;
    int planar;
} Batch;

/* Decode them all. Returns the first one that is damaged or lies outside what was passed in, -1 where none is, -2 where
 * memory is short. */
ptrdiff_t decode_batch(const Batch *batch);

#endif
