// Checks the kernels of every level of this processor against loops in double precision, through the C interface alone.
//
// What the tests in Python do more of, this does where Python is not: under an emulator of another processor, and under
// the sanitizers, for which every array has exactly the size it is said to have. `make test-kernels` runs both.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "fastlane.h"

namespace {

std::mt19937 chance(0);
int failures = 0;

int64_t any(int64_t first, int64_t last) { return std::uniform_int_distribution<int64_t>(first, last)(chance); }

void expect(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("%s: %s\n", fastlane_level(), what);
}

bool close(double found, double expected, double tolerance) {
  return found == expected || std::fabs(found - expected) <= tolerance;
}

// Rows of unit length.
std::vector<float> rows_of(int64_t count, int64_t dim) {
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<size_t>(count * dim));
  for (int64_t r = 0; r < count; ++r) {
    double square = 1e-9;
    for (int64_t d = 0; d < dim; ++d) {
      const float value = normal(chance);
      rows[static_cast<size_t>(r * dim + d)] = value;
      square += value * value;
    }
    for (int64_t d = 0; d < dim; ++d) rows[static_cast<size_t>(r * dim + d)] /= static_cast<float>(std::sqrt(square));
  }
  return rows;
}

double dot(const float* a, const float* b, int64_t dim) {
  double sum = 0;
  for (int64_t d = 0; d < dim; ++d) sum += static_cast<double>(a[d]) * b[d];
  return sum;
}

// Documents of a few rows, some of none, one after the other.
struct Lengths {
  std::vector<int64_t> starts, lengths;
  int64_t rows = 0;

  explicit Lengths(int64_t documents) {
    for (int64_t n = 0; n < documents; ++n) {
      starts.push_back(rows);
      lengths.push_back(any(0, 3) ? any(0, 30) : 0);
      rows += lengths.back();
    }
  }
};

// Where a kernel writes, and what sums it makes: one query of all tokens.
struct Written {
  std::vector<int64_t> offsets;
  std::vector<float> weights, scores, values;
  std::vector<int64_t> argmax;
  fastlane_totals totals;

  Written(int64_t tokens, int64_t documents)
      : offsets{0, tokens},
        weights(static_cast<size_t>(tokens), 1.0f),
        scores(static_cast<size_t>(documents)),
        values(static_cast<size_t>(documents * tokens)),
        argmax(static_cast<size_t>(documents * tokens)),
        totals{offsets.data(), 1, weights.data(), scores.data(), values.data(), argmax.data()} {}

  // Compares with MaxSim over `rows` (T, dim).
  void check(const std::vector<float>& query, const std::vector<float>& rows, const Lengths& where, int64_t dim,
             double tolerance, const char* what) const {
    const int64_t tokens = offsets[1];
    for (size_t n = 0; n < where.lengths.size(); ++n) {
      double sum = 0;
      for (int64_t i = 0; i < tokens; ++i) {
        double best = -std::numeric_limits<double>::infinity();
        for (int64_t r = where.starts[n]; r < where.starts[n] + where.lengths[n]; ++r) {
          best = std::fmax(best, dot(&query[static_cast<size_t>(i * dim)], &rows[static_cast<size_t>(r * dim)], dim));
        }
        sum += best;
        const size_t at = n * static_cast<size_t>(tokens) + static_cast<size_t>(i);
        expect(close(values[at], best, tolerance), what);
        if (where.lengths[n] == 0) {
          expect(argmax[at] == -1, what);
          continue;
        }
        const bool inside = argmax[at] >= where.starts[n] && argmax[at] < where.starts[n] + where.lengths[n];
        expect(inside, what);
        if (inside) {
          const float* matched = &rows[static_cast<size_t>(argmax[at] * dim)];
          expect(close(dot(&query[static_cast<size_t>(i * dim)], matched, dim), best, 2 * tolerance), what);
        }
      }
      const double all = where.lengths[n] ? sum : -std::numeric_limits<double>::infinity();
      expect(close(scores[n], all, tolerance * static_cast<double>(tokens + 1)), what);
    }
  }
};

