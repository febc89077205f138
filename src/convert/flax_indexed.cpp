// Finds the tensors of a checkpoint with an index.

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

#include "convert/flax_index.hpp"
#include "convert/flax_stored.hpp"

namespace vitrail {

namespace {

using Kind = MsgpackValue::Kind;

std::string quoted(const std::filesystem::path& path) { return "'" + path.string() + "'"; }

/// What the index says about slices, to be looked up by what a data file says.
class Expected {
 public:
  explicit Expected(const FlaxIndex& index) {
    for (std::size_t leaf = 0; leaf < index.leaves.size(); ++leaf) {
      for (std::size_t i = 0; i < index.leaves[leaf].slices.size(); ++i) {
        const FlaxLeaf& at = index.leaves[leaf];
        if (elements_of(at.slices[i]) > 0) slices_.emplace(Key{leaf, at.slices[i]}, Place{at.shards[i], i});
      }
    }
  }

  /// The place of a slice among those of its tensor; taken only once. None when the index has no such slice there.
  std::optional<std::size_t> take(std::size_t leaf, const Region& region, std::int64_t shard) {
    const auto found = slices_.find(Key{leaf, region});
    if (found == slices_.end() || found->second.shard != shard) return std::nullopt;
    const std::size_t place = found->second.slice;
    slices_.erase(found);
    return place;
  }

  [[nodiscard]] bool empty() const noexcept { return slices_.empty(); }
  [[nodiscard]] std::size_t first_leaf() const { return slices_.begin()->first.leaf; }

 private:
  struct Key {
    friend auto operator<=>(const Key&, const Key&) = default;
    std::size_t leaf;
    Region region;
  };
  struct Place {
    std::int64_t shard;
    std::size_t slice;
  };
  std::map<Key, Place> slices_;
};

class IndexedTensors {
 public:
  explicit IndexedTensors(FlaxIndex index) : index_(std::move(index)), expected_(index_) {
    for (const FlaxLeaf& leaf : index_.leaves) {
      StoredTensor& tensor = found_.tensors.emplace_back();
      tensor.info = {leaf.name, leaf.shape, leaf.type.dtype};
      tensor.type = leaf.type;
      for (const Region& region : leaf.slices) tensor.slices.push_back({region, {}});
    }
  }

  void add_data_file(const std::filesystem::path& path, std::int64_t shard) {
    found_.files.push_back(PositionedFile::open(path));
    const MappedFile mapped(found_.files.back());
    where_ = quoted(path);
    bytes_ = mapped.bytes();
    const MsgpackValue root = parse_msgpack(bytes_, where_, [&] { mapped.forget(); });
    const MsgpackValue* const marked = root.find(kFlaxChunksKey);
    VITRAIL_EXPECT(marked != nullptr && marked->is(Kind::boolean) && marked->integer == 1, ExitCode::checkpoint,
                   where_ + " is no data file of a checkpoint", text("it has no key '", kFlaxChunksKey, "'"), "");
    std::size_t seen = 0;
    for (std::size_t i = 0; i < root.items.size(); i += 2) {
      const MsgpackValue& key = expect_kind(root.items[i], Kind::string, "the number of a tensor", where_);
      if (key.bytes == kFlaxChunksKey) continue;
      const std::size_t leaf = leaf_number(key.bytes);
      expect_kind(root.items[i + 1], Kind::array, "the slices of a tensor", where_);
      for (const MsgpackValue& chunk : root.items[i + 1].items) {
        add_slice(leaf, chunk, shard);
        if (++seen % 64 == 0) mapped.forget();
      }
    }
  }

  StoredTensors finish() {
    if (!expected_.empty()) {
      const std::string& name = index_.leaves[expected_.first_leaf()].name;
      fail(ExitCode::checkpoint, {text("the data files lack a part of tensor '", name, "'"),
                                  "the index says that they have it", "Are all files of one checkpoint?"});
    }
    return std::move(found_);
  }

 private:
  std::size_t leaf_number(std::string_view digits) const {
    std::size_t number = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    VITRAIL_EXPECT(
        parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size() && number < index_.leaves.size(),
        ExitCode::checkpoint, text(where_, " has a key that is no number of a tensor"),
        text("the index has ", index_.leaves.size()), "Are all files of one checkpoint?");
    return number;
  }

  /// [[flat arrays], slice].
  void add_slice(std::size_t leaf, const MsgpackValue& chunk, std::int64_t shard) {
    StoredTensor& tensor = found_.tensors[leaf];
    const std::string where = text(where_, ", tensor '", tensor.info.name, "'");
    expect_kind(chunk, Kind::array, "a slice with its arrays", where);
    VITRAIL_EXPECT(
        chunk.items.size() == 2 && chunk.items[0].is(Kind::array) && is(chunk.items[1], FlaxExtension::slice_nd),
        ExitCode::checkpoint, where + ": a slice that is not [arrays, slice]", "so they are written", "");
    const Region region = parse_slice_nd(chunk.items[1].bytes, tensor.info.shape, where);
    if (elements_of(region) == 0) return;
    const std::optional<std::size_t> place = expected_.take(leaf, region, shard);
    VITRAIL_EXPECT(
        place.has_value(), ExitCode::checkpoint, text(where, ": unexpected slice ", str(region)),
        "the index has no such slice in this file, or it is there twice",
        "Are all files of one checkpoint? Files without a version are read only where the saved object was a "
        "plain dictionary");
    StoredSlice& slice = tensor.slices[*place];
    std::int64_t elements = 0;
    for (const MsgpackValue& piece : chunk.items[0].items) {
      slice.pieces.push_back(find_piece(piece, tensor, where));
      elements += slice.pieces.back().elements;
    }
    VITRAIL_EXPECT(elements == elements_of(region), ExitCode::checkpoint,
                   text(where, ": ", elements, " elements for the slice ", str(region)),
                   text("it has ", elements_of(region)), "");
  }

  StoredPiece find_piece(const MsgpackValue& piece, const StoredTensor& tensor, const std::string& where) const {
    const FlaxArray array = parse_flax_array(piece, where);
    VITRAIL_EXPECT(array.type.name == tensor.type.name, ExitCode::checkpoint,
                   text(where, ": elements of type ", array.type.name), text("the index says ", tensor.type.name),
                   "Are all files of one checkpoint?");
    return {found_.files.size() - 1, array.elements.data() - bytes_.data(), array.shape.elements()};
  }

  FlaxIndex index_;
  Expected expected_;
  StoredTensors found_;
  std::string where_;       ///< the file at hand
  std::string_view bytes_;  ///< its
};

}  // namespace

StoredTensors find_indexed_tensors(const std::filesystem::path& prefix) {
  const std::filesystem::path path = flax_index_path(prefix);
  FlaxIndex index = [&] {
    const MappedFile mapped(PositionedFile::open(path));
    return parse_flax_index(parse_msgpack(mapped.bytes(), quoted(path)), quoted(path));
  }();
  const std::int64_t shards = index.shards;
  IndexedTensors tensors(std::move(index));
  for (std::int64_t shard = 0; shard < shards; ++shard) {
    tensors.add_data_file(flax_data_path(prefix, shard, shards), shard);
  }
  return tensors.finish();
}

}  // namespace vitrail
