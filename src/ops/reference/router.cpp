// The noisy top-k router: gates, choices, slots.

#include <algorithm>
#include <numeric>

#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
namespace {

// The K experts of the largest gates, descending; of equal gates the lower expert comes first.
template <class T>
void select_experts(const T* gates, std::int64_t experts, std::int32_t* selected, T* gate, std::int64_t choices) {
  std::vector<bool> taken(static_cast<std::size_t>(experts), false);
  for (std::int64_t j = 0; j < choices; ++j) {
    std::int64_t best = -1;
    for (std::int64_t e = 0; e < experts; ++e) {
      if (taken[static_cast<std::size_t>(e)]) continue;
      if (best < 0 || real_part(gates[e]) > real_part(gates[best])) best = e;
    }
    taken[static_cast<std::size_t>(best)] = true;
    selected[j] = static_cast<std::int32_t>(best);
    gate[j] = gates[best];
  }
}

// The order in which the tokens of a group take slots: as they come, or by descending first gate, ties by place.
template <class T>
std::vector<std::int64_t> order_of_tokens(const T* gate, std::int64_t tokens, std::int64_t choices, TokenOrder order) {
  std::vector<std::int64_t> places(static_cast<std::size_t>(tokens));
  std::iota(places.begin(), places.end(), std::int64_t{0});
  if (order == TokenOrder::prioritized) {
    std::stable_sort(places.begin(), places.end(), [&](std::int64_t s, std::int64_t t) {
      return real_part(gate[s * choices]) > real_part(gate[t * choices]);
    });
  }
  return places;
}

// gates_clean = softmax(z);  gates = softmax(z + sigma noise);  for the token whose logits begin at `row`
template <class T>
void compute_gates(const RouteTopK& a, std::int64_t row, std::int64_t experts, std::vector<T>& noisy) {
  const T* z = a.logits.as<T>() + row;
  for (std::int64_t e = 0; e < experts; ++e)
    noisy[static_cast<std::size_t>(e)] = a.noise ? z[e] + a.noise_std * a.noise.as<T>()[row + e] : z[e];
  softmax(z, a.gates_clean.as<T>() + row, experts);
  softmax(noisy.data(), a.gates.as<T>() + row, experts);
}

}  // namespace

// gates from the logits, unless they are given;  selected = the K largest gates of a token
// for j = 0 .. K-1, for tokens s in their order:  slot[s,j] = count[selected[s,j]]++
template <class T>
void route_top_k(const RouteTopK& a) {
  const std::int64_t groups = a.gates.shape[0], tokens = a.gates.shape[1], experts = a.gates.shape[2];
  const std::int64_t choices = a.selected.shape[2];
  std::vector<T> noisy(static_cast<std::size_t>(experts));
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::uint8_t* valid = a.valid ? a.valid.as<std::uint8_t>() + g * tokens : nullptr;
    std::int32_t* selected = a.selected.as<std::int32_t>() + g * tokens * choices;
    std::int32_t* slot = a.slot.as<std::int32_t>() + g * tokens * choices;
    T* gate = a.gate.as<T>() + g * tokens * choices;
    for (std::int64_t s = 0; s < tokens; ++s) {
      const std::int64_t row = (g * tokens + s) * experts;
      if (a.logits) compute_gates(a, row, experts, noisy);
      select_experts(a.gates.as<T>() + row, experts, selected + s * choices, gate + s * choices, choices);
    }
    const std::vector<std::int64_t> order = order_of_tokens(gate, tokens, choices, a.order);
    std::vector<std::int32_t> count(static_cast<std::size_t>(experts), 0);
    for (std::int64_t j = 0; j < choices; ++j) {
      for (const std::int64_t s : order) {
        const std::int64_t i = s * choices + j;
        const bool takes_part = valid == nullptr || valid[s] != 0;
        slot[i] = takes_part ? count[static_cast<std::size_t>(selected[i])]++ : -1;
      }
    }
  }
}

VITRAIL_REFERENCE_VERB(route_top_k, RouteTopK)

}  // namespace vitrail::reference
