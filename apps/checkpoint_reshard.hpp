#pragma once
// vitrail-checkpoint reshard. The same checkpoint in another number of files.

namespace vitrail {

/// The command, whose words follow argv[0]. Returns the exit code; an Error is the caller's to print.
int checkpoint_reshard(int argc, char** argv);

}  // namespace vitrail
