// Calls of the verbs on images and tokens for test_cpu_ops.cpp.

#include <gtest/gtest.h>

#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

namespace {

VerbCase images_case(std::int64_t images, std::int64_t side, std::int64_t channels, std::int64_t patch) {
  return {case_name("images", {images, side, channels, patch}), [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Shape shape{images, side, side + 2, channels};
            const auto pixels = random_integers(Dtype::u8, shape, 1, 256);
            OwnedTensor y(ops.real(), shape);
            ops.normalize_images({.images = pixels, .y = y});
            const std::int64_t down = side / patch, across = (side + 2) / (patch + 1);
            OwnedTensor patches(ops.stored(), {images, down * across, patch * (patch + 1) * channels});
            ops.patches_forward({.images = y, .patch_rows = patch, .patch_columns = patch + 1, .patches = patches});
            return {y, patches};
          }};
}

VerbCase embed_case(std::int64_t leaves, std::int64_t images, std::int64_t patches, std::int64_t width, bool token,
                    bool positions) {
  const std::string options = std::string(token ? "_token" : "") + (positions ? "_positions" : "");
  return {
      case_name("embed_tokens", {leaves, images, patches, width}) + options, [=](Ops& ops) -> std::vector<OwnedTensor> {
        const Dtype real = ops.real();
        const std::int64_t tokens = patches + (token ? 1 : 0);
        const auto from = random_tensor(ops.stored(), {leaves, images, patches, width}, 1);
        const auto first = random_tensor(real, {width}, 2);
        const auto places = random_tensor(real, {tokens, width}, 3);
        const auto dx = random_tensor(real, {leaves, images, tokens, width}, 4);
        OwnedTensor x(real, {leaves, images, tokens, width}), dpatches(ops.stored(), {leaves, images, patches, width}),
            dtoken(real, {width}), dpositions(real, {tokens, width});
        EmbedTokensForward forward{.patches = from, .class_token = {}, .positions = {}, .x = x};
        EmbedTokensBackward backward{.dx = dx, .dpatches = dpatches, .dclass_token = {}, .dpositions = {}};
        if (token) forward.class_token = first, backward.dclass_token = dtoken;
        if (positions) forward.positions = places, backward.dpositions = dpositions;
        ops.embed_tokens_forward(forward);
        ops.embed_tokens_backward(backward);
        std::vector<OwnedTensor> outputs{x, dpatches};
        if (token) outputs.push_back(dtoken);
        if (positions) outputs.push_back(dpositions);
        return outputs;
      }};
}

enum class Alias { none, dresidual, dy };

VerbCase layernorm_case(std::int64_t leaves, std::int64_t rows, std::int64_t width, bool residual, Alias alias,
                        bool with_bias = true) {
  const std::string options = std::string(residual ? "_residual" : "") + (with_bias ? "" : "_no_bias") +
                              (alias == Alias::dresidual ? "_over_dresidual" : "") +
                              (alias == Alias::dy ? "_over_dy" : "");
  return {case_name("layernorm", {leaves, rows, width}) + options, [=](Ops& ops) -> std::vector<OwnedTensor> {
            // In place of dresidual: as a block of the model calls it.
            const Dtype real = ops.real(), stored = ops.stored();
            const Dtype of_x = alias == Alias::none ? stored : real, of_dx = alias == Alias::dresidual ? real : stored;
            const Shape shape{leaves, rows, width};
            auto x = random_tensor(of_x, shape, 1);
            for (std::int64_t i = 0; i < x.elements(); ++i) x.set(i, x.get(i) + 2.0);  // a mean that matters
            const auto scale = random_tensor(real, {width}, 2);
            const auto bias = random_tensor(real, {width}, 3);
            const auto dy = random_tensor(stored, shape, 4);
            const auto dresidual = random_tensor(real, shape, 5);
            OwnedTensor y(stored, shape), mean(real, {leaves, rows}), rstd(real, {leaves, rows});
            LayernormForward forward{.x = x, .scale = scale, .bias = {}, .y = y, .mean = mean, .rstd = rstd};
            if (with_bias) forward.bias = bias;
            ops.layernorm_forward(forward);
            OwnedTensor dx(of_dx, shape), dscale(real, {width}), dbias(real, {width});
            if (alias == Alias::dresidual) dx = dresidual;
            if (alias == Alias::dy) dx = dy;
            LayernormBackward backward{.dy = dy,
                                       .x = x,
                                       .scale = scale,
                                       .mean = mean,
                                       .rstd = rstd,
                                       .dresidual = {},
                                       .dx = dx,
                                       .dscale = dscale,
                                       .dbias = {}};
            if (with_bias) backward.dbias = dbias;
            if (residual) backward.dresidual = dresidual;
            if (alias == Alias::dresidual) backward.dresidual = backward.dx;
            if (alias == Alias::dy) backward.dy = backward.dx;
            ops.layernorm_backward(backward);
            std::vector<OwnedTensor> outputs{y, mean, rstd, dx, dscale};
            if (with_bias) outputs.push_back(dbias);
            return outputs;
          }};
}

struct AttentionSizes {
  std::int64_t leaves, images, queries, tokens, heads, width;
};
VerbCase attention_case(const AttentionSizes& s, double scale = 1.0, double rate = 0.0) {
  const std::string options = (scale > 2.0 ? "_sharp" : "") + (rate > 0 ? text("_dropout_", 100 * rate) : "");
  return {case_name("attention", {s.leaves, s.images, s.queries, s.tokens, s.heads, s.width}) + options,
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype stored = ops.stored();
            const Shape of_q{s.leaves, s.images, s.queries, s.heads, s.width};
            const Shape of_k{s.leaves, s.images, s.tokens, s.heads, s.width};
            const auto q = random_tensor(stored, of_q, 1, scale);
            const auto k = random_tensor(stored, of_k, 2);
            const auto v = random_tensor(stored, of_k, 3);
            const auto dout = random_tensor(stored, of_q, 4);
            const DropoutDraw dropout{.rate = rate, .seed = 11, .step = 12, .layer = 13, .first = 14};
            OwnedTensor out(stored, of_q), lse(ops.real(), {s.leaves, s.images, s.heads, s.queries}), dq(stored, of_q),
                dk(stored, of_k), dv(stored, of_k);
            ops.attention_forward({.q = q, .k = k, .v = v, .dropout = dropout, .out = out, .log_sum_exp = lse});
            ops.attention_backward({.dout = dout,
                                    .q = q,
                                    .k = k,
                                    .v = v,
                                    .dropout = dropout,
                                    .out = out,
                                    .log_sum_exp = lse,
                                    .dq = dq,
                                    .dk = dk,
                                    .dv = dv});
            return {out, lse, dq, dk, dv};
          }};
}

