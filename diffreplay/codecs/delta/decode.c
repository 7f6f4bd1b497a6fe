/* Coded bytes to a frame. Whatever the bytes are, nothing is read or written outside what was passed in. */
#include "decode.h"

#define CHUNK 16
#define LARGE 96
enum { MORE_1 = 254, MORE_2 = 255, MORE_LITERALS = 255 };

typedef struct {
    uint8_t kind, literals, length;
} Code;

static Code codes[256]; /* kind KINDS: no such code */

void decode_init(void) {
    unsigned next = 0;
    for (unsigned k = 0; k < KINDS; k++) {
        const Kind *kind = &KIND[k];
        for (unsigned i = 0; i < kind->literals; i++)
            for (unsigned j = 0; j < kind->lengths; j++) {
                unsigned direct = direct_lengths(kind);
                Code code = {(uint8_t)k, (uint8_t)i, 0};
                if (i == kind->literals - 1u) code.literals = MORE_LITERALS;
                code.length = (uint8_t)(j < direct ? kind->least + j : j == direct ? MORE_1 : MORE_2);
                codes[next++] = code;
            }
    }
    while (next < 256) codes[next++].kind = KINDS;
}

static inline void copy_chunk(uint8_t *to, const uint8_t *from) {
    uint8_t chunk[CHUNK];
    memcpy(chunk, from, CHUNK);
    memcpy(to, chunk, CHUNK);
}

/* Copy `size` bytes forward in chunks, the last of which goes further, where there is room for that; the source does not
 * overlap, or lies a chunk or more behind. */
static inline void copy(uint8_t *to, const uint8_t *to_end, const uint8_t *from, const uint8_t *from_end, size_t size) {
    if (__builtin_expect(size <= LARGE && to_end - to >= LARGE && from_end - from >= LARGE, 1)) {
        copy_chunk(to, from); /* at first without asking how many there are, which nobody can predict */
        copy_chunk(to + CHUNK, from + CHUNK);
        for (size_t i = 2 * CHUNK; i < size; i += CHUNK) copy_chunk(to + i, from + i);
        return;
    }
    memmove(to, from, size);
}

/* Repeat the `distance` bytes before `to`. */
static inline void repeat(uint8_t *to, const uint8_t *to_end, size_t distance, size_t size) {
    const uint8_t *from = to - distance;
    if (distance >= 2 * CHUNK || distance >= size) {
        if (distance >= 2 * CHUNK && size <= LARGE && to_end - to >= LARGE)
            copy(to, to_end, from, to_end, size);
        else if (distance >= size)
            memcpy(to, from, size);
        else
            for (size_t i = 0; i < size; i++) to[i] = from[i];
        return;
    }
    /* Bytes that are there already double. */
    if (size <= LARGE && to_end - to >= LARGE + CHUNK) {
        if (distance < 8) { /* the first eight one by one, then from a multiple of the distance that is no less */
            for (size_t i = 0; i < 8; i++) to[i] = from[i];
            if (size <= 8) return;
            size_t further = distance;
            while (further < 8) further += distance;
            for (size_t i = 8; i < size; i += 8) memcpy(to + i, to + i - further, 8);
            return;
        }
        for (size_t i = 0; i < size; i += 8) memcpy(to + i, from + i, 8);
        return;
    }
    for (size_t i = 0; i < size; i++) to[i] = from[i];
}

