#pragma once
// vitrail-checkpoint verify. Whether checkpoints are whole, byte by byte.

namespace vitrail {

/// The command, whose words follow argv[0]. Returns the exit code; an Error is the caller's to print.
int checkpoint_verify(int argc, char** argv);

}  // namespace vitrail
