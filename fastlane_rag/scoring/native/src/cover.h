// The greedy cover of a document by a few of its tokens.
#pragma once

#include "tile.h"

namespace fastlane::FASTLANE_LEVEL {

// What a token adds to the cover, of its similarities. Sixteen sums side by side, added up in one order on every
// processor: tokens that tie here tie everywhere.
inline float gain(const float* similar, const float* covered, const float* weights, int64_t count) {
  constexpr int parts = 16;
  float sums[parts] = {};
  int64_t i = 0;
  for (; i + parts <= count; i += parts) {
    for (int p = 0; p < parts; ++p) {
      const float more = similar[i + p] - covered[i + p];
      sums[p] += weights[i + p] * (more > 0 ? more : 0.0f);
    }
  }
  float total = 0;
  for (; i < count; ++i) {
    const float more = similar[i] - covered[i];
    total += weights[i] * (more > 0 ? more : 0.0f);
  }
  for (int p = 0; p < parts; ++p) total += sums[p];
  return total;
}

inline int64_t first_of_the_largest(const float* values, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i) best = values[i] > values[best] ? i : best;
  return best;
}

// Picks tokens, each the one that adds most. What a token adds only falls as others are picked, so what it added before
// is a bound, and few tokens need to be looked at again for a pick (lazy evaluation; Minoux 1978).
inline bool cover(const float* similar, const float* weights, int64_t count, int64_t limit, uint8_t* picked) {
  Room room(2 * Room::of<float>(count) + 64);
  if (!room) return false;
  float* covered = room.take<float>(count);
  float* bounds = room.take<float>(count);
  fill(covered, count, 0);
  for (int64_t i = 0; i < count; ++i) picked[i] = 0;
  for (int64_t j = 0; j < count; ++j) {
    bounds[j] = weights[j] > 0 ? gain(similar + j * count, covered, weights, count) : -1;
  }
  for (int64_t pick = 0; pick < limit; ++pick) {
    int64_t best = first_of_the_largest(bounds, count);
    for (;;) {
      bounds[best] = gain(similar + best * count, covered, weights, count);
      const int64_t again = first_of_the_largest(bounds, count);
      if (again == best) break;
      best = again;
    }
    picked[best] = 1;
    bounds[best] = -1;
    const float* of_best = similar + best * count;
    for (int64_t i = 0; i < count; ++i) covered[i] = of_best[i] > covered[i] ? of_best[i] : covered[i];
  }
  return true;
}

}  // namespace fastlane::FASTLANE_LEVEL
