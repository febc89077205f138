#pragma once
// NumPy's .npz files: a zip archive with one .npy file per array. The official ViT and AugReg checkpoints are such.
//
// A tensor has the name of its entry without ".npy"; names contain '/' ("Transformer/encoderblock_0/.../kernel").

#include <filesystem>
#include <memory>
#include <vector>

#include "convert/tensors.hpp"

namespace vitrail {

/// Opens a file, compressed or not. All headers are read and checked (convert/npy_header.hpp); f16 is read as f32.
/// A tensor that is read from its first element to its last is compared with its checksum.
/// Error (checkpoint), naming file and tensor, for everything that is damaged or not supported.
std::unique_ptr<TensorSource> open_npz(const std::filesystem::path& path);

/// Begins a file, not compressed, in the order of the list; numpy.load() reads it. Also larger than 4 GiB.
/// Error (checkpoint) if it cannot be made, for a list of no tensors, and for c128.
std::unique_ptr<TensorSink> create_npz(const std::filesystem::path& path, std::vector<TensorInfo> tensors);

}  // namespace vitrail
