// Work shared among threads.
//
// After torch has encoded a query, the OpenMP threads it computed with stay awake for a while, in case there is more to
// do: to them work comes within microseconds, and a thread of another pool would have to wait for their processors.
// So the first thread that shares work does so with its OpenMP team. OpenMP keeps a team for every thread that asks for
// one, so all others share threads of our own, of which there are no more than any call asked for.
#pragma once

#include <cstdint>

namespace fastlane {

// Does the parts first <= i < last of some work; false without memory.
using Part = bool (*)(const void* work, int64_t first, int64_t last);

// Calls `part` for ranges that make up 0 <= i < count, on this thread and at most `threads` - 1 others. Each thread
// takes the next range when it is done with one. Returns 0, or -1 if a part had no memory.
int32_t share(Part part, const void* work, int64_t count, int32_t threads);

// Sets the address of OpenMP's entry `GOMP_parallel`; null for none.
void use_openmp(void* entry);

// How many threads of our own there are.
int32_t own_threads();

}  // namespace fastlane
