#include "apps/golden_experts_choice.hpp"

#include <algorithm>

#include "device/host_values.hpp"

namespace vitrail {

std::vector<double> tokens_of_experts(Device& device, ConstTensor slot, std::int64_t capacity) {
  const std::int64_t groups = slot.shape[0];
  const std::int64_t tokens = slot.shape[1];
  const std::int64_t experts = slot.shape[2];
  const std::vector<double> slots = to_doubles(device, slot);
  std::vector<double> taken(static_cast<std::size_t>(groups * experts * capacity), -1.0);
  for (std::int64_t i = 0; i < slot.elements(); ++i) {
    const auto taken_slot = static_cast<std::int64_t>(slots[static_cast<std::size_t>(i)]);
    if (taken_slot < 0) continue;
    const std::int64_t group = i / (tokens * experts);
    const std::int64_t place = (group * experts + i % experts) * capacity + taken_slot;
    taken[static_cast<std::size_t>(place)] = static_cast<double>(i / experts % tokens);
  }
  return taken;
}

void choices_of_experts(const std::vector<double>& taken, Device& device, Tensor selected, Tensor slot) {
  const std::int64_t tokens = slot.shape[1];
  const std::int64_t experts = slot.shape[2];
  const std::int64_t capacity = static_cast<std::int64_t>(taken.size()) / (slot.shape[0] * experts);
  std::vector<std::int32_t> slots(static_cast<std::size_t>(slot.elements()), -1);
  std::vector<std::int32_t> choices;
  for (std::int64_t i = 0; i < slot.elements(); ++i) choices.push_back(static_cast<std::int32_t>(i % experts));
  for (std::size_t i = 0; i < taken.size(); ++i) {
    if (taken[i] < 0) continue;
    const auto place = static_cast<std::int64_t>(i);
    const std::int64_t expert = place / capacity % experts;
    const std::int64_t group = place / (capacity * experts);
    const std::int64_t token = group * tokens + static_cast<std::int64_t>(taken[i]);
    slots[static_cast<std::size_t>(token * experts + expert)] = static_cast<std::int32_t>(place % capacity);
  }
  device.copy(ConstTensor(choices.data(), selected.shape, Dtype::i32), selected);
  device.copy(ConstTensor(slots.data(), slot.shape, Dtype::i32), slot);
}

void add_experts_choice(Device& device, ConstTensor slot, ConstTensor gates, std::int64_t capacity,
                        const std::string& at, GoldenQuantities& out) {
  const std::int64_t groups = slot.shape[0];
  const std::int64_t tokens = slot.shape[1];
  const std::int64_t experts = slot.shape[2];
  const h5::Shape by_slot{groups, experts, capacity};
  const std::vector<double> taken = tokens_of_experts(device, slot, capacity);
  const std::vector<double> gate = to_doubles(device, gates);
  std::vector<double> weight(taken.size(), 0.0);
  std::vector<double> count(static_cast<std::size_t>(groups * tokens), 0.0);  // experts of every token
  for (std::size_t i = 0; i < taken.size(); ++i) {
    if (taken[i] < 0) continue;
    const auto place = static_cast<std::int64_t>(i);
    const std::int64_t token = place / (capacity * experts) * tokens + static_cast<std::int64_t>(taken[i]);
    weight[i] = gate[static_cast<std::size_t>(token * experts + place / capacity % experts)];
    ++count[static_cast<std::size_t>(token)];
  }
  const auto [fewest, most] = std::minmax_element(count.begin(), count.end());
  const auto [smallest, largest] = std::minmax_element(weight.begin(), weight.end());
  GoldenQuantities metrics;
  metrics["num_experts_per_item_min"] = golden_integer(static_cast<std::int64_t>(*fewest));
  metrics["num_experts_per_item_max"] = golden_integer(static_cast<std::int64_t>(*most));
  metrics["min_selected_gate"] = golden_quantity(*smallest);
  metrics["max_selected_gate"] = golden_quantity(*largest);
  // Of t = 1, 2, 4 ... up to E, and of E.
  for (std::int64_t t = 1;; t = 2 * t > experts && t < experts ? experts : 2 * t) {
    if (t > experts) break;
    const auto at_least =
        std::count_if(count.begin(), count.end(), [t](double n) { return n >= static_cast<double>(t); });
    metrics[text("ratio_processed_items_by_at_least_", t, "_experts")] =
        golden_quantity(static_cast<double>(at_least) / static_cast<double>(count.size()));
  }
  for (auto& [name, quantity] : metrics) {
    out[at + "metrics/" + name] = quantity;
    out[at + name] = quantity;
  }
  out[at + "ec_token"] = {taken, by_slot, GoldenQuantity::Kind::integers};
  out[at + "ec_weight"] = {weight, by_slot, GoldenQuantity::Kind::output};
  out[at + "capacity"] = golden_integer(capacity);
}

}  // namespace vitrail
