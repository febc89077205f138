#pragma once
// vitrail-checkpoint ls. Which checkpoints runs have.

namespace vitrail {

/// The command, whose words follow argv[0]. Returns the exit code; an Error is the caller's to print.
int checkpoint_ls(int argc, char** argv);

}  // namespace vitrail
