#include <algorithm>
#include <cstring>

#include "base/file.hpp"
#include "convert/flax_msgpack.hpp"
#include "convert/positioned_file.hpp"

namespace vitrail {

namespace {

constexpr std::int64_t kBufferBytes = std::int64_t{1} << 20;

std::filesystem::path unfinished(const std::filesystem::path& path) {
  return path.parent_path() / (".tmp." + path.filename().string());
}

/// Files under their temporary names; those that are still there at the end are removed.
struct UnfinishedFiles {
  UnfinishedFiles() = default;
  UnfinishedFiles(const UnfinishedFiles&) = delete;
  UnfinishedFiles& operator=(const UnfinishedFiles&) = delete;
  ~UnfinishedFiles() {
    std::error_code ignored;
    for (const PositionedFile& file : files) std::filesystem::remove(file.path(), ignored);
  }

  std::vector<PositionedFile> files;
};

class FlaxSink final : public TensorSink {
 public:
  FlaxSink(std::filesystem::path prefix, std::vector<TensorInfo> tensors, const FlaxCut& cut)
      : prefix_(std::move(prefix)), tensors_(std::move(tensors)), leaf_of_(tensors_.size()) {
    FlaxPlan plan = plan_flax(tensors_, cut);
    index_ = std::move(plan.index);
    packed_index_ = pack_flax_index(index_);
    for (std::size_t leaf = 0; leaf < plan.place.size(); ++leaf) leaf_of_[plan.place[leaf]] = leaf;
    layout_ = lay_out_flax(index_, cut.piece_bytes);
    begin_files();
    skip_empty();
  }

  void write(ConstTensor stretch) override {
    VITRAIL_EXPECT(tensor_ < tensors_.size(), ExitCode::checkpoint, "elements after the last tensor",
                   text("the list for '", prefix_.string(), "' has ", tensors_.size(), " tensors"), "This is a bug");
    const TensorInfo& info = tensors_[tensor_];
    VITRAIL_EXPECT(stretch.dtype == info.dtype && done_ + stretch.elements() <= info.shape.elements(),
                   ExitCode::checkpoint,
                   text(stretch.elements(), " elements of ", name_of(stretch.dtype), " for tensor '", info.name, "'"),
                   text("it has ", info.shape.elements() - done_, " left, of ", name_of(info.dtype)), "This is a bug");
    const std::size_t leaf = leaf_of_[tensor_];
    for (std::size_t slice = 0; slice < index_.leaves[leaf].slices.size(); ++slice) write_part(leaf, slice, stretch);
    done_ += stretch.elements();
    skip_empty();
  }

  void finish() override {
    VITRAIL_EXPECT(tensor_ == tensors_.size(), ExitCode::checkpoint,
                   text("'", prefix_.string(), "' was finished without all its elements"),
                   text("tensor '", tensor_ < tensors_.size() ? tensors_[tensor_].name : "", "' is not whole"),
                   "This is a bug");
    const std::filesystem::path index = flax_index_path(prefix_);
    PositionedFile& written = unfinished_.files.emplace_back(PositionedFile::create(unfinished(index)));
    written.write(0, packed_index_);
    for (PositionedFile& file : unfinished_.files) file.close();
    remove_old(index);
    for (std::int64_t shard = 0; shard < index_.shards; ++shard) {
      rename_durably(unfinished_.files[static_cast<std::size_t>(shard)].path(),
                     flax_data_path(prefix_, shard, index_.shards), ExitCode::checkpoint);
    }
    rename_durably(written.path(), index, ExitCode::checkpoint);
    unfinished_.files.clear();
  }

 private:
  static void remove_old(const std::filesystem::path& index) {
    std::error_code failed;
    const bool removed = std::filesystem::remove(index, failed);
    VITRAIL_EXPECT(!failed, ExitCode::checkpoint, text("cannot replace '", index.string(), "'"), failed.message(), "");
    const std::filesystem::path folder = index.parent_path();
    if (removed) sync_to_disk(folder.empty() ? "." : folder, ExitCode::checkpoint);
  }

