// Calls of the linear layers and MLPs for test_cpu_ops.cpp, and what is particular to them.

#include <gtest/gtest.h>

#include "tests/ops/mlp_calls.hpp"
#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

namespace {

struct Sizes {
  std::int64_t leaves, experts, rows, in, out;
};
// The last three: rows that are cut in pieces, weights that are cut in tiles, operands that are copied.
constexpr Sizes kSizes[] = {{1, 1, 0, 5, 3},      {1, 1, 1, 1, 1},       {2, 1, 7, 33, 10},
                            {1, 1, 3, 0, 4},      {4, 2, 33, 16, 7},     {2, 3, 257, 33, 10},
                            {1, 1, 1600, 64, 96}, {2, 1, 140, 520, 530}, {1, 2, 100, 256, 512}};

std::string name_of_case(const char* verb, const Sizes& s) {
  return case_name(verb, {s.leaves, s.experts, s.rows, s.in, s.out});
}

/// What varies beside the sizes. reals: gradients and results that are not `stored`, as those of the residual stream.
struct Options {
  bool bias = false, residual = false, in_place = false, dx = false, masked = false, reals = false;
};
std::string name_of_case(const char* verb, const Sizes& s, const Options& o) {
  return name_of_case(verb, s) + (o.dx ? "_dx" : "") + (o.bias ? "_bias" : "") + (o.residual ? "_residual" : "") +
         (o.in_place ? "_in_place" : "") + (o.masked ? "_masked" : "") + (o.reals ? "_reals" : "");
}

VerbCase linear_forward_case(const Sizes& s, const Options& o) {
  return {name_of_case("linear_forward", s, o), [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real(), stored = ops.stored(), out = o.reals ? real : stored;
            const auto x = random_tensor(stored, {s.leaves, s.experts, s.rows, s.in}, 1);
            const auto w = random_tensor(ops.stored_weights(), {s.experts, s.in, s.out}, 2, 0.3);
            const auto b = random_tensor(real, {s.experts, s.out}, 3);
            auto start = random_tensor(real, {s.leaves, s.experts, s.rows, s.out}, 4);
            OwnedTensor y(out, {s.leaves, s.experts, s.rows, s.out});
            if (o.in_place) y = start;
            LinearForward call{.x = x, .w = w, .b = {}, .residual = {}, .y = y};
            if (o.bias) call.b = b;
            if (o.residual) call.residual = start;
            if (o.in_place) call.residual = call.y;
            ops.linear_forward(call);
            return {y};
          }};
}

VerbCase linear_backward_case(const Sizes& s, const Options& o) {
  return {name_of_case("linear_backward", s, o), [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real(), stored = ops.stored(), flow = o.reals ? real : stored;
            const auto x = random_tensor(stored, {s.leaves, s.experts, s.rows, s.in}, 1);
            const auto dy = random_tensor(flow, {s.leaves, s.experts, s.rows, s.out}, 2);
            const auto w = random_tensor(ops.stored_weights(), {s.experts, s.in, s.out}, 3, 0.3);
            const auto start = random_tensor(real, {s.leaves, s.experts, s.rows, s.in}, 4);
            OwnedTensor to = o.in_place ? start : OwnedTensor(flow, {s.leaves, s.experts, s.rows, s.in});
            OwnedTensor dw(real, {s.experts, s.in, s.out});
            OwnedTensor db(real, {s.experts, s.out});
            LinearBackward call{.dy = dy, .x = x, .w = w, .dresidual = {}, .dx = {}, .dw = dw, .db = {}};
            if (o.dx) call.dx = to;
            if (o.residual) call.dresidual = start;
            if (o.in_place) call.dresidual = call.dx;
            if (o.bias) call.db = db;
            ops.linear_backward(call);
            std::vector<OwnedTensor> outputs{dw};
            if (o.dx) outputs.push_back(to);
            if (o.bias) outputs.push_back(db);
            return outputs;
          }};
}

VerbCase mlp_case(const Sizes& s, const Options& o) {
  return {name_of_case("mlp", s, o), [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real(), stored = ops.stored(), flow = o.reals ? real : stored;
            const Shape narrow{s.leaves, s.experts, s.rows, s.in};
            const Shape wide{s.leaves, s.experts, s.rows, s.out};
            const auto x = random_tensor(stored, narrow, 1);
            const auto w1 = random_tensor(ops.stored_weights(), {s.experts, s.in, s.out}, 2, 0.3);
            const auto b1 = random_tensor(real, {s.experts, s.out}, 3);
            const auto w2 = random_tensor(ops.stored_weights(), {s.experts, s.out, s.in}, 4, 0.3);
            const auto b2 = random_tensor(real, {s.experts, s.in}, 5);
            const auto start = random_tensor(real, narrow, 6);
            const auto dy = random_tensor(flow, narrow, 7);
            const auto mask = random_tensor(real, wide, 8);
            OwnedTensor y = o.in_place ? start : OwnedTensor(flow, narrow);
            OwnedTensor u(stored, wide), h(stored, wide), du(stored, wide);
            MlpForward forward{.x = x, .w1 = w1, .b1 = b1, .w2 = w2, .b2 = b2, .residual = {}, .u = u, .h = h, .y = y};
            if (o.residual) forward.residual = start;
            if (o.in_place) forward.residual = forward.y;
            if (o.masked) forward.hidden_mask = mask;
            ops.mlp_forward(forward);
            OwnedTensor fresh(stored, wide), dx(stored, narrow), dw1(real, {s.experts, s.in, s.out}),
                db1(real, {s.experts, s.out}), dw2(real, {s.experts, s.out, s.in}), db2(real, {s.experts, s.in});
            ops.mlp_backward({.dy = dy,
                              .x = x,
                              .u = u,
                              .w1 = w1,
                              .w2 = w2,
                              .hidden_mask = forward.hidden_mask,
                              .h = fresh,
                              .du = du,
                              .dx = dx,
                              .dw1 = dw1,
                              .db1 = db1,
                              .dw2 = dw2,
                              .db2 = db2});
            std::vector<OwnedTensor> outputs{y, dx, dw1, db1, dw2, db2};
            if (has_rows_of_u(s.in, s.out)) outputs.push_back(u);
            return outputs;
          }};
}

VerbCase qkv_case(const Sizes& s, const Options& o) {
  return {
      name_of_case("qkv", s, o), [=](Ops& ops) -> std::vector<OwnedTensor> {
        const Dtype real = ops.real(), stored = ops.stored(), flow = o.reals ? real : stored;
        const Shape narrow{s.leaves, s.rows, s.in};
        const Shape wide{s.leaves, s.rows, s.out};
        const auto x = random_tensor(stored, narrow, 1);
        std::vector<OwnedTensor> w, b, dy;
        for (std::uint32_t i = 0; i < 3; ++i) {
          w.push_back(random_tensor(ops.stored_weights(), {s.in, s.out}, 2 + i, 0.3));
          b.push_back(random_tensor(real, {s.out}, 5 + i));
          dy.push_back(random_tensor(flow, wide, 8 + i));
        }
        OwnedTensor q(stored, wide), k(stored, wide), v(stored, wide), dx(flow, narrow);
        ops.qkv_forward(
            {.x = x, .wq = w[0], .wk = w[1], .wv = w[2], .bq = b[0], .bk = b[1], .bv = b[2], .q = q, .k = k, .v = v});
        std::vector<OwnedTensor> dw(3, OwnedTensor(real, {s.in, s.out})), db(3, OwnedTensor(real, {s.out}));
        ops.qkv_backward({.dq = dy[0],
                          .dk = dy[1],
                          .dv = dy[2],
                          .x = x,
                          .wq = w[0],
                          .wk = w[1],
                          .wv = w[2],
                          .dx = dx,
                          .dwq = dw[0],
                          .dwk = dw[1],
                          .dwv = dw[2],
                          .dbq = db[0],
                          .dbk = db[1],
                          .dbv = db[2]});
        return {q, k, v, dx, dw[0], dw[1], dw[2], db[0], db[1], db[2]};
      }};
}

}  // namespace

