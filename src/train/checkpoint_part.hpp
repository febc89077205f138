#pragma once
// One file of a checkpoint: an HDF5 file with one contiguous one-dimensional dataset per piece, named by the tensor and
// the piece's first element: "parameters/Encoder/Mlp/Dense_0/kernel/from-16384".

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/h5.hpp"
#include "train/checkpoint_blocks.hpp"
#include "train/checkpoint_manifest.hpp"

namespace vitrail {

/// Host buffers and single HDF5 calls are no larger than this: HDF5 has one lock for all threads, and a save must not
/// keep the thread that reads training data waiting.
inline constexpr std::int64_t kTransferBytes = std::int64_t{16} << 20;

/// "part-00003-of-00008.h5"
std::string part_name(int file, int files);
std::string piece_dataset(const std::string& tensor, std::int64_t first);

/// Error (checkpoint) unless a tensor can have this name: words joined by single slashes.
void check_tensor_name(const std::string& name);
/// Error (checkpoint) unless this is a piece that can be stored: host memory or that of a named device, a dtype that
/// HDF5 files hold, a range inside the tensor, a usable name.
void check_piece(const CheckpointPiece& piece);

/// A part that is being written, piece after piece.
class PartWriter {
 public:
  enum class Opening { create, append };
  PartWriter(std::filesystem::path path, Opening opening);

  /// Begins elements first .. first + count - 1 of a tensor, at least one.
  void begin(const std::string& tensor, Dtype dtype, std::int64_t first, std::int64_t count);
  /// Its next elements, in host memory.
  void write(const std::byte* elements, std::int64_t count);
  /// Ends it, complete: where it lies (of file 0), and its checksums.
  StoredPiece end();
  /// Closes the file and forces it to disk.
  void close();

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  h5::File file_;
  std::optional<h5::Dataset> dataset_;  ///< of the piece that was begun
  Dtype dtype_ = Dtype::f32;
  StoredPiece piece_;
  std::int64_t done_ = 0;  ///< elements of it
  BlockSums sums_{kBlockBytes};
};

/// Writes pieces into a new file, or behind those of others, and forces it to disk. Empty pieces leave no dataset. Says
/// where all lie, in file 0. `alive` is called after every piece, here and below.
StoredTensors write_part(
    const std::filesystem::path& path, PartWriter::Opening opening, std::span<const CheckpointPiece> pieces,
    const std::function<void()>& alive = [] {});

/// Reads back what write_part has written: the datasets are where it says, of its type and size, and their bytes have
/// its checksums, which are those of the memory that was written. Error (checkpoint) naming the dataset that is
/// missing, short or different.
void verify_part(
    const std::filesystem::path& path, const StoredTensors& written, const std::function<void()>& alive = [] {});

/// Size and checksum of a file that is complete; `extents` are those of all its pieces.
CheckpointFile describe_part(const std::filesystem::path& path, std::vector<Extent> extents);

}  // namespace vitrail
