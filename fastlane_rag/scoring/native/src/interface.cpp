// The C interface: prepares queries, and shares the kernels' work among threads.
#include <cstring>
#include <memory>
#include <new>
#include <numeric>

#include "dispatch.h"
#include "fastlane.h"
#include "team.h"

namespace fastlane {
namespace {

constexpr int32_t out_of_memory = -1;
constexpr int64_t most_centroids = 1 << 16;  // that two bytes name: a damaged file may name some that do not exist

// An array that is zeros at first; null without memory.
template <class T>
std::unique_ptr<T[]> zeros(int64_t count) {
  return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<size_t>(count)]());
}

// Calls a kernel for ranges of a task.
template <class Task, bool (*Kernels::*kernel)(const Task&, int64_t, int64_t)>
int32_t run(const Task& task, int64_t count, int32_t threads) {
  const auto part = [](const void* work, int64_t first, int64_t last) {
    return (kernels().*kernel)(*static_cast<const Task*>(work), first, last);
  };
  return share(part, &task, count, threads);
}

// Writes the centroids that rows of documents have, ascending, (K,) at most; returns how many.
int64_t centroids_of(const fastlane_coded& documents, int64_t centroids, int64_t* found) {
  const auto marks = zeros<uint8_t>(most_centroids);
  if (!marks) return out_of_memory;
  for (int64_t n = 0; n < documents.count; ++n) {
    const int64_t address = documents.packs[3 * documents.owners[n] + 1];
    const uint16_t* rows = reinterpret_cast<const uint16_t*>(address) + documents.starts[n];
    for (int64_t r = 0; r < documents.lengths[n]; ++r) marks[rows[r]] = 1;
  }
  int64_t count = 0;
  for (int64_t c = 0; c < centroids; ++c) {
    found[count] = c;
    count += marks[c];
  }
  return count;
}

}  // namespace
}  // namespace fastlane

using fastlane::kernels;
using fastlane::most_centroids;
using fastlane::zeros;

