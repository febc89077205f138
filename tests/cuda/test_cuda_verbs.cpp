// The cuda back end against the reference, verb by verb, in both precisions.

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/ops/verb_tolerances.hpp"

namespace vitrail::testing {

namespace {

class CudaVerb : public ::testing::TestWithParam<VerbCase> {};

std::vector<OwnedTensor> run_on_device(const VerbCase& one, Precision precision) {
  const auto device = make_cuda_device();
  const OnDevice here(*device);
  const auto ops = make_cuda_ops(*device, precision);
  const std::vector<OwnedTensor> outputs = one.run(*ops);
  std::vector<OwnedTensor> on_host;  // outlive the device
  on_host.reserve(outputs.size());
  for (const OwnedTensor& output : outputs) on_host.push_back(output.to(output.dtype()));
  return on_host;
}

void expect_near(const std::vector<OwnedTensor>& got, const std::vector<OwnedTensor>& expected, double tolerance) {
  ASSERT_EQ(expected.size(), got.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const bool exact = expected[i].dtype() != Dtype::f32 && expected[i].dtype() != Dtype::f64;
    const double scale = exact ? 0.0 : std::max(1.0, expected[i].largest());
    EXPECT_LE(largest_difference(got[i], expected[i]), tolerance * scale) << "output " << i;
  }
}

TEST_P(CudaVerb, AgreesWithTheReference) {
  const std::vector<OwnedTensor> expected = GetParam().run(*make_reference_ops());
  const Tolerance tolerance = tolerance_of(GetParam().name);
  expect_near(run_on_device(GetParam(), Precision::f32), expected, tolerance.f32);
}

TEST_P(CudaVerb, AgreesWithTheReferenceInBf16) {
  const std::vector<OwnedTensor> expected = GetParam().run(*make_reference_ops());
  const Tolerance tolerance = tolerance_of(GetParam().name);
  expect_near(run_on_device(GetParam(), Precision::bf16), expected, std::max(tolerance.rounding(), tolerance.f32));
}

INSTANTIATE_TEST_SUITE_P(All, CudaVerb, ::testing::ValuesIn(all_cases()),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace vitrail::testing
