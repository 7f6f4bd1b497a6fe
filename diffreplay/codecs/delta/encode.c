/* A frame to coded bytes: the cheapest way found through it, as copies and literals.
 *
 * Copies from the same place: of which references a pixel is the same value is a mask of bits, and the AND of masks
 * along a run tells which references have all of it. A window of masks slides along with the place, with the ANDs of
 * its first part kept from each place to that part's end, so that each place costs a few ANDs.
 * A way that begins with a long copy has no better one, so everything before it is settled then, and the search goes on
 * at its end: it looks at few places, and keeps few. */
#include "encode.h"

#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define WINDOW 64     /* masks that are kept; a power of two */
#define LONG 48       /* a copy from the same place of so many bytes is taken without looking further */
#define VERY_LONG 512 /* and any other of so many */
#define CLEAR 8       /* behind the start of a copy of so many bytes, */
#define LOOK 2        /* so many places are looked at for a better one: later ones save nothing */
#define SETTLE 4096   /* places after which what was found is settled anyway */
#define NODES (SETTLE + 1024)
#define WORDS (MOST_REFERENCES / 64)
#define ADJUST_LEAST 6
#define ADJUST_MOST 24
#define ADJUST_BELOW 6 /* tried only where the copy from the same place is shorter */
#define SHIFT_LEFT 8   /* bytes of a shifted copy, found before, below which another is looked for */
#define RUN_BYTES 6       /* that are looked for in the set */
#define FIRST_SEARCHES 32 /* searches for them that are allowed in any frame */
#define BACK_BELOW 24
#define ONE 8 /* the cost of a byte */
#define TAX 3 /* and of a token, for the time that it takes to decode */
#define BACK_BITS 12
#define BACK_BYTES 3 /* a run that is looked for within the frame */
#define NOWHERE UINT32_MAX

typedef struct {
    uint32_t cost;
    uint32_t literals; /* since the last copy */
    uint32_t source;   /* reference, distance, or reference << 16 | row shift << 8 | column shift */
    int32_t shift;
    uint16_t length;
    uint8_t kind, reference;
} Node;

struct Index {
    Shape shape;
    size_t set_bytes;
    unsigned references, lanes; /* lanes: references, and what fills them up */
    unsigned bucket_bits, ways, search_below;
    size_t place_cost; /* a search in the buckets is allowed for so many bytes of the frame */
    uint8_t *values;   /* (frame_bytes, lanes) the references' values at a place */
    uint16_t *agreed;  /* (frame_bytes) for how many bytes from a place on all references agree */
    uint32_t *buckets; /* (1 << bucket_bits, ways) where in the set a run of bytes begins: reference, tag, place */
    unsigned place_bits;
};

struct Workspace {
    Node nodes[NODES];
    uint32_t newest[1 << BACK_BITS]; /* where in the frame a run of bytes began last */
};

/* What a level looks for: candidates of a search in the set, below which length of a copy from the same place there is
 * one, and for how many bytes of the frame. */
typedef struct {
    unsigned ways, search_below;
    size_t place_cost;
} Level;

static const Level LEVELS[] = {{2, 8, 16}, {4, 8, 1}, {8, 16, 1}, {16, 24, 1}, {64, LONG, 1}};

static unsigned lanes_for(unsigned references) {
    if (references <= 8) return 8;
    if (references <= 16) return 16;
    if (references <= 32) return 32;
    return (references + 63) / 64 * 64;
}

/* Of the first `count` of 8 bytes; its upper bits are the best. */
static inline uint64_t hash_run(uint64_t bytes, unsigned count) {
    return (bytes << (64 - 8 * count)) * 0x9E3779B97F4A7C15ull;
}

size_t index_bytes(const Index *index) {
    return sizeof(Index) + index->shape.frame_bytes * (index->lanes + sizeof(uint16_t)) +
           (index->buckets ? ((size_t)4 * index->ways << index->bucket_bits) : 0);
}

size_t workspace_bytes(const Index *index) {
    (void)index;
    return sizeof(Workspace);
}

const Shape *index_shape(const Index *index) { return &index->shape; }
size_t index_set_bytes(const Index *index) { return index->set_bytes; }

static inline uint32_t *bucket_of(const Index *index, uint64_t hash) {
    return index->buckets + index->ways * (size_t)(hash >> (64 - index->bucket_bits));
}

/* Bits of a hash that the bucket does not tell, as many as there is room for, where an entry has them. */
static inline uint32_t tag_of(const Index *index, uint64_t hash) {
    const uint32_t bits = (uint32_t)((hash << index->bucket_bits) >> 40);
    return bits >> index->place_bits << index->place_bits;
}