void check_rows() {
  const int64_t dim = any(1, 70), tokens = any(1, 70), documents = any(0, 8);
  const Lengths where(documents);
  const auto query = rows_of(tokens, dim), rows = rows_of(where.rows, dim);
  Written written(tokens, documents);
  fastlane_score_rows(query.data(), tokens, dim, rows.data(), fastlane_float32, where.starts.data(),
                      where.lengths.data(), documents, &written.totals, static_cast<int32_t>(any(1, 3)));
  written.check(query, rows, where, dim, 1e-5, "float32 rows");

  std::vector<uint16_t> halves(rows.size());
  std::vector<float> rounded(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &rows[i], 4);
    halves[i] = static_cast<uint16_t>(bits >> 16);
    bits &= 0xffff0000;
    std::memcpy(&rounded[i], &bits, 4);
  }
  fastlane_score_rows(query.data(), tokens, dim, halves.data(), fastlane_bfloat16, where.starts.data(),
                      where.lengths.data(), documents, &written.totals, 1);
  written.check(query, rounded, where, dim, 1e-5, "bfloat16 rows");

  for (size_t i = 0; i < rows.size(); ++i) {  // halves from 2 ** -14 to 2, ten bits after the point, and their signs
    halves[i] = static_cast<uint16_t>(any(0, 1) << 15 | any(1, 15) << 10 | any(0, 1023));
    const double value = std::ldexp(1.0 + (halves[i] & 1023) / 1024.0, (halves[i] >> 10 & 31) - 15);
    rounded[i] = static_cast<float>(halves[i] >> 15 ? -value : value);
  }
  fastlane_score_rows(query.data(), tokens, dim, halves.data(), fastlane_float16, where.starts.data(),
                      where.lengths.data(), documents, &written.totals, 1);
  written.check(query, rounded, where, dim, 1e-4, "float16 rows");
}

