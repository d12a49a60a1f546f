// Vectors of 128 bits (ARM's NEON): four floats. FASTLANE_BYTE_DOT adds the dot product of four bytes a lane in one
// instruction; without it products of bytes are added up in sixteen bits first.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "unpack.h"

namespace fastlane::FASTLANE_LEVEL {

constexpr int lanes = 4;
constexpr int most_vectors = 4;  // of a query tile
constexpr int tile_rows = 6;     // rows whose sums fit the registers beside the query's vectors

using Floats = float32x4_t;
using Ints = int32x4_t;
using Mask = uint32x4_t;

inline Floats splat(float value) { return vdupq_n_f32(value); }
inline Floats load(const float* from) { return vld1q_f32(from); }
inline void store(float* to, Floats value) { vst1q_f32(to, value); }
inline Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline Floats to_floats(Ints value) { return vcvtq_f32_s32(value); }

inline Ints splat_int(int32_t value) { return vdupq_n_s32(value); }
inline Ints load_ints(const int32_t* from) { return vld1q_s32(from); }
inline void store_ints(int32_t* to, Ints value) { vst1q_s32(to, value); }
inline Ints add(Ints a, Ints b) { return vaddq_s32(a, b); }

inline Floats widen_half(const uint16_t* from) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }
inline Floats widen_bfloat(const uint16_t* from) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16)); }

// Where a value takes the place of a maximum. "Not less or equal" lets a NaN in, "equal to itself" keeps it.
inline Mask raises(Floats value, Floats maximum) {
  return vbicq_u32(vceqq_f32(maximum, maximum), vcleq_f32(value, maximum));
}
inline Floats select(Mask mask, Floats yes, Floats no) { return vbslq_f32(mask, yes, no); }
inline Ints select(Mask mask, Ints yes, Ints no) { return vbslq_s32(mask, yes, no); }

// Four bytes in every lane; four bytes of each token.
inline Ints splat_word(const uint8_t* from) {
  int32_t word;
  __builtin_memcpy(&word, from, 4);
  return vdupq_n_s32(word);
}
inline Ints load_words(const int8_t* from) { return vreinterpretq_s32_s8(vld1q_s8(from)); }
inline Ints low_halves(Ints bytes) {
  return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(bytes), vdupq_n_u8(15)));
}
inline Ints high_halves(Ints bytes) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(bytes), 4)); }

// Sums of four products, unsigned byte times signed byte, in each lane. The instructions take signed bytes alone, so
// the unsigned ones are at most 15.
struct ByteSums {
  static constexpr bool whole_bytes = false;
#if defined(FASTLANE_BYTE_DOT)
  static constexpr int64_t words = 0;  // that may be added before the sums overflow; 0 for any number
  Ints sums = vdupq_n_s32(0);
  void add(Ints levels, Ints query) {
    sums = vdotq_s32(sums, vreinterpretq_s8_s32(levels), vreinterpretq_s8_s32(query));
  }
  Ints total() const { return sums; }
#else
  static constexpr int64_t words = 8;  // 8 * 2 * 15 * 127 is below 32,768
  int16x8_t sums = vdupq_n_s16(0);     // of two products
  void add(Ints levels, Ints query) {
    const int8x16_t a = vreinterpretq_s8_s32(levels);
    const int8x16_t b = vreinterpretq_s8_s32(query);
    const int16x8_t first = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    sums = vaddq_s16(sums, vpaddq_s16(first, vmull_high_s8(a, b)));
  }
  Ints total() const { return vpaddlq_s16(sums); }
#endif
  Ints total_times_16() const { return vshlq_n_s32(total(), 4); }
};

// Writes (byte >> shift) & mask for `count` bytes of each row, and touches no others.
//   to: row r's start at r * step
inline void unpack(const uint8_t* const (&rows)[tile_rows], uint8_t* to, int64_t step, int64_t count, int shift,
                   int mask) {
  if (count < 16) {
    for (int r = 0; r < tile_rows; ++r) unpack_few(rows[r], to + r * step, count, shift, mask);
    return;
  }
  const uint8x16_t masks = vdupq_n_u8(static_cast<uint8_t>(mask));
  const int8x16_t shifts = vdupq_n_s8(static_cast<int8_t>(-shift));
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t at = i < count - 16 ? i : count - 16;  // the last turn reaches back over bytes already written
    for (int r = 0; r < tile_rows; ++r) {
      vst1q_u8(to + r * step + at, vandq_u8(vshlq_u8(vld1q_u8(rows[r] + at), shifts), masks));
    }
  }
}

}  // namespace fastlane::FASTLANE_LEVEL
