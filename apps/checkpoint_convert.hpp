#pragma once
// vitrail-checkpoint convert.

namespace vitrail {

/// Writes a model of one format in another. The words are those behind "convert", with "convert" in front.
int checkpoint_convert(int argc, char** argv);

}  // namespace vitrail