static void fill_buckets(Index *index, const uint8_t *set) {
    const size_t frame_bytes = index->shape.frame_bytes;
    memset(index->buckets, 0xff, (size_t)4 * index->ways << index->bucket_bits);
    for (unsigned reference = 0; reference < index->references; reference++) {
        const uint8_t *frame = set + reference * frame_bytes;
        for (size_t place = 0; place + 8 <= frame_bytes; place++) {
            const uint64_t bytes = load64(frame + place), hash = hash_run(bytes, RUN_BYTES);
            uint32_t *bucket = bucket_of(index, hash);
            const uint32_t mask = ((uint32_t)1 << index->place_bits) - 1;
            const uint32_t here = (uint32_t)(reference << 24 | tag_of(index, hash) | place);
            unsigned known = 0;
            for (unsigned i = 0; i < index->ways && bucket[i] != NOWHERE; i++) /* at this place already? */
                known |= ((bucket[i] ^ here) & 0xffffff) == 0 &&
                         load64(set + (bucket[i] >> 24) * frame_bytes + (here & mask)) == bytes;
            if (known) continue;
            memmove(bucket + 1, bucket, 4 * (index->ways - 1));
            bucket[0] = here;
        }
    }
}

static void fill_values(Index *index, const uint8_t *set) {
    const size_t frame_bytes = index->shape.frame_bytes;
    size_t agreed = 0;
    for (size_t place = frame_bytes; place-- > 0;) {
        uint8_t *values = index->values + place * index->lanes;
        unsigned differ = 0;
        for (unsigned lane = 0; lane < index->lanes; lane++) {
            const unsigned reference = lane < index->references ? lane : 0;
            values[lane] = set[reference * frame_bytes + place];
            differ |= values[lane] ^ set[place];
        }
        agreed = differ ? 0 : agreed < UINT16_MAX ? agreed + 1 : agreed;
        index->agreed[place] = (uint16_t)agreed;
    }
}

Index *index_new(const uint8_t *set, size_t set_bytes, const Shape *shape, int level) {
    Index *index = calloc(1, sizeof(Index));
    if (!index) return NULL;
    index->shape = *shape;
    index->set_bytes = set_bytes;
    index->references = (unsigned)(set_bytes / shape->frame_bytes);
    if (!index->references) return index;
    index->lanes = lanes_for(index->references);
    index->values = malloc(shape->frame_bytes * index->lanes);
    index->agreed = malloc(shape->frame_bytes * sizeof(uint16_t));
    if (!index->values || !index->agreed) goto failed;
    fill_values(index, set);
    if (shape->frame_bytes >= 8) {
        const Level *how = &LEVELS[level < 1 ? 0 : level > 5 ? 4 : level - 1];
        index->ways = how->ways;
        index->search_below = how->search_below;
        index->place_cost = how->place_cost;
        while (((size_t)1 << index->place_bits) < shape->frame_bytes) index->place_bits++;
        index->bucket_bits = 10;
        while (index->bucket_bits < 18 && ((size_t)index->ways << index->bucket_bits) < set_bytes) index->bucket_bits++;
        index->buckets = malloc((size_t)4 * index->ways << index->bucket_bits);
        if (!index->buckets) goto failed;
        fill_buckets(index, set);
    }
    return index;
failed:
    index_free(index);
    return NULL;
}

void index_free(Index *index) {
    if (index) {
        free(index->values);
        free(index->agreed);
        free(index->buckets);
        free(index);
    }
}

Workspace *workspace_new(const Index *index) { return malloc(workspace_bytes(index)); }
void workspace_free(Workspace *workspace) { free(workspace); }

static inline size_t same_bytes(const uint8_t *a, const uint8_t *b, size_t most) {
    size_t i = 0;
    while (i + 8 <= most) {
        uint64_t differ = load64(a + i) ^ load64(b + i);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        if (differ) return i + (size_t)(__builtin_ctzll(differ) >> 3);
#else
        if (differ) return i + (size_t)(__builtin_clzll(differ) >> 3);
#endif
        i += 8;
    }
    while (i < most && a[i] == b[i]) i++;
    return i;
}

/* Bytes that say how many literals there are, beyond the code. */
static inline unsigned literal_bytes(const Kind *kind, size_t literals) {
    const unsigned direct = kind->literals - 1u;
    return literals < direct ? 0 : literals < direct + 255 ? 1 : 4;
}

/* Bytes that say how long a copy is, beyond the code. */
static inline unsigned length_bytes(const Kind *kind, size_t length) {
    const size_t beyond = length - kind->least;
    const unsigned direct = direct_lengths(kind);
    return beyond < direct ? 0 : beyond < direct + 256 ? 1 : 2;
}

static inline size_t longest(const Kind *kind) {
    return kind->least + direct_lengths(kind) + (kind->more == 2 ? MOST_LENGTH : 255);
}

