/* A libFuzzer harness for the compiled core of the codec `delta`: any bytes decoded against any set, in a batch with any
 * numbers; any frame coded against a set like it, and decoded again.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -Idiffreplay/codecs/delta tests/codecs/fuzz/fuzz_delta.c \
 *       diffreplay/codecs/delta/{batch,decode,encode,index,write}.c -o fuzz_delta && ./fuzz_delta CORPUS
 *
 * Compiled with -DREPLAY it needs no libFuzzer: it runs the files that it is given, and each of them changed at random. Every buffer is allocated as large
 * as it may be used, so that AddressSanitizer sees a byte beyond. */
#include <stdio.h>
#include <stdlib.h>

#include "batch.h"
#include "decode.h"
#include "encode.h"

static const unsigned REFERENCES[] = {0, 1, 2, 3, 9, 40, 70, 190};

typedef struct {
    const uint8_t *data;
    size_t size;
} Input;

static uint8_t take(Input *input) {
    if (!input->size) return 0;
    input->size--;
    return *input->data++;
}

static uint8_t *exactly(size_t size) {
    uint8_t *bytes = malloc(size ? size : 1);
    if (!bytes) abort();
    return bytes;
}

/* Bytes of the input, over and over; a few of them differ from frame to frame. */
static void fill(uint8_t *to, size_t size, Input input, uint32_t seed, unsigned often) {
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1664525u + 1013904223u;
        to[i] = input.size ? input.data[i % input.size] : 0;
        if (often && (seed >> 16) % (often * 8u) == 0) to[i] += (uint8_t)((seed >> 24) % 24) - 8;
    }
}

static void check_decode(Input input, const Shape *shape, const uint8_t *set, size_t set_bytes) {
    uint8_t *coded = exactly(input.size + DECODE_SLACK), *out = exactly(shape->frame_bytes);
    memset(coded, 0xaa, input.size + DECODE_SLACK);
    if (input.size) memcpy(coded, input.data, input.size);
    Decoder decoder;
    decoder_init(&decoder, shape);
    decode_frame(&decoder, coded, input.size, set, set_bytes, out);
    free(coded);
    free(out);
}

static void check_batch(Input input, const Shape *shape, const uint8_t *set, size_t set_bytes) {
    enum { COUNT = 3 };
    int64_t numbers[5][COUNT];
    for (unsigned k = 0; k < 5; k++)
        for (unsigned i = 0; i < COUNT; i++) {
            const uint8_t how = take(&input);
            int64_t value = take(&input);
            if (how == 255) value = INT64_MIN + value;
            if (how == 254) value = INT64_MAX - value;
            if (how == 253) value = -value;
            if (how == 252) value = (int64_t)shape->frame_bytes;
            if (how == 251) value = (int64_t)set_bytes;
            numbers[k][i] = value;
        }
    uint8_t *log = exactly(input.size), *out = exactly(2 * shape->frame_bytes);
    if (input.size) memcpy(log, input.data, input.size);
    Batch batch = {log, set, out, input.size, set_bytes, 2 * shape->frame_bytes, COUNT, (uint8_t *)numbers[0],
                   (uint8_t *)numbers[1], (uint8_t *)numbers[2], (uint8_t *)numbers[3], (uint8_t *)numbers[4], *shape,
                   (int)(input.size & 1)};
    decode_batch(&batch);
    free(log);
    free(out);
}

static void check_round_trip(Input input, const Shape *shape, const uint8_t *set, size_t set_bytes, uint32_t seed,
                             unsigned often, int level) {
    const size_t size = shape->frame_bytes;
    Index *index = index_new(set, set_bytes, shape, level);
    Workspace *workspace = index ? workspace_new(index) : NULL;
    if (!workspace) abort();
    uint8_t *frame = exactly(size), *coded = exactly(size), *again = exactly(size);
    fill(frame, size, input, seed, often);
    const ptrdiff_t length = encode_frame(index, workspace, set, frame, coded, size);
    if (length >= (ptrdiff_t)size) abort();
    if (length >= 0) {
        uint8_t *behind = exactly((size_t)length + DECODE_SLACK);
        memcpy(behind, coded, (size_t)length);
        memset(behind + length, 0xaa, DECODE_SLACK);
        memset(again, 0x55, size);
        Decoder decoder;
        decoder_init(&decoder, shape);
        if (decode_frame(&decoder, behind, (size_t)length, set, set_bytes, again) || memcmp(frame, again, size)) abort();
        free(behind);
    }
    free(frame);
    free(coded);
    free(again);
    workspace_free(workspace);
    index_free(index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input = {data, size};
    decode_init();
    const uint8_t mode = take(&input), channels = take(&input), wide = take(&input), high = take(&input);
    const uint8_t references = take(&input), often = take(&input), seed = take(&input);
    Shape shape = {0, 0, 1u + channels % 4};
    shape.row_bytes = shape.pixel_bytes * (1u + wide % 24);
    shape.frame_bytes = shape.row_bytes * (1u + high % ((mode & 96) == 96 ? 200 : 12));
    unsigned count = REFERENCES[references % 8];
    while (count * shape.frame_bytes > (mode % 3 == 2 ? 40000u : 4000u)) count /= 2; /* large sets are slow */
    const size_t set_bytes = count * shape.frame_bytes;
    uint8_t *set = exactly(set_bytes);
    Input content = input;
    for (unsigned i = 0; i < count; i++)
        fill(set + i * shape.frame_bytes, shape.frame_bytes, content, seed * 77u + i / 2, often % 16);
    if (mode % 3 == 0) check_decode(input, &shape, set, set_bytes);
    if (mode % 3 == 1) check_batch(input, &shape, set, set_bytes);
    if (mode % 3 == 2) check_round_trip(input, &shape, set, set_bytes, seed, often / 16, 1 + seed % 5);
    free(set);
    return 0;
}

#ifdef REPLAY
enum { CHANGED = 4 };

int main(int count, char **paths) {
    static uint8_t data[1 << 16], changed[1 << 16];
    uint32_t seed = 1;
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(paths[i], "rb");
        if (!file) return 2;
        const size_t size = fread(data, 1, sizeof data, file);
        fclose(file);
        LLVMFuzzerTestOneInput(data, size);
        for (unsigned k = 0; size && k < CHANGED; k++) {
            memcpy(changed, data, size);
            for (unsigned j = 0; j <= k % 4; j++) {
                seed = seed * 1664525u + 1013904223u;
                changed[(seed >> 8) % size] = (uint8_t)(seed >> 24);
            }
            LLVMFuzzerTestOneInput(changed, size);
        }
    }
    return 0;
}
#endif
