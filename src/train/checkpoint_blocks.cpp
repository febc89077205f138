#include "train/checkpoint_blocks.hpp"

#include <algorithm>
#include <span>
#include <utility>

namespace vitrail {

void BlockSums::update(const std::byte* bytes, std::int64_t size) {
  while (size > 0) {
    if (!sum_) sum_.emplace();
    const std::int64_t count = std::min(size, block_bytes_ - in_block_);
    sum_->update(bytes, static_cast<std::size_t>(count));
    bytes += count;
    size -= count;
    in_block_ += count;
    if (in_block_ < block_bytes_) continue;
    sums_ += sum_->hex();
    sum_.reset();
    in_block_ = 0;
  }
}

std::string BlockSums::take() {
  if (sum_) sums_ += sum_->hex();
  sum_.reset();
  in_block_ = 0;
  return std::exchange(sums_, {});
}

Extent extent_of(const StoredPiece& piece, Dtype dtype) { return {piece.offset, piece.count * size_of(dtype)}; }

std::optional<DamagedBlocks> damaged_blocks(const FileBytes& file, const Extent& extent, const std::string& sums,
                                            std::int64_t block_bytes) {
  std::optional<DamagedBlocks> damaged;
  std::vector<std::byte> block(static_cast<std::size_t>(std::min(block_bytes, extent.bytes)));
  std::size_t at_sum = 0;
  for (std::int64_t done = 0; done < extent.bytes; done += block_bytes, at_sum += kSumDigits) {
    const std::int64_t bytes = std::min(block_bytes, extent.bytes - done);
    file.read(extent.offset + done, std::span(block).first(static_cast<std::size_t>(bytes)));
    Sha256 sum;
    sum.update(block.data(), static_cast<std::size_t>(bytes));
    if (sums.compare(at_sum, kSumDigits, sum.hex()) == 0) continue;
    if (!damaged) damaged = DamagedBlocks{extent.offset + done, bytes, 0};
    ++damaged->blocks;
  }
  return damaged;
}

std::string sum_of_rest(const FileBytes& file, std::vector<Extent> extents) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.offset < b.offset; });
  const std::int64_t size = file.size();
  extents.push_back({size, 0});
  Sha256 sum;
  std::vector<std::byte> stretch;
  std::int64_t at = 0;
  for (const Extent& extent : extents) {
    while (at < extent.offset) {
      stretch.resize(static_cast<std::size_t>(std::min(kBlockBytes, extent.offset - at)));
      file.read(at, stretch);
      sum.update(stretch.data(), stretch.size());
      at += static_cast<std::int64_t>(stretch.size());
    }
    at = std::max(at, extent.offset + extent.bytes);
  }
  return sum.hex();
}

}  // namespace vitrail
