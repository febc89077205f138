// The single-threaded products of the cpu back end in both precisions, and rounding to bf16.

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "base/philox.hpp"
#include "ops/cpu/cpu_isa.hpp"
#include "ops/cpu/elementwise_kernels.hpp"
#include "ops/cpu/gemm.hpp"
#include "ops/cpu/workspace.hpp"

namespace vitrail::cpu {
namespace {

// --- rounding --------------------------------------------------------------------------------------------------------

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }
std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

/// Both forms of the packer on `x` at every place of a run that is longer than a vector and ends in a part of one.
std::uint32_t rounded_bits(float x) {
  constexpr std::int64_t kRun = 37;
  const std::vector<float> from(kRun, x);
  std::vector<Bf16> halves(kRun + 1, Bf16{0xABCD});
  std::vector<float> floats(kRun + 1, 7.0F);
  to_bf16_run(from.data(), halves.data(), kRun);
  round_run(from.data(), floats.data(), kRun);
  EXPECT_EQ(halves[kRun].bits, 0xABCD) << "wrote past the end";
  EXPECT_EQ(floats[kRun], 7.0F) << "wrote past the end";
  for (std::size_t i = 0; i < kRun; ++i) {
    EXPECT_EQ(halves[i].bits, halves[0].bits) << "place " << i;
    EXPECT_EQ(bits_of(floats[i]), std::uint32_t{halves[0].bits} << 16) << "place " << i;
  }
  return std::uint32_t{halves[0].bits} << 16;
}

TEST(RoundingToBf16, IsToNearestAndTiesGoToEven) {
  EXPECT_EQ(rounded_bits(1.0F), bits_of(1.0F));
  EXPECT_EQ(rounded_bits(from_bits(0x3F807FFF)), 0x3F800000U) << "just below the middle";
  EXPECT_EQ(rounded_bits(from_bits(0x3F808000)), 0x3F800000U) << "a tie below an odd neighbour";
  EXPECT_EQ(rounded_bits(from_bits(0x3F808001)), 0x3F810000U) << "just above the middle";
  EXPECT_EQ(rounded_bits(from_bits(0x3F818000)), 0x3F820000U) << "a tie above an odd neighbour";
  EXPECT_EQ(rounded_bits(from_bits(0xBF818000)), 0xBF820000U) << "negative";
  EXPECT_EQ(rounded_bits(from_bits(0x3FFFFFFF)), 0x40000000U) << "into the next power of two";
}

TEST(RoundingToBf16, KeepsZerosInfinitiesAndSmallNumbers) {
  EXPECT_EQ(rounded_bits(0.0F), 0U);
  EXPECT_EQ(rounded_bits(-0.0F), 0x80000000U);
  EXPECT_EQ(rounded_bits(from_bits(0x7F800000)), 0x7F800000U);
  EXPECT_EQ(rounded_bits(from_bits(0xFF800000)), 0xFF800000U);
  EXPECT_EQ(rounded_bits(std::numeric_limits<float>::max()), 0x7F800000U) << "nearer to infinity";
  EXPECT_EQ(rounded_bits(from_bits(0x00018000)), 0x00020000U) << "subnormal";
}

TEST(RoundingToBf16, NaNStaysNaN) {
  // The second would become an infinity, the third -0, if it were rounded as a number.
  for (const std::uint32_t nan : {0x7FC00000U, 0x7F800001U, 0xFFFFFFFFU, 0xFF80FFFFU})
    EXPECT_TRUE(std::isnan(from_bits(rounded_bits(from_bits(nan))))) << std::hex << nan;
}

TEST(RoundingToBf16, IsTheSameInVectorsAndOneByOne) {
  const Philox random(1, Purpose::test, 1);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const float x = from_bits(random.words(i)[0]);
    EXPECT_EQ(rounded_bits(x), std::uint32_t{to_bf16(x).bits} << 16) << std::hex << bits_of(x);
  }
}

// --- products --------------------------------------------------------------------------------------------------------

struct Case {
  std::int64_t m, n, k;
  bool a_transposed, b_transposed;
  Into into;
};
std::vector<Case> all_cases() {
  std::vector<Case> cases;
  // Odd numbers of terms, ends of registers and blocks, long sums.
  for (const auto& [m, n, k] : std::vector<std::tuple<int, int, int>>{{1, 1, 1},
                                                                      {1, 7, 3},
                                                                      {7, 1, 33},
                                                                      {33, 10, 257},
                                                                      {64, 64, 64},
                                                                      {65, 130, 31},
                                                                      {128, 256, 64},
                                                                      {100, 24, 2049},
                                                                      {136, 512, 100},
                                                                      {5, 0, 3},
                                                                      {3, 4, 0}}) {
    for (const auto& [a, b] : {std::pair{false, false}, std::pair{true, false}, std::pair{false, true}}) {
      for (const Into into : {Into::overwrite, Into::add}) cases.push_back({m, n, k, a, b, into});
    }
  }
  return cases;
}

/// A matrix whose rows lie `stride` apart, with NaN between them.
struct TestMatrix {
  TestMatrix(std::int64_t rows, std::int64_t columns, bool is_transposed)
      : height(is_transposed ? columns : rows),
        width(is_transposed ? rows : columns),
        transposed(is_transposed),
        values(static_cast<std::size_t>(std::max<std::int64_t>(1, height * stride())), std::nanf("")) {}
  [[nodiscard]] std::int64_t stride() const { return width + 3; }
  template <class Value>
  void fill(const Value& value) {
    for (std::int64_t i = 0; i < height * width; ++i)
      values[static_cast<std::size_t>(i / width * stride() + i % width)] = value(static_cast<std::uint64_t>(i));
  }
  [[nodiscard]] double at(std::int64_t row, std::int64_t column) const {
    const std::int64_t i = transposed ? column * stride() + row : row * stride() + column;
    return static_cast<double>(values[static_cast<std::size_t>(i)]);
  }
  [[nodiscard]] Operand operand() const { return {values.data(), stride(), transposed}; }

