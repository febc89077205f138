#include <array>
#include <cstdio>
#include <optional>
#include <system_error>
#include <utility>

#include "base/error.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "convert/safetensors.hpp"
#include "convert/safetensors_header.hpp"
#include "convert/tensor_list.hpp"
#include "io/raw_file.hpp"

namespace vitrail {

namespace {

/// Tensors of the list that share a file.
struct Shard {
  std::filesystem::path path;
  std::size_t first = 0;
  std::string header;
  std::vector<PlacedTensor> tensors;  ///< number first, first + 1, ... of the list
};

std::string five_digits(std::size_t number) {
  std::array<char, 24> digits{};
  std::snprintf(digits.data(), digits.size(), "%05zu", number);
  return digits.data();
}

/// NAME-00002-of-00003.safetensors
std::filesystem::path shard_path(const std::filesystem::path& path, std::size_t number, std::size_t shards) {
  return path.parent_path() /
         text(path.stem().string(), "-", five_digits(number), "-of-", five_digits(shards), path.extension().string());
}

std::int64_t bytes_of(const TensorInfo& tensor) { return tensor.shape.elements() * size_of(tensor.dtype); }

std::vector<Shard> cut(const std::filesystem::path& path, std::span<const TensorInfo> tensors,
                       const std::map<std::string, std::string>& metadata, std::int64_t max_bytes) {
  std::vector<std::size_t> begins{0};
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (i > begins.back() && bytes + bytes_of(tensors[i]) > max_bytes) {
      begins.push_back(i);
      bytes = 0;
    }
    bytes += bytes_of(tensors[i]);
  }
  std::vector<Shard> shards;
  for (std::size_t i = 0; i < begins.size(); ++i) {
    const std::size_t end = i + 1 < begins.size() ? begins[i + 1] : tensors.size();
    Shard shard{begins.size() == 1 ? path : shard_path(path, i + 1, begins.size()), begins[i], "", {}};
    const std::string file = shard.path.string();
    shard.tensors = place_tensors(tensors.subspan(begins[i], end - begins[i]), file);
    shard.header = safetensors_header({shard.tensors, metadata}, file);
    shards.push_back(std::move(shard));
  }
  return shards;
}

class SafetensorsSink final : public TensorSink {
 public:
  SafetensorsSink(std::filesystem::path path, std::vector<TensorInfo> tensors,
                  const std::map<std::string, std::string>& metadata, std::int64_t max_bytes)
      : path_(std::move(path)),
        list_(path_.string(), std::move(tensors)),
        order_(list_),
        shards_(cut(path_, list_.tensors(), metadata, max_bytes)) {
    begin_next();
  }

  void write(ConstTensor stretch) override {
    const TensorOrder::Place place = order_.place(stretch);
    if (stretch.elements() == 0) return;
    while (place.tensor >= shards_[current()].first + shards_[current()].tensors.size()) begin_next();
    const Shard& shard = shards_[current()];
    const std::int64_t begin = shard.tensors[place.tensor - shard.first].begin + place.first * size_of(stretch.dtype);
    files_.back().write(static_cast<std::int64_t>(shard.header.size()) + begin, stretch.data, stretch.bytes());
  }

  void finish() override {
    order_.expect_complete();
    while (files_.size() < shards_.size()) begin_next();
    files_.back().seal();
    const bool several = shards_.size() > 1;
    // While files of two models may lie side by side, there is no index that would take them for one.
    if (several) remove(index_path());
    for (RawWriter& file : files_) file.publish();
    if (!several) return;
    write_file_atomically(index_path(), index(), ExitCode::checkpoint);
    remove(path_);
  }

 private:
  [[nodiscard]] std::size_t current() const { return files_.size() - 1; }
  [[nodiscard]] std::filesystem::path index_path() const { return path_.string() + ".index.json"; }

  void begin_next() {
    if (!files_.empty()) files_.back().seal();
    const Shard& shard = shards_[files_.size()];
    files_.emplace_back(shard.path, ExitCode::checkpoint);
    files_.back().write(0, shard.header.data(), static_cast<std::int64_t>(shard.header.size()));
  }

  [[nodiscard]] std::string index() const {
    std::int64_t total = 0;
    std::string map;
    for (const Shard& shard : shards_) {
      const std::string file = Json(shard.path.filename().string()).dump();
      for (const PlacedTensor& tensor : shard.tensors) {
        map += text(map.empty() ? "" : ",", "\n    ", Json(tensor.info.name).dump(), ": ", file);
        total += bytes_of(tensor.info);
      }
    }
    return text("{\n  \"metadata\": {\"total_size\": ", total, "},\n  \"weight_map\": {", map, "\n  }\n}\n");
  }

  static void remove(const std::filesystem::path& old) {
    std::error_code wrong;
    std::filesystem::remove(old, wrong);
    VITRAIL_EXPECT(!wrong, ExitCode::checkpoint, text("cannot remove the old '", old.string(), "'"), wrong.message(),
                   "");
  }

  std::filesystem::path path_;
  TensorList list_;
  TensorOrder order_;
  std::vector<Shard> shards_;
  std::vector<RawWriter> files_;  ///< the last one is open, those before are sealed
};

}  // namespace

std::unique_ptr<TensorSink> create_safetensors(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                                               const std::map<std::string, std::string>& metadata,
                                               std::int64_t max_shard_bytes) {
  return std::make_unique<SafetensorsSink>(path, std::move(tensors), metadata, max_shard_bytes);
}

}  // namespace vitrail