std::vector<VerbCase> dense_cases() {
  std::vector<VerbCase> cases;
  for (const Sizes& s : kSizes) {
    cases.push_back(linear_forward_case(s, {}));
    cases.push_back(linear_forward_case(s, {.bias = true}));
    cases.push_back(linear_forward_case(s, {.residual = true}));
    cases.push_back(linear_forward_case(s, {.bias = true, .residual = true, .in_place = true, .reals = true}));
    cases.push_back(linear_backward_case(s, {.bias = true}));
    cases.push_back(linear_backward_case(s, {.dx = true}));
    cases.push_back(linear_backward_case(s, {.bias = true, .residual = true, .dx = true}));
    cases.push_back(
        linear_backward_case(s, {.bias = true, .residual = true, .in_place = true, .dx = true, .reals = true}));
    cases.push_back(mlp_case(s, {}));
    cases.push_back(mlp_case(s, {.residual = true, .in_place = true, .reals = true}));
    cases.push_back(mlp_case(s, {.residual = true, .masked = true}));
    if (s.experts == 1) cases.push_back(qkv_case(s, {}));
  }
  // Widths of whole vectors and tiles, many leaves and experts.
  for (const Sizes& s :
       {Sizes{8, 1, 65, 64, 80}, Sizes{2, 4, 130, 48, 264}, Sizes{1, 8, 5, 256, 16}, Sizes{2, 2, 37, 64, 1152}}) {
    cases.push_back(linear_forward_case(s, {.bias = true, .residual = true, .reals = true}));
    cases.push_back(linear_backward_case(s, {.bias = true, .dx = true, .reals = true}));
    cases.push_back(mlp_case(s, {}));
    if (s.experts == 1) cases.push_back(qkv_case(s, {.reals = true}));
  }
  // More pieces of rows than a block of the GPU has warps.
  cases.push_back(linear_backward_case({1, 2, 2600, 8, 24}, {.bias = true}));
  return cases;
}

}  // namespace vitrail::testing
