/* The search for the cheapest way through a frame. encode.c includes this once for each set of instructions. */

#define WINDOW_T MASKS_NAME(Window)
#define SLIDE MASKS_NAME(slide)
#define EXTEND MASKS_NAME(extend)
#define REACH MASKS_NAME(reach)
#define RELAX MASKS_NAME(relax)
#define ENCODE MASKS_NAME(encode)
#define ENCODE_WORDS MASKS_NAME(encode_words)

/* Masks of the run that begins at a place: [place, end) all have a reference in common. */
typedef struct {
    uint64_t mask[WINDOW][WORDS];
    uint64_t first[WINDOW][WORDS]; /* of each place, the AND of the masks from there to `middle` */
    uint64_t rest[WORDS];          /* the AND of the masks from `middle` on */
    uint64_t common[WORDS];        /* and of all of them */
    size_t middle, end;
    int ahead; /* the mask at `end` is there, too */
} WINDOW_T;

/* Begin anew at `place`. */
#define RESET(window, place)                                                              \
    do {                                                                                  \
        (window)->middle = (window)->end = (place);                                       \
        (window)->ahead = 0;                                                              \
        for (unsigned w_ = 0; w_ < words; w_++) (window)->rest[w_] = all[w_];             \
    } while (0)

/* Lengthen the run that begins at `place` as far as it goes, up to `most` bytes. */
TARGET static inline __attribute__((always_inline)) void EXTEND(WINDOW_T *window, const Index *index,
                                                                const uint8_t *frame, size_t place, size_t most,
                                                                int near, const unsigned words, const uint64_t *all) {
    const size_t lanes = index->lanes;
    const unsigned step = lanes < 64 ? (unsigned)lanes : 64;
    const size_t stop = index->shape.frame_bytes - place < most ? index->shape.frame_bytes : place + most;
    uint64_t common[WORDS];
    for (unsigned w = 0; w < words; w++)
        common[w] = (place < window->middle ? window->first[place % WINDOW][w] : all[w]) & window->rest[w];
    while (window->end < stop) {
        uint64_t *mask = window->mask[window->end % WINDOW], any = 0;
        if (!window->ahead) {
            const uint8_t *values = index->values + window->end * lanes;
            if (!near && index->agreed[window->end]) {
                const uint64_t every = values[0] == frame[window->end] ? ~(uint64_t)0 : 0;
                for (unsigned w = 0; w < words; w++) mask[w] = all[w] & every;
            } else for (unsigned w = 0; w < words; w++)
                mask[w] = all[w] & (near ? MASKS_NAME(near)(values + 64 * w, step, frame[window->end])
                                         : MASKS_NAME(equal)(values + 64 * w, step, frame[window->end]));
        }
        window->ahead = 1;
        for (unsigned w = 0; w < words; w++) any |= common[w] & mask[w];
        if (!any) break;
        for (unsigned w = 0; w < words; w++) common[w] &= mask[w], window->rest[w] &= mask[w];
        window->ahead = 0;
        window->end++;
    }
    for (unsigned w = 0; w < words; w++) window->common[w] = common[w];
}

/* Leave `place`, to begin at the next. */
TARGET static inline __attribute__((always_inline)) void SLIDE(WINDOW_T *window, size_t place, const unsigned words,
                                                               const uint64_t *all) {
    if (window->end <= place) {
        RESET(window, place + 1);
    } else if (window->middle <= place + 1) {
        uint64_t common[WORDS];
        for (unsigned w = 0; w < words; w++) common[w] = all[w];
        for (size_t i = window->end; i-- > place + 1;)
            for (unsigned w = 0; w < words; w++) window->first[i % WINDOW][w] = common[w] &= window->mask[i % WINDOW][w];
        window->middle = window->end;
        for (unsigned w = 0; w < words; w++) window->rest[w] = all[w];
    }
}

