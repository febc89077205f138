#pragma once
// How an official V-MoE checkpoint is cut into slices and data files, before anything is written.
// [V-MoE] vmoe/checkpoints/partitioned.py and serialization.py.

#include <cstdint>
#include <string>
#include <vector>

#include "convert/flax_index.hpp"
#include "convert/tensors.hpp"

namespace vitrail {

/// Cuts a slice of more than `limit` elements: the axes are visited from the shortest (of equal ones the first), axes
/// of length 1 are not; each is cut into the smallest number of parts out of 2 .. 9 that divides it and makes the slice
/// small enough, else into single entries; until the parts are small enough. In ascending order.
std::vector<Region> cut_region(const Region& region, std::int64_t limit);

/// The data file with the fewest bytes so far gets the next slice; of equal ones the first.
std::int64_t lightest_shard(const std::vector<std::int64_t>& bytes);

/// How a checkpoint is to be cut.
struct FlaxCut {
  std::int64_t shards = 1;                           ///< data files; those that would stay empty are not written
  std::int64_t slice_bytes = std::int64_t{1} << 28;  ///< of a slice
  std::int64_t piece_bytes = std::int64_t{1} << 30;  ///< of an array within a slice
  std::function<std::int64_t(const TensorInfo&)> devices = {};  ///< parts of the first axis to begin with; none: 1
};

/// Slices and data files of all tensors, by leaf number. `tensors[place]` is the leaf's place in the list.
struct FlaxPlan {
  FlaxIndex index;
  std::vector<std::size_t> place;
};

/// Error (checkpoint) for a dtype that NumPy and Vitrail do not share.
FlaxPlan plan_flax(const std::vector<TensorInfo>& tensors, const FlaxCut& cut);

/// Where an array's elements go: a piece of a slice.
struct FlaxPieceSpot {
  std::int64_t offset = 0;    ///< first byte in the data file
  std::int64_t elements = 0;  ///< follow the pieces before them in the slice's own order
};

/// What a data file holds besides elements, and where.
struct FlaxDataLayout {
  struct Header {
    std::int64_t offset = 0;
    std::string bytes;
  };
  std::vector<Header> headers;  ///< ascending
};

/// All bytes of the data files but the elements. pieces[leaf][slice] are in order.
struct FlaxLayout {
  std::vector<FlaxDataLayout> files;
  std::vector<std::vector<std::vector<FlaxPieceSpot>>> pieces;
};
FlaxLayout lay_out_flax(const FlaxIndex& index, std::int64_t piece_bytes);

}  // namespace vitrail
