/* The copies to a place that are looked at. encode.c includes this once for each set of instructions. */

#define ALIKE MASKS_NAME(alike)
#define SAME_COPIES MASKS_NAME(same_copies)
#define ADJUST_COPIES MASKS_NAME(adjust_copies)
#define SHIFTED_COPY MASKS_NAME(shifted_copy)
#define SEARCH MASKS_NAME(search)
#define SHIFT_COPIES MASKS_NAME(shift_copies)
#define BACK_COPIES MASKS_NAME(back_copies)
#define COPIES MASKS_NAME(copies)

/* For how many bytes the frame from its place on is as what `from` points to, `left` at most. */
TARGET INLINE size_t ALIKE(const PARSE_T *parse, const uint8_t *from, size_t left) {
    const uint8_t *here = parse->frame + parse->place;
    if (left < 8) return same_bytes(here, from, left);
    const uint64_t differ = parse->here ^ load64(from);
    return differ ? first_byte(differ) : 8 + same_bytes(here + 8, from + 8, left - 8);
}

TARGET INLINE size_t SAME_COPIES(PARSE_T *parse, const unsigned words) {
    const size_t place = parse->place, size = parse->index->shape.frame_bytes;
    const uint8_t *from = parse->set + parse->reference * size + place;
    const size_t again = ALIKE(parse, from, size - place);
    if (again >= KIND[AGAIN].least) TAKE(parse, AGAIN, again, from, place, parse->reference, 0);
    const size_t end = FIND_SAME(&parse->runs, parse->index, parse->set, parse->frame, place, parse->reference, words);
    if (end <= place + again) return again;
    const unsigned by = parse->runs.by;
    TAKE(parse, SAME, end - place, parse->set + by * size + place, place, by, 0);
    return end - place;
}

TARGET INLINE void ADJUST_COPIES(PARSE_T *parse, size_t same_length, const unsigned words) {
    const Kind *k = &KIND[ADJUST];
    const size_t most = FIND_NEAR(&parse->runs, parse->index, parse->set, parse->frame, parse->place, words) / 2;
    if (2 * most <= same_length || most < ADJUST_LEAST / 2) return;
    const size_t at = parse->place - parse->base;
    const Node *node = &parse->work->nodes[at];
    const uint32_t cost = parse->cost + parse->index->tax + ONE * (1 + k->source + literal_bytes(k, node->literals));
    COST_UP_TO(parse, at + 2 * most);
    for (size_t pairs = ADJUST_LEAST / 2; pairs <= most; pairs++)
        RELAX(parse, node, cost + ONE * (uint32_t)(pairs + length_bytes(k, pairs)), at + 2 * pairs, ADJUST, 2 * pairs,
              parse->runs.near_by, 0);
}

TARGET INLINE void SHIFTED_COPY(PARSE_T *parse) {
    const size_t left = parse->index->shape.frame_bytes - parse->place, set_bytes = parse->index->set_bytes;
    const ptrdiff_t there = (ptrdiff_t)parse->place + parse->shift;
    if (there < 0 || (size_t)there >= set_bytes) return;
    const size_t most = set_bytes - (size_t)there < left ? set_bytes - (size_t)there : left;
    const uint8_t *from = parse->set + there;
    const size_t length = ALIKE(parse, from, most);
    if (length >= KIND[SHIFTED].least) TAKE(parse, SHIFTED, length, from, (size_t)there, 0, parse->shift);
}

/* The longest copies by SHIFT and by FAR of those that the set's buckets know. */
TARGET INLINE void SEARCH(PARSE_T *parse, Found *longest) {
    const Index *index = parse->index;
    const uint8_t *here = parse->frame + parse->place;
    const size_t size = index->shape.frame_bytes, left = size - parse->place;
    const uint64_t hash = hash_run(parse->here, RUN_BYTES);
    const uint32_t *bucket = bucket_of(index, hash), tag = tag_of(index, hash), mask = place_mask(index);
    for (unsigned begin = 0; begin < index->level.ways; begin += 4)
        for (unsigned tagged_ = tagged(bucket + begin, tag, 0xffffff & ~mask); tagged_; tagged_ &= tagged_ - 1) {
            const uint32_t entry = bucket[begin + (unsigned)__builtin_ctz(tagged_)];
            if (entry == NOWHERE) return;
            const size_t reference = entry >> 24, there = entry & mask, from = reference * size + there;
            const size_t most = index->set_bytes - from < left ? index->set_bytes - from : left;
            const size_t length = same_bytes(here, parse->set + from, most);
            if (length <= longest[0].length && length <= longest[1].length) continue;
            uint32_t source;
            const unsigned kind = shift_kind(&index->shape, parse->place, reference, there, &source);
            if (kind != KINDS && length > longest[kind == FAR].length)
                longest[kind == FAR] = (Found){length, source, (int32_t)((ptrdiff_t)from - (ptrdiff_t)parse->place)};
        }
}

