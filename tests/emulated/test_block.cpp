#include <cmath>
#include <numeric>
#include <string>

#include "tests/emulated/kernels.hpp"
#include "tests/emulated/launch_kernel.hpp"

namespace vitrail::emulated {
namespace {

std::vector<float> counted(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

class Block : public InBothOrders {};

TEST_P(Block, ShufflesSumAWarp) {
  const Buffer<float> in(counted(256)), out(8);
  ASSERT_EQ(launch(&warp_sums, 2, 128, 0, nullptr, in.get(), out.get()), cudaSuccess);
  const auto sums = out.values();
  for (std::size_t warp = 0; warp < 8; ++warp) {
    EXPECT_EQ(sums[warp], 32.0F * (32.0F * static_cast<float>(warp) + 16.5F));
  }
}

TEST_P(Block, SharedMemorySumsABlock) {
  const Buffer<float> in(counted(3072)), out(3);
  ASSERT_EQ(launch(&block_sums, 3, 1024, sizeof(BlockSum), nullptr, in.get(), out.get()), cudaSuccess);
  const auto sums = out.values();
  for (std::size_t block = 0; block < 3; ++block) {
    EXPECT_EQ(sums[block], 1024.0F * (1024.0F * static_cast<float>(block) + 512.5F));
  }
}

TEST_P(Block, AMissingBarrierIsSeenAsNaN) {
  const Buffer<float> in(counted(256)), out(1);
  ASSERT_EQ(launch(&block_sums_without_barrier, 1, 256, sizeof(BlockSum), nullptr, in.get(), out.get()), cudaSuccess);
  EXPECT_TRUE(std::isnan(out.values()[0]));
}

TEST_P(Block, EveryThreadHasItsOwnIndices) {
  const dim3 grid(3, 2, 2), block(5, 4, 3);
  const Buffer<int> out(720);
  ASSERT_EQ(launch(&write_indices, grid, block, 0, nullptr, out.get()), cudaSuccess);
  const auto values = out.values();
  for (int b = 0; b < 12; ++b) {
    for (int t = 0; t < 60; ++t) {
      const int thread = t % 5 + 10 * (t / 5 % 4) + 100 * (t / 20), place = b % 3 + 10 * (b / 3 % 2) + 100 * (b / 6);
      ASSERT_EQ(values[static_cast<std::size_t>(b * 60 + t)], thread + 1000 * place);
    }
  }
}

TEST_P(Block, LanesExchangeAndVote) {
  const Buffer<int> out(256);
  ASSERT_EQ(launch(&exchange, 1, 32, 0, nullptr, out.get()), cudaSuccess);
  const auto got = out.values();
  for (int lane = 0; lane < 32; ++lane) {
    const auto row = [&](int i) { return got[static_cast<std::size_t>(i) * 32 + static_cast<std::size_t>(lane)]; };
    EXPECT_EQ(row(0), 100 + (lane + 1) % 32);
    EXPECT_EQ(row(1), 100 + (lane >= 3 ? lane - 3 : lane));
    EXPECT_EQ(row(2), 100 + (lane % 8 + 3 < 8 ? lane + 3 : lane));
    EXPECT_EQ(row(3), 100 + (lane ^ 5));
    EXPECT_EQ(row(4), 0x49249249);
    EXPECT_EQ(row(5), 1);
    EXPECT_EQ(row(6), 1);
    EXPECT_EQ(row(7), 2 * (31 - lane) + 1);
  }
}

TEST_P(Block, PartsOfAWarpGoTheirOwnWays) {
  std::vector<int> values(32);
  std::iota(values.begin(), values.end(), 0);
  const Buffer<int> in(values), out(32);
  ASSERT_EQ(launch(&sum_parts, 1, 32, 0, nullptr, in.get(), out.get(), 8), cudaSuccess);
  const auto sums = out.values();
  for (int lane = 0; lane < 32; ++lane) EXPECT_EQ(sums[static_cast<std::size_t>(lane)], 8 * (lane / 8 * 8) + 28);
}

TEST_P(Block, BarriersSeparateTheRounds) {
  std::vector<int> values(192);
  std::iota(values.begin(), values.end(), 0);
  const Buffer<int> ring(values);
  ASSERT_EQ(launch(&pass_round, 2, 96, sizeof(Ring), nullptr, ring.get(), 7), cudaSuccess);
  const auto passed = ring.values();
  for (int i = 0; i < 2 * 96; ++i) EXPECT_EQ(passed[static_cast<std::size_t>(i)], i / 96 * 96 + (i % 96 + 7) % 96);
}

TEST_P(Block, BarriersCountPredicates) {
  const Buffer<int> counts(3);
  ASSERT_EQ(launch(&count_threads, 1, 65, 0, nullptr, counts.get()), cudaSuccess);
  EXPECT_EQ(counts.values(), (std::vector<int>{33, 1, 0}));
}

/// The text of the failure of a kernel; its error is the sticky one.
template <class... Parameters, class... Arguments>
std::string failure_of(void (*kernel)(Parameters...), dim3 block, std::size_t shared, Arguments... arguments) {
  EXPECT_EQ(launch(kernel, 2, block, shared, nullptr, arguments...), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  std::string text = kernel_failure();
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaErrorLaunchFailure) << "not sticky";
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorLaunchFailure);
  forget_failure();
  return text;
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_P(Block, ReportsADivergentBarrier) {
  const std::string text = failure_of(&divergent_barrier, 64, 0);
  EXPECT_TRUE(has(text, "kernel vitrail::emulated::divergent_barrier()")) << text;
  EXPECT_TRUE(has(text, "a divergent __syncthreads")) << text;
  EXPECT_TRUE(has(text, "threads 0 to 39: waits at __syncthreads")) << text;
  EXPECT_TRUE(has(text, "wrong_kernels.cu:12")) << text;
  EXPECT_TRUE(has(text, "threads 40 to 63: waits at __syncthreads")) << text;
  EXPECT_TRUE(has(text, "wrong_kernels.cu:14")) << text;
}

TEST_P(Block, ReportsABarrierThatSomeNeverReach) {
  const std::string text = failure_of(&barrier_after_return, 64, 0);
  EXPECT_TRUE(has(text, "threads 48 to 63: has returned")) << text;
}

TEST_P(Block, ReportsAMissingLane) {
  const std::string text = failure_of(&warp_sync_without_lane, 32, 0);
  EXPECT_TRUE(has(text, "__syncwarp")) << text;
  EXPECT_TRUE(has(text, "__syncthreads")) << text;
}

TEST_P(Block, ReportsAShuffleOfALaneThatReturned) {
  const std::string text = failure_of(&shuffle_of_returned_lane, 32, 0);
  EXPECT_TRUE(has(text, "returned")) << text;
}

TEST_P(Block, ReportsAMaskThatNamesLanesThatAreNotThere) {
  const std::string text = failure_of(&shuffle_of_returned_lane, 24, 0);
  EXPECT_TRUE(has(text, "does not have")) << text;
}

TEST_P(Block, ReportsALaneOutsideItsMask) {
  const std::string text = failure_of(&shuffle_with_foreign_mask, 32, 0);
  EXPECT_TRUE(has(text, "not in its own mask")) << text;
}

TEST_P(Block, ReportsAShuffleFromOutsideItsMask) {
  const Buffer<int> out(16);
  const std::string text = failure_of(&shuffle_from_outside_mask, 32, 0, out.get());
  EXPECT_TRUE(has(text, "reads lane 20")) << text;
}

TEST_P(Block, ReportsTooLittleSharedMemory) {
  const Buffer<int> values(std::vector<int>(64));
  const std::string text = failure_of(&pass_round, 32, sizeof(Ring) - 1, values.get(), 1);
  EXPECT_TRUE(has(text, "shared_memory of 4096 bytes, but the launch gave 4095")) << text;
}

TEST_P(Block, TurnsAnExceptionIntoALaunchFailure) {
  const std::string text = failure_of(&throw_something, 32, 0);
  EXPECT_TRUE(has(text, "thrown by a lane")) << text;
  EXPECT_TRUE(has(text, "thread (2, 0, 0)")) << text;
}

TEST_P(Block, GoesOnAfterStacksWereAbandoned) {
  for (int round = 0; round < 3; ++round) {
    const std::string text = failure_of(&fail_deep_inside, 128, 0, 20);
    EXPECT_TRUE(has(text, "failed deep inside")) << text;
    const Buffer<float> in(counted(1024)), out(1);
    ASSERT_EQ(launch(&block_sums, 1, 1024, sizeof(BlockSum), nullptr, in.get(), out.get()), cudaSuccess);
    EXPECT_EQ(out.values()[0], 1024.0F * 512.5F);
  }
}

INSTANTIATE_TEST_SUITE_P(Emulated, Block, both_orders(), order_name);

}  // namespace
}  // namespace vitrail::emulated
