// The packed products of the cpu back end, in every way that this machine has, against plain sums.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "base/bf16.hpp"
#include "base/philox.hpp"
#include "ops/cpu/cpu_isa.hpp"
#include "ops/cpu/product_kernels.hpp"
#include "ops/cpu/workspace.hpp"

namespace vitrail::cpu {
namespace {

constexpr float kNothing = std::numeric_limits<float>::quiet_NaN();

bool machine_has(Way way) {
  if (way == Way::bf16_pairs) return has_bf16_instructions();
  return way != Way::bf16_tiles || has_tile_instructions();
}
bool rounds(Way way) { return way != Way::f32; }

/// A matrix of small random numbers, as it is stored: in f32 or bf16, its rows apart, with NaN between them.
class Stored {
 public:
  Stored(std::int64_t rows, std::int64_t columns, Dtype dtype, bool transposed, std::uint64_t number)
      : rows_(transposed ? columns : rows),
        columns_(transposed ? rows : columns),
        dtype_(dtype),
        transposed_(transposed),
        floats_(static_cast<std::size_t>(rows_ * stride()), kNothing),
        halves_(static_cast<std::size_t>(rows_ * stride()), to_bf16(kNothing)) {
    const Philox random(number, Purpose::test, 5);
    for (std::int64_t i = 0; i < rows_ * columns_; ++i) {
      const auto place = static_cast<std::size_t>(i / columns_ * stride() + i % columns_);
      const auto x = static_cast<float>(random.uniform(static_cast<std::uint64_t>(i)) - 0.5);
      halves_[place] = to_bf16(x);
      floats_[place] = dtype == Dtype::bf16 ? to_float(halves_[place]) : x;
    }
  }
  [[nodiscard]] std::int64_t stride() const { return columns_ + 5; }
  [[nodiscard]] Matrix matrix() const {
    return {dtype_ == Dtype::bf16 ? static_cast<const void*>(halves_.data()) : floats_.data(), dtype_, stride(),
            transposed_};
  }
  /// An element of the product's matrix as the way takes it.
  [[nodiscard]] double at(Way way, std::int64_t row, std::int64_t column) const {
    const auto place = static_cast<std::size_t>(transposed_ ? column * stride() + row : row * stride() + column);
    return static_cast<double>(rounds(way) ? to_float(to_bf16(floats_[place])) : floats_[place]);
  }

 private:
  std::int64_t rows_, columns_;
  Dtype dtype_;
  bool transposed_;
  std::vector<float> floats_;
  std::vector<Bf16> halves_;
};

struct Size {
  std::int64_t m, n, k;
};
// Ends of registers, tiles, panels and blocks of k.
const std::vector<Size> kSizes{{1, 1, 1},     {6, 64, 32},    {7, 65, 33},    {13, 10, 31},
                               {33, 48, 128}, {35, 130, 129}, {50, 24, 600},  {96, 64, 512},
                               {17, 80, 513}, {100, 200, 64}, {31, 16, 1025}, {8, 70, 1700}};

class CpuProducts : public testing::TestWithParam<std::tuple<Way, Dtype>> {
 protected:
  void SetUp() override {
    if (!machine_has(way)) GTEST_SKIP() << "this machine has no such instructions";
  }
  /// The largest error of a sum of k products of numbers up to 1/2: AVX512_BF16 and AMX add two products at a time.
  static double tolerance(std::int64_t k) { return 2e-7 * static_cast<double>(k); }

