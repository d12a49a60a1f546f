// All kernels, compiled once for each level: FASTLANE_LEVEL is its name, FASTLANE_SIMD the header with its vectors.
// No inline function of the standard library may be compiled here: the linker keeps one copy of each, and that of a
// level could end up in code that every processor runs. So only C's functions are used.
#include FASTLANE_SIMD

#include "codes.h"
#include "coding.h"
#include "cover.h"
#include "near.h"
#include "nearest.h"
#include "postings.h"
#include "rows.h"
#include "vectors.h"

#define FASTLANE_TEXT_OF(name) #name
#define FASTLANE_TEXT(name) FASTLANE_TEXT_OF(name)

namespace fastlane::FASTLANE_LEVEL {

extern const Kernels kernels;
const Kernels kernels = {FASTLANE_TEXT(FASTLANE_LEVEL),
                         lanes,
                         most_vectors,
                         score_rows,
                         round_query,
                         multiply_centroids,
                         nearest,
                         code_rows,
                         score_codes,
                         score_near,
                         gather,
                         best_rows,
                         cover,
                         multiply_vectors};

}  // namespace fastlane::FASTLANE_LEVEL
