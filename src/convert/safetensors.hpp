#pragma once
// safetensors files: eight bytes of length, a JSON header with dtype, shape and place of every tensor, and the data.
// Format: github.com/huggingface/safetensors, README, "Format". Large models are several such files and an index
// "NAME.safetensors.index.json", as Hugging Face's transformers write them.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "convert/tensors.hpp"

namespace vitrail {

/// What Hugging Face takes for the largest file of a model.
inline constexpr std::int64_t kShardBytes = 5'000'000'000;

/// Opens one file, or all files of an index: `path` is the file, the index, or the file that the index stands for.
/// F32, F64, BF16, I32, I64, U8 and, as f32, F16 are read. The format has no checksums: of the headers everything is
/// checked, of the data nothing can be.
/// Error (checkpoint), naming file and tensor, for everything that is damaged or not supported.
std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& path);

/// The header's "__metadata__" of one file, or of an index's first; empty if there is none.
std::map<std::string, std::string> safetensors_metadata(const std::filesystem::path& path);

/// Begins a file. In it, tensors of larger elements come first, so that all are aligned; otherwise the order of the
/// list. A list of more than max_shard_bytes becomes several files, NAME-00001-of-00003.safetensors ..., and
/// PATH.index.json; a tensor is never cut. They get their names in finish(), the index last; an old file PATH is
/// removed then, for readers would take it first. Transformers want the metadata {"format", "pt"}. Error (checkpoint)
/// if it cannot be made, and for c128.
std::unique_ptr<TensorSink> create_safetensors(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                                               const std::map<std::string, std::string>& metadata = {},
                                               std::int64_t max_shard_bytes = kShardBytes);

}  // namespace vitrail