void check_codes(int64_t bits) {
  const int64_t dim = any(1, 70), tokens = any(1, 70), documents = any(1, 40), centroids = any(1, 30);
  const int64_t words = (dim + 3) / 4, row_bytes = (dim * bits + 7) / 8;
  const Lengths where(documents);
  const auto query = rows_of(tokens, dim);

  // A book whose centroids are what their bytes say.
  std::vector<float> steps(static_cast<size_t>(dim), 1.5f / static_cast<float>(1 << bits) / std::sqrt(float(dim)));
  std::vector<float> center(static_cast<size_t>(dim), 0.0f), centroid_steps(static_cast<size_t>(dim));
  for (auto& step : centroid_steps) step = 0.5f / 255 / std::sqrt(static_cast<float>(dim)) * float(any(1, 4));
  std::vector<uint8_t> levels(static_cast<size_t>(centroids * words * 4), 0);
  std::vector<float> middles(static_cast<size_t>(centroids * dim));
  for (int64_t c = 0; c < centroids; ++c) {
    for (int64_t d = 0; d < dim; ++d) {
      const int64_t level = any(0, 255);
      levels[static_cast<size_t>(c * words * 4 + d)] = static_cast<uint8_t>(level);
      middles[static_cast<size_t>(c * dim + d)] =
          (static_cast<float>(level) - 127.5f) * centroid_steps[static_cast<size_t>(d)];
    }
  }
  const fastlane_book book = {
      dim, words, bits, row_bytes, centroids, steps.data(), levels.data(), center.data(), centroid_steps.data()};

  // Rows in code, and what they decode to.
  std::vector<uint8_t> residuals(static_cast<size_t>(where.rows * row_bytes), 0);
  std::vector<uint8_t> scales(static_cast<size_t>(where.rows));
  std::vector<uint16_t> ids(static_cast<size_t>(where.rows));
  std::vector<float> decoded(static_cast<size_t>(where.rows * dim));
  for (int64_t r = 0; r < where.rows; ++r) {
    ids[static_cast<size_t>(r)] = static_cast<uint16_t>(any(0, centroids - 1));
    scales[static_cast<size_t>(r)] = static_cast<uint8_t>(any(0, 255));
    for (int64_t d = 0; d < dim; ++d) {
      const int64_t level = any(0, (1 << bits) - 1);
      residuals[static_cast<size_t>(r * row_bytes + d % row_bytes)] |=
          static_cast<uint8_t>(level << (d / row_bytes * bits));
      const float residual = (float(level) - float((1 << bits) - 1) / 2) * steps[static_cast<size_t>(d)];
      const float centroid = middles[static_cast<size_t>(ids[static_cast<size_t>(r)] * dim + d)];
      decoded[static_cast<size_t>(r * dim + d)] =
          float(scales[static_cast<size_t>(r)] + 128) / 256 * (centroid + residual);
    }
  }

  fastlane_query ready = {};
  ready.tokens = tokens;
  ready.width = fastlane_width(tokens);
  ready.tiles = (tokens + ready.width - 1) / ready.width;
  const size_t columns = static_cast<size_t>(ready.tiles * ready.width);
  std::vector<int8_t> numbers(columns * static_cast<size_t>(words * 4));
  std::vector<float> units(columns), middle(columns), tables(columns * static_cast<size_t>(centroids));
  ready.numbers = numbers.data();
  ready.units = units.data();
  ready.middle = middle.data();
  ready.tables = tables.data();
  fastlane_make_query(&book, query.data(), &ready, nullptr, static_cast<int32_t>(any(1, 3)));

  const int64_t pack[3] = {reinterpret_cast<int64_t>(residuals.data()), reinterpret_cast<int64_t>(ids.data()),
                           reinterpret_cast<int64_t>(scales.data())};
  std::vector<int64_t> owners(static_cast<size_t>(documents), 0);
  const fastlane_coded coded = {pack, owners.data(), where.starts.data(), where.lengths.data(), documents};
  Written written(tokens, documents);
  fastlane_score_codes(&book, &ready, &coded, &written.totals, static_cast<int32_t>(any(1, 3)));
  written.check(query, decoded, where, dim, 0.05, "codes");

  // The products with the centroids of these documents are enough, and are the same.
  std::vector<float> some(tables.size(), -1e30f);
  ready.tables = some.data();
  const int64_t multiplied = fastlane_make_query(&book, query.data(), &ready, &coded, static_cast<int32_t>(any(1, 3)));
  Written again(tokens, documents);
  fastlane_score_codes(&book, &ready, &coded, &again.totals, static_cast<int32_t>(any(1, 3)));
  again.check(query, decoded, where, dim, 0.05, "codes of chosen centroids");
  int64_t touched = 0;
  for (int64_t c = 0; c < centroids; ++c) {
    const size_t at = static_cast<size_t>(c * ready.width);
    expect(some[at] == tables[at] || some[at] == -1e30f, "products of chosen centroids");
    touched += some[at] != -1e30f;
  }
  expect(touched == multiplied, "centroids multiplied");
  ready.tables = tables.data();

  // Rows near half of the centroids.
  const int64_t few = any(1, tokens);
  std::vector<uint8_t> near(static_cast<size_t>(centroids));
  for (auto& one : near) one = static_cast<uint8_t>(any(0, 1));
  std::vector<float> least(static_cast<size_t>(few), -0.2f), scores(static_cast<size_t>(documents));
  const int64_t met = fastlane_score_near(&book, &ready, &coded, few, near.data(), least.data(), scores.data(),
                                          static_cast<int32_t>(any(1, 3)));
  int64_t near_rows = 0;
  for (size_t n = 0; n < where.lengths.size(); ++n) {
    double sum = 0;
    int64_t counted = 0;
    for (int64_t i = 0; i < few; ++i) {
      double best = static_cast<double>(least[static_cast<size_t>(i)]) + middle[static_cast<size_t>(i)];
      counted = 0;
      for (int64_t r = where.starts[n]; r < where.starts[n] + where.lengths[n]; ++r) {
        if (!near[ids[static_cast<size_t>(r)]]) continue;
        ++counted;
        best = std::fmax(best, dot(&query[static_cast<size_t>(i * dim)], &decoded[static_cast<size_t>(r * dim)], dim));
      }
      sum += best;
    }
    near_rows += counted;
    expect(close(scores[n], sum, 0.05 * static_cast<double>(few)), "near rows");
  }
  expect(met == near_rows, "rows met");

  // The nearest centroid, up to the rounding of the rows.
  std::vector<int64_t> nearest(static_cast<size_t>(tokens), -1);
  fastlane_nearest(&book, query.data(), tokens, nearest.data(), static_cast<int32_t>(any(1, 3)));
  for (int64_t i = 0; i < tokens; ++i) {
    double best = -1e9;
    for (int64_t c = 0; c < centroids; ++c) {
      best = std::fmax(best, dot(&query[static_cast<size_t>(i * dim)], &middles[static_cast<size_t>(c * dim)], dim));
    }
    const int64_t found = nearest[static_cast<size_t>(i)];
    const bool inside = found >= 0 && found < centroids;
    expect(inside, "nearest centroid");
    if (!inside) continue;
    const double product = dot(&query[static_cast<size_t>(i * dim)], &middles[static_cast<size_t>(found * dim)], dim);
    expect(close(product, best, 0.02), "nearest centroid");
  }

  // Rows in code again: what they decode to has the levels and the scale it came from.
  std::vector<float> base = middles;
  for (size_t i = 0; i < base.size(); ++i) base[i] -= steps[0] * float((1 << bits) - 1) / 2;
  std::vector<float> unscaled = decoded;
  for (size_t i = 0; i < unscaled.size(); ++i) {
    unscaled[i] /= float(scales[i / static_cast<size_t>(dim)] + 128) / 256;
  }
  const std::vector<int64_t> owned(ids.begin(), ids.end());
  std::vector<uint8_t> packed(residuals.size()), scaled(scales.size());
  fastlane_code_rows(&book, base.data(), unscaled.data(), owned.data(), where.rows, packed.data(), scaled.data(),
                     static_cast<int32_t>(any(1, 3)));
  expect(packed == residuals, "levels");
  for (const uint8_t scale : scaled) expect(scale == 128, "scales");

  // Documents found by number.
  std::vector<int64_t> offsets = where.starts, found(static_cast<size_t>(3 * documents)), asked;
  offsets.push_back(where.rows);
  for (int64_t n = 0; n < documents; ++n) asked.push_back(n + 7);
  const int64_t first = 7, offsets_at = reinterpret_cast<int64_t>(offsets.data());
  const fastlane_packs packs = {&first, &documents, &offsets_at, &where.rows, pack, 1};
  fastlane_coded located = {};
  expect(fastlane_locate(&packs, asked.data(), documents, found.data(), &located) == where.rows, "rows located");
  expect(std::equal(where.lengths.begin(), where.lengths.end(), located.lengths), "lengths located");
  offsets.back() = where.rows + 1;
  expect(fastlane_locate(&packs, asked.data(), documents, found.data(), &located) == -1, "offsets that lie");

  // A centroid that does not exist.
  if (where.rows == 0) return;
  const int64_t bad = any(0, where.rows - 1);
  ids[static_cast<size_t>(bad)] = 65535;
  fastlane_score_codes(&book, &ready, &coded, &written.totals, 1);
  for (size_t n = 0; n < where.lengths.size(); ++n) {
    const bool here = bad >= where.starts[n] && bad < where.starts[n] + where.lengths[n];
    expect(std::isnan(written.scores[n]) == here, "a centroid that does not exist");
  }
}

