#pragma once
// Checkpoints of the official V-MoE implementation (an index and data files, convert/flax_index.hpp), read and written
// a stretch at a time, and single files of flax.serialization.to_bytes, read. A tensor's name is the tree's keys joined
// by
// '/', as Encoder/encoderblock_0/LayerNorm_0/scale.

#include <filesystem>
#include <memory>
#include <vector>

#include "convert/flax_plan.hpp"
#include "convert/tensors.hpp"

namespace vitrail {

/// `path` is the prefix of a checkpoint (PREFIX of PREFIX.index), its index, any of its data files, or a file of
/// to_bytes. Opening looks at every header and checks that each tensor is there once and whole; memory is that of the
/// headers. uint32 is read as i64, bool as u8; a Python number in a file of to_bytes is i64, f64 or u8. Error
/// (checkpoint) naming the file when it is damaged, incomplete or of another kind.
std::unique_ptr<TensorSource> open_flax(const std::filesystem::path& path);

/// PREFIX.index and the data files, as the official writer cuts and packs them: the tensors in any order, memory for
/// one stretch. Until finish() all files are named .tmp.NAME, and an old checkpoint of that prefix is untouched; its
/// index is removed before the first file is renamed, so that an index never stands beside data that are not its own.
std::unique_ptr<TensorSink> create_flax(const std::filesystem::path& prefix, std::vector<TensorInfo> tensors,
                                        const FlaxCut& cut);
std::unique_ptr<TensorSink> create_flax(const std::filesystem::path& prefix, std::vector<TensorInfo> tensors,
                                        int shards);

}  // namespace vitrail
