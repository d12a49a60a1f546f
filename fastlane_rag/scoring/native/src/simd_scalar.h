// "Vectors" of four numbers in plain C++, for any processor; compilers find what vector instructions there are.
#pragma once

#include <cmath>
#include <cstdint>

#include "unpack.h"

namespace fastlane::FASTLANE_LEVEL {

constexpr int lanes = 4;
constexpr int most_vectors = 2;  // of a query tile
constexpr int tile_rows = 4;

struct Floats {
  float at[lanes];
};
struct Ints {
  int32_t at[lanes];
};
struct Mask {
  bool at[lanes];
};

template <class Result, class Make>
inline Result each(Make make) {
  Result result;
  for (int i = 0; i < lanes; ++i) result.at[i] = make(i);
  return result;
}

inline Floats splat(float value) {
  return each<Floats>([&](int) { return value; });
}
inline Floats load(const float* from) {
  return each<Floats>([&](int i) { return from[i]; });
}
inline void store(float* to, Floats value) {
  for (int i = 0; i < lanes; ++i) to[i] = value.at[i];
}
inline Floats multiply(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] * b.at[i]; });
}
inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return a.at[i] * b.at[i] + c.at[i]; });
}
inline Floats to_floats(Ints value) {
  return each<Floats>([&](int i) { return static_cast<float>(value.at[i]); });
}

inline Ints splat_int(int32_t value) {
  return each<Ints>([&](int) { return value; });
}
inline Ints load_ints(const int32_t* from) {
  return each<Ints>([&](int i) { return from[i]; });
}
inline void store_ints(int32_t* to, Ints value) {
  for (int i = 0; i < lanes; ++i) to[i] = value.at[i];
}
inline Ints add(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] + b.at[i]; });
}

inline float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
inline float from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t rest = half & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | rest << 13);  // infinity and NaN
  // Exponents differ by 112; multiplying by 2 ** 112 also makes the numbers below the smallest normal one right.
  return float_of(sign | rest << 13) * float_of(UINT32_C(239) << 23);
}
inline Floats widen_half(const uint16_t* from) {
  return each<Floats>([&](int i) { return from_half(from[i]); });
}
inline Floats widen_bfloat(const uint16_t* from) {
  return each<Floats>([&](int i) { return float_of(static_cast<uint32_t>(from[i]) << 16); });
}

// Where a value takes the place of a maximum. "Not less or equal" lets a NaN in, "equal to itself" keeps it.
inline Mask raises(Floats value, Floats maximum) {
  return each<Mask>([&](int i) { return !(value.at[i] <= maximum.at[i]) && maximum.at[i] == maximum.at[i]; });
}
inline Floats select(Mask mask, Floats yes, Floats no) {
  return each<Floats>([&](int i) { return mask.at[i] ? yes.at[i] : no.at[i]; });
}
inline Ints select(Mask mask, Ints yes, Ints no) {
  return each<Ints>([&](int i) { return mask.at[i] ? yes.at[i] : no.at[i]; });
}

// Four bytes in every lane; four bytes of each token.
inline Ints splat_word(const uint8_t* from) {
  int32_t word;
  __builtin_memcpy(&word, from, 4);
  return splat_int(word);
}
inline Ints load_words(const int8_t* from) {
  Ints words;
  __builtin_memcpy(&words, from, sizeof words);
  return words;
}
inline Ints low_halves(Ints bytes) { return bytes; }
inline Ints high_halves(Ints bytes) { return bytes; }

// Sums of four products, unsigned byte times signed byte, in each lane.
struct ByteSums {
  static constexpr bool whole_bytes = true;  // takes unsigned bytes up to 255
  static constexpr int64_t words = 0;        // that may be added before the sums overflow; 0 for any number
  Ints sums = splat_int(0);
  void add(Ints levels, Ints query) {
    // Each byte of the words in turn: processors of every kind multiply and add whole lanes.
    for (int byte = 0; byte < 4; ++byte) {
      for (int i = 0; i < lanes; ++i) {
        const int32_t level = levels.at[i] >> 8 * byte & 255;
        const int32_t number = static_cast<int8_t>(query.at[i] >> 8 * byte);
        sums.at[i] += level * number;
      }
    }
  }
  Ints total() const { return sums; }
  Ints total_times_16() const {
    return each<Ints>([&](int i) { return sums.at[i] * 16; });
  }
};

// Writes (byte >> shift) & mask for `count` bytes of each row, and touches no others.
//   to: row r's start at r * step
inline void unpack(const uint8_t* const (&rows)[tile_rows], uint8_t* to, int64_t step, int64_t count, int shift,
                   int mask) {
  for (int r = 0; r < tile_rows; ++r) unpack_few(rows[r], to + r * step, count, shift, mask);
}

}  // namespace fastlane::FASTLANE_LEVEL
