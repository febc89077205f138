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

/// One unit: the first of its heads, and where that begins.
struct Unit {
  const Heads& of;
  std::int64_t image;
  std::int64_t first;  // head of the image
  Unit(const Heads& heads, std::int64_t unit)
      : of(heads), image(unit / heads.units_of_image()), first(unit % heads.units_of_image() * heads.of_unit) {}
  [[nodiscard]] std::int64_t count() const { return std::min(of.of_unit, of.shape.heads - first); }
  /// In a tensor of `tokens` tokens.
  [[nodiscard]] std::int64_t begin(std::int64_t tokens) const {
    return (image * tokens * of.shape.heads + first) * of.shape.width;
  }
  /// In a tensor with one number for every image, head and query.
  [[nodiscard]] std::int64_t row() const { return (image * of.shape.heads + first) * of.shape.queries; }
  /// Of the dropout of query 0 and key 0.
  [[nodiscard]] std::uint64_t index(const DropoutDraw& draw) const {
    return draw.first + static_cast<std::uint64_t>(row() * of.shape.keys);
  }
};

template <class T>
void forward(const AttentionForward& a, int threads, Workspace& workspace, bool round) {
  const Heads heads(a.q.shape, a.k.shape, threads);
  const DropoutMask mask(a.dropout);
  const std::int64_t scratch = attention_scratch(heads.shape, !mask.keeps_all());
  float* const scratches = workspace.floats(threads * scratch);
  for_each_unit(threads, heads.units(), [&](std::int64_t number, int thread) {
    const Unit unit(heads, number);
    const std::int64_t query = unit.begin(heads.shape.queries);
    const std::int64_t key = unit.begin(heads.shape.keys);
    attention_heads(AttentionHeads<T>{.q = a.q.as<T>() + query,
                                      .k = a.k.as<T>() + key,
                                      .v = a.v.as<T>() + key,
                                      .out = a.out.as<T>() + query,
                                      .log_sum_exp = a.log_sum_exp.as<float>() + unit.row(),
                                      .shape = heads.shape,
                                      .count = unit.count(),
                                      .dropout = mask.keeps_all() ? nullptr : &mask,
                                      .first_index = unit.index(a.dropout),
                                      .scratch = scratches + thread * scratch,
                                      .round = round});
  });
}

template <class T>
void backward(const AttentionBackward& a, int threads, Workspace& workspace, bool round) {
  const Heads heads(a.q.shape, a.k.shape, threads);
  const DropoutMask mask(a.dropout);
  const std::int64_t scratch = attention_scratch(heads.shape, !mask.keeps_all());
  float* const scratches = workspace.floats(threads * scratch);
  for_each_unit(threads, heads.units(), [&](std::int64_t number, int thread) {
    const Unit unit(heads, number);
    const std::int64_t query = unit.begin(heads.shape.queries);
    const std::int64_t key = unit.begin(heads.shape.keys);
    attention_heads_backward(AttentionHeadsBackward<T>{.dout = a.dout.as<T>() + query,
                                                       .q = a.q.as<T>() + query,
                                                       .k = a.k.as<T>() + key,
                                                       .v = a.v.as<T>() + key,
                                                       .log_sum_exp = a.log_sum_exp.as<float>() + unit.row(),
                                                       .dq = a.dq.as<T>() + query,
                                                       .dk = a.dk.as<T>() + key,
                                                       .dv = a.dv.as<T>() + key,
                                                       .shape = heads.shape,
                                                       .count = unit.count(),
                                                       .dropout = mask.keeps_all() ? nullptr : &mask,
                                                       .first_index = unit.index(a.dropout),
                                                       .scratch = scratches + thread * scratch,
                                                       .round = round});
  });
}

}  // namespace

void CpuOps::run(const AttentionForward& a) {
  if (a.q.dtype == Dtype::bf16) {
    forward<Bf16>(a, threads_, workspace_, false);
  } else {
    forward<float>(a, threads_, workspace_, precision_ == Precision::bf16);
  }
}

void CpuOps::run(const AttentionBackward& a) {
  if (a.q.dtype == Dtype::bf16) {
    backward<Bf16>(a, threads_, workspace_, false);
  } else {
    backward<float>(a, threads_, workspace_, precision_ == Precision::bf16);
  }
}

}  // namespace vitrail::cpu
