#include <cmath>
#include <numeric>

#include "tests/emulated/kernels.hpp"
#include "tests/emulated/launch_kernel.hpp"

namespace vitrail::emulated {
namespace {

std::vector<float> counted(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

class Reductions : public InBothOrders {};

TEST_P(Reductions, ShufflesSumAWarp) {
  const Buffer<float> in(counted(256)), out(8);
  ASSERT_EQ(launch(&warp_sums, 2, 128, 0, nullptr, in.get(), out.get()), cudaSuccess);
  const auto sums = out.values();
  for (std::size_t warp = 0; warp < 8; ++warp) EXPECT_EQ(sums[warp], 32.0F * (32.0F * float(warp) + 16.5F));
}

TEST_P(Reductions, SharedMemorySumsABlock) {
  const Buffer<float> in(counted(3 * 1024)), out(3);
  ASSERT_EQ(launch(&block_sums, 3, 1024, sizeof(BlockSum), nullptr, in.get(), out.get()), cudaSuccess);
  const auto sums = out.values();
  for (std::size_t block = 0; block < 3; ++block) EXPECT_EQ(sums[block], 1024.0F * (1024.0F * float(block) + 512.5F));
}

TEST_P(Reductions, AMissingBarrierIsSeenAsNaN) {
  const Buffer<float> in(counted(256)), out(1);
  ASSERT_EQ(launch(&block_sums_without_barrier, 1, 256, sizeof(BlockSum), nullptr, in.get(), out.get()), cudaSuccess);
  EXPECT_TRUE(std::isnan(out.values()[0]));
}

INSTANTIATE_TEST_SUITE_P(Emulated, Reductions, both_orders(), order_name);

}  // namespace
}  // namespace vitrail::emulated
