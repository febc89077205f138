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
            OwnedTensor patches(ops.real(), {images, down * across, patch * (patch + 1) * channels});
            ops.patches_forward({.images = y, .patch_rows = patch, .patch_columns = patch + 1, .patches = patches});
            return {y, patches};
          }};
}

VerbCase embed_case(std::int64_t leaves, std::int64_t images, std::int64_t patches, std::int64_t width, bool token,
                    bool positions) {
  const std::string options = std::string(token ? "_token" : "") + (positions ? "_positions" : "");
  return {case_name("embed_tokens", {leaves, images, patches, width}) + options,
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const std::int64_t tokens = patches + (token ? 1 : 0);
            const auto from = random_tensor(real, {leaves, images, patches, width}, 1);
            const auto first = random_tensor(real, {width}, 2);
            const auto places = random_tensor(real, {tokens, width}, 3);
            const auto dx = random_tensor(real, {leaves, images, tokens, width}, 4);
            OwnedTensor x(real, {leaves, images, tokens, width}), dpatches(real, {leaves, images, patches, width}),
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

VerbCase layernorm_case(std::int64_t leaves, std::int64_t rows, std::int64_t width, bool residual, Alias alias) {
  const std::string options = std::string(residual ? "_residual" : "") +
                              (alias == Alias::dresidual ? "_over_dresidual" : "") +
                              (alias == Alias::dy ? "_over_dy" : "");
  return {case_name("layernorm", {leaves, rows, width}) + options, [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const Shape shape{leaves, rows, width};
            auto x = random_tensor(real, shape, 1);
            for (std::int64_t i = 0; i < x.elements(); ++i) x.set(i, x.get(i) + 2.0);  // a mean that matters
            const auto scale = random_tensor(real, {width}, 2);
            const auto bias = random_tensor(real, {width}, 3);
            const auto dy = random_tensor(real, shape, 4);
            const auto dresidual = random_tensor(real, shape, 5);
            OwnedTensor y(real, shape), mean(real, {leaves, rows}), rstd(real, {leaves, rows});
            ops.layernorm_forward({.x = x, .scale = scale, .bias = bias, .y = y, .mean = mean, .rstd = rstd});
            OwnedTensor dx(real, shape), dscale(real, {width}), dbias(real, {width});
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
                                       .dbias = dbias};
            if (residual) backward.dresidual = dresidual;
            if (alias == Alias::dresidual) backward.dresidual = backward.dx;
            if (alias == Alias::dy) backward.dy = backward.dx;
            ops.layernorm_backward(backward);
            return {y, mean, rstd, dx, dscale, dbias};
          }};
}

VerbCase attention_case(std::int64_t leaves, std::int64_t images, std::int64_t tokens, std::int64_t heads,
                        std::int64_t width, double scale) {
  return {case_name("attention", {leaves, images, tokens, heads, width}) + (scale > 2.0 ? "_sharp" : ""),
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const Shape shape{leaves, images, tokens, heads, width};
            const auto q = random_tensor(real, shape, 1, scale);
            const auto k = random_tensor(real, shape, 2);
            const auto v = random_tensor(real, shape, 3);
            const auto dout = random_tensor(real, shape, 4);
            OwnedTensor out(real, shape), lse(real, {leaves, images, heads, tokens}), dq(real, shape), dk(real, shape),
                dv(real, shape);
            ops.attention_forward({.q = q, .k = k, .v = v, .out = out, .log_sum_exp = lse});
            ops.attention_backward(
                {.dout = dout, .q = q, .k = k, .v = v, .out = out, .log_sum_exp = lse, .dq = dq, .dk = dk, .dv = dv});
            return {out, lse, dq, dk, dv};
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
            const auto tokens = random_tensor(real, {n, 3, 5}, 3);
            const auto dfirst = random_tensor(real, {n, 5}, 4);
            OwnedTensor first(real, {n, 5}), dtokens(real, {n, 3, 5});
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
  for (const bool token : {false, true}) {
    for (const bool positions : {false, true}) {
      cases.push_back(embed_case(1, 1, 1, 1, token, positions));
      cases.push_back(embed_case(4, 3, 7, 33, token, positions));
      cases.push_back(embed_case(2, 7, 49, 64, token, positions));
    }
  }
  for (const std::int64_t width : {1, 7, 33, 64, 257}) {
    cases.push_back(layernorm_case(1, 1, width, false, Alias::none));
    cases.push_back(layernorm_case(2, 7, width, true, Alias::none));
    cases.push_back(layernorm_case(4, 300, width, true, Alias::dresidual));
    cases.push_back(layernorm_case(1, 33, width, true, Alias::dy));
  }
  cases.push_back(layernorm_case(1, 0, 8, true, Alias::none));
  cases.push_back(attention_case(1, 0, 5, 2, 4, 1.0));
  cases.push_back(attention_case(1, 1, 1, 1, 1, 1.0));
  cases.push_back(attention_case(2, 3, 7, 3, 5, 1.0));
  cases.push_back(attention_case(1, 2, 50, 4, 16, 1.0));
  cases.push_back(attention_case(1, 2, 50, 4, 16, 30.0));
  cases.push_back(attention_case(1, 1, 33, 2, 64, 1.0));
  cases.push_back(attention_case(1, 1, 257, 1, 80, 1.0));
  cases.push_back(attention_case(1, 1, 129, 1, 88, 1.0));
  for (const std::int64_t n : {0, 1, 7, 33, 257, 20000}) cases.push_back(elementwise_case(n));
  return cases;
}

}  // namespace vitrail::testing
