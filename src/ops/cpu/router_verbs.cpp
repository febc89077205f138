// The routers' choices: gates, the experts of a token or the tokens of an expert, slots.

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "base/philox.hpp"
#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/routing_kernels.hpp"

namespace vitrail::cpu {

namespace {

/// Tokens of a unit of work: about 1000 gates, for they are expensive.
std::int64_t tokens_of_unit(std::int64_t experts) {
  return std::max<std::int64_t>(1, 1024 / std::max<std::int64_t>(1, experts));
}

/// Both softmaxes of tokens begin .. end-1.
template <class Arguments>
void compute_gates(const Arguments& a, std::int64_t begin, std::int64_t end) {
  const std::int64_t experts = a.logits.shape[2];
  const std::int64_t first = begin * experts;
  const float* const logits = a.logits.template as<float>() + first;
  float* const clean = a.gates_clean.template as<float>() + first;
  float* const gates = a.gates.template as<float>() + first;
  softmax_rows(logits, nullptr, 0.0F, clean, end - begin, experts);
  if (a.noise) {
    const float* const noise = a.noise.template as<float>() + first;
    softmax_rows(logits, noise, static_cast<float>(a.noise_std), gates, end - begin, experts);
  } else {
    std::copy_n(clean, (end - begin) * experts, gates);
  }
}

/// The K largest gates of a token one after the other, each the first that no later one is larger than.
void search_experts(const float* gates, std::int64_t experts, std::int64_t choices, std::int32_t* selected,
                    float* gate) {
  for (std::int64_t j = 0; j < choices; ++j) {
    std::int64_t best = -1;
    for (std::int64_t e = 0; e < experts; ++e) {
      if (best >= 0 && !(gates[e] > gates[best])) continue;
      if (std::find(selected, selected + j, e) == selected + j) best = e;
    }
    selected[j] = static_cast<std::int32_t>(best);
    gate[j] = gates[best];
  }
}

/// The K largest gates of a token, descending, ties to the lower expert. NaN is never larger.
void select_experts(const float* gates, std::int64_t experts, std::int64_t choices, std::int32_t* selected,
                    float* gate) {
  std::int64_t found = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    const float x = gates[e];
    if (std::isnan(x)) return search_experts(gates, experts, choices, selected, gate);  // has no place among others
    if (found == choices && !(x > gate[choices - 1])) continue;
    std::int64_t place = found < choices ? found++ : choices - 1;
    for (; place > 0 && x > gate[place - 1]; --place) {
      gate[place] = gate[place - 1];
      selected[place] = selected[place - 1];
    }
    gate[place] = x;
    selected[place] = static_cast<std::int32_t>(e);
  }
}

/// Keys for sorting without a stable sort: the high half orders, the low half is the place, which breaks ties.
std::uint64_t key_of(std::uint32_t high, std::int64_t place) {
  return (std::uint64_t{high} << 32) | static_cast<std::uint64_t>(place);
}
std::int64_t place_of(std::uint64_t key) { return static_cast<std::int64_t>(key & 0xFFFFFFFFU); }
/// Ascending results are descending numbers.
std::uint32_t descending(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x + 0.0F);  // -0 counts as 0
  return (bits >> 31) != 0 ? bits : ~bits & 0x7FFFFFFFU;
}

/// What a token is sorted by; `token` of the call, `place` in its group.
std::uint64_t key_of_token(const RouteTopK& a, const Philox& random, std::int64_t token, std::int64_t place) {
  const std::int64_t choices = a.gate.shape[2];
  const float* const gate = a.gate.as<float>() + token * choices;
  switch (a.order) {
    case TokenOrder::vanilla:
      break;
    case TokenOrder::prioritized:
      return key_of(descending(gate[0]), place);
    case TokenOrder::prioritized_sum:
      return key_of(descending(std::accumulate(gate, gate + choices, 0.0F)), place);
    case TokenOrder::reversed:
      return key_of(descending(-gate[0]), place);
    case TokenOrder::random:
      return key_of(random.bits(a.draw.first_token + static_cast<std::uint64_t>(token)), place);
  }
  return key_of(0, place);
}

/// The tokens of one group take slots. Scratch: `order` [S], `count` [E].
void take_slots(const RouteTopK& a, std::int64_t group, std::uint64_t* order, std::int32_t* count) {
  const std::int64_t tokens = a.gates.shape[1];
  const std::int64_t choices = a.selected.shape[2];
  const std::int64_t first = group * tokens;
  const std::uint8_t* const valid = a.valid ? a.valid.as<std::uint8_t>() + first : nullptr;
  const std::int32_t* const selected = a.selected.as<std::int32_t>() + first * choices;
  std::int32_t* const slot = a.slot.as<std::int32_t>() + first * choices;
  const Philox random(a.draw.seed, Purpose::token_order, a.draw.step, a.draw.layer);
  for (std::int64_t s = 0; s < tokens; ++s) order[s] = key_of_token(a, random, first + s, s);
  if (a.order != TokenOrder::vanilla) std::sort(order, order + tokens);
  std::fill_n(count, a.gates.shape[2], 0);
  for (std::int64_t j = 0; j < choices; ++j) {
    for (std::int64_t i = 0; i < tokens; ++i) {
      const std::int64_t s = place_of(order[i]);
      const std::int64_t assignment = s * choices + j;
      slot[assignment] = valid == nullptr || valid[s] != 0 ? count[selected[assignment]]++ : -1;
    }
  }
}

