/* The search for the cheapest way through a frame. encode.c includes this once for each set of instructions. */

#define PARSE_T MASKS_NAME(Parse)
#define COST_UP_TO MASKS_NAME(cost_up_to)
#define RELAX MASKS_NAME(relax)
#define TAKE MASKS_NAME(take)
#define ALIKE MASKS_NAME(alike)
#define SAME_COPIES MASKS_NAME(same_copies)
#define ADJUST_COPIES MASKS_NAME(adjust_copies)
#define SHIFTED_COPY MASKS_NAME(shifted_copy)
#define SEARCH MASKS_NAME(search)
#define SHIFT_COPIES MASKS_NAME(shift_copies)
#define BACK_COPIES MASKS_NAME(back_copies)
#define COPIES MASKS_NAME(copies)
#define SETTLE_WAY MASKS_NAME(settle_way)
#define SETTLE_BEST MASKS_NAME(settle_best)
#define LITERAL MASKS_NAME(literal)
#define ENCODE MASKS_NAME(encode)
#define ENCODE_WORDS MASKS_NAME(encode_words)

typedef struct {
    const Index *index;
    const uint8_t *set, *frame;
    Workspace *work;
    Output output;
    RUNS_T runs;
    size_t place, base;   /* nodes are counted from `base` */
    size_t reached;       /* the last node that has a cost */
    size_t until, looked; /* a copy reaches to `until`; places after `looked` need no look until then */
    uint32_t pixel;
    uint64_t here; /* the bytes at the place, where there are 8 */
    uint32_t cost; /* of the place's node, and its shift and reference */
    int32_t shift;
    unsigned reference;
    Best best;           /* of the copies that are long enough to be taken at once */
    size_t shifted_end;  /* a shifted copy that was found goes on up to there, */
    int32_t shifted;     /* by so much */
    size_t searched;     /* in the buckets */
} PARSE_T;

/* Have all nodes up to `to` have a cost. */
TARGET INLINE void COST_UP_TO(PARSE_T *parse, size_t to) {
    while (parse->reached < to) {
        for (unsigned i = 1; i <= COSTS_AT_ONCE; i++) parse->work->costs[parse->reached + i] = UINT32_MAX;
        parse->reached += COSTS_AT_ONCE;
    }
}

/* Note at the node `to` that a copy from the node `start` leads there, if that is cheaper than what is known. */
TARGET INLINE void RELAX(PARSE_T *parse, const Node *start, uint32_t cost, size_t to, const unsigned kind, size_t length,
                         uint32_t source, int32_t shift) {
    if (cost >= parse->work->costs[to]) return;
    parse->work->costs[to] = cost;
    const int names = kind == SAME || kind == ADJUST, shifts = kind == SHIFT || kind == FAR;
    parse->work->nodes[to] = (Node){.shift = shifts ? shift : start->shift,
                                    .source = source,
                                    .length = (uint16_t)length,
                                    .kind = (uint8_t)kind,
                                    .reference = names ? (uint8_t)source : start->reference};
}

/* Consider a copy of `from` to the place, and, where pixels have several bytes, such that begin up to a pixel earlier,
 * for which `from` has `before` bytes. `shift` is that of SHIFT and FAR. */
TARGET INLINE void TAKE(PARSE_T *parse, const unsigned kind, size_t length, const uint8_t *from, size_t before,
                        uint32_t source, int32_t shift) {
    const Kind *k = &KIND[kind];
    if (length < k->least) return;
    if (length >= CLEAR && parse->place + length > parse->until) {
        parse->until = parse->place + length;
        parse->looked = parse->place + LOOK;
    }
    if (length >= (kind <= AGAIN ? LONG : VERY_LONG)) {
        if (length > parse->best.length) parse->best = (Best){length, source, shift, kind};
        return;
    }
    size_t at = parse->place - parse->base;
    const size_t to = at + length, most = at < before ? at : before;
    const uint8_t *here = parse->frame + parse->place;
    const unsigned token = TAX + ONE * (1u + k->source);
    const Node *node = &parse->work->nodes[at];
    COST_UP_TO(parse, to);
    uint32_t cost = parse->cost + token + ONE * (literal_bytes(k, node->literals) + length_bytes(k, length));
    RELAX(parse, node, cost, to, kind, length, source, shift);
    for (size_t back = 1; back <= most && back < parse->pixel; back++) {
        if (here[-(ptrdiff_t)back] != from[-(ptrdiff_t)back]) return;
        cost = parse->work->costs[--at];
        node = &parse->work->nodes[at];
        if (cost == UINT32_MAX || (kind == AGAIN && node->reference != source) || (kind == SHIFTED && node->shift != shift))
            continue;
        cost += token + ONE * (literal_bytes(k, node->literals) + length_bytes(k, length + back));
        RELAX(parse, node, cost, to, kind, length + back, source, shift);
    }
}

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
    const uint32_t cost = parse->cost + TAX + ONE * (1 + k->source + literal_bytes(k, node->literals));
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

