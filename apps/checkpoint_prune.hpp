#pragma once
// vitrail-checkpoint prune. Removes old checkpoints of a run.

#include <cstdint>
#include <vector>

#include "apps/checkpoint_listing.hpp"

namespace vitrail {

/// The command, whose words follow argv[0]. Returns the exit code; an Error is the caller's to print.
int checkpoint_prune(int argc, char** argv);

struct PruneRule {
  std::int64_t keep_last = 1;   ///< the newest complete ones
  std::int64_t keep_every = 0;  ///< and those of steps that this divides; 0: no others
};

/// For each checkpoint, whether it stays. Whatever is not complete stays, and so does the latest.
std::vector<bool> kept_by(const PruneRule& rule, const std::vector<ListedCheckpoint>& newest_first);

}  // namespace vitrail