TARGET INLINE void SHIFT_COPIES(PARSE_T *parse) {
    const size_t place = parse->place;
    const uint32_t size = (uint32_t)parse->index->shape.frame_bytes;
    Found found[2] = {{0}}; /* by SHIFT, by FAR */
    if (parse->shifted_end > place + SHIFT_LEFT) {
        uint32_t source;
        const size_t there = (size_t)((ptrdiff_t)place + parse->shifted);
        const unsigned kind = shift_kind(&parse->index->shape, place, (uint32_t)there / size, (uint32_t)there % size, &source);
        if (kind != KINDS) found[kind == FAR] = (Found){parse->shifted_end - place, source, parse->shifted};
    } else {
        const size_t cost = parse->index->level.place_cost;
        if (parse->searched * cost > place + FIRST_SEARCHES * cost) return;
        parse->searched++;
        SEARCH(parse, found);
        const Found *longer = &found[found[1].length > found[0].length];
        parse->shifted_end = place + longer->length;
        parse->shifted = longer->shift;
    }
    const ptrdiff_t near = (ptrdiff_t)place + found[0].shift, far = (ptrdiff_t)place + found[1].shift;
    if (found[0].length)
        TAKE(parse, SHIFT, found[0].length, parse->set + near, (size_t)near, found[0].source, found[0].shift);
    if (found[1].length > found[0].length)
        TAKE(parse, FAR, found[1].length, parse->set + far, (size_t)far, found[1].source, found[1].shift);
}

TARGET INLINE void BACK_COPIES(PARSE_T *parse, size_t same_length, int begins) {
    const Shape *shape = &parse->index->shape;
    const size_t place = parse->place, left = shape->frame_bytes - place;
    const size_t pixel = shape->pixel_bytes, row = shape->row_bytes;
    const uint8_t *here = parse->frame + place;
    size_t above = 0;
    if (begins && place >= pixel) {
        const size_t run = ALIKE(parse, here - pixel, left);
        if (run >= KIND[RUN].least) TAKE(parse, RUN, run, here - pixel, place - pixel, 0, 0);
    }
    if (begins && place >= row) {
        above = ALIKE(parse, here - row, left);
        const int source = above >= KIND[BACK].least ? back_source(shape, row) : -1;
        if (source >= 0) TAKE(parse, BACK, above, here - row, place - row, (uint32_t)source, 0);
    }
    if (left < 8) return;
    uint32_t *newest = &parse->work->newest[hash_run(parse->here, BACK_BYTES) >> (64 - BACK_BITS)];
    const size_t found = *newest;
    *newest = (uint32_t)place;
    if (found == NOWHERE || same_length >= BACK_BELOW) return;
    const size_t length = ALIKE(parse, parse->frame + found, left);
    if (length <= above || length < BACK_BYTES) return;
    const int source = back_source(shape, place - found);
    if (source >= 0) TAKE(parse, BACK, length, parse->frame + found, found, (uint32_t)source, 0);
}

/* Look at all copies to the place: unless it begins a pixel, only for earlier bytes like these. */
TARGET INLINE void COPIES(PARSE_T *parse, const unsigned words) {
    const Index *index = parse->index;
    const size_t place = parse->place;
    size_t same_length = 0;
    const int begins = parse->pixel == 1 || (uint32_t)place % parse->pixel == 0;
    if (words && begins) {
        same_length = SAME_COPIES(parse, words);
        if (same_length >= LONG) return;
        if (same_length < ADJUST_BELOW && place >= parse->until) ADJUST_COPIES(parse, same_length, words);
        if (index->buckets) {
            const size_t soon = place + (parse->pixel == 1 ? 2 : parse->pixel);
            if (soon + 8 <= index->shape.frame_bytes)
                __builtin_prefetch(bucket_of(index, hash_run(load64(parse->frame + soon), RUN_BYTES)));
            SHIFTED_COPY(parse);
            if (same_length < index->level.search_below && place + 8 <= index->shape.frame_bytes && place >= parse->until)
                SHIFT_COPIES(parse);
        }
    }
    BACK_COPIES(parse, same_length, begins);
}
