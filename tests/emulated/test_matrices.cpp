#include <cmath>
#include <random>

#include "tests/emulated/kernels.hpp"
#include "tests/emulated/launch_kernel.hpp"

namespace vitrail::emulated {
namespace {

class Matrices : public InBothOrders {};

// Small integers: every product and sum is exact, whatever its order.
std::vector<float> integers(std::size_t count, unsigned int seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 33) - 16);
  return values;
}
std::vector<__nv_bfloat16> as_bf16(const std::vector<float>& values) { return {values.begin(), values.end()}; }

void expect_product(void (*kernel)(float*, const __nv_bfloat16*, const __nv_bfloat16*), std::size_t shared) {
  for (unsigned int seed = 0; seed < 8; ++seed) {
    const auto a = integers(256, seed), b = integers(128, seed + 100), d = integers(128, seed + 200);
    const Buffer<float> result(d);
    const Buffer<__nv_bfloat16> left(as_bf16(a)), right(as_bf16(b));
    ASSERT_EQ(launch(kernel, 1, 32, shared, nullptr, result.get(), left.get(), right.get()), cudaSuccess);
    const auto got = result.values();
    for (std::size_t row = 0; row < 16; ++row) {
      for (std::size_t column = 0; column < 8; ++column) {
        float expected = d[row * 8 + column];
        for (std::size_t k = 0; k < 16; ++k) expected += a[row * 16 + k] * b[k * 8 + column];
        ASSERT_EQ(got[row * 8 + column], expected) << row << ' ' << column;
      }
    }
  }
}

TEST_P(Matrices, MmaMultipliesFragmentsGatheredByTheLaneMap) { expect_product(&multiply, 0); }
TEST_P(Matrices, MmaMultipliesFragmentsThatLdmatrixLoaded) { expect_product(&multiply_loaded, sizeof(Fragments)); }

TEST_P(Matrices, LdmatrixGivesEachLaneItsPairs) {
  const Buffer<std::uint32_t> out(512);
  ASSERT_EQ(launch(&load_matrices, 1, 32, sizeof(FourMatrices), nullptr, out.get()), cudaSuccess);
  const auto got = out.values();
  for (unsigned int form = 0; form < 4; ++form) {
    for (unsigned int matrix = 0; matrix < (form < 2 ? 4U : 2U); ++matrix) {
      for (unsigned int lane = 0; lane < 32; ++lane) {
        const unsigned int line = lane / 4, place = lane % 4 * 2;
        const bool transposed = form % 2 == 1;
        const auto element = [&](unsigned int second) {
          return matrix * 64 + (transposed ? (place + second) * 8 + line : line * 8 + place + second);
        };
        EXPECT_EQ(got[(form * 4 + matrix) * 32 + lane], element(0) | element(1) << 16) << form << ' ' << lane;
      }
    }
  }
}

TEST_P(Matrices, LdmatrixRefusesRowsThatAreNotAligned) {
  const Buffer<std::uint32_t> out(32);
  ASSERT_EQ(launch(&load_unaligned, 1, 32, sizeof(FourMatrices), nullptr, out.get()), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_NE(kernel_failure().find("ldmatrix"), std::string::npos);
}

TEST_P(Matrices, AsyncCopiesArriveAtTheWaitAndAreNaNBefore) {
  const auto values = integers(384, 7);
  const Buffer<float> in(values), out(3 * values.size());
  ASSERT_EQ(launch(&copy_in_groups, 1, 32, sizeof(Stage), nullptr, in.get(), out.get()), cudaSuccess);
  const auto got = out.values();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t stage = i / 128;
    const float last = stage == 2 && i % 4 > 0 ? 0.0F : values[i];  // the bytes that are not valid become zeros
    EXPECT_TRUE(std::isnan(got[i]));
    const float between = got[values.size() + i];  // the newest group, stages 1 and 2, may be under way
    EXPECT_TRUE(stage == 0 ? between == values[i] : std::isnan(between)) << "stage " << stage;
    EXPECT_EQ(got[2 * values.size() + i], last);
  }
}

TEST_P(Matrices, AsyncCopiesGoToSharedMemoryAlone) {
  const Buffer<float> in(integers(4, 7)), out(4);
  ASSERT_EQ(launch(&copy_to_nowhere, 1, 1, 0, nullptr, in.get(), out.get()), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
}

INSTANTIATE_TEST_SUITE_P(Emulated, Matrices, both_orders(), order_name);

}  // namespace
}  // namespace vitrail::emulated
