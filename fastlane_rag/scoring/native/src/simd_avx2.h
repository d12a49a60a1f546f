// Vectors of 256 bits (AVX2 with FMA and F16C): eight floats. FASTLANE_BYTE_DOT adds AVX-VNNI, which multiplies four
// bytes a lane in one instruction; without it products of bytes are added up in sixteen bits first.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "unpack.h"

namespace fastlane::FASTLANE_LEVEL {

constexpr int lanes = 8;
constexpr int most_vectors = 2;  // of a query tile
constexpr int tile_rows = 6;     // rows whose sums fit the registers beside the query's vectors

using Floats = __m256;
using Ints = __m256i;
using Mask = __m256;

inline Floats splat(float value) { return _mm256_set1_ps(value); }
inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Floats value) { _mm256_storeu_ps(to, value); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats to_floats(Ints value) { return _mm256_cvtepi32_ps(value); }

inline Ints splat_int(int32_t value) { return _mm256_set1_epi32(value); }
inline Ints load_ints(const int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const Ints*>(from)); }
inline void store_ints(int32_t* to, Ints value) { _mm256_storeu_si256(reinterpret_cast<Ints*>(to), value); }
inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }

inline Floats widen_half(const uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Floats widen_bfloat(const uint16_t* from) {
  const Ints wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

// Where a value takes the place of a maximum. "Not less or equal" lets a NaN in, "ordered" keeps it.
inline Mask raises(Floats value, Floats maximum) {
  return _mm256_and_ps(_mm256_cmp_ps(value, maximum, _CMP_NLE_UQ), _mm256_cmp_ps(maximum, maximum, _CMP_ORD_Q));
}
inline Floats select(Mask mask, Floats yes, Floats no) { return _mm256_blendv_ps(no, yes, mask); }
inline Ints select(Mask mask, Ints yes, Ints no) {
  return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(no), _mm256_castsi256_ps(yes), mask));
}

// Four bytes in every lane; four bytes of each token.
inline Ints splat_word(const uint8_t* from) {
  int32_t word;
  __builtin_memcpy(&word, from, 4);
  return _mm256_set1_epi32(word);
}
inline Ints load_words(const int8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const Ints*>(from)); }
inline Ints low_halves(Ints bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
inline Ints high_halves(Ints bytes) { return low_halves(_mm256_srli_epi16(bytes, 4)); }

// Sums of four products, unsigned byte times signed byte, in each lane.
struct ByteSums {
#if defined(FASTLANE_BYTE_DOT)
  static constexpr bool whole_bytes = true;  // takes unsigned bytes up to 255
  static constexpr int64_t words = 0;        // that may be added before the sums overflow; 0 for any number
  Ints sums = _mm256_setzero_si256();
  // In assembler, for GCC 12 copies each sum twice around the intrinsic.
  void add(Ints levels, Ints query) { __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(levels), "x"(query)); }
  Ints total() const { return sums; }
  Ints total_times_16() const { return _mm256_slli_epi32(sums, 4); }
#else
  static constexpr bool whole_bytes = false;  // takes unsigned bytes up to 15
  static constexpr int64_t words = 8;         // 8 * 2 * 15 * 127 is below 32,768
  Ints sums = _mm256_setzero_si256();         // sixteen bits each, of two products
  void add(Ints levels, Ints query) { sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(levels, query)); }
  Ints total() const { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
  Ints total_times_16() const { return _mm256_madd_epi16(sums, _mm256_set1_epi16(16)); }
#endif
};

// Writes (byte >> shift) & mask for `count` bytes of each row, and touches no others.
//   to: row r's start at r * step
inline void unpack(const uint8_t* const (&rows)[tile_rows], uint8_t* to, int64_t step, int64_t count, int shift,
                   int mask) {
  if (count < 32) {
    for (int r = 0; r < tile_rows; ++r) unpack_few(rows[r], to + r * step, count, shift, mask);
    return;
  }
  const Ints masks = _mm256_set1_epi8(static_cast<char>(mask));
  const __m128i shifts = _mm_cvtsi32_si128(shift);  // in words of four bytes: the mask clears what the next byte adds
  for (int64_t i = 0; i < count; i += 32) {
    const int64_t at = i < count - 32 ? i : count - 32;  // the last turn reaches back over bytes already written
    for (int r = 0; r < tile_rows; ++r) {
      const Ints bytes = _mm256_loadu_si256(reinterpret_cast<const Ints*>(rows[r] + at));
      const Ints levels = _mm256_and_si256(_mm256_srl_epi32(bytes, shifts), masks);
      _mm256_storeu_si256(reinterpret_cast<Ints*>(to + r * step + at), levels);
    }
  }
}

}  // namespace fastlane::FASTLANE_LEVEL
