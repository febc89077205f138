// The shapes written beside the fields in the verb headers, executed.

#include <initializer_list>
#include <string_view>

#include "ops/ops.hpp"
#include "ops/shape_check.hpp"

namespace vitrail {

namespace {
void expect_power_of_two(const ShapeCheck& check) {
  const std::int64_t leaves = check["leaves"];
  check.expect(leaves > 0 && (leaves & (leaves - 1)) == 0, "the number of leaves must be a power of two");
}
void expect_one_dtype(const ShapeCheck& check, std::initializer_list<ConstTensor> stored) {
  for (const ConstTensor& x : stored)
    check.expect(x.dtype == stored.begin()->dtype, "`stored` tensors must share one dtype");
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
  c.stored("patches", patches, "images Tp patch");
}

void EmbedTokensForward::check() const {
  ShapeCheck c("embed_tokens_forward");
  c.stored("patches", patches, "leaves B Tp D");
  c.optional("class_token", class_token, "D");
  c.letter("T", c["Tp"] + (class_token ? 1 : 0));
  c.optional("positions", positions, "T D");
  c.real("x", x, "leaves B T D");
}

void EmbedTokensBackward::check() const {
  ShapeCheck c("embed_tokens_backward");
  c.stored("dpatches", dpatches, "leaves B Tp D");
  c.optional("dclass_token", dclass_token, "D");
  c.letter("T", c["Tp"] + (dclass_token ? 1 : 0));
  c.optional("dpositions", dpositions, "T D");
  c.real("dx", dx, "leaves B T D");
  expect_power_of_two(c);
}

void LayernormForward::check() const {
  ShapeCheck c("layernorm_forward");
  c.stored("x", x, "leaves rows D");
  c.real("scale", scale, "D");
  c.optional("bias", bias, "D");
  c.stored("y", y, "leaves rows D");
  c.real("mean", mean, "leaves rows");
  c.real("rstd", rstd, "leaves rows");
}

void LayernormBackward::check() const {
  ShapeCheck c("layernorm_backward");
  c.stored("dy", dy, "leaves rows D");
  c.stored("x", x, "leaves rows D");
  c.real("scale", scale, "D");
  c.real("mean", mean, "leaves rows");
  c.real("rstd", rstd, "leaves rows");
  c.optional("dresidual", dresidual, "leaves rows D");
  c.stored("dx", dx, "leaves rows D");
  c.real("dscale", dscale, "D");
  c.optional("dbias", dbias, "D");
  expect_power_of_two(c);
}

void LinearForward::check() const {
  ShapeCheck c("linear_forward");
  c.stored("x", x, "leaves E rows in");
  c.stored("w", w, "E in out");
  c.optional("b", b, "E out");
  c.optional("residual", residual, "leaves E rows out");
  c.stored("y", y, "leaves E rows out");
  c.expect(!exact || (x.dtype != Dtype::bf16 && w.dtype != Dtype::bf16), "an exact product has no rounded inputs");
}

void LinearBackward::check() const {
  ShapeCheck c("linear_backward");
  c.stored("dy", dy, "leaves E rows out");
  c.stored("x", x, "leaves E rows in");
  c.stored("w", w, "E in out");
  c.optional("dresidual", dresidual, "leaves E rows in");
  c.optional_stored("dx", dx, "leaves E rows in");
  c.real("dw", dw, "E in out");
  c.optional("db", db, "E out");
  expect_power_of_two(c);
}

void MlpForward::check() const {
  ShapeCheck c("mlp_forward");
  c.stored("x", x, "leaves E rows D");
  c.stored("w1", w1, "E D F");
  c.real("b1", b1, "E F");
  c.stored("u", u, "leaves E rows F");
  if (!y) return;
  c.stored("w2", w2, "E F D");
  c.real("b2", b2, "E D");
  c.optional("hidden_mask", hidden_mask, "leaves E rows F");
  c.optional("residual", residual, "leaves E rows D");
  c.stored("h", h, "leaves E rows F");
  c.stored("y", y, "leaves E rows D");
}

namespace {
/// Of a weight: its gradient, or the update instead.
void check_gradient(ShapeCheck& c, std::string_view field, const Tensor& dw, const EarlyUpdate* update,
                    std::string_view shape) {
  if (update == nullptr) return c.real(field, dw, shape);
  for (const Tensor& x : {update->parameter, update->m, update->v}) c.real("parameter, m, v of an update", x, shape);
  c.expect(update->updates >= 1, "updates counts from 1");
}
}  // namespace

void MlpBackward::check() const {
  ShapeCheck c("mlp_backward");
  c.stored("dy", dy, "leaves E rows D");
  c.stored("x", x, "leaves E rows D");
  c.stored("u", u, "leaves E rows F");
  c.stored("w1", w1, "E D F");
  c.stored("w2", w2, "E F D");
  c.optional("hidden_mask", hidden_mask, "leaves E rows F");
  c.stored("h", h, "leaves E rows F");
  c.stored("du", du, "leaves E rows F");
  c.stored("dx", dx, "leaves E rows D");
  check_gradient(c, "dw1", dw1, update1, "E D F");
  c.real("db1", db1, "E F");
  check_gradient(c, "dw2", dw2, update2, "E F D");
  c.real("db2", db2, "E D");
  expect_power_of_two(c);
}

void QkvForward::check() const {
  ShapeCheck c("qkv_forward");
  c.stored("x", x, "leaves rows D");
  for (const ConstTensor& w : {wq, wk, wv}) c.stored("wq, wk, wv", w, "D A");
  for (const ConstTensor& b : {bq, bk, bv}) c.real("bq, bk, bv", b, "A");
  for (const Tensor& y : {q, k, v}) c.stored("q, k, v", y, "leaves rows A");
}

void QkvBackward::check() const {
  ShapeCheck c("qkv_backward");
  for (const ConstTensor& dy : {dq, dk, dv}) c.stored("dq, dk, dv", dy, "leaves rows A");
  c.stored("x", x, "leaves rows D");
  for (const ConstTensor& w : {wq, wk, wv}) c.stored("wq, wk, wv", w, "D A");
  c.stored("dx", dx, "leaves rows D");
  for (const Tensor& dw : {dwq, dwk, dwv}) c.real("dwq, dwk, dwv", dw, "D A");
  for (const Tensor& db : {dbq, dbk, dbv}) c.real("dbq, dbk, dbv", db, "A");
  expect_power_of_two(c);
}

namespace {
void check_draw(const ShapeCheck& c, const DropoutDraw& draw) {
  c.expect(draw.rate >= 0 && draw.rate < 1, "the rate of a dropout lies in [0, 1)");
  c.expect(draw.run >= 1 && draw.stride >= draw.run && draw.share >= 1, "indices of a dropout must not overlap");
}
}  // namespace

void Dropout::check() const {
  ShapeCheck c("dropout");
  c.stored("y", y, "n");
  c.optional_stored("x", x, "n");
  c.optional("residual", residual, "n");
  check_draw(c, draw);
}

void AttentionForward::check() const {
  ShapeCheck c("attention_forward");
  expect_one_dtype(c, {q, k, v, out});
  c.stored("q", q, "leaves B Tq H Dh");
  for (const ConstTensor& x : {k, v}) c.stored("k, v", x, "leaves B T H Dh");
  c.stored("out", out, "leaves B Tq H Dh");
  c.real("log_sum_exp", log_sum_exp, "leaves B H Tq");
  check_draw(c, dropout);
}

void AttentionBackward::check() const {
  ShapeCheck c("attention_backward");
  expect_one_dtype(c, {dout, q, k, v, out, dq, dk, dv});
  c.stored("dout", dout, "leaves B Tq H Dh");
  c.stored("q", q, "leaves B Tq H Dh");
  for (const ConstTensor& x : {k, v}) c.stored("k, v", x, "leaves B T H Dh");
  c.stored("out", out, "leaves B Tq H Dh");
  c.real("log_sum_exp", log_sum_exp, "leaves B H Tq");
  c.stored("dq", dq, "leaves B Tq H Dh");
  for (const Tensor& dx : {dk, dv}) c.stored("dk, dv", dx, "leaves B T H Dh");
  check_draw(c, dropout);
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

void MeanTokensForward::check() const {
  ShapeCheck c("mean_tokens_forward");
  c.real("x", x, "images T D");
  c.real("y", y, "images D");
}

void MeanTokensBackward::check() const {
  ShapeCheck c("mean_tokens_backward");
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

void ToBf16::check() const {
  ShapeCheck c("to_bf16");
  c.real("x", x, "n");
  c.exactly(Dtype::bf16, "y", y, "n");
}

void FromBf16::check() const {
  ShapeCheck c("from_bf16");
  c.exactly(Dtype::bf16, "x", x, "n");
  c.optional("residual", residual, "n");
  c.real("y", y, "n");
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

void RouteAsGiven::check() const {
  ShapeCheck c("route_as_given");
  c.real("logits", logits, "groups S E");
  c.optional("noise", noise, "groups S E");
  c.exactly(Dtype::i32, "selected", selected, "groups S K");
  c.real("gates_clean", gates_clean, "groups S E");
  c.real("gates", gates, "groups S E");
  c.real("gate", gate, "groups S K");
}

void RouteExpertsChoice::check() const {
  ShapeCheck c("route_experts_choice");
  c.optional("logits", logits, "groups S E");
  c.optional("noise", noise, "groups S E");
  if (valid) c.exactly(Dtype::u8, "valid", valid, "groups S");
  if (logits) c.real("gates_clean", gates_clean, "groups S E");
  c.expect(logits || (!noise && !gates_clean), "without logits there is no noise and gates_clean is left out");
  c.real("gates", gates, "groups S E");
  c.exactly(Dtype::i32, "selected", selected, "groups S E");
  c.exactly(Dtype::i32, "slot", slot, "groups S E");
  c.expect(capacity >= 1 && capacity <= c["S"], "an expert takes 1 .. S tokens of a group");
}

void ShuffleExperts::check() const {
  ShapeCheck c("shuffle_experts");
  c.real("x", x, "tokens E");
  c.real("y", y, "tokens E");
}

void NormalizeGatesForward::check() const {
  ShapeCheck c("normalize_gates_forward");
  c.real("gate", gate, "tokens K");
  c.exactly(Dtype::i32, "row", row, "tokens K");
  c.real("y", y, "tokens K");
}

void NormalizeGatesBackward::check() const {
  ShapeCheck c("normalize_gates_backward");
  c.real("dy", dy, "tokens K");
  c.real("gate", gate, "tokens K");
  c.exactly(Dtype::i32, "row", row, "tokens K");
  c.real("y", y, "tokens K");
  c.real("dgate", dgate, "tokens K");
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
  c.real("z", z, "groups");
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
  c.stored("x", x, "tokens D");
  c.exactly(Dtype::i32, "source", source, "rows");
  c.stored("y", y, "rows D");
  c.expect(choices >= 1, "choices must be positive");
}

void GatherRowsBackward::check() const {
  ShapeCheck c("gather_rows_backward");
  c.stored("dy", dy, "rows D");
  c.exactly(Dtype::i32, "row", row, "tokens K");
  c.optional("dresidual", dresidual, "tokens D");
  c.stored("dx", dx, "tokens D");
}

void CombineRowsForward::check() const {
  ShapeCheck c("combine_rows_forward");
  c.stored("o", o, "rows D");
  c.exactly(Dtype::i32, "row", row, "tokens K");
  c.real("gate", gate, "tokens K");
  c.optional("residual", residual, "tokens D");
  c.real("y", y, "tokens D");
}

void CombineRowsBackward::check() const {
  ShapeCheck c("combine_rows_backward");
  c.real("dy", dy, "tokens D");
  c.stored("o", o, "rows D");
  c.exactly(Dtype::i32, "row", row, "tokens K");
  c.exactly(Dtype::i32, "source", source, "rows");
  c.real("gate", gate, "tokens K");
  c.stored("d_o", d_o, "rows D");
  c.real("dgate", dgate, "tokens K");
}

void CountAssignments::check() const {
  ShapeCheck c("count_assignments");
  c.exactly(Dtype::i32, "selected", selected, "tokens K");
  c.exactly(Dtype::i32, "slot", slot, "tokens K");
  c.exactly(Dtype::i64, "assigned", assigned, "E");
  c.exactly(Dtype::i64, "kept", kept, "E");
  c.exactly(Dtype::i64, "processed", processed, "1");
}

void SoftRouterForward::check() const {
  ShapeCheck c("soft_router_forward");
  c.real("x", x, "leaves groups S D");
  c.real("mu", mu, "D R");
  c.real("scale", scale, "1");
  c.optional("noise", noise, "leaves groups S R");
  if (valid) c.exactly(Dtype::u8, "valid", valid, "leaves groups S");
  c.real("x_rnorm", x_rnorm, "leaves groups S");
  c.real("mu_rnorm", mu_rnorm, "R");
  c.real("dispatch", dispatch, "leaves groups S R");
  c.real("combine", combine, "leaves groups S R");
}

void SoftRouterBackward::check() const {
  ShapeCheck c("soft_router_backward");
  c.real("ddispatch", ddispatch, "leaves groups S R");
  c.real("dcombine", dcombine, "leaves groups S R");
  c.real("x", x, "leaves groups S D");
  c.real("mu", mu, "D R");
  c.real("scale", scale, "1");
  c.real("x_rnorm", x_rnorm, "leaves groups S");
  c.real("mu_rnorm", mu_rnorm, "R");
  c.real("dispatch", dispatch, "leaves groups S R");
  c.real("combine", combine, "leaves groups S R");
  c.real("dlogits", dlogits, "leaves groups S R");
  c.optional("dresidual", dresidual, "leaves groups S D");
  c.real("dx", dx, "leaves groups S D");
  c.real("dmu", dmu, "D R");
  c.real("dscale", dscale, "1");
  expect_power_of_two(c);
}

void MixTokensForward::check() const {
  ShapeCheck c("mix_tokens_forward");
  c.real("x", x, "groups S D");
  c.real("w", w, "groups S R");
  c.real("y", y, "groups R D");
}

void MixTokensBackward::check() const {
  ShapeCheck c("mix_tokens_backward");
  c.real("dy", dy, "groups R D");
  c.real("x", x, "groups S D");
  c.real("w", w, "groups S R");
  c.real("dw", dw, "groups S R");
  c.real("dx", dx, "groups S D");
}

void MixSlotsForward::check() const {
  ShapeCheck c("mix_slots_forward");
  c.real("o", o, "groups R D");
  c.real("w", w, "groups S R");
  c.optional("residual", residual, "groups S D");
  c.real("y", y, "groups S D");
}

void MixSlotsBackward::check() const {
  ShapeCheck c("mix_slots_backward");
  c.real("dy", dy, "groups S D");
  c.real("o", o, "groups R D");
  c.real("w", w, "groups S R");
  c.real("dw", dw, "groups S R");
  c.real("d_o", d_o, "groups R D");
}

void OneHot::check() const {
  ShapeCheck c("one_hot");
  c.exactly(Dtype::i32, "labels", labels, "images labels");
  c.real("targets", targets, "images V");
}

void MixImages::check() const {
  ShapeCheck c("mix_images");
  c.real("x", x, "leaves B n");
  c.real("weights", weights, "leaves B m");
  c.real("y", y, "leaves B n");
  c.expect(c["m"] >= 1 && c["m"] <= c["B"], "an image is mixed with images of its leaf");
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

void InitialValues::check() const {
  ShapeCheck c("initial_values");
  c.real("y", y, "copies n");
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

void ClipScale::check() const {
  ShapeCheck c("clip_scale");
  c.exactly(Dtype::f64, "sums", sums, "places");
  c.exactly(Dtype::i64, "order", order, "n");
  c.exactly(Dtype::f64, "weights", weights, "n");
  c.exactly(Dtype::f64, "norm", norm, "1");
  c.exactly(Dtype::f64, "scale", scale, "1");
  c.exactly(Dtype::i32, "halt", halt, "1");
  c.expect(clip_norm >= 0, "clip_norm is not negative");
}

void AdamWStep::check() const {
  ShapeCheck c("adamw_step");
  c.real("gradient", gradient, "n");
  c.exactly(Dtype::i64, "block_begin", block_begin, "blocks_plus_1");
  c.letter("blocks", c["blocks_plus_1"] - 1);
  c.exactly(Dtype::f64, "decay", decay, "blocks");
  c.exactly(Dtype::f64, "multiplier", multiplier, "blocks");
  c.exactly(Dtype::u8, "frozen", frozen, "blocks");
  c.optional_exactly(Dtype::f64, "gradient_scale", gradient_scale, "1");
  c.optional_exactly(Dtype::i32, "halt", halt, "1");
  c.real("parameter", parameter, "n");
  c.real("m", m, "n");
  c.real("v", v, "n");
  c.expect(updates >= 1, "updates counts from 1");
}

void SgdStep::check() const {
  ShapeCheck c("sgd_step");
  c.real("gradient", gradient, "n");
  c.exactly(Dtype::i64, "block_begin", block_begin, "blocks_plus_1");
  c.letter("blocks", c["blocks_plus_1"] - 1);
  c.exactly(Dtype::f64, "decay", decay, "blocks");
  c.exactly(Dtype::f64, "multiplier", multiplier, "blocks");
  c.exactly(Dtype::u8, "frozen", frozen, "blocks");
  c.optional_exactly(Dtype::f64, "gradient_scale", gradient_scale, "1");
  c.optional_exactly(Dtype::i32, "halt", halt, "1");
  c.real("parameter", parameter, "n");
  c.optional("trace", trace, "n");
}

void AdafactorStep::check() const {
  ShapeCheck c("adafactor_step");
  c.real("gradient", gradient, "n");
  c.exactly(Dtype::i64, "unit_begin", unit_begin, "units");
  c.exactly(Dtype::i64, "factors", factors, "units 5");
  c.exactly(Dtype::i64, "statistics_begin", statistics_begin, "units");
  c.exactly(Dtype::f64, "decay", decay, "units");
  c.exactly(Dtype::f64, "multiplier", multiplier, "units");
  c.exactly(Dtype::u8, "frozen", frozen, "units");
  c.optional_exactly(Dtype::f64, "gradient_scale", gradient_scale, "1");
  c.optional_exactly(Dtype::i32, "halt", halt, "1");
  c.real("parameter", parameter, "n");
  c.real("statistics", statistics, "statistics");
  c.optional("m", m, "n");
}

void RunningAverage::check() const {
  ShapeCheck c("running_average");
  c.real("x", x, "n");
  c.optional_exactly(Dtype::i32, "halt", halt, "1");
  c.real("y", y, "n");
}

void AllFinite::check() const {
  ShapeCheck c("all_finite");
  c.real("x", x, "n");
  c.exactly(Dtype::i32, "finite", finite, "1");
}

}  // namespace vitrail
