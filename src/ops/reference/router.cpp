// The routers' choices: gates, the experts of a token or the tokens of an expert, slots.

#include <algorithm>
#include <numeric>

#include "base/philox.hpp"
#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
namespace {

// gates_clean = softmax(z);  gates = softmax(z + sigma noise);  for every token
template <class T, class Arguments>
void compute_gates(const Arguments& a) {
  const std::int64_t rows = a.logits.shape[0] * a.logits.shape[1], experts = a.logits.shape[2];
  const T *z = a.logits.template as<T>(), *noise = a.noise ? a.noise.template as<T>() : nullptr;
  std::vector<T> noisy(static_cast<std::size_t>(experts));
  for (std::int64_t row = 0; row < rows * experts; row += experts) {
    for (std::int64_t e = 0; e < experts; ++e)
      noisy[static_cast<std::size_t>(e)] = noise == nullptr ? z[row + e] : z[row + e] + a.noise_std * noise[row + e];
    softmax(z + row, a.gates_clean.template as<T>() + row, experts);
    softmax(noisy.data(), a.gates.template as<T>() + row, experts);
  }
}

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

// What the tokens of a group are sorted by, ascending; gate: [S K]; first_token: the group's first, of the whole run.
template <class T>
std::vector<double> sort_keys(const RouteTopK& a, const T* gate, std::uint64_t first_token) {
  const std::int64_t tokens = a.gate.shape[1], choices = a.gate.shape[2];
  const Philox random(a.draw.seed, Purpose::token_order, a.draw.step, a.draw.layer);
  std::vector<double> keys;
  for (std::int64_t s = 0; s < tokens; ++s) {
    const T* of_token = gate + s * choices;
    switch (a.order) {
      case TokenOrder::vanilla:
        keys.push_back(0.0);
        break;
      case TokenOrder::prioritized:
        keys.push_back(-real_part(of_token[0]));
        break;
      case TokenOrder::prioritized_sum:
        keys.push_back(-real_part(std::accumulate(of_token, of_token + choices, T{})));
        break;
      case TokenOrder::reversed:
        keys.push_back(real_part(of_token[0]));
        break;
      case TokenOrder::random:
        keys.push_back(random.bits(first_token + static_cast<std::uint64_t>(s)));
        break;
    }
  }
  return keys;
}

// 0 .. keys.size()-1 by ascending keys, ties by place.
template <class Key>
std::vector<std::int64_t> sorted_places(const std::vector<Key>& keys) {
  std::vector<std::int64_t> places(keys.size());
  std::iota(places.begin(), places.end(), std::int64_t{0});
  std::stable_sort(places.begin(), places.end(), [&](std::int64_t i, std::int64_t j) {
    return keys[static_cast<std::size_t>(i)] < keys[static_cast<std::size_t>(j)];
  });
  return places;
}

}  // namespace

// gates from the logits, unless they are given;  selected = the K largest gates of a token
// for j = 0 .. K-1, for tokens s in their order:  slot[s,j] = count[selected[s,j]]++
template <class T>
void route_top_k(const RouteTopK& a) {
  const std::int64_t groups = a.gates.shape[0], tokens = a.gates.shape[1], experts = a.gates.shape[2];
  const std::int64_t choices = a.selected.shape[2];
  if (a.logits) compute_gates<T>(a);
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::uint8_t* valid = a.valid ? a.valid.as<std::uint8_t>() + g * tokens : nullptr;
    std::int32_t* selected = a.selected.as<std::int32_t>() + g * tokens * choices;
    std::int32_t* slot = a.slot.as<std::int32_t>() + g * tokens * choices;
    T* gate = a.gate.as<T>() + g * tokens * choices;
    for (std::int64_t s = 0; s < tokens; ++s) {
      const T* gates = a.gates.as<T>() + (g * tokens + s) * experts;
      select_experts(gates, experts, selected + s * choices, gate + s * choices, choices);
    }
    const std::vector<double> keys = sort_keys(a, gate, a.draw.first_token + static_cast<std::uint64_t>(g * tokens));
    const std::vector<std::int64_t> order = sorted_places(keys);
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

// gates from the logits;  gate[t,j] = gates[t,selected[t,j]]
template <class T>
void route_as_given(const RouteAsGiven& a) {
  const std::int64_t experts = a.logits.shape[2], choices = a.selected.shape[2];
  compute_gates<T>(a);
  for (std::int64_t i = 0; i < a.selected.elements(); ++i) {
    const std::int32_t expert = a.selected.as<std::int32_t>()[i];
    VITRAIL_ASSERT(expert >= 0 && expert < experts);
    a.gate.as<T>()[i] = a.gates.as<T>()[i / choices * experts + expert];
  }
}

// gates from the logits, unless they are given;  selected[t,e] = e
// for every expert, for place = 0 .. C-1:  slot[t,e] = place for the valid token t of the group with the largest
// gate[t,e] of those that have no slot yet, the first of equals;  slot[t,e] = -1 for those that are left
template <class T>
void route_experts_choice(const RouteExpertsChoice& a) {
  const std::int64_t groups = a.gates.shape[0], tokens = a.gates.shape[1], experts = a.gates.shape[2];
  auto *selected = a.selected.as<std::int32_t>(), *slot = a.slot.as<std::int32_t>();
  if (a.logits) compute_gates<T>(a);
  for (std::int64_t i = 0; i < a.slot.elements(); ++i) {
    selected[i] = static_cast<std::int32_t>(i % experts);
    slot[i] = -1;
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t e = 0; e < experts; ++e) {
      for (std::int32_t place = 0; place < a.capacity; ++place) {
        std::int64_t best = -1;  // index of (token, e)
        for (std::int64_t t = g * tokens; t < (g + 1) * tokens; ++t) {
          const std::int64_t i = t * experts + e;
          if (slot[i] >= 0 || (a.valid && a.valid.as<std::uint8_t>()[t] == 0)) continue;
          if (best < 0 || real_part(a.gates.as<T>()[i]) > real_part(a.gates.as<T>()[best])) best = i;
        }
        if (best >= 0) slot[best] = place;
      }
    }
  }
}

// y[t,i] = x[t,p(i)], p = 0 .. E-1 by ascending random numbers, ties by expert
template <class T>
void shuffle_experts(const ShuffleExperts& a) {
  const std::int64_t tokens = a.x.shape[0], experts = a.x.shape[1];
  const Philox random(a.draw.seed, Purpose::random_experts, a.draw.step, a.draw.layer);
  std::vector<std::uint32_t> keys(static_cast<std::size_t>(experts));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::uint64_t token = a.draw.first_token + static_cast<std::uint64_t>(t);
    for (std::size_t e = 0; e < keys.size(); ++e) keys[e] = random.bits(token * keys.size() + e);
    const std::vector<std::int64_t> p = sorted_places(keys);
    for (std::int64_t i = 0; i < experts; ++i)
      a.y.as<T>()[t * experts + i] = a.x.as<T>()[t * experts + p[static_cast<std::size_t>(i)]];
  }
}

VITRAIL_REFERENCE_VERB(route_top_k, RouteTopK)
VITRAIL_REFERENCE_VERB(route_as_given, RouteAsGiven)
VITRAIL_REFERENCE_VERB(route_experts_choice, RouteExpertsChoice)
VITRAIL_REFERENCE_VERB(shuffle_experts, ShuffleExperts)

}  // namespace vitrail::reference
