// What is particular to the kernels of layer norms and tokens of the cuda back end: bits, which may depend on one
// leaf's shape alone and never on where a tensor lies; and mixed dtypes.

#include <string>

#include <gtest/gtest.h>

#include "tests/cuda/gpu.hpp"
#include "tests/ops/leaf_parts.hpp"

namespace vitrail::testing {

namespace {

constexpr Precision kPrecisions[] = {Precision::f32, Precision::bf16};

// --- layer norm ------------------------------------------------------------------------------------------------------

struct NormDtypes {
  Dtype dy, x, y, dx;
};
struct NormInputs {
  OwnedTensor x, dy, scale, bias, dresidual;  // [leaves rows D], [D]
};

NormInputs norm_inputs(std::int64_t leaves, std::int64_t rows, std::int64_t width, const NormDtypes& dtypes) {
  const Shape shape{leaves, rows, width};
  // Numbers of bf16, so that they are the same in every dtype.
  return {random_tensor(Dtype::bf16, shape, 1).to(dtypes.x), random_tensor(Dtype::bf16, shape, 2).to(dtypes.dy),
          random_tensor(Dtype::f32, {width}, 3), random_tensor(Dtype::f32, {width}, 4),
          random_tensor(Dtype::f32, shape, 5)};
}

/// y, mean, rstd, dx; then dscale and dbias.
std::vector<OwnedTensor> run_norm(Ops& ops, const NormInputs& in, const NormDtypes& dtypes) {
  const Shape& shape = in.x.shape();
  OwnedTensor y(dtypes.y, shape), mean(Dtype::f32, {shape[0], shape[1]}), rstd(Dtype::f32, {shape[0], shape[1]}),
      dx(dtypes.dx, shape), dscale(Dtype::f32, {shape[2]}), dbias(Dtype::f32, {shape[2]});
  ops.layernorm_forward({.x = in.x, .scale = in.scale, .bias = in.bias, .y = y, .mean = mean, .rstd = rstd});
  ops.layernorm_backward({.dy = in.dy,
                          .x = in.x,
                          .scale = in.scale,
                          .mean = mean,
                          .rstd = rstd,
                          .dresidual = in.dresidual,
                          .dx = dx,
                          .dscale = dscale,
                          .dbias = dbias});
  return {y, mean, rstd, dx, dscale, dbias};
}

struct NormSizes {
  std::int64_t rows, width;
};
class CudaNorm : public ::testing::TestWithParam<NormSizes> {};

TEST_P(CudaNorm, OfALeafDoesNotDependOnTheOtherLeavesAndItsGradientsAreTheirTree) {
  const auto [rows, width] = GetParam();
  for (const Precision precision : kPrecisions) {
    Gpu gpu(precision);
    const Dtype stored = gpu.ops->stored();
    const NormDtypes dtypes{stored, Dtype::f32, stored, Dtype::f32};
    const NormInputs in = norm_inputs(4, rows, width, dtypes);
    const auto together = run_norm(*gpu.ops, in, dtypes);
    std::vector<std::vector<OwnedTensor>> alone;
    for (std::int64_t leaf = 0; leaf < 4; ++leaf) {
      alone.push_back(run_norm(
          *gpu.ops, {part(in.x, 0, leaf), part(in.dy, 0, leaf), in.scale, in.bias, part(in.dresidual, 0, leaf)},
          dtypes));
      for (std::size_t i = 0; i < 4; ++i)
        EXPECT_TRUE(same_bits(part(together[i], 0, leaf), alone.back()[i])) << "output " << i << " of leaf " << leaf;
    }
    for (std::size_t i = 4; i < together.size(); ++i)
      EXPECT_TRUE(same_bits(together[i], sum(sum(alone[0][i], alone[1][i]), sum(alone[2][i], alone[3][i])))) << i;
  }
}

// Rows that are cut at other places than blocks end; fours and not; rows of a warp, of a block, of a block twice.
INSTANTIATE_TEST_SUITE_P(Shapes, CudaNorm,
                         ::testing::Values(NormSizes{300, 33}, NormSizes{41, 64}, NormSizes{1030, 4},
                                           NormSizes{13, 768}, NormSizes{11, 1280}, NormSizes{9, 2052}));

TEST(CudaNorm, RoundsOnceWhatItWritesInBf16WhateverTheDtypesOfTheRest) {
  Gpu gpu;
  for (const std::int64_t width : {33, 64, 1280}) {
    const NormDtypes f32{Dtype::f32, Dtype::f32, Dtype::f32, Dtype::f32};
    const auto expected = run_norm(*gpu.ops, norm_inputs(2, 9, width, f32), f32);
    for (int mix = 0; mix < 16; ++mix) {
      const auto dtype = [&](int bit) { return (mix >> bit & 1) == 0 ? Dtype::f32 : Dtype::bf16; };
      const NormDtypes dtypes{dtype(0), dtype(1), dtype(2), dtype(3)};
      const auto got = run_norm(*gpu.ops, norm_inputs(2, 9, width, dtypes), dtypes);
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_TRUE(same_bits(got[i], expected[i].to(got[i].dtype()))) << "output " << i << ", dtypes " << mix;
    }
  }
}

TEST(CudaNorm, HasTheSameBitsInPlace) {
  Gpu gpu;
  for (const std::int64_t width : {64, 33, 1280}) {
    for (const Dtype stored : {Dtype::f32, Dtype::bf16}) {
      const NormDtypes dtypes{stored, Dtype::f32, stored, Dtype::f32};
      const NormInputs in = norm_inputs(2, 21, width, dtypes);
      const auto expected = run_norm(*gpu.ops, in, dtypes);
      OwnedTensor dx = in.dresidual, dscale(Dtype::f32, {width}), dbias(Dtype::f32, {width});
      LayernormBackward backward{.dy = in.dy,
                                 .x = in.x,
                                 .scale = in.scale,
                                 .mean = expected[1],
                                 .rstd = expected[2],
                                 .dresidual = dx.view(),
                                 .dx = dx.view(),
                                 .dscale = dscale,
                                 .dbias = dbias};
      gpu.ops->layernorm_backward(backward);
      expect_same({dx, dscale, dbias}, {expected[3], expected[4], expected[5]}, " over dresidual");
      OwnedTensor over_dy = in.dy;
      backward.dy = backward.dx = over_dy.view();
      backward.dresidual = in.dresidual;
      gpu.ops->layernorm_backward(backward);
      expect_same({over_dy, dscale, dbias}, {expected[3].to(stored), expected[4], expected[5]}, " over dy");
    }
  }
}

TEST(CudaNorm, SaysHowWideRowsMayBe) {
  Gpu gpu;
  OwnedTensor x(Dtype::f32, {1, 1, 8193}), scale(Dtype::f32, {8193}), mean(Dtype::f32, {1, 1});
  try {
    gpu.ops->layernorm_forward({.x = x, .scale = scale, .bias = {}, .y = x, .mean = mean, .rstd = mean});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("8192"), std::string::npos) << error.what();
  }
}

// --- tensors that lie anywhere ---------------------------------------------------------------------------------------

/// The same numbers `by` elements behind an aligned address.
struct Shifted {
  Shifted(const OwnedTensor& tensor, std::int64_t by_) : shape(tensor.shape()), by(by_) {
    memory = OwnedTensor(tensor.dtype(), {tensor.elements() + by});
    for (std::int64_t i = 0; i < tensor.elements(); ++i) memory.set(by + i, tensor.get(i));
  }
  Shifted(Dtype dtype, Shape shape_, std::int64_t by_) : Shifted(OwnedTensor(dtype, shape_), by_) {}
  operator Tensor() { return memory.view().slice(by, shape.elements()).view(shape); }             // NOLINT
  operator ConstTensor() const { return memory.view().slice(by, shape.elements()).view(shape); }  // NOLINT
  [[nodiscard]] OwnedTensor numbers() const {
    OwnedTensor tensor(memory.dtype(), shape);
    for (std::int64_t i = 0; i < tensor.elements(); ++i) tensor.set(i, memory.get(by + i));
    return tensor;
  }
  OwnedTensor memory;
  Shape shape;
  std::int64_t by;
};

/// Verbs that work in fours where they can, on tensors that lie so.
std::vector<OwnedTensor> run_shifted(Ops& ops, std::int64_t by, std::int64_t width) {
  const Shape rows{2, 5, width}, tokens{2, 1, 5, width};
  const auto f32 = [&](const Shape& shape, std::uint32_t stream) {
    return Shifted(random_tensor(Dtype::f32, shape, stream), by);
  };
  const auto out = [&](Dtype dtype, const Shape& shape) { return Shifted(dtype, shape, by); };
  std::vector<OwnedTensor> all;
  Shifted x = f32(rows, 1), dy(random_tensor(Dtype::bf16, rows, 2), by), scale = f32({width}, 3),
          bias = f32({width}, 4), residual = f32(rows, 5), y = out(Dtype::bf16, rows), mean = out(Dtype::f32, {2, 5}),
          rstd = out(Dtype::f32, {2, 5}), dx = out(Dtype::f32, rows), dscale = out(Dtype::f32, {width}),
          dbias = out(Dtype::f32, {width});
  ops.layernorm_forward({.x = x, .scale = scale, .bias = bias, .y = y, .mean = mean, .rstd = rstd});
  ops.layernorm_backward({.dy = dy,
                          .x = x,
                          .scale = scale,
                          .mean = mean,
                          .rstd = rstd,
                          .dresidual = residual,
                          .dx = dx,
                          .dscale = dscale,
                          .dbias = dbias});
  for (const Shifted* one : {&y, &mean, &rstd, &dx, &dscale, &dbias}) all.push_back(one->numbers());

  Shifted images = f32(tokens, 6), dpatches = out(Dtype::bf16, {2, 1, 4, width}), dtoken = out(Dtype::f32, {width}),
          places = f32({5, width}, 7), dplaces = out(Dtype::f32, {5, width}), embedded = out(Dtype::f32, tokens);
  ops.embed_tokens_backward({.dx = images, .dpatches = dpatches, .dclass_token = dtoken, .dpositions = dplaces});
  ops.embed_tokens_forward({.patches = dpatches, .class_token = dtoken, .positions = places, .x = embedded});
  for (const Shifted* one : {&dpatches, &dtoken, &dplaces, &embedded}) all.push_back(one->numbers());

  Shifted pooled = out(Dtype::f32, {2, width}), mixed = out(Dtype::f32, rows), weights = f32({2, 5, 3}, 8);
  ops.mean_tokens_forward({.x = x, .y = pooled});
  ops.mix_images({.x = x, .weights = weights, .y = mixed});
  for (const Shifted* one : {&pooled, &mixed}) all.push_back(one->numbers());

  const std::int64_t n = width * 10;
  Shifted dropped = out(Dtype::bf16, {n}), flat = f32({n}, 9), more = f32({n}, 10), sum = out(Dtype::f32, {n});
  ops.dropout({.x = flat, .residual = more, .draw = {.rate = 0.3, .seed = 3}, .y = dropped});
  ops.from_bf16({.x = dropped, .residual = more, .y = sum});
  for (const Shifted* one : {&dropped, &sum}) all.push_back(one->numbers());

  Shifted logits = f32({3, width}, 11), targets = f32({3, width}, 12), loss = out(Dtype::f32, {3}),
          dlogits = out(Dtype::f32, {3, width});
  ops.softmax_cross_entropy({.logits = logits, .targets = targets, .scale = 0.5, .loss = loss, .dlogits = dlogits});
  for (const Shifted* one : {&loss, &dlogits}) all.push_back(one->numbers());
  ops.sigmoid_cross_entropy({.logits = logits, .targets = targets, .scale = 0.5, .loss = loss, .dlogits = dlogits});
  for (const Shifted* one : {&loss, &dlogits}) all.push_back(one->numbers());
  return all;
}

TEST(CudaBits, DoNotDependOnWhereATensorLies) {
  Gpu gpu;
  for (const std::int64_t width : {64, 260, 1280, 2500}) {
    const auto expected = run_shifted(*gpu.ops, 0, width);
    for (const std::int64_t by : {1, 2, 4})
      expect_same(run_shifted(*gpu.ops, by, width), expected, text(", shifted by ", by, ", width ", width));
  }
}

TEST(CudaBits, OfTheEmbeddingPoolingAndMixupOfALeafDoNotDependOnTheOtherLeaves) {
  for (const Precision precision : kPrecisions) {
    Gpu gpu(precision);
    const std::int64_t images = 11, tokens = 6, width = 36;
    const auto x = random_tensor(Dtype::f32, {4, images, tokens, width}, 1);
    const auto weights = random_tensor(Dtype::f32, {4, images, 3}, 2);
    const auto run = [&](const OwnedTensor& some, const OwnedTensor& some_weights) {
      const std::int64_t leaves = some.shape()[0];
      OwnedTensor dpatches(gpu.ops->stored(), {leaves, images, tokens - 1, width}),
          mean(Dtype::f32, {leaves * images, width}), mixed(Dtype::f32, {leaves, images, tokens * width}),
          dtoken(Dtype::f32, {width}), dpositions(Dtype::f32, {tokens, width});
      gpu.ops->embed_tokens_backward(
          {.dx = some, .dpatches = dpatches, .dclass_token = dtoken, .dpositions = dpositions});
      gpu.ops->mean_tokens_forward({.x = some.view().view({leaves * images, tokens, width}), .y = mean});
      gpu.ops->mix_images({.x = some.view().view(mixed.shape()), .weights = some_weights, .y = mixed});
      return std::vector<OwnedTensor>{dpatches, mean, mixed, dtoken, dpositions};
    };
    const auto together = run(x, weights);
    std::vector<std::vector<OwnedTensor>> alone;
    for (std::int64_t leaf = 0; leaf < 4; ++leaf) {
      alone.push_back(run(part(x, 0, leaf), part(weights, 0, leaf)));
      for (std::size_t i = 0; i < 3; ++i) {
        const std::int64_t count = alone.back()[i].shape()[0];
        EXPECT_TRUE(same_bits(part(together[i], 0, leaf * count, count), alone.back()[i])) << "output " << i;
      }
    }
    for (std::size_t i = 3; i < together.size(); ++i)
      EXPECT_TRUE(same_bits(together[i], sum(sum(alone[0][i], alone[1][i]), sum(alone[2][i], alone[3][i])))) << i;
  }
}

// The tree of many leaves is that of its halves.
TEST(CudaBits, OfASumOverSixteenLeavesAreThoseOfItsHalves) {
  Gpu gpu;
  const auto dx = random_tensor(Dtype::f32, {16, 3, 5, 7}, 1);
  const auto run = [&](const OwnedTensor& some) {
    OwnedTensor dpatches(Dtype::f32, some.shape()), dpositions(Dtype::f32, {5, 7});
    gpu.ops->embed_tokens_backward({.dx = some, .dpatches = dpatches, .dclass_token = {}, .dpositions = dpositions});
    return dpositions;
  };
  EXPECT_TRUE(same_bits(run(dx), sum(run(part(dx, 0, 0, 8)), run(part(dx, 0, 8, 8)))));
  EXPECT_TRUE(same_bits(run(part(dx, 0, 0, 8)), sum(run(part(dx, 0, 0, 4)), run(part(dx, 0, 4, 4)))));
  EXPECT_TRUE(same_bits(run(part(dx, 0, 0, 2)), sum(run(part(dx, 0, 0)), run(part(dx, 0, 1)))));
}

}  // namespace
}  // namespace vitrail::testing
