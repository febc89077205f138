#pragma once
// The values that flax and V-MoE put into MessagePack extensions: arrays, slices, and what the index knows of a tensor.
// [V-MoE] vmoe/checkpoints/serialization.py, [flax] flax/serialization.py.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "convert/msgpack.hpp"
#include "convert/region.hpp"
#include "device/tensor.hpp"

namespace vitrail {

/// Types of extensions.
enum class FlaxExtension : std::int8_t { ndarray = 1, complex = 2, scalar = 3, slice_nd = 6, index_info = 8 };

/// How elements lie in a file, and as what they are read.
struct StoredType {
  std::string_view name;  ///< NumPy's
  std::int64_t bytes = 0;
  Dtype dtype = Dtype::f32;  ///< uint32 becomes i64, bool u8
};

/// Error (checkpoint), with `where` in front, for a type that Vitrail has not.
StoredType stored_type(std::string_view numpy_name, const std::string& where);
/// The type that holds a dtype as it is. Error (checkpoint) for c128.
StoredType stored_type(Dtype dtype);

/// An extension ndarray or scalar: (shape, name of the type, raw elements in C order).
struct FlaxArray {
  Shape shape;
  StoredType type;
  std::string_view elements;  ///< shape.elements() of them
};

/// What the index knows of one leaf of the tree, an extension index_info.
struct FlaxLeaf {
  std::string name;  ///< the keys on the way to it, joined by '/'
  Shape shape;
  StoredType type;
  std::vector<Region> slices;
  std::vector<std::int64_t> shards;  ///< of every slice: the data file that holds it
};

// All parsers check everything; Error (checkpoint) with `where` in front. Slices have no steps.

Shape parse_shape(const MsgpackValue& lengths, const std::string& where);
FlaxArray parse_flax_array(const MsgpackValue& extension, const std::string& where);
/// The region of a tensor of this shape.
Region parse_slice_nd(std::string_view blob, const Shape& tensor, const std::string& where);
/// Without its name.
FlaxLeaf parse_index_info(const MsgpackValue& extension, const std::string& where);

/// Is it an extension of this type?
bool is(const MsgpackValue& value, FlaxExtension type) noexcept;
/// Error (checkpoint) unless `value` is of this kind.
const MsgpackValue& expect_kind(const MsgpackValue& value, MsgpackValue::Kind kind, const std::string& what,
                                const std::string& where);

/// An array's extension up to its first element; `elements` elements of a flat array follow.
std::string pack_flat_array_header(const StoredType& type, std::int64_t elements);
std::string pack_slice_nd(const Region& region);
std::string pack_index_info(const FlaxLeaf& leaf);

}  // namespace vitrail
