#ifndef DIFFREPLAY_DECODE_H
#define DIFFREPLAY_DECODE_H

#include "token.h"

#define DECODE_SLACK 128 /* bytes that may be read behind a coded frame */

void decode_init(void);

/* Decode one frame. `coded` has `size` bytes and DECODE_SLACK readable ones more, and does not change meanwhile; the
 * set may. Returns 0, or -1 where the bytes are no frame of this shape; `out` then holds anything. */
int decode_frame(const uint8_t *coded, size_t size, const uint8_t *set, size_t set_bytes, const Shape *shape,
                 uint8_t *out);

/* (pixels, channels) to (channels, pixels). */
void to_planes(const uint8_t *from, uint8_t *to, size_t pixels, size_t channels);

#endif