  Way way = std::get<0>(GetParam());
  Dtype dtype = std::get<1>(GetParam());
  Workspace workspace;
};

TEST_P(CpuProducts, OfRowsAndPackedPanels) {
  for (const Size& s : kSizes) {
    for (const bool transposed : {false, true}) {
      SCOPED_TRACE(testing::Message() << s.m << " x " << s.n << " x " << s.k << (transposed ? " transposed" : ""));
      const Stored a(s.m, s.k, dtype, false, 1);
      const Stored b(s.k, s.n, dtype, transposed, 2);
      const std::int64_t width = panel_columns(way);
      const std::int64_t panels = (s.n + width - 1) / width;
      const std::int64_t packed = panels * panel_bytes(way, s.k) / 4;
      const std::int64_t sums = panel_sums(way, s.m, s.n);
      float* const scratch = workspace.floats(packed + sums + panel_scratch(way, s.m, s.k));
      pack_panels(way, s.k, b.matrix(), 0, s.n, scratch);
      const std::int64_t stride = s.n + 3;
      std::vector<float> y(static_cast<std::size_t>(s.m * stride), kNothing);
      PanelProduct product{way, s.m, s.k, a.matrix(), scratch, 0, s.n, {}, scratch + packed, scratch + packed + sums};
      product.epilogue.y = y.data();
      product.epilogue.y_stride = stride;
      multiply(product);
      product.epilogue.finish = Finish::add;
      multiply(product);
      for (std::int64_t i = 0; i < s.m; ++i) {
        for (std::int64_t j = 0; j < stride; ++j) {
          const auto value = static_cast<double>(y[static_cast<std::size_t>(i * stride + j)]);
          if (j >= s.n) {
            EXPECT_TRUE(std::isnan(value)) << "wrote past row " << i;
            continue;
          }
          double sum = 0;
          for (std::int64_t l = 0; l < s.k; ++l) sum += a.at(way, i, l) * b.at(way, l, j);
          EXPECT_NEAR(value, 2 * sum, tolerance(s.k)) << i << ", " << j;
        }
      }
    }
  }
}

TEST_P(CpuProducts, OfColumns) {
  for (const Size& s : kSizes) {
    SCOPED_TRACE(testing::Message() << s.m << " x " << s.n << " x " << s.k);
    const Stored x(s.k, s.m, dtype, false, 3);
    const Stored dy(s.k, s.n, dtype, false, 4);
    const std::int64_t stride = s.n + 2;
    std::vector<float> c(static_cast<std::size_t>(s.m * stride), kNothing);
    float* const scratch = workspace.floats(column_product_scratch(way, s.m, s.n, s.k));
    std::vector<float> sums(static_cast<std::size_t>(s.n + 1), kNothing);
    ColumnProduct product{way, s.m, s.n, s.k, x.matrix(), dy.matrix(), {}, sums.data(), scratch};
    product.y.y = c.data();
    product.y.y_stride = stride;
    multiply(product);
    product.y.finish = Finish::add;
    multiply(product);
    EXPECT_TRUE(std::isnan(sums.back())) << "wrote past the sums of columns";
    for (std::int64_t j = 0; j < s.n; ++j) {
      double sum = 0;
      for (std::int64_t l = 0; l < s.k; ++l) sum += dy.at(Way::f32, l, j);
      EXPECT_NEAR(static_cast<double>(sums[static_cast<std::size_t>(j)]), 2 * sum, tolerance(s.k)) << "sum " << j;
    }
    for (std::int64_t i = 0; i < s.m; ++i) {
      for (std::int64_t j = 0; j < stride; ++j) {
        const auto value = static_cast<double>(c[static_cast<std::size_t>(i * stride + j)]);
        if (j >= s.n) {
          EXPECT_TRUE(std::isnan(value)) << "wrote past row " << i;
          continue;
        }
        double sum = 0;
        for (std::int64_t l = 0; l < s.k; ++l) sum += x.at(way, l, i) * dy.at(way, l, j);
        EXPECT_NEAR(value, 2 * sum, tolerance(s.k)) << i << ", " << j;
      }
    }
  }
}

template <class T>
std::vector<T> random_block(std::int64_t elements, std::uint64_t number) {
  const Philox random(number, Purpose::test, 6);
  std::vector<T> block(static_cast<std::size_t>(elements));
  for (std::size_t i = 0; i < block.size(); ++i) {
    const auto x = static_cast<float>(random.uniform(i) - 0.5);
    if constexpr (std::is_same_v<T, Bf16>) {
      block[i] = to_bf16(x);
    } else {
      block[i] = x;
    }
  }
  return block;
}

template <class T>
void expect_transpose_of(Way way, const Stored& from, std::int64_t k, std::int64_t m) {
  const std::int64_t padded = padded_terms(way, k);
  const std::int64_t stride = (padded + 3) / 2 * 2;  // bf16 is written as pairs
  std::vector<T> to(static_cast<std::size_t>(m * stride));
  std::memset(to.data(), 0xFF, to.size() * sizeof(T));  // NaN
  transpose_operand(way, from.matrix(), k, m, to.data(), stride);
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t l = 0; l < stride; ++l) {
      const T element = to[static_cast<std::size_t>(i * stride + l)];
      double value = 0;
      if constexpr (std::is_same_v<T, Bf16>) {
        value = static_cast<double>(to_float(element));
      } else {
        value = static_cast<double>(element);
      }
      if (l < padded) {
        EXPECT_EQ(value, l < k ? from.at(way, l, i) : 0.0) << i << ", " << l;
      } else {
        EXPECT_TRUE(std::isnan(value)) << "wrote past row " << i;
      }
    }
  }
}

