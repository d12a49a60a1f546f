// MaxSim over rows in code: a centroid, a few bits of residual a dimension, and a scale.
//
//     q . row = scale * (q . centroid + (q * steps) . (levels - middle))
//
// The first product is looked up, from a table made once a query. The second is one of small integers once the query's
// side is rounded to a byte, so a row is scored without being decoded.
#pragma once

#include "kernels.h"
#include "tile.h"

namespace fastlane::FASTLANE_LEVEL {

// Rows in code, ready for a tile.
struct CodedRows {
  const uint8_t* levels;  // (R, row_bytes), unpacked
  int64_t row_bytes;      // 4 * words
  int64_t words;
};

// Adds up levels times numbers of R rows and V * lanes tokens, in whole numbers.
//   query: (words, V * lanes, 4)
//   split: levels go up to 255 and this processor multiplies no such bytes: their halves are summed one after the other
template <int R, int V, bool split>
inline void dot_bytes(const CodedRows& rows, const int8_t* query, Ints (&sums)[R][V]) {
  for (int64_t start = 0; start < rows.words; start += ByteSums::words) {
    const bool at_once = ByteSums::words == 0 || rows.words - start <= ByteSums::words;
    const int64_t end = at_once ? rows.words : start + ByteSums::words;
    for (int half = 0; half < (split ? 2 : 1); ++half) {
      ByteSums part[R][V];
      for (int64_t w = start; w < end; ++w) {
        Ints numbers[V];
        for (int v = 0; v < V; ++v) numbers[v] = load_words(query + (w * V + v) * lanes * 4);
        for (int r = 0; r < R; ++r) {
          Ints levels = splat_word(rows.levels + r * rows.row_bytes + 4 * w);
          if (split) levels = half ? high_halves(levels) : low_halves(levels);
          for (int v = 0; v < V; ++v) part[r][v].add(levels, numbers[v]);
        }
      }
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) {
          const Ints total = half ? part[r][v].total_times_16() : part[r][v].total();
          sums[r][v] = start == 0 && half == 0 ? total : add(sums[r][v], total);
        }
      }
    }
    if (ByteSums::words == 0) return;
  }
}

// Makes the products of R rows and one vector of tokens out of their sums.
//   table: for each row, the tokens' products with its centroid
//   scaled_by: (R,)
//   units: (lanes,)
template <int R, int V>
inline void products_of(const Ints (&sums)[R][V], int v, const float* const (&table)[R], const float* scaled_by,
                        const float* units, Floats (&values)[R]) {
  const Floats unit = load(units + v * lanes);
  for (int r = 0; r < R; ++r) {
    const Floats product = multiply_add(to_floats(sums[r][v]), unit, load(table[r] + v * lanes));
    values[r] = multiply(product, splat(scaled_by[r]));
  }
}

// Raises `best` to the maxima over a tile of rows of one document, the first of them number `first`.
template <Keep keep, int V, bool split>
inline void code_tile(const CodedRows& rows, const float* const (&table)[tile_rows], const float* scaled_by,
                      const int8_t* query, const float* units, float* best, int32_t* where, int64_t first) {
  Ints sums[tile_rows][V];
  dot_bytes<tile_rows, V, split>(rows, query, sums);
  for (int v = 0; v < V; ++v) {
    Floats values[tile_rows];
    products_of<tile_rows, V>(sums, v, table, scaled_by, units, values);
    raise_maxima<keep>(values, first, best + v * lanes, where + v * lanes);
  }
}

// As `code_tile`, of rows of several documents: each raises a maximum of its own.
//   best: (R,) addresses, `best_step` numbers before the token's
template <int V, bool split>
inline void code_tile_each(const CodedRows& rows, const float* const (&table)[tile_rows], const float* scaled_by,
                           const int8_t* query, const float* units, float* const* best, int64_t best_step) {
  Ints sums[tile_rows][V];
  dot_bytes<tile_rows, V, split>(rows, query, sums);
  for (int v = 0; v < V; ++v) {
    Floats values[tile_rows];
    products_of<tile_rows, V>(sums, v, table, scaled_by, units, values);
    for (int r = 0; r < tile_rows; ++r) {
      const Floats one[1] = {values[r]};
      raise_maxima<Keep::maximum>(one, 0, best[r] + best_step + v * lanes, nullptr);
    }
  }
}

// Writes the levels of a tile's rows, out of their packed bytes. Byte j holds the levels of dimensions j, j + W,
// j + 2 W and so on, the lowest bits first, W being `row_bytes`.
inline void unpack_rows(const uint8_t* const (&rows)[tile_rows], const fastlane_book& book, int planes, uint8_t* levels,
                        int64_t padded) {
  const int bits = static_cast<int>(book.bits), mask = (1 << bits) - 1;
  for (int plane = 0; plane < planes; ++plane) {
    const int64_t start = plane * book.row_bytes, left = book.dim - start;
    const int64_t count = left < book.row_bytes ? left : book.row_bytes;
    if (count <= 0) return;
    unpack(rows, levels + start, padded, count, plane * bits, mask);
  }
}

