#include <algorithm>
#include <cstring>
#include <map>

#include "convert/flax_index.hpp"
#include "convert/flax_msgpack.hpp"
#include "convert/flax_stored.hpp"

namespace vitrail {

namespace {

constexpr std::int64_t kBufferBytes = std::int64_t{1} << 20;

class FlaxSource final : public TensorSource {
 public:
  explicit FlaxSource(StoredTensors stored) : stored_(std::move(stored)) {
    for (std::size_t i = 0; i < stored_.tensors.size(); ++i) {
      infos_.push_back(stored_.tensors[i].info);
      places_.emplace(infos_.back().name, i);
    }
  }

  [[nodiscard]] std::span<const TensorInfo> tensors() const override { return infos_; }

  void read(const std::string& name, std::int64_t first, Tensor to) override {
    const auto found = places_.find(name);
    VITRAIL_EXPECT(found != places_.end(), ExitCode::checkpoint, text("'", path(), "' has no tensor '", name, "'"),
                   "it was asked for", stored_.tensors.size() < 4096 ? did_you_mean(name, names()) : "");
    const StoredTensor& tensor = stored_.tensors[found->second];
    VITRAIL_EXPECT(to.dtype == tensor.info.dtype && first >= 0 && first <= tensor.info.shape.elements() - to.elements(),
                   ExitCode::checkpoint,
                   text("'", path(), "': ", to.elements(), " elements of tensor '", name, "' from ", first, " on as ",
                        name_of(to.dtype)),
                   text("it is ", tensor.info.shape.str(), " of ", name_of(tensor.info.dtype)), "");
    if (tensor.type.bytes == size_of(to.dtype))
      return gather(tensor, first, to.elements(), static_cast<char*>(to.data));
    widen(tensor, first, to);
  }

 private:
  [[nodiscard]] std::string path() const {
    return stored_.files.empty() ? std::string("checkpoint") : stored_.files.front().path().string();
  }

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const TensorInfo& info : infos_) all.push_back(info.name);
    return all;
  }

  /// uint32 into i64.
  void widen(const StoredTensor& tensor, std::int64_t first, Tensor to) const {
    auto* const wide = to.as<std::int64_t>();
    std::vector<std::uint32_t> narrow(static_cast<std::size_t>(std::min(to.elements(), kBufferBytes / 4)));
    for (std::int64_t done = 0; done < to.elements();) {
      const std::int64_t count = std::min(to.elements() - done, std::ssize(narrow));
      gather(tensor, first + done, count, reinterpret_cast<char*>(narrow.data()));
      std::copy_n(narrow.begin(), count, wide + done);
      done += count;
    }
  }

  /// Elements as they are stored.
  void gather(const StoredTensor& tensor, std::int64_t first, std::int64_t count, char* to) const {
    if (count > 0) std::copy(tensor.value.begin(), tensor.value.end(), to);
    for (const StoredSlice& slice : tensor.slices) {
      const std::int64_t begin = elements_before(tensor.info.shape, slice.region, first);
      const std::int64_t end = elements_before(tensor.info.shape, slice.region, first + count);
      if (begin < end) gather_slice(tensor, slice, begin, end, {first, to});
    }
  }

  /// Where elements go: the tensor's element `first` to `to`, the others after it.
  struct Destination {
    std::int64_t first;
    char* to;
    [[nodiscard]] char* at(std::int64_t element, std::int64_t bytes) const { return to + (element - first) * bytes; }
  };

  /// Elements begin .. end - 1 of a slice.
  void gather_slice(const StoredTensor& tensor, const StoredSlice& slice, std::int64_t begin, std::int64_t end,
                    Destination to) const {
    const std::int64_t bytes = tensor.type.bytes;
    const Shape& shape = tensor.info.shape;
    if (run_length(shape, slice.region) * bytes >= kBufferBytes || end - begin == 1) {
      for_each_run(shape, slice.region, begin, end, [&](std::int64_t element, std::int64_t count) {
        read_pieces(slice, bytes, begin, count, to.at(element, bytes));
        begin += count;
      });
      return;
    }
    std::vector<char> buffer(static_cast<std::size_t>(std::min(kBufferBytes, (end - begin) * bytes)));
    while (begin < end) {
      const std::int64_t last = std::min(end, begin + kBufferBytes / bytes);
      read_pieces(slice, bytes, begin, last - begin, buffer.data());
      const char* from = buffer.data();
      for_each_run(shape, slice.region, begin, last, [&](std::int64_t element, std::int64_t count) {
        std::memcpy(to.at(element, bytes), from, static_cast<std::size_t>(count * bytes));
        from += count * bytes;
      });
      begin = last;
    }
  }

  /// `count` elements of a slice's own order from `first` on.
  void read_pieces(const StoredSlice& slice, std::int64_t bytes, std::int64_t first, std::int64_t count,
                   char* to) const {
    for (const StoredPiece& piece : slice.pieces) {
      if (count == 0) return;
      if (first < piece.elements) {
        const std::int64_t here = std::min(count, piece.elements - first);
        stored_.files[piece.file].read(piece.offset + first * bytes, here * bytes, to);
        to += here * bytes;
        first += here;
        count -= here;
      }
      first -= piece.elements;
    }
  }

  StoredTensors stored_;
  std::vector<TensorInfo> infos_;
  std::map<std::string, std::size_t> places_;
};

/// A file whose name does not say what it is.
StoredTensors find_by_content(const std::filesystem::path& path) {
  const std::string where = "'" + path.string() + "'";
  {
    const MappedFile mapped(PositionedFile::open(path));
    const MsgpackValue root = parse_msgpack(mapped.bytes(), where, [&] { mapped.forget(); });
    VITRAIL_EXPECT(root.find(kFlaxChunksKey) == nullptr && root.find("shard_count") == nullptr, ExitCode::checkpoint,
                   where + " is a part of a checkpoint under another name",
                   "its files are PREFIX.index and PREFIX.data-00000-of-00001, ...", "Rename all of them");
  }
  return find_plain_tensors(path);
}

}  // namespace

std::unique_ptr<TensorSource> open_flax(const std::filesystem::path& path) {
  const std::filesystem::path prefix = flax_prefix_of(path);
  std::error_code ignored;
  StoredTensors stored = !prefix.empty()                                           ? find_indexed_tensors(prefix)
                         : std::filesystem::exists(flax_index_path(path), ignored) ? find_indexed_tensors(path)
                                                                                   : find_by_content(path);
  return std::make_unique<FlaxSource>(std::move(stored));
}

}  // namespace vitrail
