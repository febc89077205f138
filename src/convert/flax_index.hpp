#pragma once
// The index of an official V-MoE checkpoint: the tree of its tensors, and in which of its data files their slices are.
//
//   PREFIX.index                     map {shard_count, index: nested maps with leaves of type index_info, version}
//   PREFIX.data-%05d-of-%05d         map {kFlaxChunksKey: true, "leaf number": [[[flat arrays], slice], ...], ...}
//
// A leaf's number is its place in the depth-first walk of the index with sorted keys (encoderblock_10 stands before
// encoderblock_2). [V-MoE] vmoe/checkpoints/partitioned.py.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "convert/flax_values.hpp"

namespace vitrail {

inline constexpr std::string_view kFlaxVersion = "20220622";
/// Marks a map as a data file.
inline constexpr std::string_view kFlaxChunksKey = "__msgpack_array_chunk_a87ca2__";

struct FlaxIndex {
  std::int64_t shards = 0;
  std::vector<FlaxLeaf> leaves;  ///< by their numbers
};

/// Files without a version are read, too: they were numbered in the order of the saved object, which for plain nested
/// dictionaries is the same. Error (checkpoint) for other versions, a name that is there twice, slices that do not make
/// up their tensor, and everything that is damaged.
FlaxIndex parse_flax_index(const MsgpackValue& root, const std::string& where);
/// The bytes of an index file. The leaves in any order. Error (checkpoint) when a name is given twice or is a part of
/// another's.
std::string pack_flax_index(const FlaxIndex& index);

/// The order of leaf numbers: of the keys of their names, one after the other.
bool leaf_before(std::string_view a, std::string_view b);

/// PREFIX.data-00002-of-00016.
std::filesystem::path flax_data_path(const std::filesystem::path& prefix, std::int64_t shard, std::int64_t shards);
std::filesystem::path flax_index_path(const std::filesystem::path& prefix);
/// PREFIX, when the name is that of an index or a data file; else empty.
std::filesystem::path flax_prefix_of(const std::filesystem::path& path);

}  // namespace vitrail
