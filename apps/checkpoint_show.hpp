#pragma once
// vitrail-checkpoint show. What is in a checkpoint.

namespace vitrail {

/// The command, whose words follow argv[0]. Returns the exit code; an Error is the caller's to print.
int checkpoint_show(int argc, char** argv);

}  // namespace vitrail