/// One expert takes tokens of one group. Scratch: `order` [S].
void take_tokens(const RouteExpertsChoice& a, std::int64_t group, std::int64_t expert, std::uint64_t* order) {
  const std::int64_t tokens = a.gates.shape[1];
  const std::int64_t experts = a.gates.shape[2];
  const std::int64_t first = group * tokens;
  std::int64_t count = 0;
  for (std::int64_t s = 0; s < tokens; ++s) {
    const std::int64_t i = (first + s) * experts + expert;
    a.selected.as<std::int32_t>()[i] = static_cast<std::int32_t>(expert);
    a.slot.as<std::int32_t>()[i] = -1;
    if (a.valid && a.valid.as<std::uint8_t>()[first + s] == 0) continue;
    order[count++] = key_of(descending(a.gates.as<float>()[i]), s);
  }
  const std::int64_t taken = std::min(a.capacity, count);
  std::partial_sort(order, order + taken, order + count);
  for (std::int64_t place = 0; place < taken; ++place) {
    const std::int64_t token = first + place_of(order[place]);
    a.slot.as<std::int32_t>()[token * experts + expert] = static_cast<std::int32_t>(place);
  }
}

}  // namespace

void CpuOps::run(const RouteTopK& a) {
  const std::int64_t groups = a.gates.shape[0];
  const std::int64_t tokens = a.gates.shape[1];
  const std::int64_t experts = a.gates.shape[2];
  const std::int64_t choices = a.selected.shape[2];
  for_each_piece(threads_, groups * tokens, tokens_of_unit(experts), [&](std::int64_t begin, std::int64_t end) {
    if (a.logits) compute_gates(a, begin, end);
    for (std::int64_t token = begin; token < end; ++token)
      select_experts(a.gates.as<float>() + token * experts, experts, choices,
                     a.selected.as<std::int32_t>() + token * choices, a.gate.as<float>() + token * choices);
  });
  const std::int64_t order = aligned_floats(2 * tokens);
  const std::int64_t scratch = order + aligned_floats(experts);
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, groups, [&](std::int64_t group, int thread) {
    float* const mine = scratches + thread * scratch;
    take_slots(a, group, reinterpret_cast<std::uint64_t*>(mine), reinterpret_cast<std::int32_t*>(mine + order));
  });
}

void CpuOps::run(const RouteAsGiven& a) {
  const std::int64_t experts = a.logits.shape[2];
  const std::int64_t choices = a.selected.shape[2];
  const std::int64_t tokens = a.logits.shape[0] * a.logits.shape[1];
  for_each_piece(threads_, tokens, tokens_of_unit(experts), [&](std::int64_t begin, std::int64_t end) {
    compute_gates(a, begin, end);
    for (std::int64_t i = begin * choices; i < end * choices; ++i)
      a.gate.as<float>()[i] = a.gates.as<float>()[i / choices * experts + a.selected.as<std::int32_t>()[i]];
  });
}

void CpuOps::run(const RouteExpertsChoice& a) {
  const std::int64_t groups = a.gates.shape[0];
  const std::int64_t tokens = a.gates.shape[1];
  const std::int64_t experts = a.gates.shape[2];
  if (a.logits) {
    for_each_piece(threads_, groups * tokens, tokens_of_unit(experts),
                   [&](std::int64_t begin, std::int64_t end) { compute_gates(a, begin, end); });
  }
  const std::int64_t scratch = aligned_floats(2 * tokens);
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, groups * experts, [&](std::int64_t unit, int thread) {
    take_tokens(a, unit / experts, unit % experts, reinterpret_cast<std::uint64_t*>(scratches + thread * scratch));
  });
}

void CpuOps::run(const ShuffleExperts& a) {
  const std::int64_t experts = a.x.shape[1];
  const Cut cut{a.x.shape[0], tokens_of_unit(experts)};
  const Philox random(a.draw.seed, Purpose::random_experts, a.draw.step, a.draw.layer);
  const std::int64_t scratch = aligned_floats(2 * experts);
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, cut.pieces(), [&](std::int64_t unit, int thread) {
    auto* const order = reinterpret_cast<std::uint64_t*>(scratches + thread * scratch);
    for (std::int64_t token = cut.begin(unit); token < cut.begin(unit) + cut.length(unit); ++token) {
      const std::uint64_t index =
          (a.draw.first_token + static_cast<std::uint64_t>(token)) * static_cast<std::uint64_t>(experts);
      for (std::int64_t e = 0; e < experts; ++e)
        order[e] = key_of(random.bits(index + static_cast<std::uint64_t>(e)), e);
      std::sort(order, order + experts);
      for (std::int64_t i = 0; i < experts; ++i)
        a.y.as<float>()[token * experts + i] = a.x.as<float>()[token * experts + place_of(order[i])];
    }
  });
}

}  // namespace vitrail::cpu