// The arrays of one pack.
struct Pack {
  const uint8_t* residuals;
  const uint16_t* centroids;
  const uint8_t* scales;

  Pack(const int64_t* packs, int64_t owner)
      : residuals(reinterpret_cast<const uint8_t*>(packs[3 * owner])),
        centroids(reinterpret_cast<const uint16_t*>(packs[3 * owner + 1])),
        scales(reinterpret_cast<const uint8_t*>(packs[3 * owner + 2])) {}
};

// The scales that bytes stand for, from 0.5 to 1.496.
struct Scales {
  float of[256] = {};
  constexpr Scales() {
    for (int stored = 0; stored < 256; ++stored) of[stored] = static_cast<float>(stored + 128) / 256;
  }
};
constexpr Scales scales;

constexpr int64_t rows_ahead = 32;  // asked for before they are read

// Raises `best` over a document of `count` rows from `start` on; false if a centroid does not exist.
//   levels: (tile_rows, 4 * words) to work in; zeros where no row writes
template <Keep keep, int V, bool split>
inline bool scan_codes(const CodesTask& task, const Pack& pack, int planes, int64_t start, int64_t count,
                       uint8_t* levels, float* best, int32_t* where) {
  const fastlane_book& book = *task.book;
  const fastlane_query& query = *task.query;
  constexpr int64_t width = V * lanes;
  const CodedRows unpacked = {levels, 4 * book.words, book.words};
  const uint8_t* rows[tile_rows];
  const float* table[tile_rows];
  const float* shifted[tile_rows];
  float scaled_by[tile_rows];
  for (int64_t first = 0; first < count; first += tile_rows) {
    const int64_t left = count - 1 - first;  // the last row fills the last tile: a maximum does not mind
    for (int i = 0; i < tile_rows; ++i) {
      const int64_t r = start + first + (i < left ? i : left);
      const int64_t centroid = pack.centroids[r];
      if (centroid >= book.centroids) return false;
      rows[i] = pack.residuals + r * book.row_bytes;
      table[i] = query.tables + centroid * width;
      scaled_by[i] = scales.of[pack.scales[r]];
      prefetch(rows[i] + rows_ahead * book.row_bytes);
      prefetch(table[i]);
    }
    unpack_rows(rows, book, planes, levels, unpacked.row_bytes);
    for (int64_t t = 0; t < query.tiles; ++t) {
      for (int i = 0; i < tile_rows; ++i) shifted[i] = table[i] + t * book.centroids * width;
      code_tile<keep, V, split>(unpacked, shifted, scaled_by, query.numbers + t * book.words * width * 4,
                                query.units + t * width, best + t * width, where + t * width, first);
    }
  }
  return true;
}

// Prefetches the first rows of a document.
inline void ask_for(const fastlane_coded& documents, const fastlane_book& book, int64_t n) {
  const Pack pack(documents.packs, documents.owners[n]);
  const int64_t start = documents.starts[n];
  const int64_t count = documents.lengths[n] < rows_ahead ? documents.lengths[n] : rows_ahead;
  for (int64_t r = start; r < start + count; ++r) prefetch(pack.residuals + r * book.row_bytes);
  prefetch(pack.centroids + start);
  prefetch(pack.scales + start);
}

template <Keep keep, int V, bool split>
bool score_codes_in(const CodesTask& task, int64_t first, int64_t last) {
  const fastlane_coded& documents = *task.documents;
  const int64_t width = task.query->tiles * V * lanes, tokens = task.query->tokens;
  const int64_t level_bytes = tile_rows * 4 * task.book->words;
  Room room(Room::of<float>(width) + Room::of<int32_t>(width) + Room::of<uint8_t>(level_bytes) + 64);
  if (!room) return false;
  float* best = room.take<float>(width);
  int32_t* where = room.take<int32_t>(width);
  uint8_t* levels = room.take<uint8_t>(level_bytes);
  std::memset(levels, 0, static_cast<size_t>(level_bytes));

  const int planes = 8 / static_cast<int>(task.book->bits);
  for (int64_t n = first; n < last; ++n) {
    const int64_t count = documents.lengths[n];
    if (count == 0) {
      give_all(task.totals, n, documents.count, tokens, -__builtin_inff());
      continue;
    }
    fill(best, width, -__builtin_inff());
    if (n + 1 < last) ask_for(documents, *task.book, n + 1);
    const Pack pack(documents.packs, documents.owners[n]);
    if (!scan_codes<keep, V, split>(task, pack, planes, documents.starts[n], count, levels, best, where)) {
      give_all(task.totals, n, documents.count, tokens, __builtin_nanf(""));
      continue;
    }
    sum_queries(best, task.totals, n, documents.count);
    if (keep == Keep::position) give_matches(task.totals, n, tokens, best, where, documents.starts[n]);
  }
  return true;
}

