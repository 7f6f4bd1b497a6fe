#ifndef DIFFREPLAY_MANY_H
#define DIFFREPLAY_MANY_H

#include "encode.h"

/* A coded frame in memory of its own; NULL where the frame is to be stored raw. */
typedef struct {
    uint8_t *bytes;
    size_t size;
} Blob;

/* Code `count` frames, end to end, by this thread, which has `workspace` and a frame's room at `out`, and by up to
 * `helpers` others, each with its own, which are done with them when it returns: as many as the frames are worth. Returns 0, or -1
 * where there is too little memory; the bytes of `blobs`, NULL before, are to be freed in either case. */
int encode_many(const Index *index, Workspace *workspace, uint8_t *out, const uint8_t *set, const uint8_t *frames,
                size_t count, size_t helpers, Blob *blobs);

#endif
