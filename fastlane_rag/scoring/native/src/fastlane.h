// The plain C interface of the kernels: what the Python package calls, and all that the library exports.
//
// Arrays are C-contiguous and belong to the caller; (N, d) gives their shape. Offsets of document rows come checked by
// `fastlane_locate` or by the caller. Functions that score return 0, or -1 where there was no memory to work in.
// Results do not depend on the number of threads.
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#define FASTLANE_API __declspec(dllexport)
#else
#define FASTLANE_API __attribute__((visibility("default")))
#endif

extern "C" {

// Raised whenever a function or a structure here changes: the Python side asks for the number it was written for.
enum { fastlane_abi_number = 4 };

// How document rows are stored.
enum { fastlane_float32 = 0, fastlane_float16 = 1, fastlane_bfloat16 = 2 };

// What residual codes refer to.
struct fastlane_book {
  int64_t dim;                     // of a row
  int64_t words;                   // groups of four dimensions, the last one filled up with zeros
  int64_t bits;                    // 1, 2, 4 or 8, of a level
  int64_t row_bytes;               // of a row's packed levels
  int64_t centroids;               // K
  const float* steps;              // (dim,) distance between two levels
  const uint8_t* centroid_levels;  // (K, 4 * words): centroids rounded to a byte a dimension
  const float* centroid_center;    // (dim,) centroid = center + centroid_steps * (level - 127.5)
  const float* centroid_steps;     // (dim,)
};

// A query made ready for the codes of one book by `fastlane_make_query`. C tokens fill a tile.
struct fastlane_query {
  int64_t tokens;   // L
  int64_t tiles;    // as `fastlane_tiles` says
  int64_t width;    // C
  int8_t* numbers;  // (tiles, words, C, 4): query times steps, in units of the token
  float* units;     // (tiles, C): what one step of a number is worth
  float* middle;    // (tiles, C): query times steps times the middle level
  float* tables;    // (tiles, K, C): query times centroid, less the middle; of those centroids that were asked for
};

// Documents in code: document n owns `lengths[n]` rows of pack `owners[n]` from row `starts[n]` on.
struct fastlane_coded {
  const int64_t* packs;  // (P, 3) addresses of residuals (T, row_bytes) uint8, centroids (T,) uint16, scales (T,) uint8
  const int64_t* owners;   // (n,)
  const int64_t* starts;   // (n,)
  const int64_t* lengths;  // (n,)
  int64_t count;           // n
};

// Where documents in code lie: pack p has documents firsts[p] to firsts[p] + counts[p].
struct fastlane_packs {
  const int64_t* firsts;   // (P,) ascending
  const int64_t* counts;   // (P,)
  const int64_t* offsets;  // (P,) address of its (count + 1,) int64 offsets
  const int64_t* rows;     // (P,) how many rows it has
  const int64_t* arrays;   // (P, 3) as `packs` of fastlane_coded
  int64_t count;           // P
};

// Queries whose token maxima are summed, and where the sums go.
struct fastlane_totals {
  const int64_t* offsets;  // (Nq + 1,) tokens of each query
  int64_t queries;         // Nq
  const float* weights;    // (Tq,) factor of each token; null for 1
  float* scores;           // (Nq, n), written
  float* values;           // (n, Tq), written: each token's maximum; null where nobody asks
  int64_t* argmax;         // (n, Tq), written: the row it comes from, -1 for a document without rows; null likewise
};

// The number of this interface, and the version of the package that the library was built from.
FASTLANE_API int32_t fastlane_abi(void);
FASTLANE_API const char* fastlane_version(void);

// The instructions in use: "avx512vnni", "avxvnni", "avx2", "neondot", "neon" or "scalar".
FASTLANE_API const char* fastlane_level(void);

// The levels this processor can run, best first, with commas between them.
FASTLANE_API const char* fastlane_levels(void);

// Uses another level from now on; returns 0, or -1 if this processor cannot run it. Queries made ready before are void.
FASTLANE_API int32_t fastlane_set_level(const char* name);

// Shares work among the OpenMP threads whose entry `GOMP_parallel` is at this address; null for threads of our own.
FASTLANE_API void fastlane_use_openmp(void* entry);

// Threads of our own that exist now.
FASTLANE_API int32_t fastlane_own_threads(void);

// Tokens of each of the tiles, as few as can be, that so many query tokens fill.
FASTLANE_API int64_t fastlane_width(int64_t tokens);

// Scores Nq queries against n documents of `dim` numbers a row.
//   rows: (Tq, dim) query tokens, all queries in order
//   documents: (T, dim) of `dtype`
//   starts, lengths: (n,) rows of each document
FASTLANE_API int32_t fastlane_score_rows(const float* rows, int64_t tokens, int64_t dim, const void* documents,
                                         int32_t dtype, const int64_t* starts, const int64_t* lengths, int64_t count,
                                         const fastlane_totals* totals, int32_t threads);

// Rounds query tokens (L, dim) for a book's codes and multiplies them with its centroids; writes all arrays of `query`.
// With documents only the centroids of their rows are multiplied. Returns how many centroids were.
FASTLANE_API int64_t fastlane_make_query(const fastlane_book* book, const float* rows, fastlane_query* query,
                                         const fastlane_coded* documents, int32_t threads);

// Writes for each row (count, dim) the centroid whose product with it is greatest, the first one of several. Rows and
// centroids are rounded to a byte a dimension.
FASTLANE_API int32_t fastlane_nearest(const fastlane_book* book, const float* rows, int64_t count, int64_t* nearest,
                                      int32_t threads);

// Codes rows (count, dim) whose nearest centroids are known.
//   base: (K, dim) the rows of level 0
//   residuals: (count, row_bytes) written
//   scales: (count,) written
FASTLANE_API int32_t fastlane_code_rows(const fastlane_book* book, const float* base, const float* rows,
                                        const int64_t* nearest, int64_t count, uint8_t* residuals, uint8_t* scales,
                                        int32_t threads);

// Finds where documents are. Returns how many rows they have, or -1 where a document is in no pack or its offsets are
// not among the pack's rows.
//   numbers: (n,) the documents, ascending
//   where: (3, n) written; `documents`, written, refers to it
FASTLANE_API int64_t fastlane_locate(const fastlane_packs* packs, const int64_t* numbers, int64_t n, int64_t* where,
                                     fastlane_coded* documents);

// Scores a query's tokens, of one or several queries, against documents in code. A document with a centroid that does
// not exist scores NaN.
FASTLANE_API int32_t fastlane_score_codes(const fastlane_book* book, const fastlane_query* query,
                                          const fastlane_coded* documents, const fastlane_totals* totals,
                                          int32_t threads);

// Scores a query's first tokens against those rows of documents whose centroid is near. Returns how many rows these
// are, or -1.
//   tokens: how many
//   near: (K,) 1 at the centroids whose rows count, else 0
//   least: (tokens,) what a token scores where no row gives it more, less the middle
//   scores: (n,) written
FASTLANE_API int64_t fastlane_score_near(const fastlane_book* book, const fastlane_query* query,
                                         const fastlane_coded* documents, int64_t tokens, const uint8_t* near,
                                         const float* least, float* scores, int32_t threads);

// Writes the largest products of the first `tokens` columns, descending, and their rows: (tokens, most) both.
//   products: (count, stride)
FASTLANE_API int32_t fastlane_best_rows(const float* products, int64_t count, int64_t stride, int64_t tokens,
                                        int64_t most, int64_t* rows, float* values);

// A block of documents of one segment, whose postings are walked together.
struct fastlane_block {
  int64_t postings;  // address of the segment's postings, uint16 or uint32
  int64_t size;      // bytes of one: 2 or 4
  int64_t entries;   // how many there are
  int64_t lists;     // address of the (centroids + 1,) int64 bounds of the lists
  int64_t count;     // centroids
  int64_t base;      // number of the segment's first document
  int64_t start;     // first document of the block, as the postings name it
  int64_t end;       // the one after the last
};

// Walks the lists of the best centroids of each token, block by block. Returns how many documents were found, or -1.
//   centroids: (k, n) to probe for each token, best first; k below 65,536
//   gains: (k, n) what each adds to a document's score
//   allowed: (N,) which documents may be found; null for all
//   scores: (N,) written for the documents found
//   stamps: (N,) zeros; left at the last token that met each document found, counted from 1
//   found: (N,) written: the documents found in each block, from the number of its first one on
//   counts: (blocks,) written: how many these are
FASTLANE_API int64_t fastlane_gather(const fastlane_block* blocks, int64_t block_count, const int64_t* centroids,
                                     const float* gains, int64_t k, int64_t n, const uint8_t* allowed, float* scores,
                                     uint16_t* stamps, int64_t* found, int64_t* counts, int32_t threads);

// Copies what `fastlane_gather` found, block after block, to `documents` and `gathered`, both as long as the sum of
// `counts`, adds `every` to each score, and makes the stamps zeros again.
FASTLANE_API void fastlane_collect(const fastlane_block* blocks, int64_t block_count, const float* scores,
                                   uint16_t* stamps, const int64_t* found, const int64_t* counts, float every,
                                   int64_t* documents, float* gathered);

// Picks tokens that cover a document, each the one that adds most; see fastlane_rag/model/stand_ins.py.
//   similar: (L, L) symmetric, not negative
//   weights: (L,) 0 where a token may not be picked
//   limit: tokens to pick, no more than may be
//   picked: (L,) written, 1 where picked
FASTLANE_API int32_t fastlane_cover(const float* similar, const float* weights, int64_t count, int64_t limit,
                                    uint8_t* picked);

// Writes the product of a vector with each of some others: products[i] = scales[n] * (levels[n] . query), n =
// numbers[i].
//   levels: (N, stride) int8, of which the first `size` of each count
//   scales: (N,)
//   query: (size,) int16, no more than 2,047 either way, and `size` up to 8,192: sums have 32 bits
//   numbers: (count,) the vectors to multiply; null for the first `count`
//   products: (count,) written
FASTLANE_API int32_t fastlane_multiply_vectors(const int8_t* levels, const float* scales, const int16_t* query,
                                               int64_t size, int64_t stride, const int64_t* numbers, int64_t count,
                                               float* products, int32_t threads);

}  // extern "C"
