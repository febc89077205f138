// Attention: images and heads handed out to threads.

#include "ops/cpu/attention_kernels.hpp"
#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/parallel.hpp"

namespace vitrail::cpu {

namespace {
/// The heads of all images, the units of attention.
struct Heads {
  std::int64_t images, queries, keys, heads, width;
  Heads(const Shape& q, const Shape& k) : images(q[0] * q[1]), queries(q[2]), keys(k[2]), heads(q[3]), width(q[4]) {}
  [[nodiscard]] std::int64_t units() const { return images * heads; }
  /// Where a head begins in a tensor of `tokens` tokens.
  [[nodiscard]] std::int64_t begin(std::int64_t unit, std::int64_t tokens) const {
    return (unit / heads * tokens * heads + unit % heads) * width;
  }
  [[nodiscard]] HeadShape shape() const { return {queries, keys, width, heads * width}; }
  /// Of the dropout of query 0 and key 0.
  [[nodiscard]] std::uint64_t index(std::int64_t unit, const DropoutDraw& draw) const {
    return draw.first + static_cast<std::uint64_t>(unit * queries * keys);
  }
};
}  // namespace

void CpuOps::run(const AttentionForward& a) {
  const Heads heads(a.q.shape, a.k.shape);
  const DropoutMask mask(a.dropout);
  const std::int64_t scratch = attention_scratch(heads.shape());
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, heads.units(), [&](std::int64_t unit, int thread) {
    const std::int64_t query = heads.begin(unit, heads.queries);
    const std::int64_t key = heads.begin(unit, heads.keys);
    attention_head({.q = a.q.as<float>() + query,
                    .k = a.k.as<float>() + key,
                    .v = a.v.as<float>() + key,
                    .out = a.out.as<float>() + query,
                    .log_sum_exp = a.log_sum_exp.as<float>() + unit * heads.queries,
                    .shape = heads.shape(),
                    .dropout = mask.keeps_all() ? nullptr : &mask,
                    .first_index = heads.index(unit, a.dropout),
                    .scratch = scratches + thread * scratch,
                    .bf16 = precision_ == Precision::bf16});
  });
}

void CpuOps::run(const AttentionBackward& a) {
  const Heads heads(a.q.shape, a.k.shape);
  const DropoutMask mask(a.dropout);
  const std::int64_t scratch = attention_scratch(heads.shape());
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, heads.units(), [&](std::int64_t unit, int thread) {
    const std::int64_t query = heads.begin(unit, heads.queries);
    const std::int64_t key = heads.begin(unit, heads.keys);
    attention_head_backward({.dout = a.dout.as<float>() + query,
                             .q = a.q.as<float>() + query,
                             .k = a.k.as<float>() + key,
                             .v = a.v.as<float>() + key,
                             .out = a.out.as<float>() + query,
                             .log_sum_exp = a.log_sum_exp.as<float>() + unit * heads.queries,
                             .dq = a.dq.as<float>() + query,
                             .dk = a.dk.as<float>() + key,
                             .dv = a.dv.as<float>() + key,
                             .shape = heads.shape(),
                             .dropout = mask.keeps_all() ? nullptr : &mask,
                             .first_index = heads.index(unit, a.dropout),
                             .scratch = scratches + thread * scratch,
                             .bf16 = precision_ == Precision::bf16});
  });
}

}  // namespace vitrail::cpu