/* Where the longest run ends of those that `common` has in common up to `place`; only these are left in `common`. */
TARGET static inline __attribute__((always_inline)) size_t REACH(const Index *index, const uint8_t *set,
                                                                 const uint8_t *frame, size_t place, uint64_t *common,
                                                                 const unsigned words) {
    const size_t lanes = index->lanes, size = index->shape.frame_bytes;
    const unsigned step = lanes < 64 ? (unsigned)lanes : 64;
    while (place < size) {
        const size_t agreed = index->agreed[place];
        if (agreed) {
            const size_t same = same_bytes(frame + place, set + place, agreed);
            place += same;
            if (same < agreed) break;
            continue;
        }
        const uint8_t *values = index->values + place * lanes;
        uint64_t left[WORDS], any = 0, several = 0;
        for (unsigned w = 0; w < words; w++) {
            left[w] = common[w] & MASKS_NAME(equal)(values + 64 * w, step, frame[place]);
            several |= (left[w] & (left[w] - 1)) | (any ? left[w] : 0);
            any |= left[w];
        }
        if (!any) break;
        for (unsigned w = 0; w < words; w++) common[w] = left[w];
        place++;
        if (!several) { /* one is left */
            unsigned by = 0;
            for (unsigned w = 0; w < words; w++)
                if (common[w]) by = 64 * w + (unsigned)__builtin_ctzll(common[w]);
            return place + same_bytes(frame + place, set + by * size + place, size - place);
        }
    }
    return place;
}

/* Note at the node where a copy ends that it is reached, if that is cheaper. */
TARGET static inline __attribute__((always_inline)) void RELAX(Node *nodes, size_t from, size_t *reached, unsigned kind,
                                                               size_t length, uint32_t source, int32_t shift,
                                                               unsigned reference) {
    const Node *start = &nodes[from];
    const Kind *k = &KIND[kind];
    const size_t units = kind == ADJUST ? length / 2 : length, to = from + length;
    if (units < k->least) return;
    uint32_t cost = start->cost + TAX +
                    ONE * (1 + k->source + literal_bytes(k, start->literals) + length_bytes(k, units));
    if (kind == ADJUST) cost += ONE * (uint32_t)units;
    while (*reached < to) nodes[++*reached].cost = UINT32_MAX;
    if (cost < nodes[to].cost)
        nodes[to] = (Node){cost, 0, source, shift, (uint16_t)length, (uint8_t)kind, (uint8_t)reference};
}