/// Pooling, and mixup of m images.
VerbCase pooling_case(std::int64_t images, std::int64_t tokens, std::int64_t width) {
  return {case_name("mean_tokens", {images, tokens, width}), [=](Ops& ops) -> std::vector<OwnedTensor> {
            const auto x = random_tensor(ops.real(), {images, tokens, width}, 1);
            const auto dy = random_tensor(ops.real(), {images, width}, 2);
            OwnedTensor y(ops.real(), {images, width}), dx(ops.real(), {images, tokens, width});
            ops.mean_tokens_forward({.x = x, .y = y});
            ops.mean_tokens_backward({.dy = dy, .dx = dx});
            return {y, dx};
          }};
}
VerbCase mix_case(std::int64_t leaves, std::int64_t images, std::int64_t m, std::int64_t width) {
  return {case_name("mix_images", {leaves, images, m, width}), [=](Ops& ops) -> std::vector<OwnedTensor> {
            const auto x = random_tensor(ops.real(), {leaves, images, width}, 1);
            const auto weights = random_tensor(ops.real(), {leaves, images, m}, 2);
            OwnedTensor y(ops.real(), {leaves, images, width});
            ops.mix_images({.x = x, .weights = weights, .y = y});
            return {y};
          }};
}

VerbCase elementwise_case(std::int64_t n) {
  return {case_name("tanh_and_tokens", {n}), [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            auto x = random_tensor(real, {n}, 1, 1.5);
            if (n > 6) x.set(0, 0.0), x.set(1, 60.0), x.set(2, -60.0), x.set(3, 1e-6), x.set(4, -0.49), x.set(5, 0.51);
            const auto dy = random_tensor(real, {n}, 2);
            OwnedTensor y(real, {n}), dx(real, {n}), y_in_place = x, dx_in_place = dy;
            ops.tanh_forward({.x = x, .y = y});
            ops.tanh_forward({.x = y_in_place, .y = y_in_place});
            ops.tanh_backward({.dy = dy, .y = y, .dx = dx});
            ops.tanh_backward({.dy = dx_in_place, .y = y, .dx = dx_in_place});
            const std::int64_t width = n % 2 == 0 ? 8 : 5;
            const auto tokens = random_tensor(real, {n, 3, width}, 3);
            const auto dfirst = random_tensor(real, {n, width}, 4);
            OwnedTensor first(real, {n, width}), dtokens(real, {n, 3, width});
            ops.take_token_forward({.x = tokens, .y = first});
            ops.take_token_backward({.dy = dfirst, .dx = dtokens});
            return {y, y_in_place, dx, dx_in_place, first, dtokens};
          }};
}

}  // namespace

