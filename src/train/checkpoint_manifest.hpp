#pragma once
// What a checkpoint's manifest.json says: which tensors there are, and in which pieces of which files they lie.
//
//   {"format": "vitrail checkpoint", "version": 1, "step": 420, "config": {...}, "layout": {...},
//    "files": [{"name": "part-00000-of-00002.h5", "bytes": 123, "sha256": "..."}, ...],
//    "tensors": {"parameters/head/bias": {"shape": [10], "dtype": "f32",
//                "pieces": [{"file": 0, "dataset": "parameters/head/bias/from-0", "first": 0, "count": 10}]}, ...},
//    "sha256": "..."}                                  of the other members, as Json::dump() prints them on one line
//
// Members that are not listed here are ignored, so that later versions may say more.

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "train/checkpoint.hpp"

namespace vitrail {

struct CheckpointFile {
  std::string name;  ///< in the checkpoint's folder
  std::int64_t bytes = 0;
  std::string sha256;  ///< of the whole file
};

/// Elements first .. first + count - 1 of a tensor: a one-dimensional dataset of `count` elements.
struct StoredPiece {
  std::int64_t file = 0;  ///< index into CheckpointManifest::files
  std::string dataset;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

struct StoredTensor {
  Shape shape;
  Dtype dtype = Dtype::f32;
  std::vector<StoredPiece> pieces;  ///< by first element; none is empty
};

using StoredTensors = std::map<std::string, StoredTensor>;

struct CheckpointManifest {
  CheckpointInfo info;
  std::vector<CheckpointFile> files;
  StoredTensors tensors;
};

inline constexpr const char* kManifestName = "manifest.json";

Json tensors_to_json(const StoredTensors& tensors);
/// Error (checkpoint) for anything that is not a table of tensors.
StoredTensors tensors_from_json(const Json& json);

/// Sorts every tensor's pieces. Error (checkpoint), naming tensor and elements, unless they cover it exactly once.
/// `where` begins the message: a path or "the pieces of all ranks".
void sort_and_check_pieces(StoredTensors& tensors, const std::string& where);

/// The text of manifest.json.
std::string manifest_text(const CheckpointManifest& manifest);

/// Reads and checks RUN/checkpoints/step-N/manifest.json by itself; not whether the files are there.
/// Error (checkpoint): missing, not JSON, changed since it was written, of another version, pieces with gaps.
CheckpointManifest read_manifest(const std::filesystem::path& folder);

}  // namespace vitrail
