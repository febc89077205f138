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

/// FLOPs of one of attention's products over all images and heads: 2 Tq T Dh each. q [leaves B Tq H Dh], k [leaves B T
/// H Dh].
double attention_product(const ConstTensor& q, const ConstTensor& k) { return product(q, k.shape[2]); }

/// Probabilities of all images and heads.
double attention_probabilities(const ConstTensor& log_sum_exp, const ConstTensor& k) {
  return static_cast<double>(log_sum_exp.elements() * k.shape[2]);
}

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
  if (!a.y) return {product(a.x, last(a.w1)), bytes(a.x, a.w1, a.b1, a.u)};
  return {2 * product(a.x, last(a.w1)),
          bytes(a.x, a.w1, a.b1, a.w2, a.b2, a.hidden_mask, a.residual, a.y) + bytes(a.u) + 2 * bytes(a.h)};
}
VerbCost cost_of(const MlpBackward& a) {
  // A gradient, or what an update reads and writes instead.
  const auto of_weight = [](const Tensor& dw, const EarlyUpdate* update) {
    return update == nullptr ? bytes(dw) : 2 * bytes(update->parameter, update->m, update->v);
  };
  return {4 * product(a.x, last(a.w1)), bytes(a.dy, a.x, a.u, a.w1, a.w2, a.hidden_mask, a.dx, a.db1, a.db2) +
                                            2 * bytes(a.h) + 2 * bytes(a.du) + of_weight(a.dw1, a.update1) +
                                            of_weight(a.dw2, a.update2)};
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
  return {2 * attention_product(a.q, a.k), bytes(a.q, a.k, a.v, a.out, a.log_sum_exp),
          attention_probabilities(a.log_sum_exp, a.k)};
}
VerbCost cost_of(const AttentionBackward& a) {
  return {4 * attention_product(a.q, a.k), bytes(a.dout, a.q, a.k, a.v, a.out, a.log_sum_exp, a.dq, a.dk, a.dv),
          attention_probabilities(a.log_sum_exp, a.k)};
}

VerbCost cost_of(const TakeTokenForward& a) { return {0, 2 * bytes(a.y)}; }
VerbCost cost_of(const TakeTokenBackward& a) { return {0, bytes(a.dy, a.dx)}; }
VerbCost cost_of(const Dropout& a) { return {0, bytes(a.x, a.residual, a.y)}; }
VerbCost cost_of(const MeanTokensForward& a) { return {0, bytes(a.x, a.y)}; }
VerbCost cost_of(const MeanTokensBackward& a) { return {0, bytes(a.dy, a.dx)}; }
VerbCost cost_of(const ToBf16& a) { return {0, bytes(a.x, a.y)}; }
VerbCost cost_of(const FromBf16& a) { return {0, bytes(a.x, a.residual, a.y)}; }
VerbCost cost_of(const TanhForward& a) { return {0, bytes(a.x, a.y)}; }
VerbCost cost_of(const TanhBackward& a) { return {0, bytes(a.dy, a.y, a.dx)}; }

