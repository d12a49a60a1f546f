// Which centroid has the greatest product with a row: k-means and the coding of rows.
#pragma once

#include "codes.h"
#include "rounding.h"

namespace fastlane::FASTLANE_LEVEL {

// Finds the nearest centroids of V * lanes rows. All are whole numbers: of one row, a product with centroid c is
// unit * (numbers . levels(c)) + something that does not depend on c.
//   numbers: (words, V * lanes, 4) the rows times the steps of the centroids, in bytes
//   best: (V * lanes,) floats hold the sums exactly up to 2 ** 24, above that to one part in 16 million
template <int R, int V>
inline void nearest_tile(const CodedRows& levels, const int8_t* numbers, int64_t first, float* best, int32_t* where) {
  Ints sums[R][V];
  dot_bytes<R, V, !ByteSums::whole_bytes>(levels, numbers, sums);
  for (int v = 0; v < V; ++v) {
    Floats values[R];
    for (int r = 0; r < R; ++r) values[r] = to_floats(sums[r][v]);
    raise_maxima<Keep::position>(values, first, best + v * lanes, where + v * lanes);
  }
}

// Does the tiles first <= t < last, each of most_vectors * lanes rows.
inline bool nearest(const NearestTask& task, int64_t first, int64_t last) {
  constexpr int V = most_vectors;
  constexpr int64_t width = V * lanes;
  const int64_t dim = task.book->dim, words = task.book->words, centroids = task.book->centroids;
  Room room(Room::of<int8_t>(words * width * 4) + Room::of<int8_t>(words * 4) + Room::of<float>(dim) +
            2 * Room::of<float>(width) + 64);
  if (!room) return false;
  int8_t* numbers = room.take<int8_t>(words * width * 4);
  int8_t* bytes = room.take<int8_t>(words * 4);
  float* scratch = room.take<float>(dim);
  float* best = room.take<float>(width);
  int32_t* where = room.take<int32_t>(width);
  std::memset(numbers, 0, static_cast<size_t>(words * width * 4));
  std::memset(bytes, 0, static_cast<size_t>(words * 4));

  for (int64_t t = first; t < last; ++t) {
    const int64_t start = t * width, count = task.count - start < width ? task.count - start : width;
    for (int64_t i = 0; i < count; ++i) {
      float unit;
      Rounded rounded(task.rows + (start + i) * dim, task.book->centroid_steps, dim, scratch, 0);
      rounded.write(numbers + i * 4, width * 4, &unit, 0, bytes);
    }
    fill(best, width, -__builtin_inff());
    std::memset(where, 0, static_cast<size_t>(width) * sizeof(int32_t));
    int64_t c = 0;
    for (; c + tile_rows <= centroids; c += tile_rows) {
      const CodedRows levels = {task.book->centroid_levels + c * 4 * words, 4 * words, words};
      nearest_tile<tile_rows, V>(levels, numbers, c, best, where);
    }
    for (; c < centroids; ++c) {
      const CodedRows levels = {task.book->centroid_levels + c * 4 * words, 4 * words, words};
      nearest_tile<1, V>(levels, numbers, c, best, where);
    }
    for (int64_t i = 0; i < count; ++i) task.nearest[start + i] = where[i];
  }
  return true;
}

}  // namespace fastlane::FASTLANE_LEVEL
