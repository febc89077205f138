#pragma once
// Tensors of flax files as they were found: where each of their elements lies. What reads checkpoints with an index and
// what reads single files fill this in; convert/flax_reader reads from it.

#include <cstdint>
#include <string>
#include <vector>

#include "convert/flax_values.hpp"
#include "convert/positioned_file.hpp"
#include "convert/tensors.hpp"

namespace vitrail {

/// Elements that lie together in a file.
struct StoredPiece {
  std::size_t file = 0;
  std::int64_t offset = 0;  ///< of the first byte
  std::int64_t elements = 0;
};

/// A region of a tensor; its elements, in its own row-major order, are those of the pieces one after the other.
struct StoredSlice {
  Region region;
  std::vector<StoredPiece> pieces;
};

struct StoredTensor {
  TensorInfo info;
  StoredType type;
  std::vector<StoredSlice> slices;  ///< every element once
  std::string value;                ///< of a Python number: its only element, in no slice
};

struct StoredTensors {
  std::vector<PositionedFile> files;
  std::vector<StoredTensor> tensors;
};

/// A checkpoint with an index.
StoredTensors find_indexed_tensors(const std::filesystem::path& prefix);
/// A file of flax.serialization.to_bytes: nested maps and lists with arrays and numbers in them, also arrays in chunks
/// (maps with the key __msgpack_chunked_array__). None is no tensor.
StoredTensors find_plain_tensors(const std::filesystem::path& path);

}  // namespace vitrail
