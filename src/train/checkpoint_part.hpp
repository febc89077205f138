#pragma once
// One rank's file of a checkpoint: an HDF5 file with one contiguous one-dimensional dataset per piece, named by the
// tensor and the piece's first element: "parameters/Encoder/Mlp/Dense_0/kernel/from-16384".

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "train/checkpoint_manifest.hpp"

namespace vitrail {

/// Host buffers and single HDF5 calls are no larger than this: HDF5 has one lock for all threads, and a save must not
/// keep the thread that reads training data waiting.
inline constexpr std::int64_t kTransferBytes = std::int64_t{16} << 20;

/// "part-00003-of-00008.h5"
std::string part_name(int rank, int ranks);
std::string piece_dataset(const std::string& tensor, std::int64_t first);

/// Error (checkpoint) unless this is a piece that can be stored: host memory or that of a named device, a dtype that
/// HDF5 files hold, a range inside the tensor, a usable name.
void check_piece(const CheckpointPiece& piece);

/// Writes the file and forces it to disk. Empty pieces leave no dataset.
void write_part(const std::filesystem::path& path, std::span<const CheckpointPiece> pieces);

/// Reads the file back and compares every piece with its memory, bit by bit; then takes the file's size and checksum.
/// Error (checkpoint) naming the dataset that is missing, short or different.
CheckpointFile verify_part(const std::filesystem::path& path, std::span<const CheckpointPiece> pieces);

}  // namespace vitrail
