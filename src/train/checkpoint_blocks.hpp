#pragma once
// The checksums of a checkpoint's files: one for each block of a piece, and one for all that lies between the pieces.
// Files are read as plain bytes here, not through HDF5: so a damaged file can be read as far as it is good, and other
// threads have HDF5's lock meanwhile.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.hpp"
#include "base/sha256.hpp"
#include "train/checkpoint_manifest.hpp"

namespace vitrail {

/// The checksums of the blocks of a run of bytes, which comes in stretches of any size.
class BlockSums {
 public:
  explicit BlockSums(std::int64_t block_bytes) : block_bytes_(block_bytes) {}
  void update(const std::byte* bytes, std::int64_t size);
  /// Of all blocks, the last one as far as it goes, one behind the other. Ends the run.
  [[nodiscard]] std::string take();

 private:
  std::int64_t block_bytes_;
  std::int64_t in_block_ = 0;  ///< bytes of the block that is being summed
  std::optional<Sha256> sum_;
  std::string sums_;
};

/// Where a piece's bytes lie.
struct Extent {
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};
Extent extent_of(const StoredPiece& piece, Dtype dtype);

/// Blocks of a piece that are not those of the manifest.
struct DamagedBlocks {
  std::int64_t first = 0;   ///< the first one's place in the file
  std::int64_t bytes = 0;   ///< of the first one
  std::int64_t blocks = 0;  ///< how many
};
/// Reads the whole piece. Error (checkpoint) where the file cannot be read.
std::optional<DamagedBlocks> damaged_blocks(const FileBytes& file, const Extent& extent, const std::string& sums,
                                            std::int64_t block_bytes);

/// The checksum of all bytes of the file outside of these extents.
std::string sum_of_rest(const FileBytes& file, std::vector<Extent> extents);

}  // namespace vitrail