// Ends of squares, of rows and of columns; more columns than a strip has.
TEST_P(CpuProducts, TransposeAsTheWayTakesNumbers) {
  for (const auto [k, m] : {std::array<std::int64_t, 2>{1, 1}, {16, 16}, {37, 21}, {64, 130}, {5, 64}, {48, 7}}) {
    SCOPED_TRACE(testing::Message() << k << " x " << m);
    const Stored from(k, m, dtype, false, 9);
    (multiplied_dtype(way) == Dtype::bf16 ? expect_transpose_of<Bf16> : expect_transpose_of<float>)(way, from, k, m);
  }
}

// Of results in whole vectors and of others: those are not finished by the same loops.
TEST_P(CpuProducts, AddBiasAndResidualAsTheyAreStored) {
  for (const std::int64_t n : {std::int64_t{192}, std::int64_t{75}}) {
    SCOPED_TRACE(testing::Message() << n << " columns");
    const Size s{23, n, 700};
    const Stored a(s.m, s.k, dtype, false, 12), b(s.k, s.n, dtype, false, 13);
    const std::vector<float> added = random_block<float>((s.m + 1) * s.n, 14);
    const std::int64_t packed = packed_floats(way, s.n, s.k);
    const std::int64_t sums = panel_sums(way, s.m, s.n);
    const auto run = [&](const float* bias, const float* residual) {
      std::vector<float> y(static_cast<std::size_t>(s.m * s.n), kNothing);
      float* const scratch = workspace.floats(packed + sums + panel_scratch(way, s.m, s.k));
      pack_panels(way, s.k, b.matrix(), 0, s.n, scratch);
      Epilogue epilogue = into_floats(y.data(), s.n);
      epilogue.stride = s.n;
      epilogue.bias = bias;
      epilogue.residual = residual;
      multiply(PanelProduct{way, s.m, s.k, a.matrix(), scratch, 0, s.n, epilogue, scratch + packed,
                            scratch + packed + sums});
      return y;
    };
    const std::vector<float> plain = run(nullptr, nullptr);
    const std::vector<float> both = run(added.data(), added.data() + s.n);
    for (std::int64_t i = 0; i < s.m * s.n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      ASSERT_EQ(both[at],
                plain[at] + added[static_cast<std::size_t>(i % s.n)] + added[at + static_cast<std::size_t>(s.n)])
          << "row " << i / s.n << ", column " << i % s.n;
    }
  }
}

