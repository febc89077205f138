#pragma once
// Experts-choose-tokens as golden files show it: by expert and slot, not by token.

#include <string>
#include <vector>

#include "apps/golden_file.hpp"
#include "device/device.hpp"

namespace vitrail {

/// slot i32 [groups S E] (-1 = not taken) -> the token of every slot, [groups E C], -1 where it is empty.
std::vector<double> tokens_of_experts(Device& device, ConstTensor slot, std::int64_t capacity);

/// The way back: tokens [groups E C] -> selected, slot i32 [groups S E].
void choices_of_experts(const std::vector<double>& tokens, Device& device, Tensor selected, Tensor slot);

/// ec_token, ec_weight, capacity, and what the original reports of such a router, all under `at`. gates [groups S E].
void add_experts_choice(Device& device, ConstTensor slot, ConstTensor gates, std::int64_t capacity,
                        const std::string& at, GoldenQuantities& out);

}  // namespace vitrail
