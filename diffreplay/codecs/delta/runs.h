/* The longest copies from the same place, of all references at once. encode.c includes this once for each set of
 * instructions.
 *
 * Of which references a pixel is the same value is a mask of bits. A run that one reference has ends at some byte; that
 * no other has a longer one is seen backwards from that byte: the AND of the masks is soon empty. From no place up to
 * where that happened does a run go further, so for these nothing needs to be looked for. */

#define RUNS_T MASKS_NAME(Runs)
#define MASK MASKS_NAME(mask)
#define FIRST MASKS_NAME(first)
#define LONGER MASKS_NAME(longer)
#define FIND_SAME MASKS_NAME(find_same)
#define NEAR_BYTES MASKS_NAME(near_bytes)
#define FIND_NEAR MASKS_NAME(find_near)

typedef struct {
    uint64_t all[WORDS];
    uint64_t common[WORDS]; /* of the references that have all from `dead` + 1 to `end`, inclusive */
    size_t dead, end;       /* from no place up to `dead` does a run go beyond `end` */
    int known;
    size_t short_dead;      /* up to there no run of SAME_LEAST begins that is not known */
    unsigned by;            /* which has it */
    size_t near_dead;       /* up to there no run of an ADJUST begins */
    size_t near_until, near_end; /* from no place up to `near_until` does a run of an ADJUST go beyond `near_end` */
    unsigned near_by;
} RUNS_T;

/* AND of a mask and that of a place, in `mask`, which is left alone if it becomes empty. Returns whether it is not. */
TARGET INLINE int MASK(const Index *index, const uint8_t *frame, size_t place, uint64_t *mask, const unsigned words,
                       const int near) {
    const uint8_t *values = index->values + place * (words > 1 ? 64 * words : index->lanes);
    const unsigned step = words > 1 ? 64 : (unsigned)index->lanes;
    uint64_t left[WORDS], any = 0;
    for (unsigned w = 0; w < words; w++) {
        left[w] = mask[w] & (near ? MASKS_NAME(near)(values + 64 * w, step, frame[place])
                                  : MASKS_NAME(equal)(values + 64 * w, step, frame[place]));
        any |= left[w];
    }
    if (!any) return 0;
    for (unsigned w = 0; w < words; w++) mask[w] = left[w];
    return 1;
}

TARGET INLINE unsigned FIRST(const uint64_t *mask, const unsigned words) {
    unsigned by = 0;
    for (unsigned w = words; w-- > 0;)
        if (mask[w]) by = 64 * w + (unsigned)__builtin_ctzll(mask[w]);
    return by;
}

/* Whether a reference has all from `place` to `runs->end`, inclusive: then it is in `alive`, which before are those that
 * have all from `place` to `floor`, exclusive. If not, `dead` and `common` are found. */
TARGET INLINE int LONGER(RUNS_T *runs, const Index *index, const uint8_t *frame, size_t place, size_t floor,
                         uint64_t *alive, const unsigned words) {
    size_t at = runs->end;
    uint64_t common[WORDS] = {0};
    for (unsigned w = 0; w < words; w++) common[w] = runs->all[w], runs->common[w] = 0;
    runs->dead = at;
    if (at == index->shape.frame_bytes || index->agreed[at] || !MASK(index, frame, at, common, words, 0)) return 0;
    for (;;) {
        if (at <= floor) {
            uint64_t any = 0;
            for (unsigned w = 0; w < words; w++) any |= common[w] & alive[w];
            if (any) {
                for (unsigned w = 0; w < words; w++) alive[w] &= common[w];
                return 1;
            }
            floor = 0; /* further down, none of those that are left has all */
        }
        at--;
        if (index->agreed[at])
            at -= index->agreed[at] - 1u < at ? index->agreed[at] - 1u : at;
        else if (!MASK(index, frame, at, common, words, 0))
            break;
        if (at <= place && !floor) break;
    }
    runs->dead = at > place ? at : place;
    for (unsigned w = 0; w < words; w++) runs->common[w] = common[w];
    return 0;
}

