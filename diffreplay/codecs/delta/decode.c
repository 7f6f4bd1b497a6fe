/* Coded bytes to a frame. Whatever the bytes are, nothing is read or written outside what was passed in.
 *
 * Most tokens are decoded by `quick`: it asks first whether whole chunks may be read and written, and has few branches,
 * as pixels decide about them and nobody can predict those. What it leaves, as a frame's last bytes, `careful` decodes,
 * which also says what is damaged. */
#include "decode.h"

#define CHUNK 16
#define ROOM (4 * CHUNK) /* that `quick` needs in the frame and in the set, besides a copy's length */
#define QUICK_LITERALS (2 * CHUNK)

enum { FROM_SET, ADJUSTED, WITHIN, NO_CODE };
enum { NOTHING_KEPT, LAST_REFERENCE, LAST_SHIFT, KEPT };

/* All that a code says, in 16 bytes. */
typedef struct {
    uint16_t length_mask;          /* of the two bytes after the source: those that are the length's */
    uint16_t first, second, third; /* what the source's bytes are worth: where in a Decoder's tables that stands */
    uint8_t literals;
    uint8_t more_literals; /* 255 where the next byte says how many more there are, else 0 */
    uint8_t length;
    uint8_t source_bytes, tail_bytes; /* tail: the source, and what follows for the length */
    uint8_t way;
    uint8_t added_to, kept_as; /* the kept shift that the source is added to, and the one that the sum becomes */
} Code;

static Code codes[256];

/* Have the compiler keep a value where it is, and not compute it anew at each use. */
#if defined(__GNUC__)
#define KEEP(value) __asm__("" : "+r"(value))
#else
#define KEEP(value) ((void)(value))
#endif

static Code code_of(unsigned k, unsigned literals, unsigned length) {
    static const uint8_t FIRST[KINDS] = {[SAME] = REFERENCE, [SHIFT] = REFERENCE, [FAR] = REFERENCE,
                                         [BACK] = DISTANCE,  [RUN] = PREVIOUS,    [ADJUST] = REFERENCE};
    static const uint8_t SECOND[KINDS] = {[SHIFT] = NEAR_SHIFT, [FAR] = ROWS};
    static const uint8_t THIRD[KINDS] = {[FAR] = COLUMNS};
    static const uint8_t ADDED_TO[KINDS] = {[AGAIN] = LAST_REFERENCE, [SHIFTED] = LAST_SHIFT};
    static const uint8_t KEPT_AS[KINDS] = {[SAME] = LAST_REFERENCE, [AGAIN] = LAST_REFERENCE, [ADJUST] = LAST_REFERENCE,
                                           [SHIFT] = LAST_SHIFT,    [FAR] = LAST_SHIFT,       [SHIFTED] = LAST_SHIFT};
    const Kind *kind = &KIND[k];
    const unsigned direct = direct_lengths(kind), length_bytes = length < direct ? 0 : length - direct + 1;
    return (Code){
        .length_mask = length_bytes == 2 ? 0xffff : length_bytes ? 0xff : 0,
        .first = (uint16_t)(FIRST[k] * sizeof(uint32_t[256])),
        .second = (uint16_t)(SECOND[k] * sizeof(uint32_t[256])),
        .third = (uint16_t)(THIRD[k] * sizeof(uint32_t[256])),
        .literals = (uint8_t)literals,
        .more_literals = literals == kind->literals - 1u ? 255 : 0,
        .length = (uint8_t)(kind->least + (length_bytes ? direct : length)),
        .source_bytes = kind->source,
        .tail_bytes = (uint8_t)(kind->source + length_bytes),
        .way = k == ADJUST ? ADJUSTED : k == BACK || k == RUN ? WITHIN : FROM_SET,
        .added_to = ADDED_TO[k],
        .kept_as = KEPT_AS[k],
    };
}

void decode_init(void) {
    unsigned next = 0;
    for (unsigned k = 0; k < KINDS; k++)
        for (unsigned i = 0; i < KIND[k].literals; i++)
            for (unsigned j = 0; j < KIND[k].lengths; j++) codes[next++] = code_of(k, i, j);
    while (next < 256) codes[next++] = (Code){.way = NO_CODE, .literals = QUICK_LITERALS + 1};
}

void decoder_init(Decoder *decoder, const Shape *shape) {
    const int32_t row = (int32_t)shape->row_bytes, pixel = (int32_t)shape->pixel_bytes;
    memset(decoder, 0, sizeof *decoder);
    decoder->shape = *shape;
    for (int byte = 0; byte < 256; byte++) {
        const int back = byte / BACK_COLUMNS, column = byte % BACK_COLUMNS;
        decoder->worth[REFERENCE][byte] = (uint32_t)byte * (uint32_t)shape->frame_bytes;
        decoder->worth[NEAR_SHIFT][byte] = (uint32_t)(((byte >> 4) - 8) * row + ((byte & 15) - 8) * pixel);
        decoder->worth[ROWS][byte] = (uint32_t)((int8_t)byte * row);
        decoder->worth[COLUMNS][byte] = (uint32_t)((int8_t)byte * pixel);
        decoder->worth[DISTANCE][byte] = (uint32_t)(back * row + (back ? column - BACK_COLUMNS / 2 : column + 1) * pixel);
        decoder->worth[PREVIOUS][byte] = (uint32_t)pixel;
    }
}