  std::int64_t height, width;
  bool transposed;
  std::vector<float> values;
};

std::vector<float> multiply(const Gemm& gemm, const Case& s, const TestMatrix& a, const TestMatrix& b, float start) {
  Workspace workspace;
  const std::int64_t scratch =
      gemm.scratch(whole(s.m), whole(s.n), whole(s.k), a.operand(), b.operand(), s.into) + aligned_floats(1);
  float* const place = workspace.floats(scratch);
  std::fill_n(place, scratch, std::nanf(""));
  std::vector<float> c(static_cast<std::size_t>(s.m * s.n + 1), start);
  gemm(s.m, s.n, s.k, a.operand(), b.operand(), s.into, c.data(), place);
  EXPECT_EQ(bits_of(c.back()), bits_of(start)) << "wrote past the end";
  c.pop_back();
  return c;
}

class CpuGemm : public ::testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    if ((GetParam() == Way::bf16_pairs && !has_bf16_instructions()) ||
        (GetParam() == Way::bf16_tiles && !has_tile_instructions()))
      GTEST_SKIP() << "this machine has no such instructions";
  }
};

// Integers up to 8 have four bits, and their sums fit f32.
TEST_P(CpuGemm, IsExactOnSmallIntegers) {
  const Gemm gemm(GetParam());
  for (const Case& s : all_cases()) {
    TestMatrix a(s.m, s.k, s.a_transposed), b(s.k, s.n, s.b_transposed);
    const Philox random(1, Purpose::test, 2);
    const auto integer = [&](std::uint64_t i) { return static_cast<float>(random.words(i)[0] % 17) - 8.0F; };
    a.fill(integer);
    b.fill([&](std::uint64_t i) { return integer(i + 1000003); });
    const float start = s.into == Into::add ? 3.0F : std::nanf("");
    const std::vector<float> c = multiply(gemm, s, a, b, start);
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < s.m; ++i) {
      for (std::int64_t j = 0; j < s.n; ++j) {
        double expected = s.into == Into::add ? 3.0 : 0.0;
        for (std::int64_t l = 0; l < s.k; ++l) expected += a.at(i, l) * b.at(l, j);
        if (static_cast<double>(c[static_cast<std::size_t>(i * s.n + j)]) != expected) ++wrong;
      }
    }
    EXPECT_EQ(wrong, 0) << s.m << " x " << s.n << " x " << s.k << (s.a_transposed ? " a'" : "")
                        << (s.b_transposed ? " b'" : "") << (s.into == Into::add ? " added" : "");
  }
}

TEST_P(CpuGemm, LetsInfinitiesAndNaNThrough) {
  const Gemm gemm(GetParam());
  const Case s{2, 3, 5, false, false, Into::overwrite};
  TestMatrix a(s.m, s.k, false), b(s.k, s.n, false);
  a.fill([](std::uint64_t i) { return i == 0 ? std::numeric_limits<float>::infinity() : 1.0F; });
  b.fill([](std::uint64_t i) { return i == 1 ? std::nanf("") : 1.0F; });
  const std::vector<float> c = multiply(gemm, s, a, b, 0.0F);
  for (const std::size_t i : {0, 2}) EXPECT_EQ(c[i], std::numeric_limits<float>::infinity());
  for (const std::size_t i : {1, 4}) EXPECT_TRUE(std::isnan(c[i]));
  for (const std::size_t i : {3, 5}) EXPECT_EQ(c[i], 5.0F);
}

// A cut has pieces of two lengths: the scratch must be enough for either.
TEST_P(CpuGemm, OfTheShorterLastPieceNeedsNoMoreScratch) {
  const Gemm gemm(GetParam());
  const Cut rows{20, 16};
  TestMatrix a(20, 9, false), b(9, 6, false);
  for (TestMatrix* matrix : {&a, &b}) matrix->fill([](std::uint64_t i) { return static_cast<float>(i % 5); });
  Workspace workspace;
  float* const scratch =
      workspace.floats(gemm.scratch(rows, whole(6), whole(9), a.operand(), b.operand(), Into::overwrite));
  std::vector<float> c(std::size_t{20} * 6);
  for (std::int64_t i = 0; i < rows.pieces(); ++i) {
    gemm(rows.length(i), 6, 9, {a.values.data() + rows.begin(i) * a.stride(), a.stride()}, b.operand(), Into::overwrite,
         c.data() + rows.begin(i) * 6, scratch);
  }
  for (std::int64_t i = 0; i < 20; ++i) {
    double expected = 0;
    for (std::int64_t l = 0; l < 9; ++l) expected += a.at(i, l) * b.at(l, 5);
    EXPECT_EQ(static_cast<double>(c[static_cast<std::size_t>(i * 6 + 5)]), expected) << "row " << i;
  }
}

std::string name_of_way(const ::testing::TestParamInfo<Way>& way) {
  constexpr const char* kNames[] = {"f32", "f32_of_rounded", "bf16_pairs", "bf16_tiles"};
  return kNames[static_cast<int>(way.param)];
}
INSTANTIATE_TEST_SUITE_P(Ways, CpuGemm,
                         ::testing::Values(Way::f32, Way::f32_of_rounded, Way::bf16_pairs, Way::bf16_tiles),
                         name_of_way);

}  // namespace
}  // namespace vitrail::cpu