std::vector<VerbCase> token_cases() {
  std::vector<VerbCase> cases;
  cases.push_back(images_case(1, 1, 1, 1));
  cases.push_back(images_case(7, 9, 3, 2));
  cases.push_back(images_case(33, 28, 1, 4));
  cases.push_back(images_case(2, 10, 3, 3));  // in fours
  cases.push_back(images_case(3, 12, 4, 4));
  for (const bool token : {false, true}) {
    for (const bool positions : {false, true}) {
      cases.push_back(embed_case(1, 1, 1, 1, token, positions));
      cases.push_back(embed_case(4, 3, 7, 33, token, positions));
      cases.push_back(embed_case(2, 7, 49, 64, token, positions));
      cases.push_back(embed_case(8, 17, 2, 12, token, positions));
    }
  }
  for (const std::int64_t width : {1, 7, 33, 64, 257}) {
    cases.push_back(layernorm_case(1, 1, width, false, Alias::none));
    cases.push_back(layernorm_case(2, 7, width, true, Alias::none));
    cases.push_back(layernorm_case(4, 300, width, true, Alias::dresidual));
    cases.push_back(layernorm_case(1, 33, width, true, Alias::dy));
  }
  cases.push_back(layernorm_case(1, 0, 8, true, Alias::none));
  for (const std::int64_t width : {1, 33, 64}) {
    cases.push_back(layernorm_case(1, 7, width, false, Alias::none, false));
    cases.push_back(layernorm_case(4, 300, width, true, Alias::dresidual, false));
  }
  for (const std::int64_t width : {384, 768, 1024, 1030, 1280, 2049, 2304}) {  // rows of warps and of blocks
    cases.push_back(layernorm_case(2, 9, width, true, Alias::none));
    cases.push_back(layernorm_case(1, 5, width, true, Alias::dresidual));
  }
  cases.push_back(layernorm_case(8, 17, 16, true, Alias::dresidual));
  for (const AttentionSizes& s :
       {AttentionSizes{1, 0, 5, 5, 2, 4}, AttentionSizes{1, 1, 1, 1, 1, 1}, AttentionSizes{2, 3, 7, 7, 3, 5},
        AttentionSizes{1, 2, 50, 50, 4, 16}, AttentionSizes{1, 1, 33, 33, 2, 64}, AttentionSizes{1, 1, 257, 257, 1, 80},
        AttentionSizes{1, 1, 129, 129, 1, 88}, AttentionSizes{2, 3, 1, 7, 3, 5}, AttentionSizes{1, 2, 7, 1, 2, 3},
        AttentionSizes{1, 2, 0, 7, 2, 3}, AttentionSizes{1, 1, 33, 257, 2, 16}, AttentionSizes{1, 1, 257, 33, 2, 16},
        AttentionSizes{2, 2, 65, 65, 2, 32}, AttentionSizes{1, 1, 197, 197, 2, 64},
        AttentionSizes{1, 1, 64, 129, 1, 96}, AttentionSizes{1, 1, 70, 70, 1, 136}}) {
    cases.push_back(attention_case(s));
    cases.push_back(attention_case(s, 1.0, 0.3));
  }
  cases.push_back(attention_case({1, 2, 50, 50, 4, 16}, 30.0));
  cases.push_back(attention_case({1, 2, 50, 50, 4, 16}, 1.0, 0.9));
  cases.push_back(pooling_case(0, 3, 5));
  cases.push_back(pooling_case(1, 1, 1));
  cases.push_back(pooling_case(7, 33, 257));
  cases.push_back(pooling_case(2, 577, 33));
  cases.push_back(pooling_case(3, 50, 132));
  cases.push_back(mix_case(1, 1, 1, 1));
  cases.push_back(mix_case(2, 7, 2, 33));
  cases.push_back(mix_case(4, 3, 3, 257));
  cases.push_back(mix_case(1, 4, 2, 20000));
  cases.push_back(mix_case(2, 7, 7, 0));
  for (const std::int64_t n : {0, 1, 7, 33, 257, 20000}) cases.push_back(elementwise_case(n));
  return cases;
}

}  // namespace vitrail::testing
