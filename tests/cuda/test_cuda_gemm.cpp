// The bits of the cuda back end's products, which may depend on the shape of one leaf and expert alone; and what is
// particular to its dense layers.

#include <array>
#include <tuple>

#include <gtest/gtest.h>

#include "tests/cuda/gpu.hpp"
#include "tests/ops/mlp_calls.hpp"

namespace vitrail::testing {
namespace {

constexpr Precision kPrecisions[] = {Precision::f32, Precision::bf16};

struct BlockSizes {
  std::int64_t rows, width, hidden;
};
class CudaBits : public ::testing::TestWithParam<std::tuple<BlockSizes, Precision, bool>> {};

TEST_P(CudaBits, OfALeafDoNotDependOnTheOtherLeavesAndGradientsAreTheirTree) {
  const auto [sizes, precision, masked] = GetParam();
  const Gpu gpu(precision);
  expect_leaves_apart(*gpu.ops, mlp_inputs(gpu.ops->stored(), {4, 2, sizes.rows, sizes.width, sizes.hidden}, masked));
}

TEST_P(CudaBits, OfAnExpertDoNotDependOnTheOtherExperts) {
  const auto [sizes, precision, masked] = GetParam();
  const Gpu gpu(precision);
  expect_experts_apart(*gpu.ops, mlp_inputs(gpu.ops->stored(), {2, 4, sizes.rows, sizes.width, sizes.hidden}, masked));
}

std::string name_of(const std::tuple<BlockSizes, Precision, bool>& tested) {
  const auto [sizes, precision, masked] = tested;
  return text("rows", sizes.rows, precision == Precision::f32 ? "_f32" : "_bf16", masked ? "_masked" : "");
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaBits,
                         ::testing::Combine(::testing::Values(BlockSizes{7, 5, 9}, BlockSizes{130, 24, 40}),
                                            ::testing::ValuesIn(kPrecisions), ::testing::Bool()),
                         [](const auto& tested) { return name_of(tested.param); });

TEST(CudaGemm, MixturesOfAGroupHaveTheBitsThatItHasAlone) {
  for (const Precision precision : kPrecisions) {
    const Gpu gpu(precision);
    const std::int64_t groups = 3, tokens = 70, width = 24, slots = 40;
    const auto x = random_tensor(Dtype::f32, {groups, tokens, width}, 1);
    const auto w = random_tensor(Dtype::f32, {groups, tokens, slots}, 2);
    const auto o = random_tensor(Dtype::f32, {groups, slots, width}, 3);
    const auto run = [&](std::int64_t first, std::int64_t count) {
      const auto some = [&](const OwnedTensor& whole) { return part(whole, 0, first, count); };
      const OwnedTensor some_x = some(x), some_w = some(w), some_o = some(o);
      std::vector<OwnedTensor> out;
      for (const OwnedTensor* like : {&some_o, &some_w, &some_x, &some_x, &some_w, &some_o})
        out.emplace_back(Dtype::f32, like->shape());
      gpu.ops->mix_tokens_forward({.x = some_x, .w = some_w, .y = out[0]});
      gpu.ops->mix_tokens_backward({.dy = some_o, .x = some_x, .w = some_w, .dw = out[1], .dx = out[2]});
      gpu.ops->mix_slots_forward({.o = some_o, .w = some_w, .residual = some_x, .y = out[3]});
      gpu.ops->mix_slots_backward({.dy = some_x, .o = some_o, .w = some_w, .dw = out[4], .d_o = out[5]});
      return out;
    };
    const auto together = run(0, groups);
    for (std::int64_t group = 0; group < groups; ++group) {
      const auto alone = run(group, 1);
      for (std::size_t i = 0; i < alone.size(); ++i)
        EXPECT_TRUE(same_bits(part(together[i], 0, group), alone[i])) << "output " << i << " of group " << group;
    }
  }
}

// Query, key and value in one block of memory are one batch; in another order they are three calls.
struct QkvBlock {
  QkvBlock(const Gpu& gpu, const std::array<int, 3>& order, std::int64_t leaves, std::int64_t rows, std::int64_t width,
           std::int64_t heads)
      : stored(gpu.ops->stored()),
        x(random_tensor(stored, {leaves, rows, width}, 1)),
        w(random_tensor(stored, {3, width, heads}, 2)),
        b(random_tensor(Dtype::f32, {3, heads}, 3)),
        dy(random_tensor(stored, {3, leaves, rows, heads}, 4)),
        y(stored, {3, leaves, rows, heads}),
        dw(Dtype::f32, {3, width, heads}),
        db(Dtype::f32, {3, heads}),
        dx(stored, {leaves, rows, width}) {
    const auto one = [&](auto tensor, int i) {
      tensor = tensor.slice(order[static_cast<std::size_t>(i)], 1);
      const auto lengths = tensor.shape.lengths().subspan(1);
      return tensor.view(Shape(lengths));
    };
    const Tensor all_y = y, all_dw = dw, all_db = db;
    const ConstTensor all_w = w.view(), all_b = b.view(), all_dy = dy.view();
    gpu.ops->qkv_forward({.x = x,
                          .wq = one(all_w, 0),
                          .wk = one(all_w, 1),
                          .wv = one(all_w, 2),
                          .bq = one(all_b, 0),
                          .bk = one(all_b, 1),
                          .bv = one(all_b, 2),
                          .q = one(all_y, 0),
                          .k = one(all_y, 1),
                          .v = one(all_y, 2)});
    gpu.ops->qkv_backward({.dq = one(all_dy, 0),
                           .dk = one(all_dy, 1),
                           .dv = one(all_dy, 2),
                           .x = x,
                           .wq = one(all_w, 0),
                           .wk = one(all_w, 1),
                           .wv = one(all_w, 2),
                           .dx = dx,
                           .dwq = one(all_dw, 0),
                           .dwk = one(all_dw, 1),
                           .dwv = one(all_dw, 2),
                           .dbq = one(all_db, 0),
                           .dbk = one(all_db, 1),
                           .dbv = one(all_db, 2)});
  }
  Dtype stored;
  OwnedTensor x, w, b, dy, y, dw, db, dx;
};

TEST(CudaGemm, ProjectionsHaveTheSameBitsInOneBatchAndInThreeCalls) {
  for (const Precision precision : kPrecisions) {
    const Gpu gpu(precision);
    for (const std::int64_t leaves : {1, 2, 4}) {
      for (const auto& [rows, width, heads] : {std::tuple{70, 24, 40}, std::tuple{5, 16, 8}}) {
        const QkvBlock one(gpu, {0, 1, 2}, leaves, rows, width, heads);
        for (const std::array<int, 3>& order : {std::array{1, 0, 2}, std::array{0, 2, 1}}) {
          const QkvBlock three(gpu, order, leaves, rows, width, heads);
          EXPECT_TRUE(same_bits(one.y, three.y));
          EXPECT_TRUE(same_bits(one.dw, three.dw));
          EXPECT_TRUE(same_bits(one.db, three.db));
          const double tolerance = precision == Precision::f32 ? 1e-6 : 1e-2;  // dx is a sum in the order of q, k, v
          EXPECT_LE(largest_difference(one.dx, three.dx), tolerance * one.dx.largest());
        }
      }
    }
  }
}

struct LinearOutputs {
  OwnedTensor y, dx, dw, db;
};
LinearOutputs run_linear(Ops& ops, const OwnedTensor& x, const OwnedTensor& w, const OwnedTensor& dy, bool exact) {
  const Shape narrow = x.shape(), wide = dy.shape();
  const auto b = random_tensor(Dtype::f32, {wide[1], wide[3]}, 9);
  LinearOutputs out{OwnedTensor(Dtype::f32, wide), OwnedTensor(Dtype::f32, narrow), OwnedTensor(Dtype::f32, w.shape()),
                    OwnedTensor(Dtype::f32, {wide[1], wide[3]})};
  ops.linear_forward({.x = x, .w = w, .b = b, .residual = {}, .y = out.y, .exact = exact});
  ops.linear_backward(
      {.dy = dy, .x = x, .w = w, .dresidual = {}, .dx = out.dx, .dw = out.dw, .db = out.db, .exact = exact});
  return out;
}
bool same_products(const LinearOutputs& a, const LinearOutputs& b) {
  return same_bits(a.y, b.y) && same_bits(a.dx, b.dx) && same_bits(a.dw, b.dw);
}

TEST(CudaGemm, OperandsInF32AreRoundedAsThoseThatAreStoredInBf16AndExactOnesAreNot) {
  const auto x = random_tensor(Dtype::f32, {2, 2, 70, 24}, 1), w = random_tensor(Dtype::f32, {2, 24, 40}, 2),
             dy = random_tensor(Dtype::f32, {2, 2, 70, 40}, 3);
  LinearOutputs in_f32, rounded, stored, exact;
  {
    const Gpu gpu(Precision::f32);
    in_f32 = run_linear(*gpu.ops, x.to(Dtype::f32), w.to(Dtype::f32), dy.to(Dtype::f32), false);
  }
  const Gpu gpu(Precision::bf16);
  rounded = run_linear(*gpu.ops, x.to(Dtype::f32), w.to(Dtype::f32), dy.to(Dtype::f32), false);
  stored = run_linear(*gpu.ops, x.to(Dtype::bf16), w.to(Dtype::bf16), dy.to(Dtype::bf16), false);
  exact = run_linear(*gpu.ops, x.to(Dtype::f32), w.to(Dtype::f32), dy.to(Dtype::f32), true);
  EXPECT_TRUE(same_products(rounded, stored));
  EXPECT_TRUE(same_products(exact, in_f32));
  EXPECT_FALSE(same_products(rounded, in_f32));
  EXPECT_TRUE(same_bits(rounded.db, in_f32.db)) << "the bias gradient sums dy as it came";
  EXPECT_FALSE(same_bits(stored.db, in_f32.db));
}

TEST(CudaGemm, AnOperandThatIsNotAlignedAsItsRowsPromiseIsRefused) {
  const Gpu gpu(Precision::f32);
  const auto x = random_tensor(Dtype::f32, {1, 1, 9, 8}, 1), w = random_tensor(Dtype::f32, {1, 8, 4}, 2);
  OwnedTensor y(Dtype::f32, {1, 1, 8, 4});
  ConstTensor inside = x.view().view({72}).slice(1, 64).view({1, 1, 8, 8});
  try {
    gpu.ops->linear_forward({.x = inside, .w = w, .b = {}, .residual = {}, .y = y});
    ADD_FAILURE() << "it was multiplied";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("not aligned to 16 bytes"), std::string::npos) << error.what();
  }
  inside = x.view().view({72}).slice(8, 64).view({1, 1, 8, 8});
  EXPECT_NO_THROW(gpu.ops->linear_forward({.x = inside, .w = w, .b = {}, .residual = {}, .y = y}));
}

TEST(CudaGemm, SealLetsProductsPassThatWereSeenInAnyNumberAndRefusesNewOnes) {
  for (const Precision precision : kPrecisions) {
    const Gpu gpu(precision);
    const Dtype stored = gpu.ops->stored();
    run_mlp(*gpu.ops, mlp_inputs(stored, {4, 4, 20, 16, 32}, false));
    gpu.ops->seal();
    for (const std::int64_t leaves : {1, 2, 4})
      EXPECT_NO_THROW(run_mlp(*gpu.ops, mlp_inputs(stored, {leaves, leaves, 20, 16, 32}, false)));
    try {
      run_mlp(*gpu.ops, mlp_inputs(stored, {1, 1, 19, 16, 32}, false));
      ADD_FAILURE() << "a new product was let through";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("sealed"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace vitrail::testing
