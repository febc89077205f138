#include "model/moe.hpp"

#include "model/experts.hpp"
#include "model/router.hpp"
#include "model/soft_moe.hpp"

namespace vitrail {

namespace {

Tensor flat(Tensor x) { return x.view({x.elements()}); }

/// Any [... D] as [rows D].
template <class AnyTensor>
AnyTensor rows_of(AnyTensor x, std::int64_t d) {
  return x.view({x.elements() / d, d});
}

/// dx += the gradients of the rows that its tokens were sent as; rounded to bfloat16 once more if they travelled in it.
void add_rows_gradient(Ops& ops, const ModelConfig& c, const PassScratch& s, ConstTensor row, Tensor dx) {
  const ConstTensor drows = rows_of(s.rows_home, c.width);
  if (!c.router.exchange_bf16) {
    return ops.gather_rows_backward({.dy = drows, .row = row, .dresidual = dx, .dx = dx});
  }
  if (s.rows_home.dtype == Dtype::bf16) {
    ops.gather_rows_backward({.dy = drows, .row = row, .dresidual = {}, .dx = rows_of(s.wire_tokens, c.width)});
  } else {
    const Tensor sum = s.dq.view(dx.shape);  // free in this half of the block
    ops.gather_rows_backward({.dy = drows, .row = row, .dresidual = {}, .dx = sum});
    ops.to_bf16({.x = flat(sum), .y = flat(s.wire_tokens)});
  }
  ops.from_bf16({.x = flat(s.wire_tokens), .residual = flat(dx), .y = flat(dx)});
}

}  // namespace

void moe_forward(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                 ConstTensor residual, Mode mode, Activations& acts, MoeActivations& moe, Tensor y) {
  if (c.router.kind == RouterKind::soft) {
    return soft_moe_forward(workers, c, params, x, residual, mode, acts, moe, y);
  }
  Ops& ops = workers.ops;
  const std::int64_t d = c.width;
  const Shape by_token{x.shape[0] * x.shape[1], c.choices()};
  router_forward(ops, c, params, x, mode, acts, moe);
  ops.gather_rows_forward({.x = rows_of(x, d),
                           .source = flat(moe.source),
                           .choices = c.choices(),
                           .y = rows_of(experts_input(workers, acts, moe), d)});
  experts_forward(workers, c, params, mode, acts, moe);
  ops.combine_rows_forward({.o = rows_of(moe.o, d),
                            .row = moe.row.view(by_token),
                            .gate = moe.weight.view(by_token),
                            .residual = residual ? rows_of(residual, d) : residual,
                            .y = rows_of(y, d)});
}

void moe_backward(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                  ConstTensor dy, double group_scale, Activations& acts, MoeActivations& moe, BlockParams& gradients,
                  Tensor dx) {
  if (c.router.kind == RouterKind::soft) return soft_moe_backward(workers, c, params, x, dy, acts, moe, gradients, dx);
  Ops& ops = workers.ops;
  const std::int64_t d = c.width;
  const Shape by_token{x.shape[0] * x.shape[1], c.choices()};
  // The gradient of the experts' outputs takes the place of the outputs.
  ops.combine_rows_backward({.dy = rows_of(dy, d),
                             .o = rows_of(moe.o, d),
                             .row = moe.row.view(by_token),
                             .source = flat(moe.source),
                             .gate = moe.weight.view(by_token),
                             .d_o = rows_of(moe.o, d),
                             .dgate = acts.scratch.dgate.view(by_token)});
  experts_backward(workers, c, params, acts, moe, gradients);
  router_backward(ops, c, params, x, group_scale, acts, moe, gradients, dx);
  add_rows_gradient(ops, c, acts.scratch, moe.row.view(by_token), rows_of(dx, d));
}

}  // namespace vitrail
