// The verbs of the cpu back end that have no products, on `stored` tensors that are bf16, in every combination with
// f32: numbers are computed in f32, and rounded once where they are written.

#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {
namespace {

/// The dtypes of a call's stored tensors, one after the other.
class Dtypes {
 public:
  explicit Dtypes(unsigned bits) : bits_(bits) {}
  Dtype next() {
    const bool half = (bits_ & 1U) != 0;
    bits_ >>= 1;
    return half ? Dtype::bf16 : Dtype::f32;
  }
  /// Numbers that are the same in both.
  OwnedTensor random(Shape shape, std::uint32_t stream) { return random_tensor(Dtype::bf16, shape, stream).to(next()); }
  OwnedTensor written(Shape shape) { return OwnedTensor(next(), shape); }

 private:
  unsigned bits_;
};

struct StoredCase {
  std::string name;
  unsigned stored;  // tensors
  std::function<std::vector<OwnedTensor>(Ops&, Dtypes)> run;
};
std::ostream& operator<<(std::ostream& out, const StoredCase& one) { return out << one.name; }

constexpr Dtype kReal = Dtype::f32;

std::vector<OwnedTensor> patches(Ops& ops, Dtypes stored, std::int64_t width) {
  const auto images = random_tensor(kReal, {3, 7, 4 * width, 3}, 1);
  OwnedTensor cut = stored.written({3, 12, 2 * width * 3});
  ops.patches_forward({.images = images, .patch_rows = 2, .patch_columns = width, .patches = cut});
  return {cut};
}

std::vector<OwnedTensor> embed_tokens(Ops& ops, Dtypes stored, std::int64_t width) {
  const Shape of_patches{2, 3, 5, width}, of_tokens{2, 3, 6, width};
  const auto from = stored.random(of_patches, 1);
  const auto token = random_tensor(kReal, {width}, 2), places = random_tensor(kReal, {6, width}, 3);
  const auto dx = random_tensor(kReal, of_tokens, 4);
  OwnedTensor x(kReal, of_tokens), bare(kReal, of_patches), dpatches = stored.written(of_patches),
                                                            dtoken(kReal, {width}), dplaces(kReal, {6, width});
  ops.embed_tokens_forward({.patches = from, .class_token = token, .positions = places, .x = x});
  ops.embed_tokens_forward({.patches = from, .class_token = {}, .positions = {}, .x = bare});
  ops.embed_tokens_backward({.dx = dx, .dpatches = dpatches, .dclass_token = dtoken, .dpositions = dplaces});
  return {x, bare, dpatches, dtoken, dplaces};
}

std::vector<OwnedTensor> layernorm(Ops& ops, Dtypes stored, std::int64_t rows, std::int64_t width) {
  const Shape shape{2, rows, width};
  const auto x = stored.random(shape, 1), dy = stored.random(shape, 2);
  OwnedTensor y = stored.written(shape), dx = stored.written(shape), other_dx = stored.written(shape);
  OwnedTensor over_dy = dy;
  const auto scale = random_tensor(kReal, {width}, 3), bias = random_tensor(kReal, {width}, 4);
  const auto dresidual = random_tensor(kReal, shape, 5);
  OwnedTensor mean(kReal, {2, rows}), rstd(kReal, {2, rows}), dscale(kReal, {width}), dbias(kReal, {width}),
      other_dscale(kReal, {width}), over_dscale(kReal, {width});
  ops.layernorm_forward({.x = x, .scale = scale, .bias = bias, .y = y, .mean = mean, .rstd = rstd});
  LayernormBackward backward{.dy = dy,
                             .x = x,
                             .scale = scale,
                             .mean = mean,
                             .rstd = rstd,
                             .dresidual = dresidual,
                             .dx = dx,
                             .dscale = dscale,
                             .dbias = dbias};
  ops.layernorm_backward(backward);
  backward.dresidual = {};
  backward.dbias = {};
  backward.dx = other_dx;
  backward.dscale = other_dscale;
  ops.layernorm_backward(backward);
  backward.dy = backward.dx = over_dy;
  backward.dscale = over_dscale;
  ops.layernorm_backward(backward);
  return {y, mean, rstd, dx, dscale, dbias, other_dx, other_dscale, over_dy, over_dscale};
}

std::vector<OwnedTensor> dropout(Ops& ops, Dtypes stored, std::int64_t n) {
  const auto x = stored.random({n}, 1), residual = random_tensor(kReal, {n}, 2);
  OwnedTensor y = stored.written({n}), sum = stored.written({n}), mask = stored.written({n}), over_x = x;
  const DropoutDraw draw{.rate = 0.3, .seed = 5, .step = 6, .layer = 7, .first = 8};
  ops.dropout({.x = x, .residual = {}, .draw = draw, .y = y});
  ops.dropout({.x = x, .residual = residual, .draw = draw, .y = sum});
  ops.dropout({.x = {}, .residual = {}, .draw = draw, .y = mask});
  ops.dropout({.x = over_x, .residual = residual, .draw = draw, .y = over_x});
  return {y, sum, mask, over_x};
}

/// Every row of the buffers has a token or is empty, every third assignment is dropped.
std::vector<OwnedTensor> rows(Ops& ops, Dtypes stored, std::int64_t choices, std::int64_t width) {
  const std::int64_t tokens = 21, buffer = tokens * choices;
  OwnedTensor source(Dtype::i32, {buffer}), row(Dtype::i32, {tokens, choices});
  for (std::int64_t i = 0; i < buffer; ++i) {
    const std::int64_t to = (i * 5 + 2) % buffer;  // 5 divides no buffer: a permutation
    const bool kept = i % 3 != 1;
    row.set(i, kept ? static_cast<double>(to) : -1.0);
    source.set(to, kept ? static_cast<double>(i) : -1.0);
  }
  const auto x = stored.random({tokens, width}, 1), o = stored.random({buffer, width}, 2);
  OwnedTensor gathered = stored.written({buffer, width}), dx = stored.written({tokens, width}),
              summed = stored.written({tokens, width}), d_o = stored.written({buffer, width});
  const auto gate = random_tensor(kReal, {tokens, choices}, 3), residual = random_tensor(kReal, {tokens, width}, 4);
  const auto dy = random_tensor(kReal, {tokens, width}, 5);
  OwnedTensor y(kReal, {tokens, width}), dgate(kReal, {tokens, choices}), over_o = o, other_dgate = dgate;
  ops.gather_rows_forward({.x = x, .source = source, .choices = choices, .y = gathered});
  ops.gather_rows_backward({.dy = o, .row = row, .dresidual = residual, .dx = dx});
  ops.gather_rows_backward({.dy = o, .row = row, .dresidual = {}, .dx = summed});
  ops.combine_rows_forward({.o = o, .row = row, .gate = gate, .residual = residual, .y = y});
  ops.combine_rows_backward({.dy = dy, .o = o, .row = row, .source = source, .gate = gate, .d_o = d_o, .dgate = dgate});
  ops.combine_rows_backward(
      {.dy = dy, .o = over_o, .row = row, .source = source, .gate = gate, .d_o = over_o, .dgate = other_dgate});
  return {gathered, dx, summed, y, d_o, dgate, over_o, other_dgate};
}

std::vector<StoredCase> stored_cases() {
  std::vector<StoredCase> cases;
  const auto add = [&](const std::string& name, unsigned stored, const auto& verbs, auto... sizes) {
    std::string full = name;
    ((full += "_" + std::to_string(sizes)), ...);
    cases.push_back({full, stored, [=](Ops& ops, Dtypes dtypes) { return verbs(ops, dtypes, sizes...); }});
  };
  for (const std::int64_t width : {1, 7, 33, 64, 257}) {
    add("patches", 1, patches, width);
    add("embed_tokens", 2, embed_tokens, width);
    add("dropout", 4, dropout, width);
    for (const std::int64_t row_count : {0, 1, 6, 131}) add("layernorm", 5, layernorm, row_count, width);
    for (const std::int64_t choices : {1, 2, 4}) add("rows", 6, rows, choices, width);
  }
  add("layernorm", 5, layernorm, std::int64_t{9}, std::int64_t{768});
  add("dropout", 4, dropout, std::int64_t{40000});
  return cases;
}

class CpuStored : public ::testing::TestWithParam<StoredCase> {};

TEST_P(CpuStored, IsComputedInF32AndRoundedOnce) {
  const auto ops = make_cpu_ops(2, Precision::bf16);
  const std::vector<OwnedTensor> exact = GetParam().run(*ops, Dtypes(0));
  for (unsigned dtypes = 1; dtypes < 1U << GetParam().stored; ++dtypes) {
    const std::vector<OwnedTensor> got = GetParam().run(*ops, Dtypes(dtypes));
    ASSERT_EQ(got.size(), exact.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      EXPECT_TRUE(same_bits(got[i], exact[i].to(got[i].dtype()))) << "output " << i << ", dtypes " << dtypes;
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuStored, ::testing::ValuesIn(stored_cases()),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace vitrail::testing