int decode_frame(const uint8_t *coded, size_t size, const uint8_t *set, size_t set_bytes, const Shape *shape,
                 uint8_t *out) {
    const size_t frame_bytes = shape->frame_bytes;
    const uint8_t *in = coded, *const in_end = coded + size, *const set_end = set + set_bytes;
    uint8_t *to = out, *const end = out + frame_bytes;
    size_t reference = 0; /* where in the set the reference frame begins that was named last */
    ptrdiff_t shift = 0;  /* from a place in the frame to one in the set */

    while (in < in_end) {
        const Code code = codes[*in++];
        if (code.kind == KINDS || to == end) return -1;
        size_t literals = code.literals, length = code.length;
        if (literals == MORE_LITERALS) {
            if (in >= in_end) return -1;
            literals = *in++;
            if (literals == 255) {
                if (in_end - in < 3) return -1;
                literals += in[0] | (size_t)in[1] << 8 | (size_t)in[2] << 16;
                in += 3;
            }
            literals += KIND[code.kind].literals - 1u;
        }
        if (literals > (size_t)(in_end - in) || literals > (size_t)(end - to)) return -1;
        copy(to, end, in, in_end + DECODE_SLACK, literals);
        in += literals, to += literals;
        if (to == end && literals) break; /* a frame's last token may end with its literals */
        const Kind *kind = &KIND[code.kind];
        if ((size_t)(in_end - in) < kind->source) return -1;
        const size_t place = (size_t)(to - out), left = (size_t)(end - to);
        ptrdiff_t from = 0; /* in the set, or for BACK and RUN the distance */
        switch (code.kind) {
        case SAME:
            reference = in[0] * frame_bytes;
            from = (ptrdiff_t)(reference + place);
            break;
        case AGAIN: from = (ptrdiff_t)(reference + place); break;
        case SHIFT:
            shift = (ptrdiff_t)(in[0] * frame_bytes) + ((in[1] >> 4) - 8) * (ptrdiff_t)shape->row_bytes +
                    ((in[1] & 15) - 8) * (ptrdiff_t)shape->pixel_bytes;
            from = (ptrdiff_t)place + shift;
            break;
        case FAR:
            shift = (ptrdiff_t)(in[0] * frame_bytes) + (int8_t)in[1] * (ptrdiff_t)shape->row_bytes +
                    (int8_t)in[2] * (ptrdiff_t)shape->pixel_bytes;
            from = (ptrdiff_t)place + shift;
            break;
        case SHIFTED: from = (ptrdiff_t)place + shift; break;
        case BACK: {
            const int rows = in[0] / BACK_COLUMNS, column = in[0] % BACK_COLUMNS;
            from = rows * (ptrdiff_t)shape->row_bytes +
                   (rows ? column - BACK_COLUMNS / 2 : column + 1) * (ptrdiff_t)shape->pixel_bytes;
            break;
        }
        case RUN: from = (ptrdiff_t)shape->pixel_bytes; break;
        default: /* ADJUST */
            reference = in[0] * frame_bytes;
            from = (ptrdiff_t)(reference + place);
        }
        in += kind->source;
        if (length == MORE_1 || length == MORE_2) {
            if (in == in_end && code.kind != ADJUST) {
                length = left;
            } else if (length == MORE_1) {
                if (in >= in_end) return -1;
                length = (size_t)*in++ + kind->least + direct_lengths(kind);
            } else {
                if (in_end - in < 2) return -1;
                length = (in[0] | (size_t)in[1] << 8) + kind->least + direct_lengths(kind);
                in += 2;
            }
        }
        if (code.kind == ADJUST) {
            const size_t pairs = length;
            length *= 2;
            if (pairs > (size_t)(in_end - in) || length > left || (size_t)from + length > set_bytes) return -1;
            const uint8_t *source = set + from;
            for (size_t i = 0; i < pairs; i++) {
                to[2 * i] = (uint8_t)(source[2 * i] + (in[i] & 15) - 8);
                to[2 * i + 1] = (uint8_t)(source[2 * i + 1] + (in[i] >> 4) - 8);
            }
            in += pairs;
        } else if (code.kind == BACK || code.kind == RUN) {
            if (length > left || from < 1 || (size_t)from > place) return -1;
            repeat(to, end, (size_t)from, length);
        } else {
            if (length > left || from < 0 || (size_t)from + length > set_bytes) return -1;
            copy(to, end, set + from, set_end, length);
        }
        to += length;
    }
    if (in != in_end) return -1;
    if (to < end) { /* what is left comes from the reference frame that was named last */
        const size_t from = reference + (size_t)(to - out), left = (size_t)(end - to);
        if (from + left > set_bytes) return -1;
        memcpy(to, set + from, left);
    }
    return 0;
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
__attribute__((target_clones("avx2", "ssse3", "default")))
#endif
void to_planes(const uint8_t *restrict from, uint8_t *restrict to, size_t pixels, size_t channels) {
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
