// Calls of the router's verbs for test_cpu_ops.cpp; and their bits, which depend on one group alone.

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/ops/leaf_parts.hpp"
#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

namespace {

struct Sizes {
  std::int64_t leaves, groups, tokens, experts, choices, capacity, owners, width;
};
constexpr Sizes kSizes[] = {{1, 1, 1, 1, 1, 1, 1, 1},      {1, 2, 7, 3, 2, 4, 1, 5},     {2, 1, 33, 8, 1, 4, 4, 33},
                            {2, 3, 50, 8, 2, 12, 2, 64},   {1, 1, 257, 32, 5, 40, 8, 7}, {1, 1, 40, 33, 33, 40, 3, 8},
                            {4, 4, 400, 8, 2, 108, 2, 64}, {1, 0, 5, 4, 2, 3, 1, 3},     {1, 2, 20, 64, 2, 3, 8, 80},
                            {1, 1, 65, 130, 3, 2, 2, 88},  {2, 1, 9, 300, 4, 1, 4, 132}};

struct Options {
  bool noise = true;
  bool masked = false;
  TokenOrder order = TokenOrder::vanilla;
};

constexpr const char* kOrderNames[] = {"", "_prioritized", "_prioritized_sum", "_reversed", "_random"};

// The whole life of a batch in a sparse layer: what one verb makes is the input of the next.
VerbCase router_case(const Sizes& s, const Options& o) {
  const std::string options =
      std::string(o.noise ? "_noise" : "") + (o.masked ? "_masked" : "") + kOrderNames[static_cast<int>(o.order)];
  return {case_name("router", {s.leaves, s.groups, s.tokens, s.experts, s.choices}) + options,
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const std::int64_t groups = s.leaves * s.groups;
            const double sigma = 1.0 / static_cast<double>(s.experts);
            const auto logits = random_tensor(real, {groups, s.tokens, s.experts}, 1, 0.5);
            const auto noise = random_tensor(real, {groups, s.tokens, s.experts}, 2);
            const auto dgate = random_tensor(real, {groups, s.tokens, s.choices}, 3);
            auto valid = random_integers(Dtype::u8, {groups, s.tokens}, 4, 4);
            if (groups > 1) {
              for (std::int64_t i = 0; i < s.tokens; ++i) valid.set(i, 0);  // a group of nothing but padding
            }
            OwnedTensor clean(real, logits.shape()), gates(real, logits.shape()),
                selected(Dtype::i32, {groups, s.tokens, s.choices}), slot(Dtype::i32, {groups, s.tokens, s.choices}),
                gate(real, {groups, s.tokens, s.choices}), importance(real, {groups}), load(real, {groups}),
                gshard(real, {groups}), z(real, {groups}), dlogits(real, logits.shape()), plain(real, logits.shape());
            RouteTopK route{.logits = logits,
                            .noise = {},
                            .noise_std = sigma,
                            .valid = {},
                            .order = o.order,
                            .draw = {.seed = 5, .step = 7, .layer = 3, .first_token = 1000},
                            .gates_clean = clean,
                            .gates = gates,
                            .selected = selected,
                            .slot = slot,
                            .gate = gate};
            RouterLossesForward losses{.logits = logits,
                                       .noise = {},
                                       .noise_std = sigma,
                                       .gates_clean = clean,
                                       .gates = gates,
                                       .selected = selected,
                                       .valid = {},
                                       .importance = importance,
                                       .load = load,
                                       .gshard = gshard,
                                       .z = z};
            RouterBackward backward{.dgate = dgate,
                                    .logits = logits,
                                    .noise = {},
                                    .noise_std = sigma,
                                    .gates_clean = clean,
                                    .gates = gates,
                                    .selected = selected,
                                    .importance_scale = 0.5,
                                    .load_scale = 0.7,
                                    .gshard_scale = 0.9,
                                    .z_scale = 0.3,
                                    .dlogits = dlogits};
            if (o.noise) route.noise = losses.noise = backward.noise = noise;
            if (o.masked) route.valid = losses.valid = valid;
            ops.route_top_k(route);
            ops.router_losses_forward(losses);
            ops.router_backward(backward);
            backward.importance_scale = backward.load_scale = backward.gshard_scale = backward.z_scale = 0.0;
            backward.dlogits = plain;
            ops.router_backward(backward);
            return {selected, slot, clean, gates, gate, importance, load, gshard, z, dlogits, plain};
          }};
}