template <Keep keep, int V>
bool score_codes_of_width(const CodesTask& task, int64_t first, int64_t last) {
  if (task.query->width == V * lanes) {
    if constexpr (!ByteSums::whole_bytes) {
      if (task.book->bits == 8) return score_codes_in<keep, V, true>(task, first, last);
    }
    return score_codes_in<keep, V, false>(task, first, last);
  }
  if constexpr (V < most_vectors) return score_codes_of_width<keep, V + 1>(task, first, last);
  return false;
}

inline bool score_codes(const CodesTask& task, int64_t first, int64_t last) {
  return task.totals.values ? score_codes_of_width<Keep::position, 1>(task, first, last)
                            : score_codes_of_width<Keep::maximum, 1>(task, first, last);
}

// Writes the products of R centroids with one tile of a query whose numbers have two bytes.
//   levels: (R, 4 * words) of the centroids
//   numbers, units: of the tile's high bytes; `numbers_step` and `units_step` further on lie those of the low ones
//   rest: (V * lanes,) added to all products of a token
//   products: (R, V * lanes), written
template <int R, int V>
inline void product_tile(const CodedRows& levels, const int8_t* numbers, int64_t numbers_step, const float* units,
                         int64_t units_step, const float* rest, float* products) {
  Ints high[R][V], low[R][V];
  dot_bytes<R, V, !ByteSums::whole_bytes>(levels, numbers, high);
  dot_bytes<R, V, !ByteSums::whole_bytes>(levels, numbers + numbers_step, low);
  for (int v = 0; v < V; ++v) {
    const Floats of_high = load(units + v * lanes), of_low = load(units + units_step + v * lanes);
    const Floats more = load(rest + v * lanes);
    for (int r = 0; r < R; ++r) {
      const Floats product = multiply_add(to_floats(high[r][v]), of_high, more);
      store(products + (r * V + v) * lanes, multiply_add(to_floats(low[r][v]), of_low, product));
    }
  }
}

// The same for tile t of a task's query.
template <int R, int V>
inline void products_of(const ProductsTask& task, int64_t t, const uint8_t* levels, float* products) {
  constexpr int64_t width = V * lanes;
  const int64_t tiles = task.query->tiles, words = task.book->words;
  product_tile<R, V>({levels, 4 * words, words}, task.numbers + t * words * width * 4, tiles * words * width * 4,
                     task.units + t * width, tiles * width, task.rest + t * width, products);
}

template <int V>
bool multiply_in(const ProductsTask& task, int64_t first, int64_t last) {
  constexpr int64_t width = V * lanes;
  const fastlane_book& book = *task.book;
  const int64_t row_bytes = 4 * book.words;
  for (int64_t t = 0; t < task.query->tiles; ++t) {
    float* products = task.query->tables + t * book.centroids * width;
    int64_t r = first;
    for (; r + tile_rows <= last; r += tile_rows) {
      products_of<tile_rows, V>(task, t, book.centroid_levels + r * row_bytes, products + r * width);
    }
    for (; r < last; ++r) products_of<1, V>(task, t, book.centroid_levels + r * row_bytes, products + r * width);
  }
  return true;
}

// The same for centroids that lie apart: a tile of them is copied together first.
template <int V>
bool multiply_chosen(const ProductsTask& task, int64_t first, int64_t last) {
  constexpr int64_t width = V * lanes;
  const fastlane_book& book = *task.book;
  const int64_t row_bytes = 4 * book.words;
  Room room(Room::of<uint8_t>(tile_rows * row_bytes) + Room::of<float>(tile_rows * width) + 64);
  if (!room) return false;
  uint8_t* levels = room.take<uint8_t>(tile_rows * row_bytes);
  float* products = room.take<float>(tile_rows * width);
  std::memset(levels, 0, static_cast<size_t>(tile_rows * row_bytes));
  for (int64_t i = first; i < last; i += tile_rows) {
    const int64_t count = last - i < tile_rows ? last - i : tile_rows;
    for (int64_t r = 0; r < count; ++r) {
      std::memcpy(levels + r * row_bytes, book.centroid_levels + task.chosen[i + r] * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
    for (int64_t t = 0; t < task.query->tiles; ++t) {
      products_of<tile_rows, V>(task, t, levels, products);
      for (int64_t r = 0; r < count; ++r) {
        std::memcpy(task.query->tables + (t * book.centroids + task.chosen[i + r]) * width, products + r * width,
                    static_cast<size_t>(width) * sizeof(float));
      }
    }
  }
  return true;
}

template <int V>
bool multiply_of_width(const ProductsTask& task, int64_t first, int64_t last) {
  if (task.query->width == V * lanes) {
    return task.chosen ? multiply_chosen<V>(task, first, last) : multiply_in<V>(task, first, last);
  }
  if constexpr (V < most_vectors) return multiply_of_width<V + 1>(task, first, last);
  return false;
}

inline bool multiply_centroids(const ProductsTask& task, int64_t first, int64_t last) {
  return multiply_of_width<1>(task, first, last);
}

}  // namespace fastlane::FASTLANE_LEVEL
