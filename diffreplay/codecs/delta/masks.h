/* Masks of the references that are equal to, or within reach of an ADJUST of, a value; encode.c includes this. */
#ifndef DIFFREPLAY_MASKS_H
#define DIFFREPLAY_MASKS_H

#include <stdint.h>

#if defined(__SSE2__)
#define HAVE_SSE2
#include <immintrin.h>
#endif

/* `lanes` values, 64 at most. */
static inline uint64_t equal_plain(const uint8_t *values, unsigned lanes, uint8_t value) {
    uint64_t mask = 0;
#ifdef HAVE_SSE2
    const __m128i wanted = _mm_set1_epi8((char)value);
    if (lanes == 8)
        return (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadl_epi64((const __m128i *)values), wanted)) & 255;
    for (unsigned i = 0; i < lanes; i += 16) {
        const __m128i equal = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(values + i)), wanted);
        mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(equal) << i;
    }
#else
    for (unsigned i = 0; i < lanes; i++) mask |= (uint64_t)(values[i] == value) << i;
#endif
    return mask;
}

static inline uint64_t near_plain(const uint8_t *values, unsigned lanes, uint8_t value) {
    uint64_t mask = 0;
#ifdef HAVE_SSE2
    const __m128i wanted = _mm_set1_epi8((char)(value + 8)), most = _mm_set1_epi8(15);
    if (lanes == 8) {
        const __m128i beyond = _mm_sub_epi8(wanted, _mm_loadl_epi64((const __m128i *)values));
        return (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(beyond, most), beyond)) & 255;
    }
    for (unsigned i = 0; i < lanes; i += 16) {
        const __m128i beyond = _mm_sub_epi8(wanted, _mm_loadu_si128((const __m128i *)(values + i)));
        mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(beyond, most), beyond)) << i;
    }
#else
    for (unsigned i = 0; i < lanes; i++) mask |= (uint64_t)((uint8_t)(value + 8 - values[i]) < 16) << i;
#endif
    return mask;
}

/* Of four entries of a bucket, a bit for each whose tag is the wanted one. */
static inline unsigned tagged(const uint32_t *entries, uint32_t tag, uint32_t bits) {
#ifdef HAVE_SSE2
    const __m128i found = _mm_and_si128(_mm_loadu_si128((const __m128i *)entries), _mm_set1_epi32((int)bits));
    return (unsigned)_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(found, _mm_set1_epi32((int)tag))));
#else
    unsigned mask = 0;
    for (unsigned i = 0; i < 4; i++) mask |= (unsigned)((entries[i] & bits) == tag) << i;
    return mask;
#endif
}

#if defined(HAVE_SSE2) && defined(__x86_64__) && defined(__GNUC__) && !defined(ONE_PATH)
#define HAVE_AVX2
#define AVX2 __attribute__((target("avx2,bmi,lzcnt,popcnt")))

AVX2 static inline uint64_t equal_avx2(const uint8_t *values, unsigned lanes, uint8_t value) {
    if (lanes < 32) return equal_plain(values, lanes, value);
    const __m256i wanted = _mm256_set1_epi8((char)value);
    uint64_t mask = 0;
    for (unsigned i = 0; i < lanes; i += 32) {
        const __m256i equal = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(values + i)), wanted);
        mask |= (uint64_t)(uint32_t)_mm256_movemask_epi8(equal) << i;
    }
    return mask;
}

AVX2 static inline uint64_t near_avx2(const uint8_t *values, unsigned lanes, uint8_t value) {
    if (lanes < 32) return near_plain(values, lanes, value);
    const __m256i wanted = _mm256_set1_epi8((char)(value + 8)), most = _mm256_set1_epi8(15);
    uint64_t mask = 0;
    for (unsigned i = 0; i < lanes; i += 32) {
        const __m256i beyond = _mm256_sub_epi8(wanted, _mm256_loadu_si256((const __m256i *)(values + i)));
        const __m256i within = _mm256_cmpeq_epi8(_mm256_min_epu8(beyond, most), beyond);
        mask |= (uint64_t)(uint32_t)_mm256_movemask_epi8(within) << i;
    }
    return mask;
}
#endif

#endif
