/* The search for the cheapest way through a frame. encode.c includes this once for each set of instructions. */

#define SETTLE_WAY MASKS_NAME(settle_way)
#define SETTLE_BEST MASKS_NAME(settle_best)
#define LITERAL MASKS_NAME(literal)
#define ENCODE MASKS_NAME(encode)
#define ENCODE_WORDS MASKS_NAME(encode_words)

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
