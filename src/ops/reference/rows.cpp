// The movement of rows between tokens and expert buffers, and what depends on where they went.

#include <algorithm>

#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
namespace {

// The gates of a token's kept choices, j ascending.
template <class T>
T sum_of_kept(const T* gate, const std::int32_t* row, std::int64_t choices) {
  T sum{};
  for (std::int64_t j = 0; j < choices; ++j) sum += row[j] < 0 ? T{} : gate[j];
  return sum;
}

}  // namespace

// expert e = owner * (experts of an owner) + place;  slots = groups * C
// row[l,g,s,j] = ((owner * leaves + l) * experts + place) * slots + g * C + slot[l,g,s,j] when 0 <= slot < C, else -1
// source[row of an assignment] = the assignment, -1 elsewhere
template <class T>
void map_slots(const MapSlots& a) {
  const std::int64_t leaves = a.selected.shape[0], groups = a.selected.shape[1];
  const std::int64_t in_group = a.selected.shape[2] * a.selected.shape[3];
  const std::int64_t experts = a.source.shape[2], slots = a.source.shape[3];
  const auto *selected = a.selected.as<std::int32_t>(), *slot = a.slot.as<std::int32_t>();
  auto *source = a.source.as<std::int32_t>(), *row = a.row.as<std::int32_t>();
  std::fill(source, source + a.source.elements(), -1);
  for (std::int64_t leaf = 0; leaf < leaves; ++leaf) {
    for (std::int64_t g = 0; g < groups; ++g) {
      for (std::int64_t i = 0; i < in_group; ++i) {
        const std::int64_t assignment = (leaf * groups + g) * in_group + i;
        row[assignment] = -1;
        if (slot[assignment] < 0 || slot[assignment] >= a.capacity) continue;
        const std::int64_t owner = selected[assignment] / experts, place = selected[assignment] % experts;
        VITRAIL_ASSERT(owner < a.source.shape[0]);
        const std::int64_t block = (owner * leaves + leaf) * experts + place;
        const std::int64_t r = block * slots + g * a.capacity + slot[assignment];
        row[assignment] = static_cast<std::int32_t>(r);
        source[r] = static_cast<std::int32_t>(assignment);
      }
    }
  }
}

// y[r] = x[source[r] div K], 0 where source[r] < 0
template <class T>
void gather_rows_forward(const GatherRowsForward& a) {
  const std::int64_t rows = a.y.shape[0], width = a.y.shape[1];
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t assignment = a.source.as<std::int32_t>()[r];
    for (std::int64_t c = 0; c < width; ++c)
      a.y.as<T>()[r * width + c] = assignment < 0 ? T{} : a.x.as<T>()[assignment / a.choices * width + c];
  }
}

// dx[t] = dresidual[t] + sum over j of dy[row[t,j]]
template <class T>
void gather_rows_backward(const GatherRowsBackward& a) {
  const std::int64_t tokens = a.row.shape[0], choices = a.row.shape[1], width = a.dx.shape[1];
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t c = 0; c < width; ++c) {
      T sum = a.dresidual ? a.dresidual.as<T>()[t * width + c] : T{};
      for (std::int64_t j = 0; j < choices; ++j) {
        const std::int64_t row = a.row.as<std::int32_t>()[t * choices + j];
        if (row >= 0) sum += a.dy.as<T>()[row * width + c];
      }
      a.dx.as<T>()[t * width + c] = sum;
    }
  }
}

// y[t] = residual[t] + sum over j of gate[t,j] o[row[t,j]]
template <class T>
void combine_rows_forward(const CombineRowsForward& a) {
  const std::int64_t tokens = a.row.shape[0], choices = a.row.shape[1], width = a.y.shape[1];
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t c = 0; c < width; ++c) {
      T sum = a.residual ? a.residual.as<T>()[t * width + c] : T{};
      for (std::int64_t j = 0; j < choices; ++j) {
        const std::int64_t row = a.row.as<std::int32_t>()[t * choices + j];
        if (row >= 0) sum += a.gate.as<T>()[t * choices + j] * a.o.as<T>()[row * width + c];
      }
      a.y.as<T>()[t * width + c] = sum;
    }
  }
}