// Experts choose, with logits and with the gates as they are.
VerbCase choice_case(const Sizes& s, const Options& o) {
  return {case_name("choice", {s.leaves, s.groups, s.tokens, s.experts, s.capacity}) + (o.noise ? "_noise" : "") +
              (o.masked ? "_masked" : ""),
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const Shape shape{s.leaves * s.groups, s.tokens, s.experts};
            const auto logits = random_tensor(real, shape, 1, 0.5), noise = random_tensor(real, shape, 2);
            auto given = random_integers(real, shape, 3, 4);  // many ties
            const auto valid = random_integers(Dtype::u8, {s.leaves * s.groups, s.tokens}, 4, 4);
            OwnedTensor clean(real, shape), gates(real, shape), selected(Dtype::i32, shape), slot(Dtype::i32, shape),
                other_selected(Dtype::i32, shape), other_slot(Dtype::i32, shape);
            RouteExpertsChoice route{.logits = logits,
                                     .noise = {},
                                     .noise_std = 0.3,
                                     .valid = {},
                                     .capacity = std::min(s.capacity, s.tokens),
                                     .gates_clean = clean,
                                     .gates = gates,
                                     .selected = selected,
                                     .slot = slot};
            if (o.noise) route.noise = noise;
            if (o.masked) route.valid = valid;
            ops.route_experts_choice(route);
            route.logits = route.noise = ConstTensor();
            route.gates_clean = Tensor();
            route.gates = given;
            route.selected = other_selected;
            route.slot = other_slot;
            ops.route_experts_choice(route);
            return {clean, gates, selected, slot, other_selected, other_slot};
          }};
}

// Choices that were made elsewhere, and experts in random order.
VerbCase given_case(const Sizes& s) {
  return {case_name("given", {s.leaves, s.groups, s.tokens, s.experts, s.choices}),
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const std::int64_t groups = s.leaves * s.groups;
            const Shape shape{groups, s.tokens, s.experts}, chosen{groups, s.tokens, s.choices};
            const auto logits = random_tensor(real, shape, 1, 0.5), noise = random_tensor(real, shape, 2);
            const auto selected = random_integers(Dtype::i32, chosen, 3, s.experts);
            OwnedTensor clean(real, shape), gates(real, shape), gate(real, chosen), quiet(real, shape),
                shuffled(real, shape);
            RouteAsGiven route{.logits = logits,
                               .noise = noise,
                               .noise_std = 0.3,
                               .selected = selected,
                               .gates_clean = clean,
                               .gates = gates,
                               .gate = gate};
            ops.route_as_given(route);
            const OwnedTensor noisy = gate;
            route.gate = gate;  // shown again: it was looked at
            route.noise = ConstTensor();
            route.gates = quiet;
            ops.route_as_given(route);
            const Shape flat{groups * s.tokens, s.experts};
            ops.shuffle_experts({.x = logits.view().view(flat),
                                 .draw = {.seed = 5, .step = 7, .layer = 3, .first_token = 1000},
                                 .y = shuffled.view().view(flat)});
            return {clean, gates, noisy, quiet, gate, shuffled};
          }};
}

VerbCase normalize_case(const Sizes& s) {
  return {case_name("normalized", {s.leaves, s.groups, s.tokens, s.choices}),
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Shape shape{s.leaves * s.groups * s.tokens, s.choices};
            auto gate = random_tensor(ops.real(), shape, 1), row = random_integers(Dtype::i32, shape, 2, 4);
            for (std::int64_t i = 0; i < gate.elements(); ++i) {
              gate.set(i, i % 7 == 3 ? 0.0 : 0.25 + std::abs(gate.get(i)));  // here and there nothing but zeros
              row.set(i, row.get(i) - 1.0);
            }
            const auto dy = random_tensor(ops.real(), shape, 3);
            OwnedTensor y(ops.real(), shape), dgate(ops.real(), shape), in_place = dy;
            ops.normalize_gates_forward({.gate = gate, .row = row, .y = y});
            NormalizeGatesBackward backward{.dy = dy, .gate = gate, .row = row, .y = y, .dgate = dgate};
            ops.normalize_gates_backward(backward);
            backward.dy = backward.dgate = in_place;
            ops.normalize_gates_backward(backward);
            return {y, dgate, in_place};
          }};
}

