// Vectors of 512 bits (AVX-512 with VNNI): sixteen floats, and four products of bytes a lane in one instruction.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fastlane::FASTLANE_LEVEL {

constexpr int lanes = 16;
constexpr int most_vectors = 2;  // of a query tile
constexpr int tile_rows = 8;     // rows whose sums fit the registers beside the query's vectors

using Floats = __m512;
using Ints = __m512i;
using Mask = __mmask16;

inline Floats splat(float value) { return _mm512_set1_ps(value); }
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats to_floats(Ints value) { return _mm512_cvtepi32_ps(value); }

inline Ints splat_int(int32_t value) { return _mm512_set1_epi32(value); }
inline Ints load_ints(const int32_t* from) { return _mm512_loadu_si512(from); }
inline void store_ints(int32_t* to, Ints value) { _mm512_storeu_si512(to, value); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }

inline Floats widen_half(const uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline Floats widen_bfloat(const uint16_t* from) {
  const Ints wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// Where a value takes the place of a maximum. "Not less or equal" lets a NaN in, "ordered" keeps it.
inline Mask raises(Floats value, Floats maximum) {
  const Mask ordered = _mm512_cmp_ps_mask(maximum, maximum, _CMP_ORD_Q);
  return _mm512_mask_cmp_ps_mask(ordered, value, maximum, _CMP_NLE_UQ);
}
inline Floats select(Mask mask, Floats yes, Floats no) { return _mm512_mask_mov_ps(no, mask, yes); }
inline Ints select(Mask mask, Ints yes, Ints no) { return _mm512_mask_mov_epi32(no, mask, yes); }

// Four bytes in every lane; four bytes of each token.
inline Ints splat_word(const uint8_t* from) {
  int32_t word;
  __builtin_memcpy(&word, from, 4);
  return _mm512_set1_epi32(word);
}
inline Ints load_words(const int8_t* from) { return _mm512_loadu_si512(from); }
inline Ints low_halves(Ints bytes) { return bytes; }
inline Ints high_halves(Ints bytes) { return bytes; }

// Sums of four products, unsigned byte times signed byte, in each lane. In assembler, for GCC 12 copies each sum twice
// around the intrinsic.
struct ByteSums {
  static constexpr bool whole_bytes = true;  // takes unsigned bytes up to 255
  static constexpr int64_t words = 0;        // that may be added before the sums overflow; 0 for any number
  Ints sums = _mm512_setzero_si512();
  void add(Ints levels, Ints query) { __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(levels), "v"(query)); }
  Ints total() const { return sums; }
  Ints total_times_16() const { return _mm512_slli_epi32(sums, 4); }
};

// Writes (byte >> shift) & mask for `count` bytes of each row, and touches no others.
//   to: row r's start at r * step
inline void unpack(const uint8_t* const (&rows)[tile_rows], uint8_t* to, int64_t step, int64_t count, int shift,
                   int mask) {
  const Ints masks = _mm512_set1_epi8(static_cast<char>(mask));
  const __m128i shifts = _mm_cvtsi32_si128(shift);  // in words of four bytes: the mask clears what the next byte adds
  for (int64_t i = 0; i < count; i += 64) {
    const __mmask64 some = count - i >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << (count - i)) - 1;
    for (int r = 0; r < tile_rows; ++r) {
      const Ints bytes = _mm512_maskz_loadu_epi8(some, rows[r] + i);
      _mm512_mask_storeu_epi8(to + r * step + i, some, _mm512_and_si512(_mm512_srl_epi32(bytes, shifts), masks));
    }
  }
}

}  // namespace fastlane::FASTLANE_LEVEL