void check_gather() {
  const int64_t documents = any(1, 60), centroids = any(1, 8), k = any(1, 4), n = any(1, centroids);
  std::vector<uint16_t> postings;
  std::vector<int64_t> lists{0};
  for (int64_t c = 0; c < centroids; ++c) {
    for (int64_t document = 0; document < documents; ++document) {
      if (any(0, 2) == 0) postings.push_back(static_cast<uint16_t>(document));
    }
    lists.push_back(static_cast<int64_t>(postings.size()));
  }
  if (any(0, 3) == 0) lists[static_cast<size_t>(any(0, centroids))] = any(0, 1) ? -5 : INT64_C(1) << 50;  // a lie
  std::vector<int64_t> probed(static_cast<size_t>(k * n));
  for (auto& centroid : probed) centroid = any(-1, centroids);
  std::vector<float> gains(static_cast<size_t>(k * n), 1.0f), scores(static_cast<size_t>(documents));
  std::vector<uint16_t> stamps(static_cast<size_t>(documents), 0);
  std::vector<int64_t> found(static_cast<size_t>(documents)), counts;
  std::vector<fastlane_block> blocks;
  for (int64_t start = 0; start < documents; start += 16) {
    blocks.push_back({reinterpret_cast<int64_t>(postings.data()), 2, static_cast<int64_t>(postings.size()),
                      reinterpret_cast<int64_t>(lists.data()), centroids, 0, start,
                      start + 16 < documents ? start + 16 : documents});
    counts.push_back(0);
  }
  const int64_t count = static_cast<int64_t>(blocks.size());
  const int64_t total = fastlane_gather(blocks.data(), count, probed.data(), gains.data(), k, n, nullptr, scores.data(),
                                        stamps.data(), found.data(), counts.data(), static_cast<int32_t>(any(1, 3)));
  expect(total <= documents, "gathered");
  std::vector<int64_t> numbers(static_cast<size_t>(total));
  std::vector<float> gathered(static_cast<size_t>(total));
  fastlane_collect(blocks.data(), count, scores.data(), stamps.data(), found.data(), counts.data(), 0.5f,
                   numbers.data(), gathered.data());
  for (size_t i = 0; i < gathered.size(); ++i) {
    expect(numbers[i] >= 0 && numbers[i] < documents, "gathered");
    expect(gathered[i] >= 1.5f && gathered[i] <= 0.5f + static_cast<float>(k), "gathered");
  }
  for (const uint16_t stamp : stamps) expect(stamp == 0, "stamps");
}

