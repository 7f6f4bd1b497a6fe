/* The token of a coded frame; docs/format.md says what it means and why.
 *
 * With ONE_PATH, the core has the instructions alone that it is compiled for; without, what it finds when it runs. */
#ifndef DIFFREPLAY_TOKEN_H
#define DIFFREPLAY_TOKEN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { SAME, AGAIN, SHIFT, FAR, SHIFTED, BACK, RUN, ADJUST, KINDS };

/* A kind has `literals` * `lengths` codes, in this order. The last code for literals, and the last one (ADJUST) or two
 * for lengths, say that bytes with the number follow. */
typedef struct {
    uint8_t literals, lengths, more, least, source;
} Kind;

static const Kind KIND[KINDS] = {
    {16, 2, 2, 3, 1}, /* SAME */
    {16, 3, 2, 2, 0}, /* AGAIN */
    {4, 8, 2, 5, 2},  /* SHIFT */
    {3, 7, 2, 6, 3},  /* FAR */
    {5, 7, 2, 3, 0},  /* SHIFTED */
    {4, 8, 2, 3, 1},  /* BACK */
    {3, 7, 2, 2, 0},  /* RUN */
    {3, 9, 1, 2, 1},  /* ADJUST: lengths in pairs of pixels */
};

#define MOST_REFERENCES 256
#define MOST_LENGTH 65535 /* what two bytes say, beyond the codes */
#define MOST_FRAME_BYTES (1u << 24)
#define BACK_COLUMNS 32

typedef struct {
    size_t frame_bytes, row_bytes, pixel_bytes;
} Shape;

/* How many lengths a kind codes without further bytes. */
static inline unsigned direct_lengths(const Kind *kind) { return (unsigned)kind->lengths - kind->more; }

static inline uint64_t load64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

static inline uint16_t load16(const uint8_t *at) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint16_t value;
    memcpy(&value, at, 2);
    return value;
#else
    return (uint16_t)(at[0] | at[1] << 8);
#endif
}

#endif
