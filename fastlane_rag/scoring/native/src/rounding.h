// Rounding of tokens to bytes, and of a query's to what the kernels for codes take.
#pragma once

#include "kernels.h"
#include "tile.h"

namespace fastlane::FASTLANE_LEVEL {

// Rounds to a whole number, halves to the even one, on every processor alike; the value is below 2 ** 22.
inline float to_whole(float value) {
  constexpr float no_room_behind_the_point = 12582912;
  return (value + no_room_behind_the_point) - no_room_behind_the_point;
}

// Rounds one token to bytes. Then token . (center + steps * (level - middle)) is
//
//     sum over p of units[p] * (numbers[p] . levels), + rest
//
// Taking the middle from the rounded bytes halves the error of rounding. A NaN in the token ends up in the rest.
class Rounded {
 public:
  // `scratch`: (dim,) to work in. `rest`: token . center.
  Rounded(const float* token, const float* steps, int64_t dim, float* scratch, float rest)
      : scaled_(scratch), dim_(dim), rest_(rest) {
    float largest = 0;
    for (int64_t d = 0; d < dim; ++d) {
      scaled_[d] = token[d] * steps[d];
      if (__builtin_fabsf(scaled_[d]) > largest) largest = __builtin_fabsf(scaled_[d]);
    }
    unit_ = (largest > 0 ? largest : 1.0f) / 127;
  }

  // Writes the highest byte of what is left: groups of four numbers, `step` bytes apart, and what one step of them is
  // worth.
  //   bytes: (4 * words,) to work in, zeros from `dim` on
  void write(int8_t* numbers, int64_t step, float* unit, float middle, int8_t* bytes) {
    int32_t total = 0;
    for (int64_t d = 0; d < dim_; ++d) {
      const float exact = scaled_[d] / unit_;
      const float number = __builtin_fabsf(exact) < 128 ? to_whole(exact) : 0;  // else it is NaN
      scaled_[d] -= number * unit_;
      bytes[d] = static_cast<int8_t>(number);
      total += static_cast<int32_t>(number);
    }
    for (int64_t d = 0; d < dim_; d += 4) std::memcpy(numbers + d / 4 * step, bytes + d, 4);
    *unit = unit_;
    rest_ -= middle * unit_ * static_cast<float>(total);
    unit_ /= 254;  // what is left is half a unit at most
  }

  float rest() const { return rest_; }

 private:
  float* scaled_;
  int64_t dim_;
  float unit_ = 1;
  float rest_;
};

constexpr int64_t tokens_at_once = 16;

// Multiplies some tokens with a vector, at once: alone, each sum would wait for the one before.
inline void products_with(const float* tokens, int64_t count, int64_t dim, const float* vector, float* sums) {
  fill(sums, count, 0);
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t i = 0; i < count; ++i) sums[i] += tokens[i * dim + d] * vector[d];
  }
}

// Writes numbers, units and middle of a query, and the task's: see `RoundTask`.
inline bool round_query(const RoundTask& task) {
  const fastlane_book& book = *task.book;
  const fastlane_query& query = *task.query;
  const int64_t dim = book.dim, words = book.words, width = query.width, columns = query.tiles * width;
  const int64_t step = width * 4, numbers = columns * words * 4;
  Room room(Room::of<float>(dim) + Room::of<int8_t>(words * 4) + 64);
  if (!room) return false;
  float* scratch = room.take<float>(dim);
  int8_t* bytes = room.take<int8_t>(words * 4);
  std::memset(bytes, 0, static_cast<size_t>(words * 4));
  std::memset(query.numbers, 0, static_cast<size_t>(numbers));
  fill(query.units, columns, 0);
  fill(query.middle, columns, 0);

  const float middle = static_cast<float>((1 << book.bits) - 1) / 2;
  float with_center[tokens_at_once];
  for (int64_t i = 0; i < query.tokens; ++i) {
    const float* token = task.rows + i * dim;
    if (i % tokens_at_once == 0) {
      const int64_t left = query.tokens - i;
      products_with(token, left < tokens_at_once ? left : tokens_at_once, dim, book.centroid_center, with_center);
    }
    const float product = with_center[i % tokens_at_once];
    const int64_t at = (i / width * words * width + i % width) * 4;
    Rounded as_levels(token, book.steps, dim, scratch, product * 0.0f + 0.0f);  // 0, or NaN
    as_levels.write(query.numbers + at, step, query.units + i, middle, bytes);
    query.middle[i] = -as_levels.rest();
    Rounded as_centroids(token, book.centroid_steps, dim, scratch, product);
    for (int64_t p = 0; p < 2; ++p) {
      as_centroids.write(task.numbers + p * numbers + at, step, task.units + p * columns + i, 127.5f, bytes);
    }
    task.rest[i] = as_levels.rest() + as_centroids.rest();
  }
  return true;
}

}  // namespace fastlane::FASTLANE_LEVEL
