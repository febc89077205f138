// What cuBLASLt may refuse, as only the emulation can be told to: epilogues, and large batches.

#include <gtest/gtest.h>

#include "device/cuda_emulated/emulation.hpp"
#include "tests/ops/mlp_calls.hpp"
#include "tests/ops/verb_tolerances.hpp"

namespace vitrail::testing {
namespace {

/// Another simulation for a scope.
class Simulated {
 public:
  Simulated() = default;
  Simulated(const Simulated&) = delete;
  Simulated& operator=(const Simulated&) = delete;
  ~Simulated() { emulated::simulation() = before_; }

 private:
  emulated::Simulation before_ = emulated::simulation();
};

class CudaWithoutEpilogues : public ::testing::TestWithParam<VerbCase> {};

TEST_P(CudaWithoutEpilogues, AgreesWithTheReference) {
  const std::vector<OwnedTensor> expected = GetParam().run(*make_reference_ops());
  const Tolerance tolerance = tolerance_of(GetParam().name);
  const Simulated restored;
  emulated::simulation().has_fused_epilogues = false;
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    const auto device = make_cuda_device();
    const OnDevice here(*device);
    const std::vector<OwnedTensor> got = GetParam().run(*make_cuda_ops(*device, precision));
    ASSERT_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double most = precision == Precision::f32 ? tolerance.f32 : tolerance.bf16;
      EXPECT_LE(largest_difference(got[i], expected[i]), most * std::max(1.0, expected[i].largest())) << "output " << i;
    }
  }
}

std::vector<VerbCase> cases_with_epilogues() {
  std::vector<VerbCase> cases;
  for (VerbCase& one : dense_cases()) {
    const bool has_bias = one.name.starts_with("linear_forward") && one.name.find("bias") != std::string::npos;
    if (has_bias || one.name.starts_with("mlp") || one.name.starts_with("qkv")) cases.push_back(std::move(one));
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(All, CudaWithoutEpilogues, ::testing::ValuesIn(cases_with_epilogues()),
                         [](const auto& one) { return one.param.name; });

MlpOutputs mlp_on_device(Precision precision, const MlpInputs& in) {
  const auto device = make_cuda_device();
  const OnDevice here(*device);
  const MlpInputs copy = in;  // goes before the device does: NOLINT(performance-unnecessary-copy-initialization)
  const MlpOutputs out = run_mlp(*make_cuda_ops(*device, precision), copy);
  MlpOutputs on_host{out.y.to(out.y.dtype()), out.u.to(out.u.dtype()), out.dx.to(out.dx.dtype()), {}};
  for (const OwnedTensor& gradient : out.gradients) on_host.gradients.push_back(gradient.to(Dtype::f32));
  return on_host;
}

TEST(CudaGemmEmulated, EpiloguesAreUsedWhereTheyAreOffered) {
  const MlpInputs in = mlp_inputs(Dtype::bf16, {1, 2, 33, 16, 24}, false);
  const MlpOutputs fused = mlp_on_device(Precision::bf16, in);
  const Simulated restored;
  emulated::simulation().has_fused_epilogues = false;
  const MlpOutputs plain = mlp_on_device(Precision::bf16, in);
  EXPECT_FALSE(same_bits(fused.y, plain.y));
  EXPECT_LE(largest_difference(fused.y, plain.y), 2e-2 * plain.y.largest());
}

// As where a batch would need more workspace than there is.
TEST(CudaGemmEmulated, ABatchInPartsHasTheSameBits) {
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    const Dtype stored = precision == Precision::bf16 ? Dtype::bf16 : Dtype::f32;
    const MlpInputs in = mlp_inputs(stored, {2, 5, 20, 16, 24}, false);
    const MlpOutputs whole = mlp_on_device(precision, in);
    for (const int largest : {1, 2, 4}) {
      const Simulated restored;
      emulated::simulation().largest_batch = largest;
      EXPECT_TRUE(same_bits(mlp_on_device(precision, in), whole)) << "in parts of " << largest;
    }
  }
}

}  // namespace
}  // namespace vitrail::testing
