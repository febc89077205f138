// The router's choices, and the movement of rows.

#include <algorithm>
#include <bit>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/routing_kernels.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kElements = 1 << 14;  // of a unit of work

std::int64_t rows_of_unit(std::int64_t width) {
  return std::max<std::int64_t>(1, kElements / std::max<std::int64_t>(1, width));
}

/// The K largest gates of a token, descending, ties to the lower expert. NaN is never larger.
void select_experts(const float* gates, std::int64_t experts, std::int64_t choices, std::int32_t* selected,
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

/// Ascending keys are descending numbers, then ascending places: what a stable sort by -x gives.
std::uint64_t key_of(float x, std::int64_t place) {
  const auto bits = std::bit_cast<std::uint32_t>(x + 0.0F);  // -0 counts as 0
  const std::uint32_t ascending = (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
  return (std::uint64_t{~ascending} << 32) | static_cast<std::uint64_t>(place);
}

/// Both softmaxes of tokens begin .. end-1.
void compute_gates(const RouteTopK& a, std::int64_t begin, std::int64_t end, std::int64_t experts) {
  const std::int64_t first = begin * experts;
  const float* const logits = a.logits.as<float>() + first;
  float* const clean = a.gates_clean.as<float>() + first;
  float* const gates = a.gates.as<float>() + first;
  softmax_rows(logits, nullptr, 0.0F, clean, end - begin, experts);
  if (a.noise) {
    const float* const noise = a.noise.as<float>() + first;
    softmax_rows(logits, noise, static_cast<float>(a.noise_std), gates, end - begin, experts);
  } else {
    std::copy_n(clean, (end - begin) * experts, gates);
  }
}

}  // namespace

void CpuOps::run(const RouteTopK& a) {
  const std::int64_t groups = a.gates.shape[0];
  const std::int64_t tokens = a.gates.shape[1];
  const std::int64_t experts = a.gates.shape[2];
  const std::int64_t choices = a.selected.shape[2];
  for_each_piece(threads_, groups * tokens, rows_of_unit(16 * experts), [&](std::int64_t begin, std::int64_t end) {
    float* const gates = a.gates.as<float>();
    if (a.logits) compute_gates(a, begin, end, experts);
    for (std::int64_t token = begin; token < end; ++token)
      select_experts(gates + token * experts, experts, choices, a.selected.as<std::int32_t>() + token * choices,
                     a.gate.as<float>() + token * choices);
  });
  const std::int64_t scratch = aligned_floats(2 * tokens) + aligned_floats(experts);
  float* const scratches = workspace_.floats(threads_ * scratch);
  for_each_unit(threads_, groups, [&](std::int64_t group, int thread) {
    const std::int64_t first = group * tokens;
    const std::uint8_t* const valid = a.valid ? a.valid.as<std::uint8_t>() + first : nullptr;
    const std::int32_t* const selected = a.selected.as<std::int32_t>() + first * choices;
    std::int32_t* const slot = a.slot.as<std::int32_t>() + first * choices;
    auto* const order = reinterpret_cast<std::uint64_t*>(scratches + thread * scratch);
    auto* const count = reinterpret_cast<std::int32_t*>(scratches + thread * scratch + aligned_floats(2 * tokens));
    const bool sorted = a.order == TokenOrder::prioritized;
    for (std::int64_t s = 0; s < tokens; ++s)
      order[s] = key_of(sorted ? a.gate.as<float>()[(first + s) * choices] : 0.0F, s);
    if (sorted) std::sort(order, order + tokens);
    std::fill_n(count, experts, 0);
    for (std::int64_t j = 0; j < choices; ++j) {
      for (std::int64_t i = 0; i < tokens; ++i) {
        const auto s = static_cast<std::int64_t>(order[i] & 0xFFFFFFFFU);
        const std::int64_t assignment = s * choices + j;
        slot[assignment] = valid == nullptr || valid[s] != 0 ? count[selected[assignment]]++ : -1;
      }
    }
  });
}

void CpuOps::run(const MapSlots& a) {
  const std::int64_t leaves = a.selected.shape[0];
  const std::int64_t groups = a.selected.shape[1];
  const std::int64_t in_group = a.selected.shape[2] * a.selected.shape[3];
  const std::int64_t experts = a.source.shape[2];
  const std::int64_t slots = a.source.shape[3];
  std::int32_t* const source = a.source.as<std::int32_t>();
  for_each_piece(threads_, a.source.elements(), kElements,
                 [&](std::int64_t begin, std::int64_t end) { std::fill(source + begin, source + end, -1); });
  for_each_unit(threads_, leaves * groups, [&](std::int64_t unit, int) {
    const std::int64_t leaf = unit / groups;
    const std::int64_t group = unit % groups;
    for (std::int64_t i = unit * in_group; i < (unit + 1) * in_group; ++i) {
      const std::int64_t slot = a.slot.as<std::int32_t>()[i];
      std::int32_t& row = a.row.as<std::int32_t>()[i];
      row = -1;
      if (slot < 0 || slot >= a.capacity) continue;
      const std::int64_t expert = a.selected.as<std::int32_t>()[i];
      const std::int64_t block = (expert / experts * leaves + leaf) * experts + expert % experts;
      row = static_cast<std::int32_t>(block * slots + group * a.capacity + slot);
      source[row] = static_cast<std::int32_t>(i);
    }
  });
}

void CpuOps::run(const GatherRowsForward& a) {
  const std::int64_t width = a.y.shape[1];
  for_each_piece(threads_, a.y.shape[0], rows_of_unit(width), [&](std::int64_t begin, std::int64_t end) {
    gather_run({a.x.as<float>(), a.source.as<std::int32_t>(), a.choices, a.y.as<float>(), begin, end, width});
  });
}

void CpuOps::run(const GatherRowsBackward& a) {
  const std::int64_t width = a.dx.shape[1];
  for_each_piece(threads_, a.dx.shape[0], rows_of_unit(width), [&](std::int64_t begin, std::int64_t end) {
    combine_run({a.dy.as<float>(), a.row.as<std::int32_t>(), nullptr, a.dresidual ? a.dresidual.as<float>() : nullptr,
                 a.dx.as<float>(), begin, end, a.row.shape[1], width});
  });
}

void CpuOps::run(const CombineRowsForward& a) {
  const std::int64_t width = a.y.shape[1];
  for_each_piece(threads_, a.y.shape[0], rows_of_unit(width), [&](std::int64_t begin, std::int64_t end) {
    combine_run({a.o.as<float>(), a.row.as<std::int32_t>(), a.gate.as<float>(),
                 a.residual ? a.residual.as<float>() : nullptr, a.y.as<float>(), begin, end, a.row.shape[1], width});
  });
}

void CpuOps::run(const CombineRowsBackward& a) {
  const std::int64_t width = a.d_o.shape[1];
  const std::int64_t choices = a.row.shape[1];
  const std::int32_t* const row = a.row.as<std::int32_t>();
  float* const dgate = a.dgate.as<float>();
  for_each_piece(threads_, a.row.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (row[i] < 0) dgate[i] = 0.0F;  // the others are written where their row is
    }
  });
  for_each_piece(threads_, a.d_o.shape[0], rows_of_unit(width), [&](std::int64_t begin, std::int64_t end) {
    combine_run_backward({a.dy.as<float>(), a.o.as<float>(), a.source.as<std::int32_t>(), a.gate.as<float>(),
                          a.d_o.as<float>(), dgate, begin, end, choices, width});
  });
}

void CpuOps::run(const CountAssignments& a) {
  std::int64_t* const assigned = a.assigned.as<std::int64_t>();
  std::int64_t* const kept = a.kept.as<std::int64_t>();
  std::fill_n(assigned, a.assigned.elements(), 0);
  std::fill_n(kept, a.kept.elements(), 0);
  const std::int64_t choices = a.selected.shape[1];
  std::int64_t processed = 0;
  for (std::int64_t token = 0; token < a.selected.shape[0]; ++token) {
    bool any = false;
    for (std::int64_t i = token * choices; i < (token + 1) * choices; ++i) {
      const std::int32_t slot = a.slot.as<std::int32_t>()[i];
      if (slot < 0) continue;
      const std::int32_t expert = a.selected.as<std::int32_t>()[i];
      ++assigned[expert];
      if (slot >= a.capacity) continue;
      ++kept[expert];
      any = true;
    }
    processed += any ? 1 : 0;
  }
  a.processed.as<std::int64_t>()[0] = processed;
}

}  // namespace vitrail::cpu
