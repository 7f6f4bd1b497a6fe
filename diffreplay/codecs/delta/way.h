/* The cheapest ways that are known through a frame, so far. encode.c includes this once for each set of instructions. */

#define PARSE_T MASKS_NAME(Parse)
#define COST_UP_TO MASKS_NAME(cost_up_to)
#define RELAX MASKS_NAME(relax)
#define TAKE MASKS_NAME(take)

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
    const unsigned token = parse->index->tax + ONE * (1u + k->source);
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
