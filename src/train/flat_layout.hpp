#pragma once
// The parameters of a rank as two flat arrays, dense and expert, cut into blocks and shared out over owners (ZeRO-1).
//
// Every tensor (of an expert tensor: every expert) is cut into blocks of at most kBlockElements from its start, so that
// a block is the same numbers on every layout. An owner has a run of whole blocks, or of larger pieces where an
// optimizer's state must not be cut (train/factoring.hpp). A sum over parameters is one partial sum per block, added up
// in the order of the table, experts and blocks: never per rank.

#include <cstdint>
#include <vector>

#include "model/params.hpp"

namespace vitrail {

inline constexpr std::int64_t kBlockElements = std::int64_t{1} << 14;

struct FlatBlock {
  std::int64_t begin = 0;  ///< first element in the flat array
  std::int64_t count = 0;  ///< elements
  std::size_t tensor = 0;  ///< number in the table
  std::int64_t first = 0;  ///< first element in the whole logical tensor
};

/// What one owner has of a flat array.
struct FlatSlice {
  std::int64_t first_block = 0;
  std::int64_t blocks = 0;
  std::int64_t begin = 0;  ///< elements begin .. begin + count - 1
  std::int64_t count = 0;
};

/// Elements that follow each other both in a slice and in a logical tensor.
struct FlatRun {
  std::size_t tensor = 0;     ///< number in the table
  std::int64_t first = 0;     ///< in the logical tensor
  std::int64_t in_slice = 0;  ///< in the owner's slice
  std::int64_t count = 0;
};

class FlatLayout {
 public:
  /// Dense tensors of the table (`experts_here` = 0), or experts first_expert .. first_expert + experts_here - 1 of its
  /// expert tensors; shared out over `owners`. `pieces` says for every tensor of the table how many of its elements
  /// belong to one owner together: an owner may then have nothing. Empty: slices may begin at every block.
  FlatLayout(const std::vector<ParameterSpec>& table, std::int64_t first_expert, std::int64_t experts_here,
             std::int64_t owners, const std::vector<std::int64_t>& pieces = {});

  [[nodiscard]] std::int64_t elements() const noexcept { return elements_; }  ///< padding included
  [[nodiscard]] const std::vector<FlatBlock>& blocks() const noexcept { return blocks_; }
  [[nodiscard]] const FlatSlice& slice(std::int64_t owner) const { return slices_[static_cast<std::size_t>(owner)]; }
  /// An owner's slice as the longest such runs.
  [[nodiscard]] std::vector<FlatRun> runs(std::int64_t owner) const;
  [[nodiscard]] std::int64_t owners() const noexcept { return static_cast<std::int64_t>(slices_.size()); }
  [[nodiscard]] std::int64_t largest_slice() const noexcept { return largest_slice_; }  ///< elements
  [[nodiscard]] std::int64_t most_blocks() const noexcept { return most_blocks_; }      ///< of an owner
  /// The tensors of this layout as views into the flat array, at their places in the table; the others stay empty.
  void cut(const std::vector<ParameterSpec>& table, Tensor flat, std::vector<Tensor>& tensors) const;

 private:
  void share_out(std::int64_t owners, const std::vector<std::int64_t>& pieces);

  struct Place {
    std::size_t tensor;
    std::int64_t begin;
    Shape shape;
  };
  std::vector<Place> places_;
  std::vector<FlatBlock> blocks_;
  std::vector<FlatSlice> slices_;
  std::int64_t elements_ = 0;
  std::int64_t largest_slice_ = 0;
  std::int64_t most_blocks_ = 0;
};

}  // namespace vitrail