VerbCost cost_of(const RouteTopK& a) {
  return {0, bytes(a.logits, a.noise, a.valid, a.gates_clean, a.gates, a.selected, a.slot, a.gate)};
}
VerbCost cost_of(const RouteAsGiven& a) {
  return {0, bytes(a.logits, a.noise, a.selected, a.gates_clean, a.gates, a.gate)};
}
VerbCost cost_of(const RouteExpertsChoice& a) {
  return {0, bytes(a.logits, a.noise, a.valid, a.gates_clean, a.gates, a.selected, a.slot)};
}
VerbCost cost_of(const ShuffleExperts& a) { return {0, bytes(a.x, a.y)}; }
VerbCost cost_of(const NormalizeGatesForward& a) { return {0, bytes(a.gate, a.row, a.y)}; }
VerbCost cost_of(const NormalizeGatesBackward& a) { return {0, bytes(a.dy, a.gate, a.row, a.y, a.dgate)}; }
VerbCost cost_of(const SoftRouterForward& a) {
  return {product(a.x, last(a.mu)),
          bytes(a.x, a.mu, a.scale, a.noise, a.valid, a.x_rnorm, a.mu_rnorm, a.dispatch, a.combine)};
}
VerbCost cost_of(const SoftRouterBackward& a) {
  return {2 * product(a.x, last(a.mu)), bytes(a.ddispatch, a.dcombine, a.x, a.mu, a.scale, a.x_rnorm, a.mu_rnorm,
                                              a.dispatch, a.combine, a.dresidual, a.dx, a.dmu, a.dscale) +
                                            2 * bytes(a.dlogits)};
}
VerbCost cost_of(const MixTokensForward& a) { return {product(a.x, last(a.w)), bytes(a.x, a.w, a.y)}; }
VerbCost cost_of(const MixTokensBackward& a) {
  return {2 * product(a.x, last(a.w)), bytes(a.dy, a.x, a.w, a.dw, a.dx)};
}
VerbCost cost_of(const MixSlotsForward& a) { return {product(a.y, last(a.w)), bytes(a.o, a.w, a.residual, a.y)}; }
VerbCost cost_of(const MixSlotsBackward& a) {
  return {2 * product(a.dy, last(a.w)), bytes(a.dy, a.o, a.w, a.dw, a.d_o)};
}
VerbCost cost_of(const RouterLossesForward& a) {
  return {0,
          bytes(a.logits, a.noise, a.gates_clean, a.gates, a.selected, a.valid, a.importance, a.load, a.gshard, a.z)};
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
VerbCost cost_of(const CountAssignments& a) { return {0, bytes(a.selected, a.slot, a.assigned, a.kept, a.processed)}; }

VerbCost cost_of(const OneHot& a) { return {0, bytes(a.labels, a.targets)}; }
VerbCost cost_of(const MixImages& a) { return {0, bytes(a.x, a.weights, a.y)}; }
VerbCost cost_of(const SoftmaxCrossEntropy& a) { return {0, bytes(a.logits, a.targets, a.loss, a.dlogits)}; }
VerbCost cost_of(const SigmoidCrossEntropy& a) { return {0, bytes(a.logits, a.targets, a.loss, a.dlogits)}; }
VerbCost cost_of(const Predict& a) { return {0, bytes(a.logits, a.predicted)}; }

VerbCost cost_of(const RandomNormal& a) { return {0, bytes(a.y)}; }
VerbCost cost_of(const InitialValues& a) { return {0, bytes(a.y)}; }
VerbCost cost_of(const Accumulate& a) { return {0, bytes(a.x) + 2 * bytes(a.y)}; }
VerbCost cost_of(const BlockSquareSums& a) { return {0, bytes(a.x, a.block_begin, a.sums)}; }
VerbCost cost_of(const ClipScale& a) { return {0, bytes(a.sums, a.order, a.weights, a.norm, a.scale, a.halt)}; }
VerbCost cost_of(const AdamWStep& a) {
  return {0, bytes(a.gradient, a.block_begin, a.decay, a.multiplier, a.frozen) + 2 * bytes(a.parameter, a.m, a.v)};
}
VerbCost cost_of(const SgdStep& a) {
  return {0, bytes(a.gradient, a.block_begin, a.decay, a.multiplier, a.frozen) + 2 * bytes(a.parameter, a.trace)};
}
VerbCost cost_of(const AdafactorStep& a) {
  return {0, bytes(a.gradient, a.unit_begin, a.factors, a.statistics_begin, a.decay, a.multiplier, a.frozen) +
                 2 * bytes(a.parameter, a.statistics, a.m)};
}
VerbCost cost_of(const RunningAverage& a) { return {0, bytes(a.x) + 2 * bytes(a.y)}; }
VerbCost cost_of(const AllFinite& a) { return {0, bytes(a.x, a.finite)}; }

}  // namespace vitrail