VerbCase rows_case(const Sizes& s, bool in_place) {
  return {
      case_name("rows", {s.leaves, s.groups, s.tokens, s.experts, s.choices, s.owners, s.width}) +
          (in_place ? "_in_place" : ""),
      [=](Ops& ops) -> std::vector<OwnedTensor> {
        const Dtype real = ops.real();
        const std::int64_t tokens = s.leaves * s.groups * s.tokens;
        const Shape choices{s.leaves, s.groups, s.tokens, s.choices};
        const Shape flat{tokens, s.choices};
        // Slots as the router hands them out; expert 0 gets most.
        auto selected = random_integers(Dtype::i32, choices, 1, s.experts);
        auto slot = OwnedTensor(Dtype::i32, choices);
        for (std::int64_t g = 0; g < s.leaves * s.groups; ++g) {
          std::vector<int> count(static_cast<std::size_t>(s.experts), 0);
          for (std::int64_t i = g * s.tokens * s.choices; i < (g + 1) * s.tokens * s.choices; ++i) {
            if (i % 3 == 0) selected.set(i, 0);
            slot.set(i, i % 11 == 5 ? -1 : count[static_cast<std::size_t>(selected.get(i))]++);
          }
        }
        const std::int64_t of_owner = s.experts / s.owners;
        const std::int64_t rows = s.owners * s.leaves * of_owner * s.groups * s.capacity;
        OwnedTensor source(Dtype::i32, {s.owners, s.leaves, of_owner, s.groups * s.capacity}), row(Dtype::i32, choices);
        ops.map_slots({.selected = selected, .slot = slot, .capacity = s.capacity, .source = source, .row = row});
        const ConstTensor sources = source.view().view({rows});
        const ConstTensor places = row.view().view(flat);
        const auto x = random_tensor(in_place ? real : ops.stored(), {tokens, s.width}, 3);
        const auto dy = random_tensor(real, {tokens, s.width}, 3);
        const auto o = random_tensor(ops.stored(), {rows, s.width}, 4);
        const auto gate = random_tensor(real, flat, 5);
        const auto start = random_tensor(real, {tokens, s.width}, 6);
        OwnedTensor gathered(ops.stored(), {rows, s.width}), dx(ops.stored(), {tokens, s.width}),
            y(real, {tokens, s.width}), d_o(ops.stored(), {rows, s.width}), dgate(real, flat);
        if (in_place) dx = start, y = start, d_o = o;
        ops.gather_rows_forward({.x = x, .source = sources, .choices = s.choices, .y = gathered});
        GatherRowsBackward gather{.dy = o, .row = places, .dresidual = {}, .dx = dx};
        CombineRowsForward combine{.o = o, .row = places, .gate = gate, .residual = {}, .y = y};
        CombineRowsBackward backward{
            .dy = dy, .o = o, .row = places, .source = sources, .gate = gate, .d_o = d_o, .dgate = dgate};
        if (in_place) gather.dresidual = gather.dx, combine.residual = combine.y, backward.o = backward.d_o;
        ops.gather_rows_backward(gather);
        ops.combine_rows_forward(combine);
        ops.combine_rows_backward(backward);
        // With a residual beside it.
        OwnedTensor beside(ops.stored(), {tokens, s.width});
        ops.gather_rows_backward({.dy = o, .row = places, .dresidual = start, .dx = beside});
        OwnedTensor assigned(Dtype::i64, {s.experts}), kept(Dtype::i64, {s.experts}), processed(Dtype::i64, {1});
        ops.count_assignments({.selected = selected.view().view(flat),
                               .slot = slot.view().view(flat),
                               .capacity = s.capacity,
                               .assigned = assigned,
                               .kept = kept,
                               .processed = processed});
        return {source, row, assigned, kept, processed, gathered, dx, y, d_o, dgate, beside};
      }};
}

}  // namespace

