#pragma once
// What a checkpoint's manifest.json says: which tensors there are, in which pieces of which files they lie, and the
// checksums of every byte of these files.
//
//   {"format": "vitrail checkpoint", "version": 2, "step": 420, "config": {...}, "layout": {...},
//    "data": {"images": 26880}, "block_bytes": 1048576,
//    "files": [["part-00000-of-00002.h5", 123456, "SHA256"], ...],
//    "tensors": {"parameters/head/bias": {"shape": [10], "dtype": "f32", "pieces": [[0, 0, 10, 4096, "SHA256..."]]},
//    ...}, "sha256": "..."}                                  of the other members, as Json::dump() prints them on one
//    line
//
// A file is its name, its size in bytes and a checksum of those of its bytes that belong to no piece (HDF5's own), in
// the order of the file. A piece is the file's index, the first element's index in the tensor, the number of elements,
// the place of the first byte in the file, and for each `block_bytes` of its bytes (the last may be shorter) a
// checksum, one behind the other. Checksums are SHA-256 as 64 lower-case hexadecimal digits. Version 1 had one checksum
// for a whole file. Members that are not listed here are ignored, so that later versions may say more.

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "train/checkpoint.hpp"

namespace vitrail {

/// Of the checkpoints that we write. Small enough to say where damage is and to waste little on reading a short range,
/// large enough that the checksums are 1/16000 of the data.
inline constexpr std::int64_t kBlockBytes = std::int64_t{1} << 20;
/// Digits of one checksum.
inline constexpr std::int64_t kSumDigits = 64;

struct CheckpointFile {
  std::string name;  ///< in the checkpoint's folder
  std::int64_t bytes = 0;
  std::string sum;  ///< of all bytes outside of pieces
};

/// Elements first .. first + count - 1 of a tensor: a one-dimensional dataset of `count` elements (piece_dataset).
struct StoredPiece {
  std::int64_t file = 0;  ///< index into CheckpointManifest::files
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::int64_t offset = 0;  ///< of its first byte in the file
  std::string sums;         ///< of its blocks
};

struct StoredTensor {
  Shape shape;
  Dtype dtype = Dtype::f32;
  std::vector<StoredPiece> pieces;  ///< by first element; none is empty
};

using StoredTensors = std::map<std::string, StoredTensor>;

struct CheckpointManifest {
  CheckpointInfo info;
  std::int64_t block_bytes = kBlockBytes;
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

/// The text of manifest.json: a line for each tensor.
std::string manifest_text(const CheckpointManifest& manifest);

/// Reads and checks RUN/checkpoints/step-N/manifest.json by itself; not whether the files are there.
/// Error (checkpoint): missing, not JSON, changed since it was written, of another version, pieces with gaps.
CheckpointManifest read_manifest(const std::filesystem::path& folder);

}  // namespace vitrail
