/* A frame to coded bytes: the cheapest way found through it, as copies and literals.
 *
 * A way that begins with a long copy has no better one, so everything before it is settled then, and the search goes on
 * at its end: it looks at few places, and keeps few. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-vectorize") /* most loops here end soon: made of vectors, they take a seventh longer */
#endif

#include "encode.h"

#include <stdlib.h>

#include "index.h"
#include "masks.h"
#include "write.h"

#define LONG 48       /* a copy from the same place of so many bytes is taken without looking further */
#define VERY_LONG 512 /* and any other of so many */
#define CLEAR 8       /* behind the start of a copy of so many bytes, */
#define LOOK 2        /* so many places are looked at for a better one: later ones save nothing */
#define SETTLE 4096   /* places after which what was found is settled anyway */
#define NODES (SETTLE + 1024)
#define WORDS (MOST_REFERENCES / 64)
#define ADJUST_LEAST 6
#define ADJUST_MOST 24
#define ADJUST_BELOW 6    /* tried only where the copy from the same place is shorter */
#define SAME_LEAST 3      /* a copy from the same place, but by AGAIN, */
#define SAME_MASKS 8      /* and how much of it is looked at in all references at once */
#define COSTS_AT_ONCE 16
#define SHIFT_LEFT 8      /* bytes of a shifted copy, found before, below which another is looked for */
#define FIRST_SEARCHES 32 /* searches in the set that are allowed in any frame */
#define BACK_BELOW 24
#define ONE 8 /* the cost of a byte */
#define BACK_BITS 12
#define BACK_BYTES 3 /* a run that is looked for within the frame */

struct Workspace {
    uint32_t costs[NODES];
    Node nodes[NODES];
    uint32_t way[NODES];
    uint32_t newest[1 << BACK_BITS]; /* where in the frame a run of bytes began last */
};

/* A copy that is long enough to be taken at once. */
typedef struct {
    size_t length;
    uint32_t source;
    int32_t shift;
    unsigned kind;
} Best;

/* A copy from a shifted place. */
typedef struct {
    size_t length;
    uint32_t source;
    int32_t shift;
} Found;

size_t workspace_bytes(void) { return sizeof(Workspace); }
Workspace *workspace_new(void) { return malloc(sizeof(Workspace)); }
void workspace_free(Workspace *workspace) { free(workspace); }

/* A copy from a shifted place as SHIFT or FAR can say it: its kind, or KINDS. */
static inline unsigned shift_kind(const Shape *shape, size_t place, size_t reference, size_t there, uint32_t *source) {
    const uint32_t row = (uint32_t)shape->row_bytes;
    const int32_t pixel = (int32_t)shape->pixel_bytes;
    const int32_t rows = (int32_t)((uint32_t)there / row) - (int32_t)((uint32_t)place / row);
    int32_t columns = (int32_t)there - (int32_t)place - rows * (int32_t)row;
    if (pixel > 1) {
        if (columns % pixel) return KINDS;
        columns /= pixel;
    }
    if (rows >= -8 && rows < 8 && columns >= -8 && columns < 8) {
        *source = (uint32_t)reference << 16 | (uint32_t)((rows + 8) << 4 | (columns + 8));
        return SHIFT;
    }
    if (rows < -128 || rows > 127 || columns < -128 || columns > 127) return KINDS;
    *source = (uint32_t)reference << 16 | ((uint32_t)rows & 255) << 8 | ((uint32_t)columns & 255);
    return FAR;
}

/* A copy from within the frame as BACK can say it: its source byte, or -1. */
static inline int back_source(const Shape *shape, size_t distance) {
    const uint32_t row = (uint32_t)shape->row_bytes, pixel = (uint32_t)shape->pixel_bytes, far = (uint32_t)distance;
    if (far <= BACK_COLUMNS * pixel && far % pixel == 0) return (int)(far / pixel) - 1;
    const uint32_t half = BACK_COLUMNS / 2 * pixel, rows = (far + half) / row;
    if (rows < 1 || rows > 7) return -1;
    const int32_t column = (int32_t)far - (int32_t)(rows * row);
    if (column % (int32_t)pixel) return -1;
    const int32_t columns = column / (int32_t)pixel + BACK_COLUMNS / 2;
    if (columns < 0 || columns >= BACK_COLUMNS) return -1;
    return (int)rows * BACK_COLUMNS + (int)columns;
}

#ifndef INLINE /* sanitizers are given smaller functions, or compiling takes them minutes */
#define INLINE static inline __attribute__((always_inline))
#endif

#define MASKS_NAME(name) name##_plain
#define TARGET
#include "runs.h"
#include "way.h"
#include "copies.h"
#include "parse.h"
#undef MASKS_NAME
#undef TARGET

#ifdef HAVE_AVX2
#define MASKS_NAME(name) name##_avx2
#define TARGET AVX2
#include "runs.h"
#include "way.h"
#include "copies.h"
#include "parse.h"
#endif

ptrdiff_t encode_frame(const Index *index, Workspace *workspace, const uint8_t *set, const uint8_t *frame, uint8_t *out,
                       size_t room) {
#ifdef HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi"))
        return encode_avx2(index, workspace, set, frame, out, room);
#endif
    return encode_plain(index, workspace, set, frame, out, room);
}