static inline uint32_t worth(const Decoder *decoder, uint16_t table, uint8_t byte) {
    uint32_t value; /* `table` counts bytes, as multiplying by a table's size shows here */
    memcpy(&value, (const char *)decoder->worth + table + sizeof value * byte, sizeof value);
    return value;
}

/* How far back a copy within the frame goes. */
static inline size_t distance_of(const Decoder *decoder, const Code *code, const uint8_t *source) {
    return (size_t)(int32_t)worth(decoder, code->first, source[0]); /* 0 or negative ones are too large */
}

/* What is to be added to a place in the frame to have one in the set. */
static inline ptrdiff_t shift_of(const Decoder *decoder, const Code *code, const uint8_t *source,
                                 const ptrdiff_t *kept) {
    return kept[code->added_to] + (ptrdiff_t)worth(decoder, code->first, source[0]) +
           (int32_t)worth(decoder, code->second, source[1]) + (int32_t)worth(decoder, code->third, source[2]);
}

/* How far a frame is decoded. */
typedef struct {
    const uint8_t *in, *in_end;
    uint8_t *to;
    ptrdiff_t kept[KEPT]; /* shifts, by what they are of */
} State;

static inline void copy_chunk(uint8_t *to, const uint8_t *from) {
    uint8_t chunk[CHUNK];
    memcpy(chunk, from, CHUNK);
    memcpy(to, chunk, CHUNK);
}

/* Copy whole chunks, two at least, as most copies are that short. The source lies a chunk or more away. */
static inline void copy_chunks(uint8_t *to, const uint8_t *from, size_t size) {
    copy_chunk(to, from);
    copy_chunk(to + CHUNK, from + CHUNK);
    for (size_t i = 2 * CHUNK; i < size; i += CHUNK) copy_chunk(to + i, from + i);
}

/* Repeat the `distance` bytes before `to`, which are less than a chunk; up to 7 bytes more than `size` are written. */
static inline void repeat(uint8_t *to, size_t distance, size_t size) {
    static const uint64_t TIMES[8] = {0, 0x0101010101010101, 0x0001000100010001, 0x0001000001000001,
                                      0x0000000100000001, 0x0000010000000001, 0x0001000000000001, 0x0100000000000001};
    static const uint8_t WHOLE[8] = {0, 8, 8, 6, 8, 5, 6, 7}; /* bytes of as many repetitions as 8 bytes hold */
    const uint8_t *from = to - distance;
    if (distance >= 8) {
        for (size_t i = 0; i < size; i += 8) memcpy(to + i, from + i, 8);
        return;
    }
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const uint64_t repeated = (load64(from) & (((uint64_t)1 << 8 * distance) - 1)) * TIMES[distance];
    for (size_t i = 0; i < size; i += WHOLE[distance]) memcpy(to + i, &repeated, 8);
#else
    for (size_t i = 0; i < size; i++) to[i] = from[i];
#endif
}

/* Copy pairs of bytes, and add to each what half a byte says. */
static inline void adjust(uint8_t *to, const uint8_t *from, const uint8_t *by, size_t pairs) {
    for (size_t i = 0; i < pairs; i++) {
        to[2 * i] = (uint8_t)(from[2 * i] + (by[i] & 15) - 8);
        to[2 * i + 1] = (uint8_t)(from[2 * i + 1] + (by[i] >> 4) - 8);
    }
}

