// Which level's kernels run.
#pragma once

#include "kernels.h"

namespace fastlane {

// The kernels in use: those of the best level, or of the one that `use_level` chose.
const Kernels& kernels();

// Names of the levels this processor can run, best first, with commas between them.
const char* levels();

// Chooses a level; false if this processor cannot run it.
bool use_level(const char* name);

}  // namespace fastlane