TARGET INLINE void BACK_COPIES(PARSE_T *parse, size_t same_length) {
    const Shape *shape = &parse->index->shape;
    const size_t place = parse->place, left = shape->frame_bytes - place;
    const size_t pixel = shape->pixel_bytes, row = shape->row_bytes;
    const uint8_t *here = parse->frame + place;
    size_t above = 0;
    if (place >= pixel) {
        const size_t run = ALIKE(parse, here - pixel, left);
        if (run >= KIND[RUN].least) TAKE(parse, RUN, run, here - pixel, place - pixel, 0, 0);
    }
    if (place >= row) {
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

/* Look at all copies to the place: where pixels have several bytes, at those from the set only as a pixel begins. */
TARGET INLINE void COPIES(PARSE_T *parse, const unsigned words) {
    const Index *index = parse->index;
    const size_t place = parse->place;
    size_t same_length = 0;
    if (words && (parse->pixel == 1 || (uint32_t)place % parse->pixel == 0)) {
        same_length = SAME_COPIES(parse, words);
        if (same_length >= LONG) return;
        if (same_length < ADJUST_BELOW && place >= parse->until) ADJUST_COPIES(parse, same_length, words);
        if (index->buckets) {
            SHIFTED_COPY(parse);
            if (same_length < index->level.search_below && place + 8 <= index->shape.frame_bytes && place >= parse->until)
                SHIFT_COPIES(parse);
        }
    }
    BACK_COPIES(parse, same_length);
}

/* Write the way to the place, and begin anew there. */
TARGET INLINE void SETTLE_WAY(PARSE_T *parse) {
    const size_t at = parse->place - parse->base;
    const Sight sight = {parse->index, parse->set, parse->frame};
    write_way(&parse->output, &sight, parse->work->nodes, parse->work->way, parse->base, at);
    parse->work->nodes[0] = parse->work->nodes[at];
    parse->work->costs[0] = 0;
    parse->base = parse->place;
    parse->reached = parse->until = 0;
}

/* The same, and with the copy that is taken at once, behind which it begins anew. */
TARGET INLINE void SETTLE_BEST(PARSE_T *parse) {
    SETTLE_WAY(parse);
    const Sight sight = {parse->index, parse->set, parse->frame};
    const Best best = parse->best;
    Node node = parse->work->nodes[0];
    const size_t size = parse->index->shape.frame_bytes, literals = node.literals, most = longest(&KIND[best.kind]);
    const size_t once = best.length < most ? best.length : most;
    const int to_end = parse->place + once == size;
    if (best.kind == SAME) node.reference = (uint8_t)best.source;
    if (best.kind == SHIFT || best.kind == FAR) node.shift = best.shift;
    node.kind = (uint8_t)best.kind;
    node.source = best.source;
    if (!(to_end && !literals && best.kind == AGAIN))
        write_token(&parse->output, &sight, parse->place - literals, &node, literals, once, to_end);
    node.literals = 0;
    parse->work->nodes[0] = node;
    parse->place += once;
    parse->base = parse->place;
    parse->shifted_end = 0;
}

/* Go on by a literal, if that is cheaper. */
TARGET INLINE void LITERAL(PARSE_T *parse) {
    const size_t at = parse->place - parse->base, next = at + 1;
    const Node *node = &parse->work->nodes[at];
    COST_UP_TO(parse, next);
    if (parse->cost + ONE < parse->work->costs[next]) {
        Node *then = &parse->work->nodes[next];
        parse->work->costs[next] = parse->cost + ONE;
        then->literals = node->literals + 1;
        then->shift = node->shift, then->reference = node->reference;
    }
    parse->place++;
}

TARGET INLINE ptrdiff_t ENCODE_WORDS(const Index *index, Workspace *work, const uint8_t *set, const uint8_t *frame,
                                     uint8_t *out, size_t room, const unsigned words) {
    const size_t size = index->shape.frame_bytes;
    PARSE_T parse = {.index = index, .set = set, .frame = frame, .work = work, .output = {out, out + room},
                     .pixel = (uint32_t)index->shape.pixel_bytes};
    for (unsigned r = 0; r < index->references; r++) parse.runs.all[r / 64] |= (uint64_t)1 << r % 64;
    memset(work->newest, 0xff, sizeof work->newest);
    work->nodes[0] = (Node){0};
    work->costs[0] = 0;
    while (parse.place < size) {
        if (parse.output.to >= parse.output.end) return -1;
        if (parse.place - parse.base >= SETTLE) SETTLE_WAY(&parse);
        if (index->buckets && parse.place + 10 <= size)
            __builtin_prefetch(bucket_of(index, hash_run(load64(frame + parse.place + 2), RUN_BYTES)));
        const size_t at = parse.place - parse.base;
        parse.cost = work->costs[at];
        parse.shift = work->nodes[at].shift, parse.reference = work->nodes[at].reference;
        parse.here = parse.place + 8 <= size ? load64(frame + parse.place) : 0;
        parse.best.length = 0;
        COPIES(&parse, words);
        if (parse.best.length)
            SETTLE_BEST(&parse);
        else if (parse.place >= parse.looked && parse.place + 1 < parse.until)
            parse.place = parse.until;
        else
            LITERAL(&parse);
    }
    SETTLE_WAY(&parse);
    const size_t literals = work->nodes[0].literals;
    const Node none = {.kind = SAME};
    const Sight sight = {index, set, frame};
    if (literals) write_token(&parse.output, &sight, size - literals, &none, literals, 0, 1);
    return parse.output.to < parse.output.end ? parse.output.to - out : -1;
}

TARGET static ptrdiff_t ENCODE(const Index *index, Workspace *workspace, const uint8_t *set, const uint8_t *frame,
                               uint8_t *out, size_t room) {
    if (!index->references) return ENCODE_WORDS(index, workspace, set, frame, out, room, 0);
    if (index->lanes <= 64) return ENCODE_WORDS(index, workspace, set, frame, out, room, 1);
    if (index->lanes <= 128) return ENCODE_WORDS(index, workspace, set, frame, out, room, 2);
    if (index->lanes <= 192) return ENCODE_WORDS(index, workspace, set, frame, out, room, 3);
    return ENCODE_WORDS(index, workspace, set, frame, out, room, 4);
}