extern "C" {

int32_t fastlane_abi(void) { return fastlane_abi_number; }
const char* fastlane_version(void) { return FASTLANE_VERSION; }
const char* fastlane_level(void) { return kernels().name; }
const char* fastlane_levels(void) { return fastlane::levels(); }
int32_t fastlane_set_level(const char* name) { return fastlane::use_level(name) ? 0 : -1; }
void fastlane_use_openmp(void* entry) { fastlane::use_openmp(entry); }
int32_t fastlane_own_threads(void) { return fastlane::own_threads(); }

int64_t fastlane_width(int64_t tokens) {
  const int64_t lanes = kernels().lanes, most = lanes * kernels().most_vectors;
  const int64_t tiles = tokens > most ? (tokens + most - 1) / most : 1, each = (tokens + tiles - 1) / tiles;
  return each > lanes ? (each + lanes - 1) / lanes * lanes : lanes;
}

int32_t fastlane_score_rows(const float* rows, int64_t tokens, int64_t dim, const void* documents, int32_t dtype,
                            const int64_t* starts, const int64_t* lengths, int64_t count, const fastlane_totals* totals,
                            int32_t threads) {
  fastlane::RowsTask task = {};
  task.width = fastlane_width(tokens);
  task.count_tiles = (tokens + task.width - 1) / task.width;
  const auto tiles = zeros<float>(task.count_tiles * dim * task.width);
  if (!tiles) return fastlane::out_of_memory;
  for (int64_t i = 0; i < tokens; ++i) {
    float* column = tiles.get() + i / task.width * dim * task.width + i % task.width;
    for (int64_t d = 0; d < dim; ++d) column[d * task.width] = rows[i * dim + d];
  }
  task.tiles = tiles.get();
  task.tokens = tokens;
  task.dim = dim;
  task.documents = documents;
  task.dtype = dtype;
  task.starts = starts;
  task.lengths = lengths;
  task.count = count;
  task.totals = *totals;
  return fastlane::run<fastlane::RowsTask, &fastlane::Kernels::score_rows>(task, count, threads);
}

int64_t fastlane_make_query(const fastlane_book* book, const float* rows, fastlane_query* query,
                            const fastlane_coded* documents, int32_t threads) {
  const int64_t columns = query->tiles * query->width;
  const auto numbers = zeros<int8_t>(2 * columns * book->words * 4);
  const auto floats = zeros<float>(3 * columns);
  if (!numbers || !floats) return fastlane::out_of_memory;
  float* units = floats.get();
  float* rest = units + 2 * columns;
  if (!kernels().round_query({book, rows, query, numbers.get(), units, rest})) return fastlane::out_of_memory;
  int64_t count = book->centroids;
  const auto chosen = zeros<int64_t>(documents ? count : 0);
  if (!chosen) return fastlane::out_of_memory;
  if (documents) count = fastlane::centroids_of(*documents, count, chosen.get());
  if (count < 0) return fastlane::out_of_memory;
  const fastlane::ProductsTask task = {book, query, numbers.get(), units, rest, documents ? chosen.get() : nullptr};
  if (fastlane::run<fastlane::ProductsTask, &fastlane::Kernels::multiply>(task, count, threads)) {
    return fastlane::out_of_memory;
  }
  return count;
}

int32_t fastlane_nearest(const fastlane_book* book, const float* rows, int64_t count, int64_t* nearest,
                         int32_t threads) {
  const fastlane::NearestTask task = {book, rows, count, nearest};
  const int64_t tile = kernels().lanes * kernels().most_vectors;
  return fastlane::run<fastlane::NearestTask, &fastlane::Kernels::nearest>(task, (count + tile - 1) / tile, threads);
}

int32_t fastlane_code_rows(const fastlane_book* book, const float* base, const float* rows, const int64_t* nearest,
                           int64_t count, uint8_t* residuals, uint8_t* scales, int32_t threads) {
  const fastlane::CodingTask task = {book, base, rows, nearest, residuals, scales};
  return fastlane::run<fastlane::CodingTask, &fastlane::Kernels::code_rows>(task, count, threads);
}

int64_t fastlane_locate(const fastlane_packs* packs, const int64_t* numbers, int64_t n, int64_t* where,
                        fastlane_coded* documents) {
  int64_t* const owners = where;
  int64_t* const starts = where + n;
  int64_t* const lengths = where + 2 * n;
  *documents = {packs->arrays, owners, starts, lengths, n};
  int64_t p = 0, total = 0;
  for (int64_t i = 0; i < n; ++i) {
    while (p + 1 < packs->count && numbers[i] >= packs->firsts[p + 1]) ++p;
    const int64_t document = numbers[i] - packs->firsts[p];
    if (document < 0 || document >= packs->counts[p]) return -1;
    const int64_t* bounds = reinterpret_cast<const int64_t*>(packs->offsets[p]) + document;
    const int64_t first = bounds[0], last = bounds[1];
    if (first < 0 || last < first || last > packs->rows[p]) return -1;
    owners[i] = p;
    starts[i] = first;
    lengths[i] = last - first;
    total += last - first;
  }
  return total;
}

int32_t fastlane_score_codes(const fastlane_book* book, const fastlane_query* query, const fastlane_coded* documents,
                             const fastlane_totals* totals, int32_t threads) {
  const fastlane::CodesTask task = {book, query, documents, *totals};
  return fastlane::run<fastlane::CodesTask, &fastlane::Kernels::score_codes>(task, documents->count, threads);
}

int64_t fastlane_score_near(const fastlane_book* book, const fastlane_query* query, const fastlane_coded* documents,
                            int64_t tokens, const uint8_t* near, const float* least, float* scores, int32_t threads) {
  // The first tokens in tiles of their own, narrower where one holds them all; the tables stay those of all tokens.
  fastlane_query few = *query;
  few.tokens = tokens;
  few.tiles = (tokens + query->width - 1) / query->width;
  if (few.tiles == 1) few.width = fastlane_width(tokens);
  const int64_t words = book->words, columns = few.tiles * few.width;
  const auto numbers = zeros<int8_t>(columns * words * 4);
  const auto floats = zeros<float>(2 * columns);
  const auto marks = zeros<uint8_t>(most_centroids);
  const auto met = zeros<int64_t>(documents->count);
  if (!numbers || !floats || !marks || !met) return fastlane::out_of_memory;
  float* units = floats.get();
  float* floors = units + columns;
  for (int64_t t = 0; t < few.tiles; ++t) {
    for (int64_t w = 0; w < words; ++w) {
      const int64_t from = (t * words + w) * query->width * 4, to = (t * words + w) * few.width * 4;
      std::memcpy(numbers.get() + to, query->numbers + from, static_cast<size_t>(few.width) * 4);
    }
    std::memcpy(units + t * few.width, query->units + t * query->width, static_cast<size_t>(few.width) * sizeof(float));
  }
  for (int64_t i = 0; i < tokens; ++i) floors[i] = query->middle[i] + least[i];
  std::memcpy(marks.get(), near, static_cast<size_t>(book->centroids));
  few.numbers = numbers.get();
  few.units = units;
  const fastlane::NearTask task = {book, &few, query->width, documents, marks.get(), floors, scores, met.get()};
  if (fastlane::run<fastlane::NearTask, &fastlane::Kernels::score_near>(task, documents->count, threads)) {
    return fastlane::out_of_memory;
  }
  return std::accumulate(met.get(), met.get() + documents->count, INT64_C(0));
}

int32_t fastlane_best_rows(const float* products, int64_t count, int64_t stride, int64_t tokens, int64_t most,
                           int64_t* rows, float* values) {
  const bool done = kernels().best_rows(products, count, stride, tokens, most, rows, values);
  return done ? 0 : fastlane::out_of_memory;
}

int64_t fastlane_gather(const fastlane_block* blocks, int64_t block_count, const int64_t* centroids, const float* gains,
                        int64_t k, int64_t n, const uint8_t* allowed, float* scores, uint16_t* stamps, int64_t* found,
                        int64_t* counts, int32_t threads) {
  const fastlane::GatherTask task = {blocks, centroids, gains, k, n, allowed, scores, stamps, found, counts};
  if (fastlane::run<fastlane::GatherTask, &fastlane::Kernels::gather>(task, block_count, threads)) {
    return fastlane::out_of_memory;
  }
  return std::accumulate(counts, counts + block_count, INT64_C(0));
}

void fastlane_collect(const fastlane_block* blocks, int64_t block_count, const float* scores, uint16_t* stamps,
                      const int64_t* found, const int64_t* counts, float every, int64_t* documents, float* gathered) {
  int64_t n = 0;
  for (int64_t b = 0; b < block_count; ++b) {
    const int64_t start = blocks[b].base + blocks[b].start;
    for (int64_t i = start; i < start + counts[b]; ++i, ++n) {
      documents[n] = found[i];
      gathered[n] = scores[found[i]] + every;
      stamps[found[i]] = 0;
    }
  }
}

int32_t fastlane_cover(const float* similar, const float* weights, int64_t count, int64_t limit, uint8_t* picked) {
  return kernels().cover(similar, weights, count, limit, picked) ? 0 : fastlane::out_of_memory;
}

int32_t fastlane_multiply_vectors(const int8_t* levels, const float* scales, const int16_t* query, int64_t size,
                                  int64_t stride, const int64_t* numbers, int64_t count, float* products,
                                  int32_t threads) {
  const fastlane::VectorsTask task = {levels, scales, query, numbers, size, stride, products};
  return fastlane::run<fastlane::VectorsTask, &fastlane::Kernels::multiply_vectors>(task, count, threads);
}

}  // extern "C"
