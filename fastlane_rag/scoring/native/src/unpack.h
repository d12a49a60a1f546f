// Levels out of packed bytes, eight at a time, for planes narrower than a vector and processors without vectors.
#pragma once

#include <cstdint>

namespace fastlane::FASTLANE_LEVEL {

// Writes (byte >> shift) & mask for `count` bytes, and touches no others.
inline void unpack_few(const uint8_t* from, uint8_t* to, int64_t count, int shift, int mask) {
  if (count < 8) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>((from[i] >> shift) & mask);
    return;
  }
  const uint64_t masks = static_cast<uint64_t>(mask) * UINT64_C(0x0101010101010101);
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t at = i < count - 8 ? i : count - 8;  // the last turn reaches back over bytes already written
    uint64_t bytes;
    __builtin_memcpy(&bytes, from + at, 8);
    bytes = (bytes >> shift) & masks;
    __builtin_memcpy(to + at, &bytes, 8);
  }
}

}  // namespace fastlane::FASTLANE_LEVEL
