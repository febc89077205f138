#include <gtest/gtest.h>

#include "apps/golden.hpp"

namespace vitrail {
namespace {

TEST(GoldenTolerances, AreThoseOfThePrecision) {
  EXPECT_EQ(golden_tolerances(*make_reference_ops()).gradients, 1e-9);
  EXPECT_EQ(golden_tolerances(*make_cpu_ops(1)).gradients, 1e-4);
  EXPECT_EQ(golden_tolerances(*make_cpu_ops(1, Precision::bf16)).outputs, 2e-2);
  EXPECT_EQ(golden_tolerances(*make_cpu_ops(1, Precision::bf16)).gradients, 5e-2);
}

}  // namespace
}  // namespace vitrail