// dgate[t,j] = <dy[t], o[row[t,j]]>, 0 where row[t,j] < 0
// d_o[r] = gate[source[r]] dy[source[r] div K], 0 where source[r] < 0
template <class T>
void combine_rows_backward(const CombineRowsBackward& a) {
  const std::int64_t assignments = a.row.elements(), choices = a.row.shape[1];
  const std::int64_t rows = a.o.shape[0], width = a.o.shape[1];
  const T *dy = a.dy.as<T>(), *o = a.o.as<T>();
  for (std::int64_t i = 0; i < assignments; ++i) {  // before d_o, which may be o
    const std::int64_t row = a.row.as<std::int32_t>()[i];
    T sum{};
    for (std::int64_t c = 0; row >= 0 && c < width; ++c) sum += dy[i / choices * width + c] * o[row * width + c];
    a.dgate.as<T>()[i] = sum;
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t i = a.source.as<std::int32_t>()[r];
    for (std::int64_t c = 0; c < width; ++c)
      a.d_o.as<T>()[r * width + c] = i < 0 ? T{} : a.gate.as<T>()[i] * dy[i / choices * width + c];
  }
}

// y[t,j] = gate[t,j] / sum over kept i of gate[t,i], i ascending; 0 where row[t,j] < 0, and where the sum is 0
template <class T>
void normalize_gates_forward(const NormalizeGatesForward& a) {
  const std::int64_t tokens = a.gate.shape[0], choices = a.gate.shape[1];
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int32_t* row = a.row.as<std::int32_t>() + t * choices;
    const T* gate = a.gate.as<T>() + t * choices;
    const T sum = sum_of_kept(gate, row, choices);
    for (std::int64_t j = 0; j < choices; ++j)
      a.y.as<T>()[t * choices + j] = row[j] < 0 || real_part(sum) == 0.0 ? T{} : gate[j] / sum;
  }
}

// dgate[t,j] = (dy[t,j] - sum over kept i of dy[t,i] y[t,i]) / sum over kept i of gate[t,i]; 0 where y is 0 by rule
template <class T>
void normalize_gates_backward(const NormalizeGatesBackward& a) {
  const std::int64_t tokens = a.gate.shape[0], choices = a.gate.shape[1];
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int32_t* row = a.row.as<std::int32_t>() + t * choices;
    const T *dy = a.dy.as<T>() + t * choices, *y = a.y.as<T>() + t * choices;
    const T sum = sum_of_kept(a.gate.as<T>() + t * choices, row, choices);
    T inner{};
    for (std::int64_t j = 0; j < choices; ++j) inner += row[j] < 0 ? T{} : dy[j] * y[j];
    for (std::int64_t j = 0; j < choices; ++j)
      a.dgate.as<T>()[t * choices + j] = row[j] < 0 || real_part(sum) == 0.0 ? T{} : (dy[j] - inner) / sum;
  }
}

// assigned[e] = number of assignments to e with slot >= 0;  kept[e] = those with slot < C
// processed = number of tokens with a kept one
template <class T>
void count_assignments(const CountAssignments& a) {
  auto *assigned = a.assigned.as<std::int64_t>(), *kept = a.kept.as<std::int64_t>();
  std::fill(assigned, assigned + a.assigned.elements(), std::int64_t{0});
  std::fill(kept, kept + a.kept.elements(), std::int64_t{0});
  const std::int64_t tokens = a.selected.shape[0], choices = a.selected.shape[1];
  std::int64_t processed = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    bool any = false;
    for (std::int64_t i = t * choices; i < (t + 1) * choices; ++i) {
      const std::int32_t expert = a.selected.as<std::int32_t>()[i], slot = a.slot.as<std::int32_t>()[i];
      if (slot < 0) continue;
      ++assigned[expert];
      if (slot >= a.capacity) continue;
      ++kept[expert];
      any = true;
    }
    processed += any ? 1 : 0;
  }
  a.processed.as<std::int64_t>()[0] = processed;
}

VITRAIL_REFERENCE_VERB(map_slots, MapSlots)
VITRAIL_REFERENCE_VERB(gather_rows_forward, GatherRowsForward)
VITRAIL_REFERENCE_VERB(gather_rows_backward, GatherRowsBackward)
VITRAIL_REFERENCE_VERB(combine_rows_forward, CombineRowsForward)
VITRAIL_REFERENCE_VERB(combine_rows_backward, CombineRowsBackward)
VITRAIL_REFERENCE_VERB(normalize_gates_forward, NormalizeGatesForward)
VITRAIL_REFERENCE_VERB(normalize_gates_backward, NormalizeGatesBackward)
VITRAIL_REFERENCE_VERB(count_assignments, CountAssignments)

}  // namespace vitrail::reference