/* Where the longest run from `place` ends, and in `by` which reference has it. */
TARGET INLINE size_t FIND_SAME(RUNS_T *runs, const Index *index, const uint8_t *set, const uint8_t *frame, size_t place,
                               const unsigned reference, const unsigned words) {
    if (runs->known && place <= runs->dead) return runs->end > place ? runs->end : place;
    const size_t size = index->shape.frame_bytes;
    uint64_t alive[WORDS];
    size_t from = place;
    for (unsigned w = 0; w < words; w++) alive[w] = runs->all[w];
    if (runs->known && place <= runs->end) { /* some go beyond */
        from = runs->end + 1;
        runs->by = runs->common[reference / 64] >> reference % 64 & 1 ? reference : FIRST(runs->common, words);
    } else {
        uint64_t mask[WORDS];
        if (place < runs->short_dead) return place;
        for (unsigned w = 0; w < words; w++) mask[w] = runs->all[w];
        from = size - place < SAME_LEAST ? size : place + SAME_LEAST;
        for (size_t at = from; at-- > place;)
            if (!MASK(index, frame, at, mask, words, 0)) {
                runs->short_dead = at + 1;
                return place;
            }
        while (from < size && from < place + SAME_MASKS && MASK(index, frame, from, mask, words, 0)) from++;
        runs->known = 1;
        runs->by = mask[reference / 64] >> reference % 64 & 1 ? reference : FIRST(mask, words);
        if (from < size && from < place + SAME_MASKS) {
            runs->end = from;
            if (!LONGER(runs, index, frame, place, place, alive, words)) return runs->end;
        }
    }
    size_t floor = place;
    for (;;) {
        runs->end = from + same_bytes(frame + from, set + runs->by * size + from, size - from);
        if (!LONGER(runs, index, frame, place, floor, alive, words)) return runs->end;
        floor = from = runs->end + 1;
        runs->by = alive[reference / 64] >> reference % 64 & 1 ? reference : FIRST(alive, words);
    }
}

/* For how many bytes, at most `most`, `reference` is near. */
TARGET INLINE size_t NEAR_BYTES(const uint8_t *frame, const uint8_t *reference, size_t most) {
    size_t i = 0;
    while (i < most && (uint8_t)(frame[i] + 8 - reference[i]) < 16) i++;
    return i;
}

/* For how many bytes, ADJUST_MOST at most, a reference is near from `place` on, if for ADJUST_LEAST; which is in
 * `near_by`. */
TARGET INLINE size_t FIND_NEAR(RUNS_T *runs, const Index *index, const uint8_t *set, const uint8_t *frame, size_t place,
                               const unsigned words) {
    const size_t size = index->shape.frame_bytes;
    if (place <= runs->near_until) return runs->near_end - place < ADJUST_MOST ? runs->near_end - place : ADJUST_MOST;
    if (place < runs->near_dead || place + ADJUST_LEAST > size) return 0;
    uint64_t common[WORDS];
    for (unsigned w = 0; w < words; w++) common[w] = runs->all[w];
    for (size_t at = place + ADJUST_LEAST; at-- > place;)
        if (!MASK(index, frame, at, common, words, 1)) {
            runs->near_dead = at + 1;
            return 0;
        }
    for (size_t from = place + ADJUST_LEAST;;) {
        const size_t most = size - from < ADJUST_MOST ? size - from : ADJUST_MOST;
        runs->near_by = FIRST(common, words);
        runs->near_end = from + NEAR_BYTES(frame + from, set + runs->near_by * size + from, most);
        if (runs->near_end >= place + ADJUST_MOST || runs->near_end == size) {
            runs->near_until = runs->near_end == size ? place : runs->near_end - ADJUST_MOST;
            break;
        }
        size_t at = runs->near_end;
        for (unsigned w = 0; w < words; w++) common[w] = runs->all[w];
        while (MASK(index, frame, at, common, words, 1) && at > place) at--;
        runs->near_until = at;
        if (at > place) break;
        if (!MASK(index, frame, at, common, words, 1)) break;
        from = runs->near_end + 1;
    }
    return runs->near_end - place < ADJUST_MOST ? runs->near_end - place : ADJUST_MOST;
}
