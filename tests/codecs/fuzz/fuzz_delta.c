/* A libFuzzer harness for the compiled core of the codec `delta`: any bytes decoded against any set, alone and in a batch
 * with any numbers; any frame coded against a set, and decoded again.
 *
 *   clang -g -O2 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Idiffreplay/codecs/delta \
 *       tests/codecs/fuzz/fuzz_delta.c diffreplay/codecs/delta/{batch,decode,encode,index,write}.c -o fuzz_delta
 *   ./fuzz_delta -max_len=400 -entropic_scale_per_exec_time=1 tests/codecs/fuzz/corpus
 *
 * -DMODE=0, 1 or 2 makes it do one of the three alone. Compiled with -DREPLAY it needs no libFuzzer: it runs the files
 * that it is given, and each of them changed at random. Sets and what the encoder knows of them are made once. Memory
 * is used again, too, but of each piece only as many bytes may be touched as the call is told of. */
#include <stdio.h>
#include <stdlib.h>

#include <sanitizer/asan_interface.h>

#include "batch.h"
#include "decode.h"
#include "encode.h"

enum { MOST_INPUT = 1 << 16, LEVELS = 5 };

static const struct {
    unsigned channels, wide, high, references;
} SETS[] = {
    {1, 1, 1, 0},  {1, 1, 1, 1},  {3, 1, 1, 5},   {1, 3, 5, 2},  {4, 2, 2, 256}, {1, 8, 8, 3},   {1, 12, 12, 40},
    {1, 9, 7, 70}, {3, 5, 4, 9},  {4, 6, 6, 190}, {1, 24, 8, 9}, {3, 12, 4, 3},  {2, 7, 9, 130}, {1, 12, 12, 0},
    {1, 40, 2, 8}, {1, 70, 62, 2}, /* the last one for what comes about in large frames alone, as it is slow */
};
enum { KNOWN = sizeof SETS / sizeof *SETS };

typedef struct {
    Shape shape;
    Decoder decoder;
    size_t bytes;
    uint8_t *data;
    Index *index[LEVELS];
} Set;

typedef struct {
    const uint8_t *data;
    size_t size;
} Input;

/* A block of which the first bytes may be used. */
typedef struct {
    uint8_t *bytes;
    size_t most;
} Block;

static Block coded, frame, again, decoded;

static void *allocate(size_t size) {
    void *bytes = malloc(size ? size : 1);
    if (!bytes) abort();
    return bytes;
}

static uint8_t *exactly(Block *block, size_t size) {
    if (!block->bytes) block->bytes = allocate(block->most = 2 * MOST_INPUT);
    ASAN_POISON_MEMORY_REGION(block->bytes, block->most);
    ASAN_UNPOISON_MEMORY_REGION(block->bytes, size);
    return block->bytes;
}

static uint8_t take(Input *input) {
    if (!input->size) return 0;
    input->size--;
    return *input->data++;
}

/* A number below `end`. */
static size_t take_below(Input *input, size_t end) {
    size_t number = take(input);
    if (end > 256) number |= (size_t)take(input) << 8;
    return number % end;
}

static uint32_t next(uint32_t *seed) { return (*seed = *seed * 1664525u + 1013904223u) >> 8; }

/* Noise; one picture with few differences; two values; one value. */
static void fill(Set *set, unsigned number) {
    uint32_t seed = number;
    const unsigned texture = number % 4;
    const size_t size = set->shape.frame_bytes;
    for (size_t i = 0; i < set->bytes; i++) {
        const uint32_t number = next(&seed);
        uint8_t value = (uint8_t)number;
        if (texture == 1 && i >= size) value = (uint8_t)(set->data[i - size] + (number % 23 ? 0 : number >> 8 & 15));
        if (texture == 2) value = number & 8 ? 200 : 3;
        if (texture == 3) value = 7;
        set->data[i] = value;
    }
}

static Set *set_of(uint8_t number) {
    static Set sets[256];
    Set *set = &sets[number];
    if (!set->data) {
        const unsigned which = number == 255 ? KNOWN - 1 : number % (KNOWN - 1);
        set->shape.pixel_bytes = SETS[which].channels;
        set->shape.row_bytes = set->shape.pixel_bytes * SETS[which].wide;
        set->shape.frame_bytes = set->shape.row_bytes * SETS[which].high;
        set->bytes = set->shape.frame_bytes * SETS[which].references;
        set->data = allocate(set->bytes);
        decoder_init(&set->decoder, &set->shape);
        fill(set, number / KNOWN);
    }
    return set;
}

static void check_decode(Input input, const Set *set) {
    const size_t cut = take(&input) & 1 ? take_below(&input, set->bytes + 1) : 0;
    uint8_t *in = exactly(&coded, input.size + DECODE_SLACK);
    memset(in + input.size, 0xaa, DECODE_SLACK);
    if (input.size) memcpy(in, input.data, input.size);
    decode_frame(&set->decoder, in, input.size, set->data + cut, set->bytes - cut,
                 exactly(&decoded, set->shape.frame_bytes));
}

