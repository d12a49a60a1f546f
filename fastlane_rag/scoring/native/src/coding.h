// Rows as a codec stores them: levels of what their centroid leaves over, packed, and a scale.
#pragma once

#include "rounding.h"

namespace fastlane::FASTLANE_LEVEL {

constexpr int64_t parts = 16;  // sums side by side, added up in one order on every processor: all store the same bytes

// Writes a row's levels, and the scale that brings the coded row nearest to the row.
//   base: (dim,) the row of level 0 at the same centroid
//   levels: (dim,) written
inline float level_row(const float* row, const float* base, const float* steps, int64_t dim, float most,
                       uint8_t* levels) {
  float with_row[parts] = {}, with_itself[parts] = {};
  const auto one = [&](int64_t d, int64_t part) {
    float level = (row[d] - base[d]) / steps[d];
    level = level > 0 ? level : 0.0f;
    level = to_whole(level < most ? level : most);
    const float coded = base[d] + steps[d] * level;
    with_row[part] += row[d] * coded;
    with_itself[part] += coded * coded;
    levels[d] = static_cast<uint8_t>(level);
  };
  int64_t d = 0;
  for (; d + parts <= dim; d += parts) {
    for (int64_t p = 0; p < parts; ++p) one(d + p, p);
  }
  for (int64_t p = 0; d < dim; ++d, ++p) one(d, p);
  for (int64_t half = parts / 2; half > 0; half /= 2) {
    for (int64_t p = 0; p < half; ++p) {
      with_row[p] += with_row[p + half];
      with_itself[p] += with_itself[p + half];
    }
  }
  return with_row[0] / (with_itself[0] > 1e-12f ? with_itself[0] : 1e-12f);
}

// Codes the rows first <= r < last; their bytes are laid out as `unpack_rows` reads them.
inline bool code_rows(const CodingTask& task, int64_t first, int64_t last) {
  const fastlane_book& book = *task.book;
  const int64_t dim = book.dim, row_bytes = book.row_bytes;
  const int bits = static_cast<int>(book.bits);
  Room room(Room::of<uint8_t>(dim) + 64);
  if (!room) return false;
  uint8_t* levels = room.take<uint8_t>(dim);
  for (int64_t r = first; r < last; ++r) {
    const float* base = task.base + task.nearest[r] * dim;
    const float scale =
        level_row(task.rows + r * dim, base, book.steps, dim, static_cast<float>((1 << bits) - 1), levels);
    const float stored = (scale - 0.5f) * 256;
    task.scales[r] = static_cast<uint8_t>(to_whole(stored > 0 ? (stored < 255 ? stored : 255.0f) : 0.0f));
    uint8_t* packed = task.residuals + r * row_bytes;
    std::memcpy(packed, levels, static_cast<size_t>(row_bytes));
    for (int64_t start = row_bytes, shift = bits; start < dim; start += row_bytes, shift += bits) {
      const int64_t count = dim - start < row_bytes ? dim - start : row_bytes;
      for (int64_t j = 0; j < count; ++j) packed[j] |= static_cast<uint8_t>(levels[start + j] << shift);
    }
  }
  return true;
}

}  // namespace fastlane::FASTLANE_LEVEL