std::vector<VerbCase> routing_cases() {
  std::vector<VerbCase> cases;
  for (const Sizes& s : kSizes) {
    cases.push_back(router_case(s, {}));
    cases.push_back(router_case(s, {.noise = false}));
    cases.push_back(router_case(s, {.noise = true, .masked = true}));
    cases.push_back(router_case(s, {.noise = true, .masked = true, .order = TokenOrder::prioritized}));
    cases.push_back(router_case(s, {.noise = false, .masked = false, .order = TokenOrder::prioritized}));
    // The sum of all gates is 1, and only round-off would order it.
    if (s.choices < s.experts || s.experts == 1)
      cases.push_back(router_case(s, {.noise = true, .masked = true, .order = TokenOrder::prioritized_sum}));
    cases.push_back(router_case(s, {.noise = true, .masked = true, .order = TokenOrder::reversed}));
    cases.push_back(router_case(s, {.noise = true, .masked = true, .order = TokenOrder::random}));
    cases.push_back(choice_case(s, {}));
    cases.push_back(choice_case(s, {.noise = false, .masked = true}));
    cases.push_back(given_case(s));
    cases.push_back(normalize_case(s));
    cases.push_back(rows_case(s, false));
    cases.push_back(rows_case(s, true));
  }
  return cases;
}

// A group's choices are the same alone and beside others.
TEST(CpuRouterBits, OfAGroupDoNotDependOnTheOtherGroups) {
  const auto ops = make_cpu_ops(2);
  const std::int64_t groups = 6, tokens = 45, experts = 11, choices = 3;
  const auto logits = random_tensor(Dtype::f32, {groups, tokens, experts}, 1, 0.5);
  const auto noise = random_tensor(Dtype::f32, {groups, tokens, experts}, 2);
  const auto run = [&](std::int64_t first, std::int64_t count, TokenOrder order) {
    const auto z = part(logits, 0, first, count), some_noise = part(noise, 0, first, count);
    const Shape chosen{count, tokens, choices};
    OwnedTensor clean(Dtype::f32, z.shape()), gates(Dtype::f32, z.shape()), selected(Dtype::i32, chosen),
        slot(Dtype::i32, chosen), gate(Dtype::f32, chosen), all(Dtype::i32, z.shape()), taken(Dtype::i32, z.shape()),
        shuffled(Dtype::f32, z.shape());
    const RouterDraw draw{
        .seed = 5, .step = 7, .layer = 3, .first_token = static_cast<std::uint64_t>(1000 + first * tokens)};
    ops->route_top_k({.logits = z,
                      .noise = some_noise,
                      .noise_std = 0.1,
                      .valid = {},
                      .order = order,
                      .draw = draw,
                      .gates_clean = clean,
                      .gates = gates,
                      .selected = selected,
                      .slot = slot,
                      .gate = gate});
    ops->route_experts_choice({.logits = z,
                               .noise = some_noise,
                               .noise_std = 0.1,
                               .valid = {},
                               .capacity = 9,
                               .gates_clean = clean,
                               .gates = gates,
                               .selected = all,
                               .slot = taken});
    ops->shuffle_experts({.x = z.view().view({count * tokens, experts}),
                          .draw = draw,
                          .y = shuffled.view().view({count * tokens, experts})});
    return std::vector<OwnedTensor>{clean, gates, selected, slot, gate, taken, shuffled};
  };
  for (const TokenOrder order : {TokenOrder::vanilla, TokenOrder::prioritized, TokenOrder::prioritized_sum,
                                 TokenOrder::reversed, TokenOrder::random}) {
    const auto together = run(0, groups, order);
    for (const std::int64_t count : {1, 2, 3}) {
      for (std::int64_t first = 0; first < groups; first += count) {
        const auto some = run(first, count, order);
        for (std::size_t i = 0; i < some.size(); ++i)
          EXPECT_TRUE(same_bits(part(together[i], 0, first, count), some[i])) << "output " << i << ", group " << first;
      }
    }
  }
}

}  // namespace vitrail::testing
