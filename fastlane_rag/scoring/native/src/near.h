// MaxSim over the rows of coded documents whose centroid is near: of each document few rows, which lie far apart.
#pragma once

#include "codes.h"

namespace fastlane::FASTLANE_LEVEL {

constexpr int64_t documents_ahead = 16;

// Appends the rows of a document whose centroid is near to the first `total` of `rows`; returns how many these are.
// Few rows are near: the others are passed over eight at a time.
inline int64_t near_rows(const uint16_t* centroids, int64_t start, int64_t count, const uint8_t* near, int64_t* rows,
                         int64_t total) {
  int64_t found = total;
  const int64_t last = start + count;
  for (int64_t r = start; r < last;) {
    const int64_t end = r + 8 < last ? r + 8 : last;
    if (end - r == 8) {
      uint8_t some = 0;
      for (int i = 0; i < 8; ++i) some |= near[centroids[r + i]];
      if (!some) {
        r = end;
        continue;
      }
    }
    for (; r < end; ++r) {
      rows[found] = r;
      found += near[centroids[r]];
    }
  }
  return found - total;
}

// The near rows of a few documents.
struct NearRows {
  int64_t* numbers;        // in their pack
  const uint8_t** levels;  // packed
  const float** table;     // the products with the row's centroid
  const uint8_t** scaled_by;
  float** best;  // the maxima of the row's document

  static int64_t bytes(int64_t most) { return Room::of<int64_t>(most) * 5; }
  NearRows(Room& room, int64_t most)
      : numbers(room.take<int64_t>(most)),
        levels(room.take<const uint8_t*>(most)),
        table(room.take<const float*>(most)),
        scaled_by(room.take<const uint8_t*>(most)),
        best(room.take<float*>(most)) {}

  // Fills in the rest of rows first <= i < last, and asks for what lies there.
  void look_up(const NearTask& task, const Pack& pack, int64_t first, int64_t last, float* own) const {
    for (int64_t i = first; i < last; ++i) {
      const int64_t r = numbers[i];
      levels[i] = pack.residuals + r * task.book->row_bytes;
      table[i] = task.query->tables + pack.centroids[r] * task.table_width;
      scaled_by[i] = pack.scales + r;
      best[i] = own;
      prefetch(levels[i]);
      prefetch(scaled_by[i]);
    }
  }

  // Repeats the last row until the last tile is full.
  void fill_up(int64_t total) const {
    for (int64_t i = total; i % tile_rows; ++i) {
      levels[i] = levels[total - 1];
      table[i] = table[total - 1];
      scaled_by[i] = scaled_by[total - 1];
      best[i] = best[total - 1];
    }
  }
};

template <int V, bool split>
bool score_near_in(const NearTask& task, int64_t first, int64_t last) {
  const fastlane_book& book = *task.book;
  const fastlane_query& query = *task.query;
  const fastlane_coded& documents = *task.documents;
  constexpr int64_t width = V * lanes;
  const int64_t own = query.tiles * width, level_bytes = tile_rows * 4 * book.words;
  int64_t longest = 0;
  for (int64_t n = first; n < last; ++n) longest = documents.lengths[n] > longest ? documents.lengths[n] : longest;

  const int64_t most = longest * documents_ahead + tile_rows;
  Room room(Room::of<float>(own * documents_ahead) + Room::of<uint8_t>(level_bytes) + NearRows::bytes(most) + 64);
  if (!room) return false;
  float* best = room.take<float>(own * documents_ahead);
  uint8_t* levels = room.take<uint8_t>(level_bytes);
  std::memset(levels, 0, static_cast<size_t>(level_bytes));
  const NearRows rows(room, most);
  const CodedRows unpacked = {levels, 4 * book.words, book.words};
  const int planes = 8 / static_cast<int>(book.bits);

  for (int64_t block = first; block < last; block += documents_ahead) {
    // Near rows lie far apart: those of a few documents are asked for before the first is read.
    const int64_t end = block + documents_ahead < last ? block + documents_ahead : last;
    for (int64_t n = end; n < last && n < end + documents_ahead; ++n) {
      const Pack pack(documents.packs, documents.owners[n]);
      for (int64_t r = 0; r < documents.lengths[n]; r += 32) prefetch(pack.centroids + documents.starts[n] + r);
    }
    int64_t total = 0;
    for (int64_t n = block; n < end; ++n) {
      const Pack pack(documents.packs, documents.owners[n]);
      float* maxima = best + (n - block) * own;
      std::memcpy(maxima, task.floors, static_cast<size_t>(own) * sizeof(float));
      const int64_t found =
          near_rows(pack.centroids, documents.starts[n], documents.lengths[n], task.near, rows.numbers, total);
      rows.look_up(task, pack, total, total + found, maxima);
      task.met[n] = found;
      total += found;
    }
    rows.fill_up(total);
    for (int64_t row = 0; row < total; row += tile_rows) {
      const uint8_t* packed[tile_rows];
      const float* table[tile_rows];
      float scaled_by[tile_rows];
      for (int i = 0; i < tile_rows; ++i) {
        packed[i] = rows.levels[row + i];
        scaled_by[i] = scales.of[*rows.scaled_by[row + i]];
      }
      unpack_rows(packed, book, planes, levels, unpacked.row_bytes);
      for (int64_t t = 0; t < query.tiles; ++t) {
        for (int i = 0; i < tile_rows; ++i) table[i] = rows.table[row + i] + t * book.centroids * task.table_width;
        code_tile_each<V, split>(unpacked, table, scaled_by, query.numbers + t * book.words * width * 4,
                                 query.units + t * width, rows.best + row, t * width);
      }
    }
    for (int64_t n = block; n < end; ++n) {
      const float* maxima = best + (n - block) * own;
      double sum = 0;
      for (int64_t i = 0; i < query.tokens; ++i) sum += maxima[i];
      task.scores[n] = static_cast<float>(sum);
    }
  }
  return true;
}

template <int V>
bool score_near_of_width(const NearTask& task, int64_t first, int64_t last) {
  if (task.query->width == V * lanes) {
    if constexpr (!ByteSums::whole_bytes) {
      if (task.book->bits == 8) return score_near_in<V, true>(task, first, last);
    }
    return score_near_in<V, false>(task, first, last);
  }
  if constexpr (V < most_vectors) return score_near_of_width<V + 1>(task, first, last);
  return false;
}

inline bool score_near(const NearTask& task, int64_t first, int64_t last) {
  return score_near_of_width<1>(task, first, last);
}

}  // namespace fastlane::FASTLANE_LEVEL
