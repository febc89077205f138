#include "ops/verb_cost.hpp"

namespace vitrail {

namespace {

/// Bytes of the tensors that are there.
template <class... Tensors>
double bytes(const Tensors&... tensors) {
  return static_cast<double>((std::int64_t{0} + ... + (tensors ? tensors.bytes() : 0)));
}

/// FLOPs of one product of all rows of x [.. rows in] with a matrix of `columns` columns.
double product(const ConstTensor& x, std::int64_t columns) {
  return 2.0 * static_cast<double>(x.elements()) * static_cast<double>(columns);
}

std::int64_t last(const ConstTensor& x) { return x.shape[x.shape.axes() - 1]; }

/// FLOPs of one of attention's products over all images and heads: 2 T^2 Dh each. q is [leaves B T H Dh].
double attention_product(const ConstTensor& q) { return product(q, q.shape[2]); }

/// Bytes of one row of length D for every assignment.
double assigned_rows(const ConstTensor& row, const ConstTensor& rows) {
  return static_cast<double>(row.elements() * last(rows) * size_of(rows.dtype));
}

}  // namespace

VerbCost cost_of(const NormalizeImages& a) { return {0, bytes(a.images, a.y)}; }
VerbCost cost_of(const PatchesForward& a) { return {0, 2 * bytes(a.patches)}; }
VerbCost cost_of(const EmbedTokensForward& a) { return {0, bytes(a.patches, a.class_token, a.positions, a.x)}; }
VerbCost cost_of(const EmbedTokensBackward& a) { return {0, bytes(a.dx, a.dpatches, a.dclass_token, a.dpositions)}; }

VerbCost cost_of(const LayernormForward& a) { return {0, bytes(a.x, a.scale, a.bias, a.y, a.mean, a.rstd)}; }
VerbCost cost_of(const LayernormBackward& a) {
  return {0, bytes(a.dy, a.x, a.scale, a.mean, a.rstd, a.dresidual, a.dx, a.dscale, a.dbias)};
}

VerbCost cost_of(const LinearForward& a) { return {product(a.x, last(a.w)), bytes(a.x, a.w, a.b, a.residual, a.y)}; }
VerbCost cost_of(const LinearBackward& a) {
  return {(a.dx ? 2 : 1) * product(a.x, last(a.w)),
          bytes(a.dy, a.x, a.dx ? a.w : ConstTensor(), a.dresidual, a.dx, a.dw, a.db)};
}

VerbCost cost_of(const MlpForward& a) {
  return {2 * product(a.x, last(a.w1)),
          bytes(a.x, a.w1, a.b1, a.w2, a.b2, a.residual, a.y) + bytes(a.u) + 2 * bytes(a.h)};
}
VerbCost cost_of(const MlpBackward& a) {
  return {4 * product(a.x, last(a.w1)),
          bytes(a.dy, a.x, a.u, a.w1, a.w2, a.dx, a.dw1, a.db1, a.dw2, a.db2) + 2 * bytes(a.h) + 2 * bytes(a.du)};
}

VerbCost cost_of(const QkvForward& a) {
  return {3 * product(a.x, last(a.wq)), bytes(a.x, a.wq, a.wk, a.wv, a.bq, a.bk, a.bv, a.q, a.k, a.v)};
}
VerbCost cost_of(const QkvBackward& a) {
  return {6 * product(a.x, last(a.wq)),
          bytes(a.dq, a.dk, a.dv, a.x, a.wq, a.wk, a.wv, a.dx, a.dwq, a.dwk, a.dwv, a.dbq, a.dbk, a.dbv)};
}

// Forward: q k^T and p v. Backward: dv, dp, dq and dk; the scores that are computed again count nothing.
VerbCost cost_of(const AttentionForward& a) {
  return {2 * attention_product(a.q), bytes(a.q, a.k, a.v, a.out, a.log_sum_exp)};
}
VerbCost cost_of(const AttentionBackward& a) {
  return {4 * attention_product(a.q), bytes(a.dout, a.q, a.k, a.v, a.out, a.log_sum_exp, a.dq, a.dk, a.dv)};
}

VerbCost cost_of(const TakeTokenForward& a) { return {0, 2 * bytes(a.y)}; }
VerbCost cost_of(const TakeTokenBackward& a) { return {0, bytes(a.dy, a.dx)}; }
VerbCost cost_of(const TanhForward& a) { return {0, bytes(a.x, a.y)}; }
VerbCost cost_of(const TanhBackward& a) { return {0, bytes(a.dy, a.y, a.dx)}; }

VerbCost cost_of(const RouteTopK& a) {
  return {0, bytes(a.logits, a.noise, a.valid, a.gates_clean, a.gates, a.selected, a.slot, a.gate)};
}
VerbCost cost_of(const RouterLossesForward& a) {
  return {0, bytes(a.logits, a.noise, a.gates_clean, a.gates, a.selected, a.valid, a.importance, a.load, a.gshard)};
}
VerbCost cost_of(const RouterBackward& a) {
  return {0, bytes(a.dgate, a.logits, a.noise, a.gates_clean, a.gates, a.selected, a.dlogits)};
}
VerbCost cost_of(const MapSlots& a) { return {0, bytes(a.selected, a.slot, a.source, a.row)}; }

VerbCost cost_of(const GatherRowsForward& a) { return {0, bytes(a.source) + 2 * bytes(a.y)}; }
VerbCost cost_of(const GatherRowsBackward& a) {
  return {0, assigned_rows(a.row, a.dy) + bytes(a.row, a.dresidual, a.dx)};
}
VerbCost cost_of(const CombineRowsForward& a) {
  return {0, assigned_rows(a.row, a.o) + bytes(a.row, a.gate, a.residual, a.y)};
}
VerbCost cost_of(const CombineRowsBackward& a) {
  return {0, assigned_rows(a.row, a.o) + bytes(a.dy, a.row, a.source, a.gate, a.d_o, a.dgate)};
}
VerbCost cost_of(const CountAssignments& a) { return {0, bytes(a.selected, a.slot, a.assigned, a.kept)}; }

VerbCost cost_of(const OneHot& a) { return {0, bytes(a.labels, a.targets)}; }
VerbCost cost_of(const SoftmaxCrossEntropy& a) { return {0, bytes(a.logits, a.targets, a.loss, a.dlogits)}; }
VerbCost cost_of(const SigmoidCrossEntropy& a) { return {0, bytes(a.logits, a.targets, a.loss, a.dlogits)}; }
VerbCost cost_of(const Predict& a) { return {0, bytes(a.logits, a.predicted)}; }

VerbCost cost_of(const RandomNormal& a) { return {0, bytes(a.y)}; }
VerbCost cost_of(const Accumulate& a) { return {0, bytes(a.x) + 2 * bytes(a.y)}; }
VerbCost cost_of(const BlockSquareSums& a) { return {0, bytes(a.x, a.block_begin, a.sums)}; }
VerbCost cost_of(const AdamWStep& a) {
  return {0, bytes(a.gradient, a.block_begin, a.decay, a.multiplier, a.frozen) + 2 * bytes(a.parameter, a.m, a.v)};
}
VerbCost cost_of(const AllFinite& a) { return {0, bytes(a.x, a.finite)}; }

}  // namespace vitrail
