// MaxSim over rows of float32, float16 and bfloat16.
//
//     score(q, n) = sum_i weight_i max_j  q_i . d_nj
//
// A tile is a few document rows against a few query tokens: their dot products stay in registers, where each token's
// lane keeps its maximum. A matrix product would write all dot products to memory to be read once more.
#pragma once

#include "kernels.h"
#include "tile.h"

namespace fastlane::FASTLANE_LEVEL {

// Raises `best` to the maxima over R rows.
//   rows: (R, dim), the first of them number `first`
//   query: (dim, V * lanes)
//   best, where: (V * lanes,)
//   ahead: address to prefetch from, `ahead_step` bytes for each dimension
template <Keep keep, int R, int V>
inline void row_tile(const float* rows, int64_t dim, const float* query, float* best, int32_t* where, int64_t first,
                     const char* ahead, int64_t ahead_step) {
  Floats sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v] = splat(0);
  }
  for (int64_t k = 0; k < dim; ++k) {
    Floats tokens[V];
    for (int v = 0; v < V; ++v) tokens[v] = load(query + (k * V + v) * lanes);
    for (int r = 0; r < R; ++r) {
      const Floats number = splat(rows[r * dim + k]);
      for (int v = 0; v < V; ++v) sums[r][v] = multiply_add(number, tokens[v], sums[r][v]);
    }
    prefetch(ahead + k * ahead_step);
  }
  for (int v = 0; v < V; ++v) {
    Floats values[R];
    for (int r = 0; r < R; ++r) values[r] = sums[r][v];
    raise_maxima<keep>(values, first, best + v * lanes, where + v * lanes);
  }
}

// Raises `best` over a document of `count` rows. Meanwhile what lies at `ahead` is prefetched: as many rows, of numbers
// of `item` bytes.
template <Keep keep, int V>
inline void scan_rows(const float* rows, int64_t count, int64_t dim, const float* query, float* best, int32_t* where,
                      const char* ahead, int64_t item) {
  if (count < tile_rows) {
    for (int64_t r = 0; r < count; ++r) {
      row_tile<keep, 1, V>(rows + r * dim, dim, query, best, where, r, ahead + r * dim * item, item);
    }
    return;
  }
  for (int64_t r = 0; r < count; r += tile_rows) {
    const int64_t first = r < count - tile_rows ? r : count - tile_rows;  // the last tile reaches back over rows seen
    row_tile<keep, tile_rows, V>(rows + first * dim, dim, query, best, where, first, ahead + first * dim * item,
                                 item * tile_rows);
  }
}

// Writes `count` numbers of half precision as float32.
inline void widen(const uint16_t* from, float* to, int64_t count, bool is_bfloat) {
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, is_bfloat ? widen_bfloat(from + i) : widen_half(from + i));
  if (i == count) return;
  uint16_t rest[lanes] = {};
  float wide[lanes];
  std::memcpy(rest, from + i, static_cast<size_t>(count - i) * sizeof(uint16_t));
  store(wide, is_bfloat ? widen_bfloat(rest) : widen_half(rest));
  std::memcpy(to + i, wide, static_cast<size_t>(count - i) * sizeof(float));
}

template <Keep keep, int V>
bool score_rows_in(const RowsTask& task, int64_t first, int64_t last) {
  const bool halves = task.dtype != fastlane_float32;
  const int64_t dim = task.dim, item = halves ? 2 : 4, tokens = task.count_tiles * task.width;
  int64_t longest = 0;
  for (int64_t n = first; halves && n < last; ++n) longest = task.lengths[n] > longest ? task.lengths[n] : longest;

  Room room(Room::of<float>(tokens) + Room::of<int32_t>(tokens) + Room::of<float>(longest * dim) + 64);
  if (!room) return false;
  float* best = room.take<float>(tokens);
  int32_t* where = room.take<int32_t>(tokens);
  float* panel = room.take<float>(longest * dim);

  const char* documents = static_cast<const char*>(task.documents);
  for (int64_t n = first; n < last; ++n) {
    const int64_t count = task.lengths[n];
    if (count == 0) {
      give_all(task.totals, n, task.count, task.tokens, -__builtin_inff());
      continue;
    }
    const char* stored = documents + task.starts[n] * dim * item;
    const float* rows = reinterpret_cast<const float*>(stored);
    const char* ahead = stored + 2 * tile_rows * dim * 4;  // two tiles on, or the next document to widen
    if (halves) {
      widen(reinterpret_cast<const uint16_t*>(stored), panel, count * dim, task.dtype == fastlane_bfloat16);
      rows = panel;
      ahead = documents + task.starts[n + 1 < last ? n + 1 : n] * dim * item;
    }
    fill(best, tokens, -__builtin_inff());
    for (int64_t t = 0; t < task.count_tiles; ++t) {
      const int64_t at = t * task.width;
      scan_rows<keep, V>(rows, count, dim, task.tiles + at * dim, best + at, where + at, ahead, item);
    }
    sum_queries(best, task.totals, n, task.count);
    if (keep == Keep::position) give_matches(task.totals, n, task.tokens, best, where, task.starts[n]);
  }
  return true;
}

template <int V>
bool score_rows_of_width(const RowsTask& task, int64_t first, int64_t last) {
  if (task.width == V * lanes) {
    return task.totals.values ? score_rows_in<Keep::position, V>(task, first, last)
                              : score_rows_in<Keep::maximum, V>(task, first, last);
  }
  if constexpr (V < most_vectors) return score_rows_of_width<V + 1>(task, first, last);
  return false;
}

inline bool score_rows(const RowsTask& task, int64_t first, int64_t last) {
  return score_rows_of_width<1>(task, first, last);
}

}  // namespace fastlane::FASTLANE_LEVEL