void check_cover() {
  const int64_t count = any(1, 50), limit = any(1, count);
  std::vector<float> similar(static_cast<size_t>(count * count)), weights(static_cast<size_t>(count), 1.0f);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      const float value = static_cast<float>(any(0, 1000)) / 1000;
      similar[static_cast<size_t>(i * count + j)] = similar[static_cast<size_t>(j * count + i)] = value;
    }
  }
  std::vector<uint8_t> picked(static_cast<size_t>(count));
  fastlane_cover(similar.data(), weights.data(), count, limit, picked.data());
  int64_t total = 0;
  for (const uint8_t one : picked) total += one;
  expect(total == limit, "cover");
}

void check_vectors() {
  const int64_t count = any(0, 30), size = any(1, 300), stride = size + any(0, 5);
  std::vector<int8_t> levels(static_cast<size_t>(count * stride));
  for (int8_t& one : levels) one = static_cast<int8_t>(any(-127, 127));
  std::vector<int16_t> query(static_cast<size_t>(size));
  for (int16_t& one : query) one = static_cast<int16_t>(any(-2047, 2047));
  const std::vector<float> scales(static_cast<size_t>(count), 0.5f);
  std::vector<int64_t> numbers;
  for (int64_t n = 0; n < count; n += 2) numbers.push_back(n);
  const int64_t some = static_cast<int64_t>(numbers.size());
  std::vector<float> all(static_cast<size_t>(count)), chosen(numbers.size());
  fastlane_multiply_vectors(levels.data(), scales.data(), query.data(), size, stride, nullptr, count, all.data(), 1);
  fastlane_multiply_vectors(levels.data(), scales.data(), query.data(), size, stride, numbers.data(), some,
                            chosen.data(), 1);
  for (int64_t n = 0; n < count; ++n) {
    int32_t sum = 0;
    for (int64_t d = 0; d < size; ++d) {
      sum += levels[static_cast<size_t>(n * stride + d)] * query[static_cast<size_t>(d)];
    }
    const float true_product = static_cast<float>(sum) * 0.5f;
    expect(all[static_cast<size_t>(n)] == true_product, "vectors");
    if (n % 2 == 0) expect(chosen[static_cast<size_t>(n / 2)] == true_product, "chosen vectors");
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int turns = count > 1 ? std::atoi(arguments[1]) : 30;
  const std::string all = fastlane_levels();
  for (size_t start = 0; start < all.size(); start = all.find(',', start) + 1) {
    const std::string name = all.substr(start, all.find(',', start) - start);
    expect(fastlane_set_level(name.c_str()) == 0, "level");
    for (int turn = 0; turn < turns; ++turn) {
      check_rows();
      for (const int64_t bits : {1, 2, 4, 8}) check_codes(bits);
      check_gather();
      check_cover();
      check_vectors();
    }
    std::printf("%s: checked %d times\n", name.c_str(), turns);
    if (all.find(',', start) == std::string::npos) break;
  }
  std::printf(failures ? "%d failures\n" : "all well\n", failures);
  return failures != 0;
}