TEST_P(CpuProducts, HaveTheSameBitsHoweverRowsAndColumnsAreCut) {
  const Size s{75, 200, 700};
  const Stored a(s.m, s.k, dtype, false, 5);
  const Stored b(s.k, s.n, dtype, true, 6);
  const std::int64_t width = panel_columns(way);
  const auto multiply_in_cuts = [&](std::int64_t rows, std::int64_t panels) {
    std::vector<float> y(static_cast<std::size_t>(s.m * s.n));
    const std::int64_t packed = panels * panel_bytes(way, s.k) / 4;
    for (std::int64_t j = 0; j < s.n; j += panels * width) {
      for (std::int64_t i = 0; i < s.m; i += rows) {
        const std::int64_t sums = panel_sums(way, rows, panels * width);
        float* const scratch = workspace.floats(packed + sums + panel_scratch(way, rows, s.k));
        const std::int64_t columns = std::min(panels * width, s.n - j);
        pack_panels(way, s.k, b.matrix(), j, columns, scratch);
        PanelProduct product{way,
                             std::min(rows, s.m - i),
                             s.k,
                             a.matrix().at(i, 0),
                             scratch,
                             j,
                             columns,
                             {},
                             scratch + packed,
                             scratch + packed + sums};
        product.epilogue.y = y.data() + i * s.n;
        product.epilogue.y_stride = s.n;
        multiply(product);
      }
    }
    return y;
  };
  const std::vector<float> whole = multiply_in_cuts(s.m, (s.n + width - 1) / width);
  EXPECT_EQ(whole, multiply_in_cuts(32, 1));
  EXPECT_EQ(whole, multiply_in_cuts(7, 2));
}

// Where rows of results begin with whole vectors, and where they do not.
TEST_P(CpuProducts, HaveTheSameBitsWrittenPastTheCaches) {
  const Size s{23, 192, 700};
  const Stored rows(s.m, s.k, dtype, false, 7), columns(s.k, s.m, dtype, false, 7), b(s.k, s.n, dtype, false, 8);
  const std::int64_t packed = packed_floats(way, s.n, s.k);
  const std::int64_t sums = panel_sums(way, s.m, s.n);
  Workspace results;  // begins where a cache line does
  for (const std::int64_t stride : {s.n, s.n + 3}) {
    const auto run = [&](bool stream, bool of_columns) {
      float* const y = results.floats(s.m * stride);
      std::fill_n(y, s.m * stride, 0.0F);
      Epilogue epilogue = into_floats(y, stride);
      epilogue.stream = stream;
      if (of_columns) {
        multiply(ColumnProduct{way, s.m, s.n, s.k, columns.matrix(), b.matrix(), epilogue, nullptr,
                               workspace.floats(column_product_scratch(way, s.m, s.n, s.k))});
      } else {
        float* const scratch = workspace.floats(packed + sums + panel_scratch(way, s.m, s.k));
        pack_panels(way, s.k, b.matrix(), 0, s.n, scratch);
        multiply(PanelProduct{way, s.m, s.k, rows.matrix(), scratch, 0, s.n, epilogue, scratch + packed,
                              scratch + packed + sums});
      }
      return std::vector<float>(y, y + s.m * stride);
    };
    for (const bool of_columns : {false, true}) {
      SCOPED_TRACE(testing::Message() << "rows of " << stride << (of_columns ? ", of columns" : ""));
      EXPECT_EQ(run(false, of_columns), run(true, of_columns));
    }
  }
}

