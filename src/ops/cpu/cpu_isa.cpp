#include "ops/cpu/cpu_isa.hpp"

#include <array>
#include <atomic>
#include <cstdint>

#include <hwy/highway.h>
#include <oneapi/dnnl/dnnl.h>

#include "base/error.hpp"
#include "ops/cpu/bf16_blocks.hpp"

namespace vitrail {

namespace {

struct Level {
  std::string_view name;
  std::int64_t targets;  // of Highway: all that may be used at this level
  dnnl_cpu_isa_t isa;    // of oneDNN: the highest
};

#if HWY_ARCH_X86
// A Highway target has a lower bit than those that it includes; the plain one is not optional.
constexpr std::int64_t kPlain = HWY_EMU128 | HWY_SCALAR;
constexpr std::int64_t kSse4 = kPlain | HWY_SSSE3 | HWY_SSE4;
constexpr std::int64_t kAvx2 = kSse4 | HWY_AVX2;
constexpr std::int64_t kAvx512 = kAvx2 | HWY_AVX3;
constexpr std::array<Level, 6> kLevels{{{"plain", kPlain, dnnl_cpu_isa_sse41},
                                        {"sse4", kSse4, dnnl_cpu_isa_sse41},
                                        {"avx2", kAvx2, dnnl_cpu_isa_avx2},
                                        {"avx512", kAvx512, dnnl_cpu_isa_avx512_core},
                                        {"avx512_bf16", kAvx512 | HWY_AVX3_DL, dnnl_cpu_isa_avx512_core_bf16},
                                        {"amx_bf16", kAvx512 | HWY_AVX3_DL, dnnl_cpu_isa_avx512_core_amx}}};
constexpr std::size_t kBf16 = 4, kTiles = 5;

/// Highway does not tell the last two apart.
std::atomic<std::size_t> highest{kTiles};

bool reaches(std::size_t level) {
  // All that multiply bf16 have HWY_AVX3_DL, but for Cooper Lake, which counts as level 3: so Highway knows what is
  // pinned.
  constexpr std::array<std::int64_t, 6> kNeeds{
      0, HWY_SSE4, HWY_AVX2, HWY_AVX3, HWY_AVX3 | HWY_AVX3_DL, HWY_AVX3 | HWY_AVX3_DL};
  if (level > highest) return false;
  if (level >= kBf16 && __builtin_cpu_supports("avx512bf16") == 0) return false;
  if (level >= kTiles && !cpu::has_bf16_tiles()) return false;
  return (hwy::SupportedTargets() & kNeeds[level]) == kNeeds[level];
}
#else
constexpr dnnl_cpu_isa_t kNoLimit{};  // oneDNN 2 and 3 have different names for it
constexpr std::array<Level, 1> kLevels{{{"plain", ~std::int64_t{0}, kNoLimit}}};
std::atomic<std::size_t> highest{0};
constexpr std::size_t kBf16 = 1, kTiles = 2;
bool reaches(std::size_t) { return true; }
#endif

}  // namespace

bool has_bf16_instructions() { return cpu_isa_level() >= static_cast<int>(kBf16); }
bool has_tile_instructions() { return cpu_isa_level() >= static_cast<int>(kTiles); }

int cpu_isa_level() {
  std::size_t level = kLevels.size() - 1;
  // oneDNN is not asked: its first answer would fix its level. It needs the same features of the machine.
  while (level > 0 && !reaches(level)) --level;
  return static_cast<int>(level);
}

std::string_view cpu_isa_name(int level) { return kLevels.at(static_cast<std::size_t>(level)).name; }

void pin_cpu_isa(int level) {
  const int best = cpu_isa_level();
  VITRAIL_EXPECT(level >= 0 && level <= best, ExitCode::usage,
                 text("instruction set level ", level, " was asked for, this machine has ", best),
                 "the cpu back end cannot use instructions that the machine has not got", "");
  const Level& chosen = kLevels[static_cast<std::size_t>(level)];
  const dnnl_status_t rc = dnnl_set_max_cpu_isa(chosen.isa);
  VITRAIL_EXPECT(rc == dnnl_success || dnnl_get_effective_cpu_isa() == chosen.isa, ExitCode::usage,
                 text("oneDNN refuses to use at most ", chosen.name, ", status ", static_cast<int>(rc)),
                 "it must be told before its first use", "This is a bug: pin the instruction set before make_cpu_ops");
  hwy::SetSupportedTargetsForTest(0);
  hwy::SetSupportedTargetsForTest(hwy::SupportedTargets() & chosen.targets);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  highest = static_cast<std::size_t>(level);
}

}  // namespace vitrail
