#pragma once
// A training state as logical tensors: parameters/NAME, shapes as in the parameter table, and the optimizer's state
// (Optimizer::state).

#include <vector>

#include "train/checkpoint.hpp"
#include "train/state.hpp"

namespace vitrail {

/// What this rank owns and writes: its slices of the parameters and of the optimizer's state.
std::vector<CheckpointPiece> checkpoint_pieces(const TrainState& state);

/// Error (checkpoint) when a tensor of the model or the optimizer is missing or has another shape.
void expect_tensors(const TrainState& state, const CheckpointReader& reader);

/// Reads parameters, optimizer state and the step of a checkpoint of the same model and optimizer, written on any
/// layout and back end: what this rank holds, and nothing else. Error (checkpoint) as expect_tensors, and for damage.
void restore(TrainState& state, const CheckpointReader& reader);

/// The parameters alone: the dense ones and experts first_expert ... of a table, as `tensors` holds them. `kind`:
/// "parameters", or "average" for their running average.
void restore_parameters(Device& device, const std::vector<ParameterSpec>& table, std::int64_t first_expert,
                        const std::vector<Tensor>& tensors, const CheckpointReader& reader,
                        const std::string& kind = "parameters");

}  // namespace vitrail