static void check_batch(Input input, const Set *set) {
    enum { COUNT = 3 };
    int64_t numbers[5][COUNT];
    const int planar = take(&input) & 1;
    for (unsigned k = 0; k < 5; k++)
        for (unsigned i = 0; i < COUNT; i++) {
            const uint8_t how = take(&input);
            int64_t value = take(&input);
            if (how == 255) value = INT64_MIN + value;
            if (how == 254) value = INT64_MAX - value;
            if (how == 253) value = -value;
            if (how == 252) value = (int64_t)set->shape.frame_bytes;
            if (how == 251) value = (int64_t)set->bytes;
            numbers[k][i] = value;
        }
    uint8_t *log = exactly(&coded, input.size);
    if (input.size) memcpy(log, input.data, input.size);
    const size_t out_bytes = 2 * set->shape.frame_bytes;
    Batch batch = {.log = log, .sets = set->data, .out = exactly(&decoded, out_bytes), .log_bytes = input.size,
                   .sets_bytes = set->bytes, .out_bytes = out_bytes, .count = COUNT,
                   .starts = (uint8_t *)numbers[0], .lengths = (uint8_t *)numbers[1],
                   .set_starts = (uint8_t *)numbers[2], .set_lengths = (uint8_t *)numbers[3],
                   .places = (uint8_t *)numbers[4], .shape = set->shape, .planar = planar};
    decode_batch(&batch);
}

/* A frame of the set, or zeros, changed as the input says. */
static void draw(uint8_t *pixels, Input *input, const Set *set) {
    const size_t size = set->shape.frame_bytes, references = set->bytes / size;
    const size_t reference = take_below(input, references + 1);
    if (reference == references)
        memset(pixels, 0, size);
    else
        memcpy(pixels, set->data + reference * size, size);
    while (input->size) {
        const uint8_t how = take(input);
        const size_t place = take_below(input, size), left = size - place;
        const size_t most = how & 64 ? left : 1 + how / 4 % 16, length = most < left ? most : left;
        if (how % 4 == 0) { /* bytes of the input */
            for (size_t i = 0; i < length && input->size; i++) pixels[place + i] = take(input);
        } else if (how % 4 == 1) { /* bytes of anywhere in the set */
            if (!set->bytes) continue;
            const size_t from = (take_below(input, references) * size + take_below(input, size)) % set->bytes;
            memcpy(pixels + place, set->data + from, length < set->bytes - from ? length : set->bytes - from);
        } else if (how % 4 == 2) { /* somewhat lighter or darker */
            const uint8_t more = (uint8_t)(take(input) % 20 - 10);
            for (size_t i = 0; i < length; i++) pixels[place + i] += more;
        } else { /* bytes of the frame again */
            const size_t distance = 1 + take_below(input, size);
            for (size_t i = 0; i < length && place + i >= distance; i++)
                pixels[place + i] = pixels[place + i - distance];
        }
    }
}

static void check_round_trip(Input input, Set *set) {
    static Workspace *workspace;
    static size_t room;
    const unsigned level = take(&input) % LEVELS;
    Index **index = &set->index[level];
    if (!*index) *index = index_new(set->data, set->bytes, &set->shape, (int)level + 1);
    if (!*index) abort();
    if (room < workspace_bytes()) { /* one for all, as in the module */
        workspace_free(workspace);
        workspace = workspace_new();
        room = workspace_bytes();
        if (!workspace) abort();
    }
    const size_t size = set->shape.frame_bytes;
    uint8_t *pixels = exactly(&frame, size), *out = exactly(&coded, size);
    draw(pixels, &input, set);
    const ptrdiff_t length = encode_frame(*index, workspace, set->data, pixels, out, size);
    if (length >= (ptrdiff_t)size) abort();
    if (length < 0) return;
    ASAN_UNPOISON_MEMORY_REGION(out, (size_t)length + DECODE_SLACK);
    memset(out + length, 0xaa, DECODE_SLACK);
    uint8_t *found = exactly(&again, size);
    memset(found, 0x55, size);
    if (decode_frame(&set->decoder, out, (size_t)length, set->data, set->bytes, found)) abort();
    if (memcmp(pixels, found, size)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input = {data, size};
    if (size > MOST_INPUT) return -1;
    static int ready;
    if (!ready) decode_init();
    ready = 1;
    unsigned mode = take(&input) % 3;
#ifdef MODE
    mode = MODE;
#endif
    Set *set = set_of(take(&input));
    if (mode == 0) check_decode(input, set);
    if (mode == 1) check_batch(input, set);
    if (mode == 2) check_round_trip(input, set);
    return 0;
}

#ifdef REPLAY
enum { CHANGED = 4 };

int main(int count, char **paths) {
    static uint8_t data[MOST_INPUT], changed[MOST_INPUT];
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
                const uint32_t number = next(&seed);
                changed[number % size] = (uint8_t)(number >> 16);
            }
            LLVMFuzzerTestOneInput(changed, size);
        }
    }
    return 0;
}
#endif
