// Calls of the router's verbs for test_cpu_ops.cpp.

#include <gtest/gtest.h>

#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

namespace {

struct Sizes {
  std::int64_t leaves, groups, tokens, experts, choices, capacity, owners, width;
};
constexpr Sizes kSizes[] = {{1, 1, 1, 1, 1, 1, 1, 1},      {1, 2, 7, 3, 2, 4, 1, 5},     {2, 1, 33, 8, 1, 4, 4, 33},
                            {2, 3, 50, 8, 2, 12, 2, 64},   {1, 1, 257, 32, 5, 40, 8, 7}, {1, 1, 40, 33, 33, 40, 3, 8},
                            {4, 4, 400, 8, 2, 108, 2, 64}, {1, 0, 5, 4, 2, 3, 1, 3}};

struct Options {
  bool noise = true;
  bool masked = false;
  TokenOrder order = TokenOrder::vanilla;
};

// The whole life of a batch in a sparse layer: what one verb makes is the input of the next.
VerbCase router_case(const Sizes& s, const Options& o) {
  const std::string options = std::string(o.noise ? "_noise" : "") + (o.masked ? "_masked" : "") +
                              (o.order == TokenOrder::prioritized ? "_prioritized" : "");
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
        const auto x = random_tensor(real, {tokens, s.width}, 3);
        const auto o = random_tensor(real, {rows, s.width}, 4);
        const auto gate = random_tensor(real, flat, 5);
        const auto start = random_tensor(real, {tokens, s.width}, 6);
        OwnedTensor gathered(real, {rows, s.width}), dx(real, {tokens, s.width}), y(real, {tokens, s.width}),
            d_o(real, {rows, s.width}), dgate(real, flat);
        if (in_place) dx = start, y = start, d_o = o;
        ops.gather_rows_forward({.x = x, .source = sources, .choices = s.choices, .y = gathered});
        GatherRowsBackward gather{.dy = o, .row = places, .dresidual = {}, .dx = dx};
        CombineRowsForward combine{.o = o, .row = places, .gate = gate, .residual = {}, .y = y};
        CombineRowsBackward backward{
            .dy = x, .o = o, .row = places, .source = sources, .gate = gate, .d_o = d_o, .dgate = dgate};
        if (in_place) gather.dresidual = gather.dx, combine.residual = combine.y, backward.o = backward.d_o;
        ops.gather_rows_backward(gather);
        ops.combine_rows_forward(combine);
        ops.combine_rows_backward(backward);
        OwnedTensor assigned(Dtype::i64, {s.experts}), kept(Dtype::i64, {s.experts}), processed(Dtype::i64, {1});
        ops.count_assignments({.selected = selected.view().view(flat),
                               .slot = slot.view().view(flat),
                               .capacity = s.capacity,
                               .assigned = assigned,
                               .kept = kept,
                               .processed = processed});
        return {source, row, assigned, kept, processed, gathered, dx, y, d_o, dgate};
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
    cases.push_back(rows_case(s, false));
    cases.push_back(rows_case(s, true));
  }
  return cases;
}

}  // namespace vitrail::testing
