#pragma once
// The names of published ViT files: numpy archives of ViT, AugReg and big_vision.

#include <string>

namespace vitrail {

/// "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel" or ".../MlpBlock_0/..." as it is called in our table; a name
/// that the published files do not have comes back as it is.
std::string table_name_of_npz(const std::string& name);

/// The published name, with the old suffixes (_1, _2, _3), which every reader knows.
std::string npz_name_of_table(const std::string& name);

}  // namespace vitrail
