// The kernels of one level: the same functions, compiled for its instructions. `dispatch.cpp` chooses among them.
#pragma once

#include <cstdint>

#include "fastlane.h"

namespace fastlane {

struct RowsTask {
  const float* tiles;  // (count_tiles, dim, C) query tokens in order, filled up with zeros
  int64_t count_tiles;
  int64_t width;  // C
  int64_t tokens;
  int64_t dim;
  const void* documents;
  int32_t dtype;
  const int64_t* starts;
  const int64_t* lengths;
  int64_t count;
  fastlane_totals totals;
};

struct RoundTask {
  const fastlane_book* book;
  const float* rows;      // (L, dim)
  fastlane_query* query;  // its numbers, units and middle are written
  int8_t* numbers;        // (2, tiles, words, C, 4), written; the rest of these as in ProductsTask
  float* units;
  float* rest;
};

struct ProductsTask {
  const fastlane_book* book;
  const fastlane_query* query;
  const int8_t* numbers;  // (2, tiles, words, C, 4): the query in two bytes a dimension
  const float* units;     // (2, tiles, C)
  const float* rest;      // (tiles, C): added to all products of a token
  const int64_t* chosen;  // centroids to multiply; null for all
};

struct NearestTask {
  const fastlane_book* book;
  const float* rows;  // (count, dim)
  int64_t count;
  int64_t* nearest;  // (count,) written
};

struct CodingTask {
  const fastlane_book* book;
  const float* base;       // (K, dim)
  const float* rows;       // (count, dim)
  const int64_t* nearest;  // (count,)
  uint8_t* residuals;      // (count, row_bytes), written
  uint8_t* scales;         // (count,), written
};

struct CodesTask {
  const fastlane_book* book;
  const fastlane_query* query;
  const fastlane_coded* documents;
  fastlane_totals totals;
};

struct VectorsTask {
  const int8_t* levels;    // (N, stride)
  const float* scales;     // (N,)
  const int16_t* query;    // (size,)
  const int64_t* numbers;  // (count,) or null
  int64_t size;
  int64_t stride;
  float* products;  // (count,), written
};

struct NearTask {
  const fastlane_book* book;
  const fastlane_query* query;  // of the first tokens alone, but with the tables of all
  int64_t table_width;          // C of the tables
  const fastlane_coded* documents;
  const uint8_t* near;  // (65536,) 1 at the centroids whose rows count, else 0; 0 at those that do not exist
  const float* floors;  // (tiles, C): what a token scores at least
  float* scores;
  int64_t* met;  // (n,) written: rows of each document that are near
};

struct GatherTask {
  const fastlane_block* blocks;
  const int64_t* centroids;
  const float* gains;
  int64_t k;
  int64_t n;
  const uint8_t* allowed;
  float* scores;
  uint16_t* stamps;
  int64_t* found;
  int64_t* counts;
};

// Functions that take a range do the documents (centroids, blocks) first <= i < last, and return false without memory.
struct Kernels {
  const char* name;
  int lanes;         // floats of a vector
  int most_vectors;  // of a query tile
  bool (*score_rows)(const RowsTask&, int64_t first, int64_t last);
  bool (*round_query)(const RoundTask&);
  bool (*multiply)(const ProductsTask&, int64_t first, int64_t last);
  bool (*nearest)(const NearestTask&, int64_t first, int64_t last);  // tiles of rows
  bool (*code_rows)(const CodingTask&, int64_t first, int64_t last);
  bool (*score_codes)(const CodesTask&, int64_t first, int64_t last);
  bool (*score_near)(const NearTask&, int64_t first, int64_t last);
  bool (*gather)(const GatherTask&, int64_t first, int64_t last);
  bool (*best_rows)(const float* products, int64_t count, int64_t stride, int64_t tokens, int64_t most, int64_t* rows,
                    float* values);
  bool (*cover)(const float* similar, const float* weights, int64_t count, int64_t limit, uint8_t* picked);
  bool (*multiply_vectors)(const VectorsTask&, int64_t first, int64_t last);
};

}  // namespace fastlane
