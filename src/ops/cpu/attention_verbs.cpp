// Attention: images and heads handed out to threads.

#include <algorithm>

#include "ops/cpu/attention_kernels.hpp"
#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/parallel.hpp"

namespace vitrail::cpu {

namespace {

/// The heads of all images, cut in units of some heads of one image. No bit depends on the cut: a few units for every
/// thread are enough, and what a thread does next is then mostly known ahead.
struct Heads {
  std::int64_t images;
  HeadShape shape;
  std::int64_t of_unit;

  Heads(const Shape& q, const Shape& k, int threads) : images(q[0] * q[1]), shape{q[2], k[2], q[3], q[4]} {
    const std::int64_t together = heads_together(shape);
    const std::int64_t groups = images * shape.heads / (kUnitsOfThread * threads * together);
    of_unit = std::clamp(groups * together, together, shape.heads);
  }
  [[nodiscard]] std::int64_t units_of_image() const { return (shape.heads + of_unit - 1) / of_unit; }
  [[nodiscard]] std::int64_t units() const { return images * units_of_image(); }

 private:
  static constexpr std::int64_t kUnitsOfThread = 4;
};

/// Some heads of an image, and where they lie.
struct Unit {
  HeadShape shape;
  std::int64_t count;  // heads
  std::int64_t query;  // elements before them in a tensor of queries
  std::int64_t key;    // and of keys
  std::int64_t row;    // numbers before them in a tensor with one for every image, head and query
  const DropoutMask* dropout;
  std::uint64_t first_index;
  float* scratch;
};

/// body(unit) for all heads of q and k, handed out to threads.
template <class Body>
void for_units(const Shape& q, const Shape& k, const DropoutDraw& draw, AttentionProducts products, int threads,
               Workspace& workspace, const Body& body) {
  const Heads heads(q, k, threads);
  const HeadShape& n = heads.shape;
  const DropoutMask mask(draw);
  const std::int64_t scratch = attention_scratch(n, !mask.keeps_all(), products);
  float* const scratches = workspace.floats(threads * scratch);
  for_each_unit(threads, heads.units(), [&](std::int64_t number, int thread) {
    const std::int64_t image = number / heads.units_of_image();
    const std::int64_t first = number % heads.units_of_image() * heads.of_unit;
    const std::int64_t row = (image * n.heads + first) * n.queries;
    body(Unit{.shape = n,
              .count = std::min(heads.of_unit, n.heads - first),
              .query = (image * n.queries * n.heads + first) * n.width,
              .key = (image * n.keys * n.heads + first) * n.width,
              .row = row,
              .dropout = mask.keeps_all() ? nullptr : &mask,
              .first_index = draw.first + static_cast<std::uint64_t>(row * n.keys),
              .scratch = scratches + thread * scratch});
  });
}

template <class T>
void forward(const AttentionForward& a, AttentionProducts products, int threads, Workspace& workspace) {
  for_units(a.q.shape, a.k.shape, a.dropout, products, threads, workspace, [&](const Unit& unit) {
    attention_heads(AttentionHeads<T>{.q = a.q.as<T>() + unit.query,
                                      .k = a.k.as<T>() + unit.key,
                                      .v = a.v.as<T>() + unit.key,
                                      .out = a.out.as<T>() + unit.query,
                                      .log_sum_exp = a.log_sum_exp.as<float>() + unit.row,
                                      .shape = unit.shape,
                                      .count = unit.count,
                                      .dropout = unit.dropout,
                                      .first_index = unit.first_index,
                                      .scratch = unit.scratch,
                                      .products = products});
  });
}

template <class T>
void backward(const AttentionBackward& a, AttentionProducts products, int threads, Workspace& workspace) {
  for_units(a.q.shape, a.k.shape, a.dropout, products, threads, workspace, [&](const Unit& unit) {
    attention_heads_backward(AttentionHeadsBackward<T>{.dout = a.dout.as<T>() + unit.query,
                                                       .q = a.q.as<T>() + unit.query,
                                                       .k = a.k.as<T>() + unit.key,
                                                       .v = a.v.as<T>() + unit.key,
                                                       .log_sum_exp = a.log_sum_exp.as<float>() + unit.row,
                                                       .dq = a.dq.as<T>() + unit.query,
                                                       .dk = a.dk.as<T>() + unit.key,
                                                       .dv = a.dv.as<T>() + unit.key,
                                                       .shape = unit.shape,
                                                       .count = unit.count,
                                                       .dropout = unit.dropout,
                                                       .first_index = unit.first_index,
                                                       .scratch = unit.scratch,
                                                       .products = products});
  });
}

/// How a call makes its products.
AttentionProducts products_of(const ConstTensor& q, Way way) {
  const bool is_bf16 = q.dtype == Dtype::bf16;
  if (is_bf16 && multiplied_dtype(way) == Dtype::bf16 && q.shape[4] % 2 == 0) return AttentionProducts::bf16_pairs;
  return way == Way::f32 || is_bf16 ? AttentionProducts::f32 : AttentionProducts::f32_of_rounded;
}

}  // namespace

void CpuOps::run(const AttentionForward& a) {
  const AttentionProducts products = products_of(a.q, gemm_.way());
  (a.q.dtype == Dtype::bf16 ? forward<Bf16> : forward<float>)(a, products, threads_, workspace_);
}

void CpuOps::run(const AttentionBackward& a) {
  const AttentionProducts products = products_of(a.q, gemm_.way());
  (a.q.dtype == Dtype::bf16 ? backward<Bf16> : backward<float>)(a, products, threads_, workspace_);
}

}  // namespace vitrail::cpu