/// The same elements, [blocks rows columns], in strips.
template <class T>
std::vector<T> in_strips(const std::vector<T>& from, std::int64_t rows, std::int64_t columns) {
  std::vector<T> to(from.size());
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(from.size()); ++i) {
    to[static_cast<std::size_t>(offset_of(i / columns, i % columns, columns, rows))] =
        from[static_cast<std::size_t>(i)];
  }
  return to;
}
/// Two blocks of rows; everything happens to the second one.
template <class T>
void expect_strips_change_no_bits(Way way, Workspace& workspace) {
  constexpr std::int64_t m = 75, n = 192, k = 1088;
  const Dtype dtype = std::is_same_v<T, Bf16> ? Dtype::bf16 : Dtype::f32;
  const std::vector<T> a = random_block<T>(2 * m * k, 1), u = random_block<T>(2 * m * n, 2);
  const std::vector<T> a_strips = in_strips(a, m, k), u_strips = in_strips(u, m, n);
  const std::vector<float> b = random_block<float>(k * n, 3), mask = random_block<float>(2 * m * n, 4);
  const std::int64_t packed = packed_floats(way, n, k);
  const std::int64_t sums = panel_sums(way, m, n);
  for (const Finish finish : {Finish::gelu, Finish::gelu_backward}) {
    SCOPED_TRACE(testing::Message() << "finish " << static_cast<int>(finish));
    const auto run = [&](const std::vector<T>& from, const std::vector<T>& old_u, std::int64_t strip_rows,
                         bool h_transposed = false) {
      float* const scratch = workspace.floats(packed + sums + panel_scratch(way, m, k));
      pack_panels(way, k, {b.data(), Dtype::f32, n}, 0, n, scratch);
      std::array<std::vector<T>, 3> out{old_u, std::vector<T>(u.size()), std::vector<T>(u.size())};
      Epilogue epilogue;
      epilogue.finish = finish;
      epilogue.dtype = dtype;
      epilogue.stride = n;
      epilogue.bias = mask.data();
      epilogue.mask = mask.data();
      epilogue.u = out[0].data();
      epilogue.h = finish == Finish::gelu ? nullptr : out[1].data();
      epilogue.y = out[2].data();
      epilogue.y_stride = n;
      epilogue.h_stride = h_transposed ? m : n;
      epilogue.h_transposed = h_transposed;
      epilogue.strip_rows = strip_rows;
      const Matrix rows{from.data(), dtype, k, false, strip_rows};
      for (const std::int64_t i : {0, 30}) {
        multiply(PanelProduct{way, i == 0 ? 30 : m - 30, k, rows.at(m + i, 0), scratch, 0, n, epilogue.at(m + i),
                              scratch + packed, scratch + packed + sums});
      }
      return out;
    };
    const std::array<std::vector<T>, 3> plain = run(a, u, 0);
    const std::array<std::vector<T>, 3> strips = run(a_strips, u_strips, m);
    for (std::size_t i = 0; i < plain.size(); ++i)
      EXPECT_EQ(std::memcmp(in_strips(plain[i], m, n).data(), strips[i].data(), plain[i].size() * sizeof(T)), 0) << i;
    if constexpr (std::is_same_v<T, float>) {
      if (finish == Finish::gelu) continue;
      const std::array<std::vector<T>, 3> turned = run(a_strips, u_strips, m, true);
      EXPECT_EQ(turned[2], strips[2]);
      for (std::int64_t i = 0; i < 2 * m * n; ++i) {
        const auto place = static_cast<std::size_t>(i / (m * n) * m * n + i % n * m + i / n % m);
        ASSERT_EQ(turned[1][place], plain[1][static_cast<std::size_t>(i)]) << "element " << i << " of h";
      }
    }
  }
  const auto columns = [&](const std::vector<T>& x, const std::vector<T>& dy, std::int64_t strip_rows) {
    std::vector<float> out(static_cast<std::size_t>(k * n + n));
    multiply(ColumnProduct{way, k, n, m, Matrix{x.data(), dtype, k, false, strip_rows}.at(m, 0),
                           Matrix{dy.data(), dtype, n, false, strip_rows}.at(m, 0), into_floats(out.data(), n),
                           out.data() + k * n, workspace.floats(column_product_scratch(way, k, n, m))});
    return out;
  };
  EXPECT_EQ(columns(a, u, 0), columns(a_strips, u_strips, m));
}

TEST_P(CpuProducts, HaveTheSameBitsWhereRowsAreStoredInStrips) {
  if (dtype == Dtype::f32) {
    expect_strips_change_no_bits<float>(way, workspace);
  } else {
    expect_strips_change_no_bits<Bf16>(way, workspace);
  }
}

std::string name_of_case(const testing::TestParamInfo<std::tuple<Way, Dtype>>& info) {
  constexpr const char* kWays[] = {"f32", "rounded", "pairs", "tiles"};
  return std::string(kWays[static_cast<int>(std::get<0>(info.param))]) + "_of_" +
         std::string(name_of(std::get<1>(info.param)));
}
INSTANTIATE_TEST_SUITE_P(Ways, CpuProducts,
                         testing::Combine(testing::Values(Way::f32, Way::f32_of_rounded, Way::bf16_pairs,
                                                          Way::bf16_tiles),
                                          testing::Values(Dtype::f32, Dtype::bf16)),
                         name_of_case);

}  // namespace
}  // namespace vitrail::cpu
