#include "apps/golden_router_case.hpp"

#include "device/host_values.hpp"

namespace vitrail {

void RouterCase::lay_out(Arena& arena, Dtype real) {
  for (Tensor* x : {&logits, &noise, &gates_clean, &gates, &dlogits})
    *x = arena.allocate(real, {groups, tokens, experts});
  for (Tensor* x : {&selected, &slot, &row}) *x = arena.allocate(Dtype::i32, {groups, tokens, choices});
  for (Tensor* x : {&gate, &dgate}) *x = arena.allocate(real, {groups, tokens, choices});
  source = arena.allocate(Dtype::i32, {1, 1, experts, groups * capacity});
  for (Tensor* x : {&data, &combined, &upstream, &d_data}) *x = arena.allocate(real, {groups, tokens, width});
  for (Tensor* x : {&rows, &outputs, &d_rows}) *x = arena.allocate(real, {experts * groups * capacity, width});
  for (Tensor* x : {&importance, &load, &gshard, &z}) *x = arena.allocate(real, {groups});
}

void RouterCase::dispatch(Ops& ops) const {
  const Shape by_leaf{1, groups, tokens, choices};
  ops.map_slots({.selected = selected.view(by_leaf),
                 .slot = slot.view(by_leaf),
                 .capacity = capacity,
                 .source = source,
                 .row = row.view(by_leaf)});
  ops.gather_rows_forward(
      {.x = by_token(data), .source = source.view({source.elements()}), .choices = choices, .y = rows});
}

void RouterCase::apply_experts(Device& device, const std::function<double(std::size_t expert, double x)>& f) const {
  std::vector<double> values = to_doubles(device, rows);
  const std::size_t each = values.size() / static_cast<std::size_t>(experts);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = f(i / each, values[i]);
  from_doubles(values, device, outputs);
}

void RouterCase::multiply_by_experts(Device& device) const {
  apply_experts(device, [](std::size_t expert, double x) { return static_cast<double>(expert + 1) * x; });
}

void RouterCase::combine(Ops& ops) const {
  ops.combine_rows_forward(
      {.o = outputs, .row = by_token(row), .gate = by_token(gate), .residual = {}, .y = by_token(combined)});
}

GoldenQuantity without_groups(Device& device, ConstTensor x) {
  return golden_quantity(device, x, {x.shape[1], x.shape[2]});
}

void compare_capacity(const GoldenFile& file, const std::string& at, const RouterCase& c, GoldenReport& report) {
  report.compare_exactly(at + ": capacity", std::vector<double>{static_cast<double>(c.capacity)},
                         std::vector<double>{static_cast<double>(file.h5().read_integer("/" + at, "C"))});
}

}  // namespace vitrail