  /// Makes the data files, with everything in them but the elements.
  void begin_files() {
    for (std::int64_t shard = 0; shard < index_.shards; ++shard) {
      unfinished_.files.push_back(PositionedFile::create(unfinished(flax_data_path(prefix_, shard, index_.shards))));
      for (const FlaxDataLayout::Header& header : layout_.files[static_cast<std::size_t>(shard)].headers) {
        unfinished_.files.back().write(header.offset, header.bytes);
      }
    }
    layout_.files.clear();
  }

  /// To the next tensor that has elements left.
  void skip_empty() {
    while (tensor_ < tensors_.size() && done_ == tensors_[tensor_].shape.elements()) {
      ++tensor_;
      done_ = 0;
    }
  }

  /// What of a stretch of the tensor lies in one of its slices: a run of the slice's own order.
  void write_part(std::size_t leaf, std::size_t slice, ConstTensor stretch) {
    const FlaxLeaf& at = index_.leaves[leaf];
    const Region& region = at.slices[slice];
    std::int64_t first = elements_before(at.shape, region, done_);
    const std::int64_t last = elements_before(at.shape, region, done_ + stretch.elements());
    const char* const from = static_cast<const char*>(stretch.data);
    const std::int64_t step = kBufferBytes / at.type.bytes;
    if (run_length(at.shape, region) >= step) {
      for_each_run(at.shape, region, first, last, [&](std::int64_t element, std::int64_t count) {
        write_elements(leaf, slice, first, {from + (element - done_) * at.type.bytes, bytes_of(at, count)});
        first += count;
      });
      return;
    }
    while (first < last) {
      const std::int64_t end = std::min(last, first + step);
      buffer_.clear();
      for_each_run(at.shape, region, first, end, [&](std::int64_t element, std::int64_t count) {
        buffer_.append(from + (element - done_) * at.type.bytes, bytes_of(at, count));
      });
      write_elements(leaf, slice, first, buffer_);
      first = end;
    }
  }

  static std::size_t bytes_of(const FlaxLeaf& leaf, std::int64_t elements) {
    return static_cast<std::size_t>(elements * leaf.type.bytes);
  }

  /// Elements of a slice from `first` on into its pieces.
  void write_elements(std::size_t leaf, std::size_t slice, std::int64_t first, std::string_view elements) {
    const FlaxLeaf& at = index_.leaves[leaf];
    PositionedFile& file = unfinished_.files[static_cast<std::size_t>(at.shards[slice])];
    for (const FlaxPieceSpot& piece : layout_.pieces[leaf][slice]) {
      if (elements.empty()) return;
      if (first < piece.elements) {
        const std::string_view here = elements.substr(0, bytes_of(at, piece.elements - first));
        file.write(piece.offset + first * at.type.bytes, here);
        elements.remove_prefix(here.size());
        first += std::ssize(here) / at.type.bytes;
      }
      first -= piece.elements;
    }
  }

  std::filesystem::path prefix_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::size_t> leaf_of_;  ///< by a tensor's place in the list
  FlaxIndex index_;
  std::string packed_index_;
  FlaxLayout layout_;
  UnfinishedFiles unfinished_;  ///< by shard, at last the index
  std::size_t tensor_ = 0;      ///< the one that comes
  std::int64_t done_ = 0;       ///< its elements that were written
  std::string buffer_;
};

}  // namespace

std::unique_ptr<TensorSink> create_flax(const std::filesystem::path& prefix, std::vector<TensorInfo> tensors,
                                        const FlaxCut& cut) {
  return std::make_unique<FlaxSink>(prefix, std::move(tensors), cut);
}

std::unique_ptr<TensorSink> create_flax(const std::filesystem::path& prefix, std::vector<TensorInfo> tensors,
                                        int shards) {
  FlaxCut cut;
  cut.shards = shards;
  return create_flax(prefix, std::move(tensors), cut);
}

}  // namespace vitrail
