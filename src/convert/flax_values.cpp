#include "convert/flax_values.hpp"

#include <algorithm>
#include <array>

namespace vitrail {

namespace {

using Kind = MsgpackValue::Kind;

constexpr std::array<StoredType, 8> kTypes{{{"float32", 4, Dtype::f32},
                                            {"float64", 8, Dtype::f64},
                                            {"bfloat16", 2, Dtype::bf16},
                                            {"int32", 4, Dtype::i32},
                                            {"int64", 8, Dtype::i64},
                                            {"uint8", 1, Dtype::u8},
                                            {"uint32", 4, Dtype::i64},
                                            {"bool", 1, Dtype::u8}}};

constexpr std::int64_t kMostElements = std::int64_t{1} << 48;

[[noreturn]] void refuse(const std::string& where, const std::string& what, const std::string& why) {
  fail(ExitCode::checkpoint, {where + ": " + what, why, ""});
}

/// A tuple of `count` values out of an extension's bytes.
MsgpackValue parse_tuple(std::string_view bytes, std::size_t count, const std::string& where) {
  MsgpackValue tuple = parse_msgpack(bytes, where);
  if (!tuple.is(Kind::array) || tuple.items.size() != count) {
    refuse(where, text(name_of(tuple.kind), " of ", tuple.items.size(), " values"),
           text("a tuple of ", count, " belongs here"));
  }
  return tuple;
}

/// Names come as strings or as binary data, as Python packed them.
std::string_view parse_name(const MsgpackValue& value, const std::string& where) {
  if (!value.is(Kind::string) && !value.is(Kind::binary)) {
    refuse(where, text(name_of(value.kind), " as the name of a type"), "it is a string");
  }
  return value.bytes;
}

Interval parse_slice(std::string_view blob, std::int64_t length, const std::string& where) {
  const MsgpackValue slice = parse_tuple(blob, 3, where);
  const MsgpackValue& begin = slice.items[0];
  const MsgpackValue& end = slice.items[1];
  const MsgpackValue& step = slice.items[2];
  const bool numbers = (begin.is(Kind::nil) || begin.is(Kind::integer)) && (end.is(Kind::nil) || end.is(Kind::integer));
  const bool whole = step.is(Kind::nil) || (step.is(Kind::integer) && step.integer == 1);
  if (!numbers || !whole) refuse(where, "a slice that is not begin:end", "no other slices are written");
  const Interval interval{begin.is(Kind::nil) ? 0 : begin.integer, end.is(Kind::nil) ? length : end.integer};
  if (interval.begin < 0 || interval.begin > interval.end || interval.end > length) {
    refuse(where, text("the slice ", interval.begin, ":", interval.end), text("its axis has ", length, " entries"));
  }
  return interval;
}

/// (shape, dtype name, weak type, {}).
void parse_shaped_array(const MsgpackValue& blob, FlaxLeaf& leaf, const std::string& where) {
  const MsgpackValue tuple = parse_tuple(expect_kind(blob, Kind::binary, "a shaped array", where).bytes, 4, where);
  leaf.shape = parse_shape(tuple.items[0], where);
  leaf.type = stored_type(parse_name(tuple.items[1], where), where);
}

std::string pack_shape(const Shape& shape) {
  MsgpackWriter out;
  out.array(shape.axes());
  for (const std::int64_t length : shape.lengths()) out.integer(length);
  return out.take();
}

}  // namespace

StoredType stored_type(std::string_view numpy_name, const std::string& where) {
  const auto* const found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const StoredType& type) { return type.name == numpy_name; });
  if (found == kTypes.end()) {
    // What may be any bytes is not printed.
    const bool printable = numpy_name.size() < 20 && std::all_of(numpy_name.begin(), numpy_name.end(),
                                                                 [](char c) { return c >= ' ' && c <= '~'; });
    refuse(where, text("elements of type '", printable ? numpy_name : "?", "'"),
           "read are float32, float64, bfloat16, int32, int64, uint8, uint32 and bool");
  }
  return *found;
}

StoredType stored_type(Dtype dtype) {
  const auto* const found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const StoredType& type) { return type.dtype == dtype; });
  VITRAIL_EXPECT(found != kTypes.end(), ExitCode::checkpoint, text("a tensor of ", name_of(dtype)),
                 "an official checkpoint cannot hold it", "");
  return *found;
}

bool is(const MsgpackValue& value, FlaxExtension type) noexcept {
  return value.is(Kind::extension) && value.extension_type == static_cast<std::int8_t>(type);
}

const MsgpackValue& expect_kind(const MsgpackValue& value, MsgpackValue::Kind kind, const std::string& what,
                                const std::string& where) {
  if (!value.is(kind)) {
    refuse(where, text(name_of(value.kind), " instead of ", what), text("that is ", name_of(kind)));
  }
  return value;
}

