// The movement of rows between tokens and expert buffers, and what depends on where they went.

#include <algorithm>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/routing_kernels.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kElements = 1 << 14;  // of a unit of work

std::int64_t rows_of_unit(std::int64_t width) {
  return std::max<std::int64_t>(1, kElements / std::max<std::int64_t>(1, width));
}

/// The gates of a token's kept choices.
float sum_of_kept(const float* gate, const std::int32_t* row, std::int64_t choices) {
  float sum = 0.0F;
  for (std::int64_t j = 0; j < choices; ++j) sum += row[j] < 0 ? 0.0F : gate[j];
  return sum;
}

}  // namespace

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
    gather_run({a.x, a.source.as<std::int32_t>(), a.choices, a.y, begin, end, width});
  });
}

void CpuOps::run(const GatherRowsBackward& a) {
  const std::int64_t width = a.dx.shape[1];
  for_each_piece(threads_, a.dx.shape[0], rows_of_unit(width), [&](std::int64_t begin, std::int64_t end) {
    combine_run({a.dy, a.row.as<std::int32_t>(), nullptr, a.dresidual ? a.dresidual.as<float>() : nullptr, a.dx, begin,
                 end, a.row.shape[1], width});
  });
}

void CpuOps::run(const CombineRowsForward& a) {
  const std::int64_t width = a.y.shape[1];
  for_each_piece(threads_, a.y.shape[0], rows_of_unit(width), [&](std::int64_t begin, std::int64_t end) {
    combine_run({a.o, a.row.as<std::int32_t>(), a.gate.as<float>(), a.residual ? a.residual.as<float>() : nullptr, a.y,
                 begin, end, a.row.shape[1], width});
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
    combine_run_backward({a.dy.as<float>(), a.o, a.source.as<std::int32_t>(), a.gate.as<float>(), a.d_o, dgate, begin,
                          end, choices, width});
  });
}

void CpuOps::run(const NormalizeGatesForward& a) {
  const std::int64_t choices = a.gate.shape[1];
  for_each_piece(threads_, a.gate.shape[0], rows_of_unit(choices), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      const std::int64_t first = token * choices;
      const std::int32_t* const row = a.row.as<std::int32_t>() + first;
      const float* const gate = a.gate.as<float>() + first;
      const float total = sum_of_kept(gate, row, choices);
      for (std::int64_t j = 0; j < choices; ++j)
        a.y.as<float>()[first + j] = row[j] < 0 || total == 0.0F ? 0.0F : gate[j] / total;
    }
  });
}

void CpuOps::run(const NormalizeGatesBackward& a) {
  const std::int64_t choices = a.gate.shape[1];
  for_each_piece(threads_, a.gate.shape[0], rows_of_unit(choices), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      const std::int64_t first = token * choices;
      const std::int32_t* const row = a.row.as<std::int32_t>() + first;
      const float* const dy = a.dy.as<float>() + first;
      const float* const y = a.y.as<float>() + first;
      const float total = sum_of_kept(a.gate.as<float>() + first, row, choices);
      float inner = 0.0F;
      for (std::int64_t j = 0; j < choices; ++j) inner += row[j] < 0 ? 0.0F : dy[j] * y[j];
      for (std::int64_t j = 0; j < choices; ++j)
        a.dgate.as<float>()[first + j] = row[j] < 0 || total == 0.0F ? 0.0F : (dy[j] - inner) / total;
    }
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