/* Decode tokens until there is one for `careful`, or none. The frame has more than ROOM bytes. */
static __attribute__((noinline)) void quick(const Decoder *decoder, const uint8_t *set, size_t set_bytes, uint8_t *out,
                                            State *state) {
    const uint8_t *in = state->in, *const in_end = state->in_end;
    uint8_t *to = state->to, *const end = out + decoder->shape.frame_bytes - ROOM;
    const ptrdiff_t set_end = (ptrdiff_t)set_bytes - ROOM;
    ptrdiff_t kept[KEPT] = {0, state->kept[LAST_REFERENCE], state->kept[LAST_SHIFT]};
    while (in < in_end && to <= end) {
        const Code *code = &codes[*in];
        KEEP(code);
        const size_t literals = code->literals + (size_t)(in[1] & code->more_literals);
        const uint8_t *literal = in + 1 + (code->more_literals & 1);
        if (literals > QUICK_LITERALS) break;
        const uint8_t *source = literal + literals, *next = source + code->tail_bytes;
        size_t length = code->length + (size_t)(load16(source + code->source_bytes) & code->length_mask);
        uint8_t *at = to + literals;
        copy_chunk(to, literal);
        copy_chunk(to + CHUNK, literal + CHUNK);
        if (next > in_end || (ptrdiff_t)length > end - at) break;
        if (code->way == WITHIN) {
            const size_t distance = distance_of(decoder, code, source);
            if (distance - 1 >= (size_t)(at - out)) break;
            if (distance < CHUNK)
                repeat(at, distance, length);
            else
                copy_chunks(at, at - distance, length);
        } else {
            const ptrdiff_t shift = shift_of(decoder, code, source, kept);
            const ptrdiff_t from = at - out + shift;
            if (from < 0 || from + (ptrdiff_t)length > set_end) break;
            if (code->way == FROM_SET) {
                copy_chunks(at, set + from, length);
            } else {
                const size_t pairs = length;
                length *= 2;
                if (pairs > (size_t)(in_end - next) || (ptrdiff_t)length > end - at ||
                    from + (ptrdiff_t)length > set_end)
                    break;
                for (size_t i = 0; i < pairs; i += 8) adjust(at + 2 * i, set + from + 2 * i, next + i, 8);
                next += pairs;
            }
            kept[code->kept_as] = shift;
        }
        in = next, to = at + length;
    }
    *state = (State){in, in_end, to, {0, kept[LAST_REFERENCE], kept[LAST_SHIFT]}};
}

/* Decode the next token; -1 where there is none that is right. */
static __attribute__((noinline)) int careful(const Decoder *decoder, const uint8_t *set, size_t set_bytes, uint8_t *out, State *state) {
    const uint8_t *in = state->in, *const in_end = state->in_end;
    uint8_t *to = state->to, *const end = out + decoder->shape.frame_bytes;
    const Code *code = &codes[*in++];
    if (code->way == NO_CODE || to == end) return -1;
    size_t literals = code->literals, length = code->length;
    if (code->more_literals) {
        if (in == in_end) return -1;
        literals += *in;
        if (*in++ == 255) {
            if (in_end - in < 3) return -1;
            literals += in[0] | (size_t)in[1] << 8 | (size_t)in[2] << 16;
            in += 3;
        }
    }
    if (literals > (size_t)(in_end - in) || literals > (size_t)(end - to)) return -1;
    memcpy(to, in, literals);
    in += literals, to += literals;
    state->in = in, state->to = to;
    if (to == end && literals) return 0; /* a frame's last token may end with its literals */

    const uint8_t *source = in;
    if (in_end - in < code->source_bytes) return -1;
    in += code->source_bytes;
    const ptrdiff_t length_bytes = code->tail_bytes - code->source_bytes;
    const size_t place = (size_t)(to - out), left = (size_t)(end - to);
    if (length_bytes && in == in_end && code->way != ADJUSTED) {
        length = left;
    } else {
        if (in_end - in < length_bytes) return -1;
        length += load16(in) & code->length_mask;
        in += length_bytes;
    }
    const size_t pairs = length;
    if (code->way == ADJUSTED) length *= 2;
    if (length > left) return -1;
    if (code->way == WITHIN) {
        const size_t distance = distance_of(decoder, code, source);
        if (distance - 1 >= place) return -1;
        if (distance < CHUNK)
            for (size_t i = 0; i < length; i++) to[i] = (to - distance)[i];
        else
            for (size_t i = 0; i < length; i += distance)
                memcpy(to + i, to + i - distance, distance < length - i ? distance : length - i);
    } else {
        const ptrdiff_t shift = shift_of(decoder, code, source, state->kept), from = (ptrdiff_t)place + shift;
        if (from < 0 || from + (ptrdiff_t)length > (ptrdiff_t)set_bytes) return -1;
        if (code->way == FROM_SET) {
            memcpy(to, set + from, length);
        } else {
            if (pairs > (size_t)(in_end - in)) return -1;
            adjust(to, set + from, in, pairs);
            in += pairs;
        }
        state->kept[code->kept_as] = shift;
    }
    state->in = in, state->to = to + length;
    return 0;
}

int decode_frame(const Decoder *decoder, const uint8_t *coded, size_t size, const uint8_t *set, size_t set_bytes,
                 uint8_t *out) {
    const size_t frame_bytes = decoder->shape.frame_bytes;
    State state = {.in = coded, .in_end = coded + size, .to = out};
    while (state.in < state.in_end) {
        if (frame_bytes > ROOM) quick(decoder, set, set_bytes, out, &state);
        if (state.in < state.in_end && careful(decoder, set, set_bytes, out, &state)) return -1;
    }
    const size_t place = (size_t)(state.to - out), left = frame_bytes - place;
    if (left) { /* from the reference frame that was named last */
        const size_t from = (size_t)state.kept[LAST_REFERENCE] + place;
        if (from + left > set_bytes) return -1;
        memcpy(state.to, set + from, left);
    }
    return 0;
}
