// What the tiles of all kernels share: maxima that keep NaN, prefetching, and room to work in.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "fastlane.h"

namespace fastlane::FASTLANE_LEVEL {

// What a tile keeps of its rows: their maximum, or also the row it comes from.
enum class Keep { maximum, position };

inline void prefetch(const void* address) { __builtin_prefetch(address); }

// Raises the `lanes` maxima at `best` to the values of R rows. Of equal values the first row's stays, and so does a
// NaN.
//   first: number of the first row; written to `where` with Keep::position
template <Keep keep, int R>
inline void raise_maxima(const Floats (&values)[R], int64_t first, float* best, int32_t* where) {
  Floats maximum = load(best);
  if constexpr (keep == Keep::position) {
    Ints position = load_ints(where);
    for (int r = 0; r < R; ++r) {
      const Mask take = raises(values[r], maximum);
      maximum = select(take, values[r], maximum);
      position = select(take, splat_int(static_cast<int32_t>(first + r)), position);
    }
    store_ints(where, position);
  } else {
    for (int r = 0; r < R; ++r) maximum = select(raises(values[r], maximum), values[r], maximum);
  }
  store(best, maximum);
}

inline void fill(float* to, int64_t count, float value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// Memory that is given back at the end of a scope. The pieces are `take`n one after the other.
class Room {
 public:
  explicit Room(int64_t bytes) : start_(static_cast<char*>(std::malloc(static_cast<size_t>(bytes)))), next_(start_) {}
  ~Room() { std::free(start_); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;

  explicit operator bool() const { return start_ != nullptr; }

  // Bytes that `count` of a type take here.
  template <class T>
  static int64_t of(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + 63) & ~INT64_C(63);
  }

  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += of<T>(count);
    return piece;
  }

 private:
  char* start_;
  char* next_;
};

// Writes document n's scores: for each query the weighted sum of its tokens' maxima (Tq,).
inline void sum_queries(const float* best, const fastlane_totals& totals, int64_t n, int64_t count) {
  for (int64_t q = 0; q < totals.queries; ++q) {
    double total = 0;
    const int64_t first = totals.offsets[q], last = totals.offsets[q + 1];
    if (totals.weights) {
      for (int64_t i = first; i < last; ++i) total += best[i] * totals.weights[i];
    } else {
      for (int64_t i = first; i < last; ++i) total += best[i];
    }
    totals.scores[q * count + n] = static_cast<float>(total);
  }
}

// Writes one score for document n of all queries, and no matches.
inline void give_all(const fastlane_totals& totals, int64_t n, int64_t count, int64_t tokens, float score) {
  for (int64_t q = 0; q < totals.queries; ++q) totals.scores[q * count + n] = score;
  if (!totals.values) return;
  fill(totals.values + n * tokens, tokens, score);
  for (int64_t i = 0; i < tokens; ++i) totals.argmax[n * tokens + i] = -1;
}

// Writes the matches of document n, whose first row is `start`.
inline void give_matches(const fastlane_totals& totals, int64_t n, int64_t tokens, const float* best,
                         const int32_t* where, int64_t start) {
  std::memcpy(totals.values + n * tokens, best, static_cast<size_t>(tokens) * sizeof(float));
  for (int64_t i = 0; i < tokens; ++i) totals.argmax[n * tokens + i] = start + where[i];
}

}  // namespace fastlane::FASTLANE_LEVEL
