// Products of one vector with many, stored in a byte a dimension.
#pragma once

#include "kernels.h"
#include "tile.h"

namespace fastlane::FASTLANE_LEVEL {

constexpr int64_t vectors_ahead = 4;

// Chosen vectors lie apart: those a little further on are asked for. Plain loops multiply, as compilers find the
// instruction that multiplies pairs of 16 bits and adds them.
inline bool multiply_vectors(const VectorsTask& task, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    const int64_t n = task.numbers ? task.numbers[i] : i;
    if (task.numbers && i + vectors_ahead < last) {
      const int64_t next = task.numbers[i + vectors_ahead];
      for (int64_t d = 0; d < task.size; d += 64) prefetch(task.levels + next * task.stride + d);
      prefetch(task.scales + next);
    }
    const int8_t* levels = task.levels + n * task.stride;
    int32_t sum = 0;
    for (int64_t d = 0; d < task.size; ++d) sum += static_cast<int16_t>(levels[d]) * task.query[d];
    task.products[i] = static_cast<float>(sum) * task.scales[n];
  }
  return true;
}

}  // namespace fastlane::FASTLANE_LEVEL
