// The bits of the Soft MoE router of the cuda back end, which depend on one leaf alone.

#include <gtest/gtest.h>

#include "tests/ops/leaf_parts.hpp"
#include "tests/ops/soft_router_calls.hpp"

namespace vitrail::testing {

namespace {

class CudaSoftRouterBits : public ::testing::TestWithParam<SoftSizes> {};

TEST_P(CudaSoftRouterBits, OfALeafDoNotDependOnTheOtherLeavesAndGradientsAreTheirTree) {
  const auto device = make_cuda_device();
  const auto ops = make_cuda_ops(*device, Precision::bf16);  // the router's products are not rounded in it
  const SoftInputs in = soft_inputs(Dtype::f32, GetParam());
  const auto run = [&](const SoftInputs& some) {
    const OnDevice here(*device);
    return run_soft_router(*ops, some, {.noise = true, .masked = true, .residual = true});
  };
  const auto together = run(in);
  std::vector<std::vector<OwnedTensor>> alone;
  for (std::int64_t leaf = 0; leaf < 4; ++leaf) {
    const auto of = [&](const OwnedTensor& whole) { return part(whole, 0, leaf); };
    alone.push_back(run(
        {of(in.x), in.mu, in.scale, of(in.noise), of(in.valid), of(in.ddispatch), of(in.dcombine), of(in.dresidual)}));
    for (const std::size_t i : {0U, 2U, 3U, 4U})
      EXPECT_TRUE(same_bits(of(together[i]), alone.back()[i])) << "output " << i << " of leaf " << leaf;
  }
  for (const std::size_t i : {5U, 6U})
    EXPECT_TRUE(same_bits(together[i], sum(sum(alone[0][i], alone[1][i]), sum(alone[2][i], alone[3][i]))))
        << "gradient " << i;
}

// The second: more slots than the columns of a block, more tokens than its rows.
INSTANTIATE_TEST_SUITE_P(Sizes, CudaSoftRouterBits,
                         ::testing::Values(SoftSizes{4, 2, 7, 33, 5}, SoftSizes{4, 3, 70, 40, 72}));

}  // namespace
}  // namespace vitrail::testing
