// Finds the tensors of a file of flax.serialization.to_bytes.

#include <cstring>
#include <set>

#include "convert/flax_stored.hpp"

namespace vitrail {

namespace {

using Kind = MsgpackValue::Kind;

constexpr std::string_view kChunkedKey = "__msgpack_chunked_array__";

template <class T>
std::string raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

class PlainTensors {
 public:
  PlainTensors(const std::filesystem::path& path, std::string_view bytes)
      : where_("'" + path.string() + "'"), bytes_(bytes) {}

  void add(const MsgpackValue& value, const std::string& name) {
    switch (value.kind) {
      case Kind::nil:
        return;
      case Kind::map:
        if (value.find(kChunkedKey) != nullptr) return add_chunked(value, name);
        for (std::size_t i = 0; i < value.items.size(); i += 2) {
          add(value.items[i + 1], below(name, expect_kind(value.items[i], Kind::string, "a key", where_).bytes));
        }
        return;
      case Kind::array:
        for (std::size_t i = 0; i < value.items.size(); ++i) add(value.items[i], below(name, std::to_string(i)));
        return;
      case Kind::extension:
        return add_array(value, name);
      case Kind::boolean:
        return add_number(name, stored_type(Dtype::u8), raw(static_cast<std::uint8_t>(value.integer)));
      case Kind::integer:
        return add_number(name, stored_type(Dtype::i64), raw(value.integer));
      case Kind::real:
        return add_number(name, stored_type(Dtype::f64), raw(value.real));
      case Kind::string:
      case Kind::binary:
        break;
    }
    fail(ExitCode::checkpoint, {text(where_, ": '", name, "' is ", name_of(value.kind)), "it is no tensor", ""});
  }

  std::vector<StoredTensor> finish() { return std::move(tensors_); }

 private:
  static std::string below(const std::string& name, std::string_view key) {
    return name.empty() ? std::string(key) : text(name, "/", key);
  }

  [[nodiscard]] std::string where(const std::string& name) const { return text(where_, ", tensor '", name, "'"); }

  StoredTensor& add_tensor(const std::string& name, const Shape& shape, const StoredType& type) {
    VITRAIL_EXPECT(names_.insert(name).second, ExitCode::checkpoint, where(name) + " is there twice",
                   "names are unique", "");
    StoredTensor& tensor = tensors_.emplace_back();
    tensor.info = {name, shape, type.dtype};
    tensor.type = type;
    return tensor;
  }

  void add_number(const std::string& name, const StoredType& type, std::string value) {
    add_tensor(name, {}, type).value = std::move(value);
  }

  [[nodiscard]] StoredPiece piece_of(const FlaxArray& array) const {
    return {0, array.elements.empty() ? 0 : array.elements.data() - bytes_.data(), array.shape.elements()};
  }

  void add_array(const MsgpackValue& value, const std::string& name) {
    const FlaxArray array = parse_flax_array(value, where(name));
    add_tensor(name, array.shape, array.type).slices.push_back({whole_region(array.shape), {piece_of(array)}});
  }

  /// The values of a map with the keys "0", "1", ... in this order.
  std::vector<const MsgpackValue*> numbered(const MsgpackValue& map, const char* key, const std::string& name) const {
    const MsgpackValue* const list = map.find(key);
    VITRAIL_EXPECT(list != nullptr && list->is(Kind::map), ExitCode::checkpoint,
                   text(where(name), " has no list '", key, "'"), "an array in chunks has one", "");
    std::vector<const MsgpackValue*> values(list->items.size() / 2);
    for (std::size_t i = 0; i < values.size(); ++i) {
      // In order as they are written; whatever else is there is looked for.
      const bool next = list->items[2 * i].is(Kind::string) && list->items[2 * i].bytes == std::to_string(i);
      values[i] = next ? &list->items[2 * i + 1] : list->find(std::to_string(i));
      VITRAIL_EXPECT(values[i] != nullptr, ExitCode::checkpoint, text(where(name), ": '", key, "' lacks '", i, "'"),
                     "its keys are 0, 1, ...", "");
    }
    return values;
  }

  void add_chunked(const MsgpackValue& value, const std::string& name) {
    MsgpackValue lengths;
    lengths.kind = Kind::array;
    for (const MsgpackValue* length : numbered(value, "shape", name)) lengths.items.push_back(*length);
    const Shape shape = parse_shape(lengths, where(name));
    StoredSlice slice{whole_region(shape), {}};
    StoredType type;
    std::int64_t elements = 0;
    for (const MsgpackValue* chunk : numbered(value, "chunks", name)) {
      const FlaxArray array = parse_flax_array(*chunk, where(name));
      VITRAIL_EXPECT(slice.pieces.empty() || array.type.name == type.name, ExitCode::checkpoint,
                     where(name) + " has chunks of several types", text(type.name, " and ", array.type.name), "");
      type = array.type;
      slice.pieces.push_back(piece_of(array));
      elements += array.shape.elements();
    }
    VITRAIL_EXPECT(!slice.pieces.empty() && elements == shape.elements(), ExitCode::checkpoint,
                   text(where(name), " has ", elements, " elements in its chunks"),
                   text(shape.str(), " has ", shape.elements()), "");
    add_tensor(name, shape, type).slices.push_back(std::move(slice));
  }

  std::string where_;
  std::string_view bytes_;
  std::vector<StoredTensor> tensors_;
  std::set<std::string> names_;
};

}  // namespace

StoredTensors find_plain_tensors(const std::filesystem::path& path) {
  StoredTensors found;
  found.files.push_back(PositionedFile::open(path));
  const MappedFile mapped(found.files.back());
  const MsgpackValue root = parse_msgpack(mapped.bytes(), "'" + path.string() + "'", [&] { mapped.forget(); });
  VITRAIL_EXPECT(root.is(Kind::map), ExitCode::checkpoint, text("'", path.string(), "' holds no tensors"),
                 text("it is ", name_of(root.kind), ", not a map of them"), "");
  PlainTensors tensors(path, mapped.bytes());
  tensors.add(root, "");
  found.tensors = tensors.finish();
  return found;
}

}  // namespace vitrail
