#include <gtest/gtest.h>

#include "apps/doctor_gpu.hpp"

namespace vitrail {
namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

TEST(DoctorGpu, NoneIsWellOnANodeWithoutAny) {
  EXPECT_EQ(judge_gpu({.problem = "this build has no CUDA"}, 4).health, Health::ok);
}

TEST(DoctorGpu, OneThatTheBuildCannotUseIsAWarning) {
  EXPECT_EQ(judge_gpu({.has_files = true, .problem = "this build has no CUDA"}, 1).health, Health::warn);
}

TEST(DoctorGpu, OneThatFailsIsBad) {
  EXPECT_EQ(judge_gpu({.gpus = 1, .has_files = true, .problem = "the driver is too old"}, 1).health, Health::bad);
}

TEST(DoctorGpu, SharedOrUsedOnesAreWarnings) {
  const GpuSeen seen{.gpus = 2, .has_files = true, .description = "X", .problem = {}, .used = kGiB, .total = 80 * kGiB};
  EXPECT_EQ(judge_gpu(seen, 2).health, Health::ok);
  EXPECT_EQ(judge_gpu(seen, 3).health, Health::warn);
  GpuSeen used = seen;
  used.used = 60 * kGiB;
  EXPECT_EQ(judge_gpu(used, 2).health, Health::warn);
}

}  // namespace
}  // namespace vitrail
