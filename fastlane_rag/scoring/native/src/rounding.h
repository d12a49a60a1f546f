// Rounding of a query's tokens to bytes.
#pragma once

#include <cstdint>

namespace fastlane::FASTLANE_LEVEL {

// Rounds one query token to bytes. Then token . (center + steps * (level - middle)) is
//
//     sum over p of units[p] * (numbers[p] . levels), + what this returns
//
// Taking the middle from the rounded bytes halves the error of rounding. A NaN in the token ends up in the result.
class Rounded {
 public:
  // `scratch`: (dim,) to work in. `center` may be null, for zeros.
  Rounded(const float* token, const float* center, const float* steps, int64_t dim, float* scratch)
      : scaled_(scratch), dim_(dim) {
    float largest = 0;
    for (int64_t d = 0; d < dim; ++d) {
      scaled_[d] = token[d] * steps[d];
      if (__builtin_fabsf(scaled_[d]) > largest) largest = __builtin_fabsf(scaled_[d]);
      rest_ += token[d] * (center ? center[d] : 0.0f);
    }
    unit_ = (largest > 0 ? largest : 1.0f) / 127;
  }

  // Writes the highest byte of what is left: numbers d / 4 * step + d % 4, and what one step of them is worth.
  void write(int8_t* numbers, int64_t step, float* unit, float middle) {
    int64_t total = 0;
    for (int64_t d = 0; d < dim_; ++d) {
      const float exact = scaled_[d] / unit_;
      const int number =
          __builtin_fabsf(exact) < 128 ? static_cast<int>(__builtin_lrintf(exact)) : 0;  // else it is NaN
      numbers[d / 4 * step + d % 4] = static_cast<int8_t>(number);
      scaled_[d] -= static_cast<float>(number) * unit_;
      total += number;
    }
    *unit = unit_;
    rest_ -= middle * unit_ * static_cast<float>(total);
    unit_ /= 254;  // what is left is half a unit at most
  }

  float rest() const { return rest_; }

 private:
  float* scaled_;
  int64_t dim_;
  float unit_ = 1;
  float rest_ = 0;
};

}  // namespace fastlane::FASTLANE_LEVEL
