#include "write.h"

static void put(Output *out, size_t byte) {
    if (out->to < out->end) *out->to++ = (uint8_t)byte; /* full: it stays so */
}

static void put_literals(Output *out, const uint8_t *from, size_t literals) {
    const size_t room = (size_t)(out->end - out->to), size = literals < room ? literals : room;
    memcpy(out->to, from, size);
    out->to += size;
}

static void put_source(Output *out, const Node *node) {
    switch (node->kind) {
    case FAR: put(out, node->source >> 16), put(out, node->source >> 8), put(out, node->source); break;
    case SHIFT: put(out, node->source >> 16), put(out, node->source); break;
    case SAME:
    case BACK:
    case ADJUST: put(out, node->source); break;
    default: break;
    }
}

static void put_corrections(Output *out, const uint8_t *pixels, const uint8_t *from, size_t length) {
    for (size_t i = 0; i < length; i += 2) {
        const uint8_t low = (uint8_t)(pixels[i] - from[i] + 8), high = (uint8_t)(pixels[i + 1] - from[i + 1] + 8);
        put(out, (size_t)high << 4 | low);
    }
}

void write_token(Output *out, const Sight *sight, size_t place, const Node *node, size_t literals, size_t length,
                 int to_end) {
    const Kind *kind = &KIND[node->kind];
    const unsigned most = kind->literals - 1u, direct = direct_lengths(kind);
    const size_t units = node->kind == ADJUST ? length / 2 : length;
    const size_t beyond = units >= kind->least ? units - kind->least : 0;
    unsigned code = 0;
    for (unsigned k = 0; k < node->kind; k++) code += KIND[k].literals * KIND[k].lengths;
    code += (literals < most ? (unsigned)literals : most) * kind->lengths;
    code += beyond < direct ? (unsigned)beyond : beyond < direct + 256 ? direct : direct + 1;
    put(out, code);
    if (literals >= most) {
        const size_t more = literals - most;
        put(out, more < 255 ? more : 255);
        if (more >= 255) put(out, more - 255), put(out, (more - 255) >> 8), put(out, (more - 255) >> 16);
    }
    put_literals(out, sight->frame + place, literals);
    if (!length) return;
    put_source(out, node);
    if (beyond >= direct && !(to_end && node->kind != ADJUST)) {
        put(out, beyond - direct);
        if (beyond >= direct + 256) put(out, (beyond - direct) >> 8);
    }
    if (node->kind == ADJUST) {
        const uint8_t *reference = sight->set + node->source * sight->index->shape.frame_bytes;
        put_corrections(out, sight->frame + place + literals, reference + place + literals, length);
    }
}

void write_way(Output *out, const Sight *sight, const Node *nodes, uint32_t *way, size_t base, size_t last) {
    const size_t size = sight->index->shape.frame_bytes;
    size_t ends = 0; /* where copies end, the last one first */
    for (size_t at = last;;) {
        at -= nodes[at].literals < at ? nodes[at].literals : at;
        if (!at) break;
        way[ends++] = (uint32_t)at;
        at -= nodes[at].length;
    }
    while (ends--) {
        const size_t to = way[ends], start = to - nodes[to].length, literals = nodes[start].literals;
        const int to_end = base + to == size;
        if (!(to_end && !literals && nodes[to].kind == AGAIN))
            write_token(out, sight, base + start - literals, &nodes[to], literals, nodes[to].length, to_end);
    }
}
