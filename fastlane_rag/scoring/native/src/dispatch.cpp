// Looks at the processor, and chooses among the levels that were compiled for its architecture.
#include "dispatch.h"

#include <atomic>
#include <cstring>
#include <string>

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace fastlane {

namespace scalar {
extern const Kernels kernels;
}

#if defined(__x86_64__) || defined(_M_X64)

namespace avx2 {
extern const Kernels kernels;
}
namespace avxvnni {
extern const Kernels kernels;
}
namespace avx512vnni {
extern const Kernels kernels;
}

namespace {

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned part) {
  Registers found;
  if (!__get_cpuid_count(leaf, part, &found.a, &found.b, &found.c, &found.d)) return {};
  return found;
}

// The registers that the operating system keeps for each thread.
uint64_t kept_registers() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool bit(unsigned of, int number) { return (of >> number & 1) != 0; }

struct Processor {
  bool avx2 = false, avxvnni = false, avx512vnni = false;

  Processor() {
    const Registers first = cpuid(1, 0), seventh = cpuid(7, 0), more = cpuid(7, 1);
    const bool os = bit(first.c, 27);  // xgetbv is there
    const uint64_t kept = os ? kept_registers() : 0;
    const bool fma_f16c = bit(first.c, 12) && bit(first.c, 29);
    avx2 = (kept & 0x6) == 0x6 && fma_f16c && bit(seventh.b, 5);
    avxvnni = avx2 && bit(more.a, 4);
    const bool f_dq_bw_vl = bit(seventh.b, 16) && bit(seventh.b, 17) && bit(seventh.b, 30) && bit(seventh.b, 31);
    avx512vnni = avx2 && (kept & 0xe6) == 0xe6 && f_dq_bw_vl && bit(seventh.c, 11);
  }
};

}  // namespace

#elif defined(__aarch64__) || defined(_M_ARM64)

namespace neon {
extern const Kernels kernels;
}
namespace neondot {
extern const Kernels kernels;
}

namespace {

bool has_dot() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) >> 20 & 1) != 0;  // ASIMDDP
#elif defined(__APPLE__)
  int found = 0;
  size_t size = sizeof found;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, nullptr, 0) == 0 && found != 0;
#else
  return false;
#endif
}

}  // namespace

#endif

namespace {

// The levels this processor can run.
struct Levels {
  const Kernels* best_first[4] = {};
  int count = 0;
  std::string names;

  void offer(bool there, const Kernels& kernels) {
    if (!there) return;
    if (count) names += ',';
    names += kernels.name;
    best_first[count++] = &kernels;
  }

  Levels() {
#if defined(__x86_64__) || defined(_M_X64)
    const Processor processor;
    offer(processor.avx512vnni, avx512vnni::kernels);
    offer(processor.avxvnni, avxvnni::kernels);
    offer(processor.avx2, avx2::kernels);
#elif defined(__aarch64__) || defined(_M_ARM64)
    offer(has_dot(), neondot::kernels);
    offer(true, neon::kernels);
#endif
    offer(true, scalar::kernels);
  }
};

const Levels& found() {
  static const Levels once;
  return once;
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels& kernels() {
  const Kernels* now = chosen.load(std::memory_order_acquire);
  return now ? *now : *found().best_first[0];
}

const char* levels() { return found().names.c_str(); }

bool use_level(const char* name) {
  for (int i = 0; i < found().count; ++i) {
    if (std::strcmp(found().best_first[i]->name, name) == 0) {
      chosen.store(found().best_first[i], std::memory_order_release);
      return true;
    }
  }
  return false;
}

}  // namespace fastlane