typedef struct {
    uint8_t *to, *end;
} Output;

static void put(Output *out, uint8_t byte) {
    if (out->to < out->end) *out->to++ = byte; /* full: it stays so */
}

/* Write one token; length 0: literals alone, which end the frame. `to_end`: the copy ends the frame, and no length is
 * written where it would take bytes. */
static void write_token(Output *out, const uint8_t *frame, const uint8_t *set, const Index *index, size_t place,
                        const Node *node, size_t literals, size_t length, int to_end) {
    unsigned code = 0;
    for (unsigned k = 0; k < node->kind; k++) code += KIND[k].literals * KIND[k].lengths;
    const Kind *kind = &KIND[node->kind];
    const unsigned most = kind->literals - 1u, direct = direct_lengths(kind);
    const size_t units = node->kind == ADJUST ? length / 2 : length;
    const size_t beyond = units >= kind->least ? units - kind->least : 0;
    code += (literals < most ? (unsigned)literals : most) * kind->lengths;
    code += beyond < direct ? (unsigned)beyond : beyond < direct + 256 ? direct : direct + 1;
    put(out, (uint8_t)code);
    if (literals >= most) {
        size_t more = literals - most;
        put(out, more < 255 ? (uint8_t)more : 255);
        if (more >= 255) {
            more -= 255;
            put(out, (uint8_t)more), put(out, (uint8_t)(more >> 8)), put(out, (uint8_t)(more >> 16));
        }
    }
    if (literals) {
        const size_t room = (size_t)(out->end - out->to);
        memcpy(out->to, frame + place, literals < room ? literals : room);
        out->to += literals < room ? literals : room;
    }
    if (!length) return;
    switch (node->kind) {
    case SAME:
    case BACK:
    case ADJUST: put(out, (uint8_t)node->source); break;
    case FAR:
        put(out, (uint8_t)(node->source >> 16)), put(out, (uint8_t)(node->source >> 8)), put(out, (uint8_t)node->source);
        break;
    case SHIFT: put(out, (uint8_t)(node->source >> 16)), put(out, (uint8_t)node->source); break;
    default: break;
    }
    if (node->kind == ADJUST) {
        const uint8_t *pixels = frame + place + literals;
        const uint8_t *from = set + node->source * index->shape.frame_bytes + place + literals;
        if (beyond >= direct) put(out, (uint8_t)(beyond - direct));
        for (size_t i = 0; i < length; i += 2) {
            unsigned low = (uint8_t)(pixels[i] - from[i] + 8), high = (uint8_t)(pixels[i + 1] - from[i + 1] + 8);
            put(out, (uint8_t)(high << 4 | low));
        }
        return;
    }
    if (beyond >= direct && !to_end) {
        put(out, (uint8_t)(beyond - direct));
        if (beyond >= direct + 256) put(out, (uint8_t)((beyond - direct) >> 8));
    }
}

/* Write the tokens that lead to node `last` of those from place `base` on. */
static void write_way(Output *out, const uint8_t *frame, const uint8_t *set, const Index *index, Node *nodes,
                      size_t base, size_t last) {
    /* Turned round in place: each node on the way is noted at the one before. */
    size_t at = last - (nodes[last].literals < last ? nodes[last].literals : last), next = 0;
    while (at > 0) {
        size_t start = at - nodes[at].length;
        size_t literals = nodes[start].literals < start ? nodes[start].literals : start;
        size_t before = start - literals;
        nodes[before].cost = (uint32_t)at; /* the costs are needed no more */
        at = before;
        next++;
    }
    for (at = 0; next--;) {
        size_t to = nodes[at].cost, start = to - nodes[to].length;
        size_t literals = nodes[start].literals;
        const int to_end = base + to == index->shape.frame_bytes;
        if (!(to_end && !literals && nodes[to].kind == AGAIN))
            write_token(out, frame, set, index, base + start - literals, &nodes[to], literals, nodes[to].length, to_end);
        at = to;
    }
}

/* A copy from a shifted place as SHIFT or FAR can say it: its kind, or KINDS. */
static unsigned shift_kind(const Shape *shape, size_t place, size_t reference, size_t there, uint32_t *source) {
    const ptrdiff_t row = (ptrdiff_t)shape->row_bytes, pixel = (ptrdiff_t)shape->pixel_bytes;
    const ptrdiff_t rows = (ptrdiff_t)(there / shape->row_bytes) - (ptrdiff_t)(place / shape->row_bytes);
    ptrdiff_t columns = (ptrdiff_t)there - (ptrdiff_t)place - rows * row;
    if (columns % pixel) return KINDS;
    columns /= pixel;
    if (rows >= -8 && rows < 8 && columns >= -8 && columns < 8) {
        *source = (uint32_t)reference << 16 | (uint32_t)((rows + 8) << 4 | (columns + 8));
        return SHIFT;
    }
    if (rows < -128 || rows > 127 || columns < -128 || columns > 127) return KINDS;
    *source = (uint32_t)reference << 16 | (uint32_t)(rows & 255) << 8 | (uint32_t)(columns & 255);
    return FAR;
}

