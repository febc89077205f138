#include "model/experts.hpp"

#include "model/dropout.hpp"

namespace vitrail {

namespace {

bool moves(const Workers& workers) { return workers.expert_ranks.size() > 1; }

Tensor flat(Tensor x) { return x.view({x.elements()}); }
ConstTensor flat(ConstTensor x) { return x.view({x.elements()}); }

/// Part r of `from` goes to expert rank r, part r of `to` came from it; on one rank they are the same memory.
void exchange(const Workers& workers, ConstTensor from, Tensor to) {
  if (moves(workers)) workers.expert_ranks.all_to_all(from, to);
}
/// The same by way of bfloat16, through two buffers like `from` and `to`.
void exchange_rounded(const Workers& workers, ConstTensor from, Tensor wire_from, Tensor wire_to, Tensor to) {
  workers.ops.to_bf16({.x = flat(from), .y = flat(wire_from)});
  exchange(workers, wire_from, wire_to);
  const Tensor arrived = moves(workers) ? wire_to : wire_from;
  workers.ops.from_bf16({.x = flat(arrived), .residual = {}, .y = flat(to)});
}
/// Rows that are stored in bfloat16 travel as they are.
bool is_rounded(const ModelConfig& c, const ConstTensor& rows) {
  return c.router.exchange_bf16 && rows.dtype != Dtype::bf16;
}
void to_owners(const Workers& workers, const ModelConfig& c, const PassScratch& s, ConstTensor home, Tensor owner) {
  if (!is_rounded(c, home)) return exchange(workers, home, owner);
  exchange_rounded(workers, home, s.wire_home, s.wire_owner, owner);
}
void to_home(const Workers& workers, const ModelConfig& c, const PassScratch& s, ConstTensor owner, Tensor home) {
  if (!is_rounded(c, owner)) return exchange(workers, owner, home);
  exchange_rounded(workers, owner, moves(workers) ? s.wire_owner : s.wire_home, s.wire_home, home);
}

/// Outputs of the experts, or their gradients, before they go home or after they came: moe.o itself on one rank.
Tensor at_owner(const Workers& workers, const PassScratch& s, const MoeActivations& moe) {
  return moves(workers) ? s.rows_owner : moe.o.view(moe.expert_x.shape);
}

ConstTensor hidden_mask(Ops& ops, const ModelConfig& c, const Activations& acts, std::int64_t block, Mode mode) {
  if (mode == Mode::evaluation || c.expert_dropout <= 0) return {};
  const Tensor mask = acts.scratch.expert_mask;
  const DropoutDraw draw = expert_dropout(c, acts, block, DropoutPlace::hidden, c.mlp_width);
  ops.dropout({.x = {}, .residual = {}, .draw = draw, .y = flat(mask)});
  return mask;
}
/// Of outputs, and of their gradients.
void drop_outputs(Ops& ops, const ModelConfig& c, const Activations& acts, std::int64_t block, Mode mode, Tensor rows) {
  if (mode == Mode::evaluation || c.expert_dropout <= 0) return;
  const DropoutDraw draw = expert_dropout(c, acts, block, DropoutPlace::output, c.width);
  ops.dropout({.x = flat(rows), .residual = {}, .draw = draw, .y = flat(rows)});
}

}  // namespace

Tensor experts_input(const Workers& workers, const Activations& acts, const MoeActivations& moe) {
  return moves(workers) ? acts.scratch.rows_home : moe.expert_x.view(moe.o.shape);
}

void experts_forward(const Workers& workers, const ModelConfig& c, const BlockParams& params, Mode mode,
                     Activations& acts, MoeActivations& moe) {
  Ops& ops = workers.ops;
  PassScratch& s = acts.scratch;
  to_owners(workers, c, s, experts_input(workers, acts, moe), moe.expert_x);
  const Tensor computed = at_owner(workers, s, moe);
  ops.mlp_forward({.x = moe.expert_x,
                   .w1 = params.mlp0.w,
                   .b1 = params.mlp0.b,
                   .w2 = params.mlp1.w,
                   .b2 = params.mlp1.b,
                   .hidden_mask = hidden_mask(ops, c, acts, moe.block, mode),
                   .residual = {},
                   .u = moe.expert_u,
                   .h = s.expert_h,
                   .y = computed});
  drop_outputs(ops, c, acts, moe.block, mode, computed);
  to_home(workers, c, s, computed, moe.o);
}

void experts_backward(const Workers& workers, const ModelConfig& c, const BlockParams& params, Activations& acts,
                      MoeActivations& moe, BlockParams& gradients) {
  Ops& ops = workers.ops;
  PassScratch& s = acts.scratch;
  const Tensor dy = at_owner(workers, s, moe);
  to_owners(workers, c, s, moe.o, dy);
  drop_outputs(ops, c, acts, moe.block, Mode::training, dy);
  ops.mlp_backward({.dy = dy,
                    .x = moe.expert_x,
                    .u = moe.expert_u,
                    .w1 = params.mlp0.w,
                    .w2 = params.mlp1.w,
                    .hidden_mask = hidden_mask(ops, c, acts, moe.block, Mode::training),
                    .h = s.expert_h,
                    .du = s.expert_du,
                    .dx = s.rows_owner_dx,
                    .dw1 = gradients.mlp0.w,
                    .db1 = gradients.mlp0.b,
                    .dw2 = gradients.mlp1.w,
                    .db2 = gradients.mlp1.b,
                    .update1 = gradients.mlp0.update,
                    .update2 = gradients.mlp1.update});
  to_home(workers, c, s, s.rows_owner_dx, s.rows_home);
}

}  // namespace vitrail
