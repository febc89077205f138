// The shapes written beside the fields in the verb headers, executed.

#include "ops/ops.hpp"
#include "ops/shape_check.hpp"

namespace vitrail {

namespace {
void expect_power_of_two(const ShapeCheck& check) {
  const std::int64_t leaves = check["leaves"];
  check.expect(leaves > 0 && (leaves & (leaves - 1)) == 0, "the number of leaves must be a power of two");
}
}  // namespace

void NormalizeImages::check() const {
  ShapeCheck c("normalize_images");
  c.exactly(Dtype::u8, "images", images, "images h w c");
  c.real("y", y, "images h w c");
}

void PatchesForward::check() const {
  ShapeCheck c("patches_forward");
  c.real("images", images, "images h w c");
  c.expect(patch_rows > 0 && patch_columns > 0, "patch sides must be positive");
  c.letter("Tp", (c["h"] / patch_rows) * (c["w"] / patch_columns));
  c.letter("patch", patch_rows * patch_columns * c["c"]);
  c.real("patches", patches, "images Tp patch");
}

void EmbedTokensForward::check() const {
  ShapeCheck c("embed_tokens_forward");
  c.real("patches", patches, "leaves B Tp D");
  c.optional("class_token", class_token, "D");
  c.letter("T", c["Tp"] + (class_token ? 1 : 0));
  c.optional("positions", positions, "T D");
  c.real("x", x, "leaves B T D");
}

void EmbedTokensBackward::check() const {
  ShapeCheck c("embed_tokens_backward");
  c.real("dpatches", dpatches, "leaves B Tp D");
  c.optional("dclass_token", dclass_token, "D");
  c.letter("T", c["Tp"] + (dclass_token ? 1 : 0));
  c.optional("dpositions", dpositions, "T D");
  c.real("dx", dx, "leaves B T D");
  expect_power_of_two(c);
}

void LayernormForward::check() const {
  ShapeCheck c("layernorm_forward");
  c.real("x", x, "leaves rows D");
  c.real("scale", scale, "D");
  c.real("bias", bias, "D");
  c.real("y", y, "leaves rows D");
  c.real("mean", mean, "leaves rows");
  c.real("rstd", rstd, "leaves rows");
}

void LayernormBackward::check() const {
  ShapeCheck c("layernorm_backward");
  c.real("dy", dy, "leaves rows D");
  c.real("x", x, "leaves rows D");
  c.real("scale", scale, "D");
  c.real("mean", mean, "leaves rows");
  c.real("rstd", rstd, "leaves rows");
  c.optional("dresidual", dresidual, "leaves rows D");
  c.real("dx", dx, "leaves rows D");
  c.real("dscale", dscale, "D");
  c.real("dbias", dbias, "D");
  expect_power_of_two(c);
}

void LinearForward::check() const {
  ShapeCheck c("linear_forward");
  c.real("x", x, "leaves E rows in");
  c.real("w", w, "E in out");
  c.optional("b", b, "E out");
  c.optional("residual", residual, "leaves E rows out");
  c.real("y", y, "leaves E rows out");
}

void LinearBackward::check() const {
  ShapeCheck c("linear_backward");
  c.real("dy", dy, "leaves E rows out");
  c.real("x", x, "leaves E rows in");
  c.real("w", w, "E in out");
  c.optional("dresidual", dresidual, "leaves E rows in");
  c.optional("dx", dx, "leaves E rows in");
  c.real("dw", dw, "E in out");
  c.optional("db", db, "E out");
  expect_power_of_two(c);
}

void MlpForward::check() const {
  ShapeCheck c("mlp_forward");
  c.real("x", x, "leaves E rows D");
  c.real("w1", w1, "E D F");
  c.real("b1", b1, "E F");
  c.real("w2", w2, "E F D");
  c.real("b2", b2, "E D");
  c.optional("residual", residual, "leaves E rows D");
  c.real("u", u, "leaves E rows F");
  c.real("h", h, "leaves E rows F");
  c.real("y", y, "leaves E rows D");
}

void MlpBackward::check() const {
  ShapeCheck c("mlp_backward");
  c.real("dy", dy, "leaves E rows D");
  c.real("x", x, "leaves E rows D");
  c.real("u", u, "leaves E rows F");
  c.real("w1", w1, "E D F");
  c.real("w2", w2, "E F D");
  c.real("h", h, "leaves E rows F");
  c.real("du", du, "leaves E rows F");
  c.real("dx", dx, "leaves E rows D");
  c.real("dw1", dw1, "E D F");
  c.real("db1", db1, "E F");
  c.real("dw2", dw2, "E F D");
  c.real("db2", db2, "E D");
  expect_power_of_two(c);
}

void QkvForward::check() const {
  ShapeCheck c("qkv_forward");
  c.real("x", x, "leaves rows D");
  for (const ConstTensor& w : {wq, wk, wv}) c.real("wq, wk, wv", w, "D A");
  for (const ConstTensor& b : {bq, bk, bv}) c.real("bq, bk, bv", b, "A");
  for (const Tensor& y : {q, k, v}) c.real("q, k, v", y, "leaves rows A");
}

void QkvBackward::check() const {
  ShapeCheck c("qkv_backward");
  for (const ConstTensor& dy : {dq, dk, dv}) c.real("dq, dk, dv", dy, "leaves rows A");
  c.real("x", x, "leaves rows D");
  for (const ConstTensor& w : {wq, wk, wv}) c.real("wq, wk, wv", w, "D A");
  c.real("dx", dx, "leaves rows D");
  for (const Tensor& dw : {dwq, dwk, dwv}) c.real("dwq, dwk, dwv", dw, "D A");
  for (const Tensor& db : {dbq, dbk, dbv}) c.real("dbq, dbk, dbv", db, "A");
  expect_power_of_two(c);
}

void AttentionForward::check() const {
  ShapeCheck c("attention_forward");
  for (const ConstTensor& x : {q, k, v}) c.real("q, k, v", x, "leaves B T H Dh");
  c.real("out", out, "leaves B T H Dh");
  c.real("log_sum_exp", log_sum_exp, "leaves B H T");
}

void AttentionBackward::check() const {
  ShapeCheck c("attention_backward");
  c.real("dout", dout, "leaves B T H Dh");
  for (const ConstTensor& x : {q, k, v}) c.real("q, k, v", x, "leaves B T H Dh");
  c.real("out", out, "leaves B T H Dh");
  c.real("log_sum_exp", log_sum_exp, "leaves B H T");
  for (const Tensor& dx : {dq, dk, dv}) c.real("dq, dk, dv", dx, "leaves B T H Dh");
}

void TakeTokenForward::check() const {
  ShapeCheck c("take_token_forward");
  c.real("x", x, "images T D");
  c.real("y", y, "images D");
}

void TakeTokenBackward::check() const {
  ShapeCheck c("take_token_backward");
  c.real("dy", dy, "images D");
  c.real("dx", dx, "images T D");
}

void TanhForward::check() const {
  ShapeCheck c("tanh_forward");
  c.real("x", x, "n");
  c.real("y", y, "n");
}

void TanhBackward::check() const {
  ShapeCheck c("tanh_backward");
  c.real("dy", dy, "n");
  c.real("y", y, "n");
  c.real("dx", dx, "n");
}

void RouteTopK::check() const {
  ShapeCheck c("route_top_k");
  c.optional("logits", logits, "groups S E");
  c.optional("noise", noise, "groups S E");
  if (valid) c.exactly(Dtype::u8, "valid", valid, "groups S");
  if (logits) c.real("gates_clean", gates_clean, "groups S E");
  c.expect(logits || (!noise && !gates_clean), "without logits there is no noise and gates_clean is left out");
  c.real("gates", gates, "groups S E");
  c.exactly(Dtype::i32, "selected", selected, "groups S K");
  c.exactly(Dtype::i32, "slot", slot, "groups S K");
  c.real("gate", gate, "groups S K");
  c.expect(c["K"] >= 1 && c["K"] <= c["E"], "K must be in 1 .. E");
}

void RouterLossesForward::check() const {
  ShapeCheck c("router_losses_forward");
  c.real("logits", logits, "groups S E");
  c.optional("noise", noise, "groups S E");
  c.real("gates_clean", gates_clean, "groups S E");
  c.real("gates", gates, "groups S E");
  c.exactly(Dtype::i32, "selected", selected, "groups S K");
  if (valid) c.exactly(Dtype::u8, "valid", valid, "groups S");
  c.real("importance", importance, "groups");
  c.real("load", load, "groups");
  c.real("gshard", gshard, "groups");
}

void RouterBackward::check() const {
  ShapeCheck c("router_backward");
  c.real("dgate", dgate, "groups S K");
  c.real("logits", logits, "groups S E");
  c.optional("noise", noise, "groups S E");
  c.real("gates_clean", gates_clean, "groups S E");
  c.real("gates", gates, "groups S E");
  c.exactly(Dtype::i32, "selected", selected, "groups S K");
  c.real("dlogits", dlogits, "groups S E");
}

void MapSlots::check() const {
  ShapeCheck c("map_slots");
  c.exactly(Dtype::i32, "selected", selected, "leaves groups S K");
  c.exactly(Dtype::i32, "slot", slot, "leaves groups S K");
  c.letter("slots", c["groups"] * capacity);
  c.exactly(Dtype::i32, "source", source, "owners leaves experts slots");
  c.exactly(Dtype::i32, "row", row, "leaves groups S K");
  c.expect(capacity >= 1, "the capacity must be positive");
  constexpr std::int64_t kIndices = std::int64_t{1} << 31;
  c.expect(source.elements() < kIndices && row.elements() < kIndices, "a pass is too large for 32-bit indices");
}

void GatherRowsForward::check() const {
  ShapeCheck c("gather_rows_forward");
  c.real("x", x, "tokens D");
  c.exactly(Dtype::i32, "source", source, "rows");
  c.real("y", y, "rows D");
  c.expect(choices >= 1, "choices must be positive");
}

void GatherRowsBackward::check() const {
  ShapeCheck c("gather_rows_backward");
  c.real("dy", dy, "rows D");
  c.exactly(Dtype::i32, "row", row, "tokens K");
  c.optional("dresidual", dresidual, "tokens D");
  c.real("dx", dx, "tokens D");
}

void CombineRowsForward::check() const {
  ShapeCheck c("combine_rows_forward");
  c.real("o", o, "rows D");
  c.exactly(Dtype::i32, "row", row, "tokens K");
  c.real("gate", gate, "tokens K");
  c.optional("residual", residual, "tokens D");
  c.real("y", y, "tokens D");
}

void CombineRowsBackward::check() const {
  ShapeCheck c("combine_rows_backward");
  c.real("dy", dy, "tokens D");
  c.real("o", o, "rows D");
  c.exactly(Dtype::i32, "row", row, "tokens K");
  c.exactly(Dtype::i32, "source", source, "rows");
  c.real("gate", gate, "tokens K");
  c.real("d_o", d_o, "rows D");
  c.real("dgate", dgate, "tokens K");
}

void CountAssignments::check() const {
  ShapeCheck c("count_assignments");
  c.exactly(Dtype::i32, "selected", selected, "tokens K");
  c.exactly(Dtype::i32, "slot", slot, "tokens K");
  c.exactly(Dtype::i64, "assigned", assigned, "E");
  c.exactly(Dtype::i64, "kept", kept, "E");
}

void OneHot::check() const {
  ShapeCheck c("one_hot");
  c.exactly(Dtype::i32, "labels", labels, "images");
  c.real("targets", targets, "images V");
}

void SoftmaxCrossEntropy::check() const {
  ShapeCheck c("softmax_cross_entropy");
  c.real("logits", logits, "images V");
  c.real("targets", targets, "images V");
  c.real("loss", loss, "images");
  c.optional("dlogits", dlogits, "images V");
}

void SigmoidCrossEntropy::check() const {
  ShapeCheck c("sigmoid_cross_entropy");
  c.real("logits", logits, "images V");
  c.real("targets", targets, "images V");
  c.real("loss", loss, "images");
  c.optional("dlogits", dlogits, "images V");
}

void Predict::check() const {
  ShapeCheck c("predict");
  c.real("logits", logits, "images V");
  c.exactly(Dtype::i32, "predicted", predicted, "images");
}

void RandomNormal::check() const {
  ShapeCheck c("random_normal");
  c.real("y", y, "n");
}

void Accumulate::check() const {
  ShapeCheck c("accumulate");
  c.real("x", x, "n");
  c.real("y", y, "n");
}

void BlockSquareSums::check() const {
  ShapeCheck c("block_square_sums");
  c.real("x", x, "n");
  c.exactly(Dtype::i64, "block_begin", block_begin, "blocks_plus_1");
  c.letter("blocks", c["blocks_plus_1"] - 1);
  c.exactly(Dtype::f64, "sums", sums, "blocks");
}

void AdamWStep::check() const {
  ShapeCheck c("adamw_step");
  c.real("gradient", gradient, "n");
  c.exactly(Dtype::i64, "block_begin", block_begin, "blocks_plus_1");
  c.letter("blocks", c["blocks_plus_1"] - 1);
  c.exactly(Dtype::f64, "decay", decay, "blocks");
  c.exactly(Dtype::f64, "multiplier", multiplier, "blocks");
  c.exactly(Dtype::u8, "frozen", frozen, "blocks");
  c.real("parameter", parameter, "n");
  c.real("m", m, "n");
  c.real("v", v, "n");
  c.expect(updates >= 1, "updates counts from 1");
}

void AllFinite::check() const {
  ShapeCheck c("all_finite");
  c.real("x", x, "n");
  c.exactly(Dtype::i32, "finite", finite, "1");
}

}  // namespace vitrail
