#ifndef DIFFREPLAY_DECODE_H
#define DIFFREPLAY_DECODE_H

#include "token.h"

#define DECODE_SLACK 128 /* bytes that may be read behind a coded frame */

/* What a byte of a token's source may say. */
enum { NOTHING, REFERENCE, NEAR_SHIFT, ROWS, COLUMNS, DISTANCE, PREVIOUS, WORTHS };

/* How many bytes of a frame each of that means, for frames of one shape. */
typedef struct {
    Shape shape;
    uint32_t worth[WORTHS][256];
} Decoder;

/* To be called once, before anything is decoded. */
void decode_init(void);

void decoder_init(Decoder *decoder, const Shape *shape);

/* Decode one frame. `coded` has `size` bytes and DECODE_SLACK readable ones more, and does not change meanwhile; the
 * set may. Returns 0, or -1 where the bytes are no frame of this shape; `out` then holds anything. */
int decode_frame(const Decoder *decoder, const uint8_t *coded, size_t size, const uint8_t *set, size_t set_bytes,
                 uint8_t *out);

#endif
