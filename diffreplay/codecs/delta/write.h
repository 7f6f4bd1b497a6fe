/* The tokens of a coded frame: what they cost, and how they are written. */
#ifndef DIFFREPLAY_WRITE_H
#define DIFFREPLAY_WRITE_H

#include "index.h"

/* What is known of the cheapest way to a place: how many literals it ends with and, where it ends with none, the copy. */
typedef struct {
    uint32_t literals; /* since the last copy */
    int32_t shift;     /* that SHIFTED would copy from */
    uint32_t source;   /* reference, distance, or reference << 16 | row shift << 8 | column shift */
    uint16_t length;
    uint8_t kind, reference; /* `reference`: that AGAIN would copy from */
} Node;

typedef struct {
    uint8_t *to, *end;
} Output;

/* What is written about. */
typedef struct {
    const Index *index;
    const uint8_t *set, *frame;
} Sight;

/* Bytes that say how many literals there are, beyond the code. */
static inline unsigned literal_bytes(const Kind *kind, size_t literals) {
    const unsigned direct = kind->literals - 1u;
    return literals < direct ? 0 : literals < direct + 255 ? 1 : 4;
}

/* Bytes that say how long a copy is, beyond the code. */
static inline unsigned length_bytes(const Kind *kind, size_t length) {
    const size_t beyond = length - kind->least;
    const unsigned direct = direct_lengths(kind);
    return (unsigned)(beyond >= direct) + (unsigned)(beyond >= direct + 256);
}

static inline size_t longest(const Kind *kind) {
    return kind->least + direct_lengths(kind) + (kind->more == 2 ? MOST_LENGTH : 255);
}

/* Write one token; length 0: literals alone, which end the frame. `to_end`: the copy ends the frame, and no length is
 * written where it would take bytes. */
void write_token(Output *out, const Sight *sight, size_t place, const Node *node, size_t literals, size_t length,
                 int to_end);

/* Write the tokens that lead to node `last` of those from place `base` on. `way` has room for as many numbers. */
void write_way(Output *out, const Sight *sight, const Node *nodes, uint32_t *way, size_t base, size_t last);

#endif
