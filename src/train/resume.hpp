#pragma once
// Going on with a run: from its newest checkpoint, or, where damage is found in that, from the one before.

#include <filesystem>
#include <functional>

#include "base/log.hpp"
#include "train/checkpoint.hpp"
#include "train/state.hpp"

namespace vitrail {

/// Restores the newest checkpoint of the run that is intact in all that the ranks read of it (train/state_checkpoint's
/// restore: each its own share). Where a rank finds damage, rank 0 warns, naming tensor, file and offset, and the next
/// older checkpoint is tried. Returns the folder restored from. Collective over the world of `state`; all ranks return
/// the same.
///
/// `expect_fits` is called with each checkpoint before it is read: it throws when this run cannot go on from it, whose
/// settings may differ. Such an Error, and one about tensors that are missing or of another shape, is no damage: it is
/// passed on. Error (checkpoint), with what is wrong with each, when no checkpoint is intact; the state is not to be
/// used then.
std::filesystem::path restore_newest(TrainState& state, const std::filesystem::path& run_dir, const Log& log,
                                     const std::function<void(const CheckpointReader&)>& expect_fits);

}  // namespace vitrail
