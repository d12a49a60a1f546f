// The walk over posting lists, which gathers candidates, and the choice of the lists to walk.
#pragma once

#include "kernels.h"
#include "tile.h"

namespace fastlane::FASTLANE_LEVEL {

inline bool best_rows(const float* products, int64_t count, int64_t stride, int64_t tokens, int64_t most, int64_t* rows,
                      float* values) {
  Room room(Room::of<float>(tokens) + 64);
  if (!room) return false;
  float* least = room.take<float>(tokens);  // of each token's best rows
  fill(least, tokens, -__builtin_inff());
  fill(values, tokens * most, -__builtin_inff());
  std::memset(rows, 0, static_cast<size_t>(tokens * most) * sizeof(int64_t));
  for (int64_t row = 0; row < count; ++row) {
    const float* of_row = products + row * stride;
    // Few rows are among the best of any token: the others are passed over without a branch for each.
    int any_better = 0;
    for (int64_t k = 0; k < tokens; ++k) any_better |= of_row[k] > least[k];
    if (!any_better) continue;
    for (int64_t k = 0; k < tokens; ++k) {
      const float value = of_row[k];
      if (!(value > least[k])) continue;
      float* best = values + k * most;
      int64_t at = most - 1;
      for (; at > 0 && best[at - 1] < value; --at) {
        best[at] = best[at - 1];
        rows[k * most + at] = rows[k * most + at - 1];
      }
      best[at] = value;
      rows[k * most + at] = row;
      least[k] = best[most - 1];
    }
  }
  return true;
}

// Where the first posting that is not below a document stands, in an ascending list.
template <class Posting>
inline int64_t first_not_below(const Posting* postings, int64_t first, int64_t last, int64_t document) {
  while (first < last) {
    const int64_t middle = first + (last - first) / 2;
    if (postings[middle] < document) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  return first;
}

// Walks the lists over one block; returns how many documents were found.
template <class Posting>
inline int64_t walk(const GatherTask& task, const fastlane_block& block) {
  const Posting* postings = reinterpret_cast<const Posting*>(block.postings);
  const int64_t* lists = reinterpret_cast<const int64_t*>(block.lists);
  int64_t* found = task.found + block.base + block.start;
  int64_t count = 0;
  for (int64_t k = 0; k < task.k; ++k) {
    const uint16_t stamp = static_cast<uint16_t>(k + 1);
    for (int64_t i = 0; i < task.n; ++i) {
      const int64_t list = task.centroids[k * task.n + i];
      if (list < 0 || list >= block.count) continue;
      const float gain = task.gains[k * task.n + i];
      // A damaged file may have bounds that lie, and lists out of order.
      int64_t p = lists[list] < 0 ? 0 : lists[list];
      const int64_t stop = lists[list + 1] > block.entries ? block.entries : lists[list + 1];
      if (block.start > 0) p = first_not_below(postings, p, stop, block.start);
      // Descending: the first centroid that meets a document is its best.
      for (; p < stop; ++p) {
        const int64_t document = postings[p], number = block.base + document;
        if (document >= block.end) break;
        if (document < block.start || task.stamps[number] == stamp) continue;
        if (task.stamps[number] == 0) {
          if (task.allowed && !task.allowed[number]) continue;
          task.scores[number] = 0;
          found[count++] = number;
        }
        task.scores[number] += gain;
        task.stamps[number] = stamp;
      }
    }
  }
  return count;
}

inline bool gather(const GatherTask& task, int64_t first, int64_t last) {
  for (int64_t b = first; b < last; ++b) {
    const fastlane_block& block = task.blocks[b];
    task.counts[b] = block.size == 2 ? walk<uint16_t>(task, block) : walk<uint32_t>(task, block);
  }
  return true;
}

}  // namespace fastlane::FASTLANE_LEVEL