TARGET static inline __attribute__((always_inline)) ptrdiff_t ENCODE_WORDS(const Index *index, Workspace *workspace,
                                                                           const uint8_t *set, const uint8_t *frame,
                                                                           uint8_t *out, size_t room,
                                                                           const unsigned words) {
    const Shape *shape = &index->shape;
    const size_t size = shape->frame_bytes, row = shape->row_bytes, pixel = shape->pixel_bytes;
    Node *nodes = workspace->nodes;
    uint32_t *newest = workspace->newest;
    Output output = {out, out + room};
    WINDOW_T same, near;
    uint64_t all[WORDS] = {0};
    for (unsigned r = 0; r < index->references; r++) all[r / 64] |= (uint64_t)1 << r % 64;
    memset(newest, 0xff, sizeof workspace->newest);
    nodes[0] = (Node){0};
    size_t base = 0, reached = 0, place = 0;
    size_t shifted_from = 0, shifted_end = 0; /* a shifted copy that was found: it goes on up to there */
    size_t searched = 0; /* in the buckets */
    size_t until = 0, looked = 0; /* a copy reaches to `until`; places after `looked` need no look until then */
    RESET(&same, 0);
    RESET(&near, 0);
    while (place < size) {
        if (output.to >= output.end) return -1;
        size_t at = place - base;
        if (at >= SETTLE) {
            write_way(&output, frame, set, index, nodes, base, at);
            nodes[0] = nodes[at];
            nodes[0].cost = 0;
            base = place, reached = at = until = 0;
        }
        if (index->buckets && place + 10 <= size)
            __builtin_prefetch(bucket_of(index, hash_run(load64(frame + place + 2), RUN_BYTES)));
        Node *node = &nodes[at];
        const unsigned reference = node->reference;
        const int32_t shift = node->shift;
        const size_t left = size - place;
        size_t best = 0; /* of the copies that are long enough to be taken at once */
        Node taken = {0};
        size_t same_length = 0;
#define PREFETCH(place_)                                                                               \
    do {                                                                                               \
        for (unsigned w_ = 0; w_ < words && (place_) < size; w_++)                                     \
            __builtin_prefetch(index->values + (place_) * index->lanes + 64 * w_);                     \
        if (index->buckets && (place_) + 9 <= size) {                                                  \
            __builtin_prefetch(bucket_of(index, hash_run(load64(frame + (place_)), RUN_BYTES)));       \
            __builtin_prefetch(bucket_of(index, hash_run(load64(frame + (place_) + 1), RUN_BYTES)));   \
        }                                                                                              \
    } while (0)
#define TAKE(kind_, length_, source_, shift_, reference_)                                              \
    do {                                                                                               \
        const size_t length__ = (length_);                                                             \
        if (length__ >= CLEAR && place + length__ > until && (kind_) != ADJUST) {                      \
            until = place + length__;                                                                  \
            looked = place + LOOK;                                                                     \
            PREFETCH(until);                                                                           \
        }                                                                                              \
        if (length__ >= ((kind_) <= AGAIN ? LONG : VERY_LONG)) {                                                                        \
            if (length__ > best) {                                                                     \
                best = length__;                                                                       \
                taken = (Node){0, 0, (source_), (shift_), 0, (uint8_t)(kind_), (uint8_t)(reference_)}; \
            }                                                                                          \
        } else {                                                                                       \
            RELAX(nodes, at, &reached, (kind_), length__, (source_), (shift_), (reference_));          \
        }                                                                                              \
    } while (0)
        if (words) {
            EXTEND(&same, index, frame, place, LONG, 0, words, all);
            same_length = same.end - place;
        }
        if (words && same_length >= LONG) {
            const size_t longest_same = REACH(index, set, frame, place + LONG, same.common, words) - place;
            unsigned by = reference;
            if (!(same.common[reference / 64] >> reference % 64 & 1))
                for (unsigned w = words; w-- > 0;)
                    if (same.common[w]) by = 64 * w + (unsigned)__builtin_ctzll(same.common[w]);
            TAKE(by == reference ? AGAIN : SAME, longest_same, by, shift, by);
        } else if (same_length) {
            unsigned by = reference;
            if (!(same.common[reference / 64] >> reference % 64 & 1)) {
                for (unsigned w = 0; w < words; w++)
                    if (same.common[w]) {
                        by = 64 * w + (unsigned)__builtin_ctzll(same.common[w]);
                        break;
                    }
                size_t length = 0; /* of the reference that needs no naming */
                while (length < same_length &&
                       same.mask[(place + length) % WINDOW][reference / 64] >> reference % 64 & 1)
                    length++;
                if (length) TAKE(AGAIN, length, reference, shift, reference);
            }
            TAKE(by == reference ? AGAIN : SAME, same_length, by, shift, by);
        }
        if (same_length < LONG) {
            if (words && same_length < ADJUST_BELOW && place >= until) {
                EXTEND(&near, index, frame, place, ADJUST_MOST, 1, words, all);
                const size_t most = (near.end - place) & ~(size_t)1;
                if (most >= ADJUST_LEAST && most > same_length) {
                    unsigned by = 0;
                    for (unsigned w = words; w-- > 0;)
                        if (near.common[w]) by = 64 * w + (unsigned)__builtin_ctzll(near.common[w]);
                    for (size_t length = most; length >= ADJUST_LEAST; length -= 2) TAKE(ADJUST, length, by, shift, by);
                }
            }
            if (index->buckets) {
                const ptrdiff_t there = (ptrdiff_t)place + shift;
                if (there >= 0 && (size_t)there < index->set_bytes && set[there] == frame[place]) {
                    size_t most = index->set_bytes - (size_t)there < left ? index->set_bytes - (size_t)there : left;
                    TAKE(SHIFTED, same_bytes(frame + place, set + there, most), 0, shift, reference);
                }
                if (same_length < index->search_below && left >= 8 && place >= until &&
                    (searched * index->place_cost <= place + FIRST_SEARCHES * index->place_cost || shifted_end > place + SHIFT_LEFT)) {
                    size_t lengths[KINDS] = {0};
                    uint32_t sources[KINDS] = {0};
                    int32_t shifts[KINDS] = {0};
                    if (shifted_end > place + SHIFT_LEFT) {
                        uint32_t source;
                        const size_t from = shifted_from + place;
                        unsigned kind = shift_kind(shape, place, from / size, from % size, &source);
                        if (kind < KINDS) lengths[kind] = shifted_end - place, sources[kind] = source,
                            shifts[kind] = (int32_t)shifted_from;
                    } else {
                        searched++;
                        const uint64_t hash = hash_run(load64(frame + place), RUN_BYTES);
                        const uint32_t *bucket = bucket_of(index, hash), tag = tag_of(index, hash);
                        const uint32_t mask = ((uint32_t)1 << index->place_bits) - 1;
                        for (unsigned i = 0; i < index->ways && bucket[i] != NOWHERE; i++) {
                            const size_t reference_there = bucket[i] >> 24, there = bucket[i] & mask;
                            const size_t from = reference_there * size + there;
                            if (((bucket[i] ^ tag) & 0xffffff & ~mask) != 0) continue;
                            const size_t most = index->set_bytes - from < left ? index->set_bytes - from : left;
                            const size_t length = same_bytes(frame + place, set + from, most);
                            if (length <= lengths[SHIFT] && length <= lengths[FAR]) continue;
                            uint32_t source;
                            const unsigned kind = shift_kind(shape, place, reference_there, there, &source);
                            if (kind < KINDS && length > lengths[kind]) {
                                lengths[kind] = length, sources[kind] = source;
                                shifts[kind] = (int32_t)((ptrdiff_t)from - (ptrdiff_t)place);
                            }
                        }
                        const unsigned longer = lengths[FAR] > lengths[SHIFT] ? FAR : SHIFT;
                        shifted_end = place + lengths[longer];
                        shifted_from = (size_t)(ptrdiff_t)shifts[longer];
                    }
                    if (lengths[SHIFT]) TAKE(SHIFT, lengths[SHIFT], sources[SHIFT], shifts[SHIFT], reference);
                    if (lengths[FAR] > lengths[SHIFT]) TAKE(FAR, lengths[FAR], sources[FAR], shifts[FAR], reference);
                }
            }
            if (place >= pixel && frame[place] == frame[place - pixel])
                TAKE(RUN, same_bytes(frame + place, frame + place - pixel, left), 0, shift, reference);
            size_t back = 0;
            if (place >= row && frame[place] == frame[place - row]) {
                const int source = back_source(shape, row);
                back = same_bytes(frame + place, frame + place - row, left);
                if (source >= 0) TAKE(BACK, back, (uint32_t)source, shift, reference);
            }
            if (left >= 8) {
                uint32_t *found = &newest[hash_run(load64(frame + place), BACK_BYTES) >> (64 - BACK_BITS)];
                if (*found != NOWHERE && same_length < BACK_BELOW) {
                    const size_t length = same_bytes(frame + place, frame + *found, left);
                    if (length > back && length >= BACK_BYTES) {
                        const int source = back_source(shape, place - *found);
                        if (source >= 0) TAKE(BACK, length, (uint32_t)source, shift, reference);
                    }
                }
                *found = (uint32_t)place;
            }
        }
        if (best) {
            write_way(&output, frame, set, index, nodes, base, at);
            size_t length = best, literals = nodes[at].literals;
            const int to_end = place + length == size;
            if (!(to_end && !literals && taken.kind == AGAIN)) {
                const size_t most = longest(&KIND[taken.kind]);
                const size_t once = length < most ? length : most;
                write_token(&output, frame, set, index, place - literals, &taken, literals, once, to_end && once == length);
                place += once;
            } else {
                place = size;
            }
            nodes[0] = (Node){0};
            nodes[0].shift = taken.shift, nodes[0].reference = taken.reference;
            base = place, reached = 0;
            RESET(&same, place);
            RESET(&near, place);
            shifted_end = until = 0;
            continue;
        }
        if (place >= looked && place + 1 < until) {
            place = until;
            RESET(&same, place);
            RESET(&near, place);
            continue;
        }
        if (reached == at) nodes[++reached].cost = UINT32_MAX;
        Node *next = &nodes[at + 1];
        if (node->cost + ONE < next->cost) {
            *next = *node;
            next->cost += ONE;
            next->literals++;
            next->length = 0;
        }
        if (words) {
            SLIDE(&same, place, words, all);
            if (near.end <= place)
                RESET(&near, place + 1);
            else
                SLIDE(&near, place, words, all);
        }
        place++;
    }
    write_way(&output, frame, set, index, nodes, base, place - base);
    const size_t literals = nodes[place - base].literals;
    if (literals) {
        const Node none = {0}; /* of kind SAME */
        write_token(&output, frame, set, index, size - literals, &none, literals, 0, 1);
    }
    return output.to < output.end ? output.to - out : -1;
}

TARGET static ptrdiff_t ENCODE(const Index *index, Workspace *workspace, const uint8_t *set, const uint8_t *frame,
                               uint8_t *out, size_t room) {
    if (!index->references) return ENCODE_WORDS(index, workspace, set, frame, out, room, 0);
    if (index->lanes <= 64) return ENCODE_WORDS(index, workspace, set, frame, out, room, 1);
    if (index->lanes <= 128) return ENCODE_WORDS(index, workspace, set, frame, out, room, 2);
    if (index->lanes <= 192) return ENCODE_WORDS(index, workspace, set, frame, out, room, 3);
    return ENCODE_WORDS(index, workspace, set, frame, out, room, 4);
}

#undef WINDOW_T
#undef SLIDE
#undef EXTEND
#undef REACH
#undef RELAX
#undef ENCODE
#undef ENCODE_WORDS
#undef RESET
#undef TAKE
#undef PREFETCH
