#pragma once
// vitrail-checkpoint upcycle.

namespace vitrail {

/// Makes a sparse model of a dense one. The words are those behind "upcycle", with "upcycle" in front.
int checkpoint_upcycle(int argc, char** argv);

}  // namespace vitrail
