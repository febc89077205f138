#include <gtest/gtest.h>

#include "apps/golden.hpp"
#include "apps/run_start.hpp"

namespace vitrail {
namespace {

TEST(PrecisionOf, IsBf16OnTheCpuBackEndAlone) {
  EXPECT_EQ(precision_of("cpu", "f32"), Precision::f32);
  EXPECT_EQ(precision_of("cpu", "bf16"), Precision::bf16);
  EXPECT_EQ(precision_of("reference", "f32"), Precision::f32);
  for (const auto& [backend, precision] : {std::pair{"reference", "bf16"}, std::pair{"cpu", "f16"}}) {
    try {
      (void)precision_of(backend, precision);
      FAIL() << backend << " " << precision;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage) << error.what();
    }
  }
}

TEST(GoldenTolerances, AreThoseOfThePrecision) {
  EXPECT_EQ(golden_tolerances(*make_reference_ops()).gradients, 1e-9);
  EXPECT_EQ(golden_tolerances(*make_cpu_ops(1)).gradients, 1e-4);
  EXPECT_EQ(golden_tolerances(*make_cpu_ops(1, Precision::bf16)).outputs, 2e-2);
  EXPECT_EQ(golden_tolerances(*make_cpu_ops(1, Precision::bf16)).gradients, 5e-2);
}

}  // namespace
}  // namespace vitrail