Shape parse_shape(const MsgpackValue& lengths, const std::string& where) {
  expect_kind(lengths, Kind::array, "a shape", where);
  if (lengths.items.size() > Shape::kMaxAxes) {
    refuse(where, text("a shape of ", lengths.items.size(), " axes"), text("a tensor has at most ", Shape::kMaxAxes));
  }
  std::vector<std::int64_t> shape;
  std::int64_t elements = 1;
  for (const MsgpackValue& item : lengths.items) {
    const std::int64_t length = expect_kind(item, Kind::integer, "the length of an axis", where).integer;
    // Zero is looked for first: it makes every product small.
    if (length < 0 || length > kMostElements || elements > kMostElements / std::max<std::int64_t>(length, 1)) {
      refuse(where, text("an axis of length ", length), text("a tensor has at most ", kMostElements, " elements"));
    }
    elements *= std::max<std::int64_t>(length, 1);
    shape.push_back(length);
  }
  return Shape(std::span<const std::int64_t>(shape));
}

FlaxArray parse_flax_array(const MsgpackValue& extension, const std::string& where) {
  if (!is(extension, FlaxExtension::ndarray) && !is(extension, FlaxExtension::scalar)) {
    refuse(where, text(name_of(extension.kind), " instead of an array"), "that is an extension of type 1 or 3");
  }
  const MsgpackValue tuple = parse_tuple(extension.bytes, 3, where);
  FlaxArray array{.shape = parse_shape(tuple.items[0], where),
                  .type = stored_type(parse_name(tuple.items[1], where), where),
                  .elements = expect_kind(tuple.items[2], Kind::binary, "the elements of an array", where).bytes};
  if (std::ssize(array.elements) != array.shape.elements() * array.type.bytes) {
    refuse(where, text(array.elements.size(), " bytes of elements"),
           text(array.shape.str(), " of ", array.type.name, " needs ", array.shape.elements() * array.type.bytes));
  }
  return array;
}

Region parse_slice_nd(std::string_view blob, const Shape& tensor, const std::string& where) {
  const MsgpackValue slices = parse_tuple(blob, static_cast<std::size_t>(tensor.axes()), where);
  Region region;
  for (int axis = 0; axis < tensor.axes(); ++axis) {
    const MsgpackValue& slice = slices.items[static_cast<std::size_t>(axis)];
    region.push_back(parse_slice(expect_kind(slice, Kind::binary, "a slice", where).bytes, tensor[axis], where));
  }
  return region;
}

FlaxLeaf parse_index_info(const MsgpackValue& extension, const std::string& where) {
  const MsgpackValue tuple = parse_tuple(extension.bytes, 3, where);
  FlaxLeaf leaf;
  parse_shaped_array(tuple.items[0], leaf, where);
  for (const MsgpackValue& blob : expect_kind(tuple.items[1], Kind::array, "a list of slices", where).items) {
    const std::string_view bytes = expect_kind(blob, Kind::binary, "a slice", where).bytes;
    leaf.slices.push_back(parse_slice_nd(bytes, leaf.shape, where));
  }
  for (const MsgpackValue& shard : expect_kind(tuple.items[2], Kind::array, "a list of data files", where).items) {
    leaf.shards.push_back(expect_kind(shard, Kind::integer, "the number of a data file", where).integer);
  }
  if (leaf.slices.size() != leaf.shards.size()) {
    refuse(where, text(leaf.slices.size(), " slices in ", leaf.shards.size(), " places"), "every slice is in one file");
  }
  return leaf;
}

std::string pack_flat_array_header(const StoredType& type, std::int64_t elements) {
  MsgpackWriter inner;
  inner.array(3);
  std::string head = inner.take() + pack_shape(Shape{elements});
  inner.string(type.name);
  inner.binary_header(elements * type.bytes);
  head += inner.take();
  MsgpackWriter out;
  out.extension_header(static_cast<std::int8_t>(FlaxExtension::ndarray), std::ssize(head) + elements * type.bytes);
  return out.take() + head;
}

std::string pack_slice_nd(const Region& region) {
  MsgpackWriter out;
  out.array(std::ssize(region));
  for (const Interval& interval : region) {
    MsgpackWriter slice;
    slice.array(3);
    slice.integer(interval.begin);
    slice.integer(interval.end);
    slice.nil();
    out.binary(slice.bytes());
  }
  return out.take();
}

std::string pack_index_info(const FlaxLeaf& leaf) {
  MsgpackWriter head;
  head.array(4);
  std::string shaped = head.take() + pack_shape(leaf.shape);
  head.string(leaf.type.name);
  head.boolean(false);  // no weak type
  head.map(0);
  shaped += head.take();
  MsgpackWriter out;
  out.array(3);
  out.binary(shaped);
  out.array(std::ssize(leaf.slices));
  for (const Region& slice : leaf.slices) out.binary(pack_slice_nd(slice));
  out.array(std::ssize(leaf.shards));
  for (const std::int64_t shard : leaf.shards) out.integer(shard);
  return out.take();
}

}  // namespace vitrail