/* A copy from within the frame as BACK can say it: its source byte, or -1. */
static int back_source(const Shape *shape, size_t distance) {
    const size_t row = shape->row_bytes, pixel = shape->pixel_bytes;
    if (distance % pixel == 0 && distance / pixel <= BACK_COLUMNS) return (int)(distance / pixel) - 1;
    const size_t half = BACK_COLUMNS / 2 * pixel, rows = (distance + half) / row;
    if (rows < 1 || rows > 7) return -1;
    const ptrdiff_t column = (ptrdiff_t)distance - (ptrdiff_t)(rows * row);
    if (column % (ptrdiff_t)pixel) return -1;
    const ptrdiff_t columns = column / (ptrdiff_t)pixel + BACK_COLUMNS / 2;
    if (columns < 0 || columns >= BACK_COLUMNS) return -1;
    return (int)(rows * BACK_COLUMNS + (size_t)columns);
}

/* Masks of the references that are equal to, or within reach of an ADJUST of, a value. */
#define MASKS_NAME(name) name##_plain
#define TARGET
static inline uint64_t equal_plain(const uint8_t *values, unsigned lanes, uint8_t value) {
#if defined(__SSE2__)
    const __m128i wanted = _mm_set1_epi8((char)value);
    if (lanes == 8)
        return (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadl_epi64((const __m128i *)values), wanted)) & 255;
    uint64_t mask = 0;
    for (unsigned i = 0; i < lanes; i += 16)
        mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(values + i)), wanted))
                << i;
    return mask;
#else
    uint64_t mask = 0;
    for (unsigned i = 0; i < lanes; i++) mask |= (uint64_t)(values[i] == value) << i;
    return mask;
#endif
}
static inline uint64_t near_plain(const uint8_t *values, unsigned lanes, uint8_t value) {
#if defined(__SSE2__)
    const __m128i wanted = _mm_set1_epi8((char)(value + 8)), most = _mm_set1_epi8(15);
    uint64_t mask = 0;
    if (lanes == 8) {
        const __m128i beyond = _mm_sub_epi8(wanted, _mm_loadl_epi64((const __m128i *)values));
        return (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(beyond, most), beyond)) & 255;
    }
    for (unsigned i = 0; i < lanes; i += 16) {
        const __m128i beyond = _mm_sub_epi8(wanted, _mm_loadu_si128((const __m128i *)(values + i)));
        mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(beyond, most), beyond)) << i;
    }
    return mask;
#else
    uint64_t mask = 0;
    for (unsigned i = 0; i < lanes; i++) mask |= (uint64_t)((uint8_t)(value + 8 - values[i]) < 16) << i;
    return mask;
#endif
}
#include "parse.h"
#undef MASKS_NAME
#undef TARGET

#if defined(__x86_64__) && defined(__GNUC__)
#define MASKS_NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2,bmi,lzcnt,popcnt")))
TARGET static inline uint64_t equal_avx2(const uint8_t *values, unsigned lanes, uint8_t value) {
    if (lanes < 32) return equal_plain(values, lanes, value);
    const __m256i wanted = _mm256_set1_epi8((char)value);
    uint64_t mask = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)values), wanted));
    if (lanes > 32)
        mask |= (uint64_t)(uint32_t)_mm256_movemask_epi8(
                    _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(values + 32)), wanted))
                << 32;
    return mask;
}
TARGET static inline uint64_t near_avx2(const uint8_t *values, unsigned lanes, uint8_t value) {
    if (lanes < 32) return near_plain(values, lanes, value);
    const __m256i wanted = _mm256_set1_epi8((char)(value + 8)), most = _mm256_set1_epi8(15);
    __m256i beyond = _mm256_sub_epi8(wanted, _mm256_loadu_si256((const __m256i *)values));
    uint64_t mask = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(beyond, most), beyond));
    if (lanes > 32) {
        beyond = _mm256_sub_epi8(wanted, _mm256_loadu_si256((const __m256i *)(values + 32)));
        mask |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(beyond, most), beyond)) << 32;
    }
    return mask;
}
#include "parse.h"
#define HAVE_AVX2
#endif

ptrdiff_t encode_frame(const Index *index, Workspace *workspace, const uint8_t *set, const uint8_t *frame, uint8_t *out,
                       size_t room) {
#ifdef HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi")) return encode_avx2(index, workspace, set, frame, out, room);
#endif
    return encode_plain(index, workspace, set, frame, out, room);
}
