#include <optional>
#include <utility>

#include "base/error.hpp"
#include "base/json.hpp"
#include "convert/half.hpp"
#include "convert/safetensors.hpp"
#include "convert/safetensors_header.hpp"
#include "convert/tensor_list.hpp"
#include "io/raw_file.hpp"

namespace vitrail {

namespace {

/// One file's header, without the file.
struct ReadHeader {
  std::filesystem::path path;
  std::int64_t file_bytes = 0;
  std::int64_t data_begin = 0;
  SafetensorsHeader header;
};

ReadHeader read_header(const std::filesystem::path& path) {
  const RawReader file(path, ExitCode::checkpoint);
  const auto expect = [&](bool fine, const std::string& why) {
    VITRAIL_EXPECT(fine, ExitCode::checkpoint, text("'", path.string(), "' is not a safetensors file"), why,
                   "Is it complete, and a file of this kind?");
  };
  expect(file.bytes() >= 8, text("it has only ", file.bytes(), " bytes"));
  std::uint64_t length = 0;
  file.read(0, &length, sizeof length);
  expect(length <= static_cast<std::uint64_t>(kLongestSafetensorsHeader),
         text("it begins with a length of ", length, " bytes; at most ", kLongestSafetensorsHeader, " are read"));
  const auto bytes = static_cast<std::int64_t>(length);
  expect(bytes <= file.bytes() - 8, text("its header of ", bytes, " bytes is cut short"));
  std::string json(static_cast<std::size_t>(length), '\0');
  file.read(8, json.data(), bytes);
  const std::int64_t begin = 8 + bytes;
  return {path, file.bytes(), begin, parse_safetensors_header(json, path.string(), file.bytes() - begin)};
}

/// The index's files and what it says about them: tensor -> file.
struct Index {
  std::filesystem::path path;
  std::map<std::string, std::string> file_of;
};

Index read_index(const std::filesystem::path& path) {
  const RawReader file(path, ExitCode::checkpoint);
  VITRAIL_EXPECT(file.bytes() <= kLongestSafetensorsHeader, ExitCode::checkpoint,
                 text("the index '", path.string(), "' has ", file.bytes(), " bytes"),
                 text("at most ", kLongestSafetensorsHeader, " are read"), "Is this an index?");
  std::string json(static_cast<std::size_t>(file.bytes()), '\0');
  file.read(0, json.data(), file.bytes());
  const Json parsed = Json::parse(json, path.string(), ExitCode::checkpoint);
  Index index{path, {}};
  for (const JsonMember& member : parsed.at("weight_map").members()) {
    const std::string& name = member.value.as_string();
    VITRAIL_EXPECT(!name.empty() && name.find_first_of(std::string_view("/\0", 2)) == std::string::npos && name != "..",
                   ExitCode::checkpoint, text("'", path.string(), "' names the file '", name, "'"),
                   "files lie beside their index and have plain names", "");
    index.file_of[member.key] = name;
  }
  return index;
}

/// What the index says must be what the files have: mixed files of two models are noticed here.
void expect_agreement(const Index& index, const std::vector<ReadHeader>& files) {
  std::map<std::string, std::string> missing = index.file_of;
  for (const ReadHeader& file : files) {
    const std::string name = file.path.filename().string();
    for (const PlacedTensor& tensor : file.header.tensors) {
      const auto found = missing.find(tensor.info.name);
      VITRAIL_EXPECT(found != missing.end() && found->second == name, ExitCode::checkpoint,
                     text("'", file.path.string(), "' has tensor '", tensor.info.name, "'"),
                     text("the index '", index.path.string(), "' does not look for it there"),
                     "Do files and index belong to one model?");
      missing.erase(found);
    }
  }
  if (missing.empty()) return;
  const auto& [tensor, name] = *missing.begin();
  fail(ExitCode::checkpoint,
       {text("'", (index.path.parent_path() / name).string(), "' has no tensor '", tensor, "'"),
        text("the index '", index.path.string(), "' looks for it there"), "Do files and index belong to one model?"});
}

/// The index that `path` is or stands for; nothing for a file by itself.
std::optional<std::filesystem::path> index_of(const std::filesystem::path& path) {
  if (path.extension() == ".json") return path;
  const std::filesystem::path beside = path.string() + ".index.json";
  if (!std::filesystem::exists(path) && std::filesystem::exists(beside)) return beside;
  return std::nullopt;
}

std::vector<ReadHeader> read_headers(const std::filesystem::path& path) {
  const std::optional<std::filesystem::path> where = index_of(path);
  std::vector<ReadHeader> files;
  if (!where) {
    files.push_back(read_header(path));
    return files;
  }
  const Index index = read_index(*where);
  std::map<std::string, bool> names;
  for (const auto& [tensor, name] : index.file_of) names[name] = true;
  for (const auto& [name, seen] : names) files.push_back(read_header(where->parent_path() / name));
  expect_agreement(index, files);
  return files;
}

class SafetensorsSource final : public TensorSource {
 public:
  explicit SafetensorsSource(const std::filesystem::path& path)
      : files_(read_headers(path)), list_(path.string(), list_places()) {}

  [[nodiscard]] std::span<const TensorInfo> tensors() const override { return list_.tensors(); }

  void read(const std::string& name, std::int64_t first, Tensor to) override {
    const auto [file, index] = places_[list_.expect_stretch(name, first, to)];
    const PlacedTensor& tensor = files_[file].header.tensors[index];
    const std::int64_t size = tensor.half ? 2 : size_of(tensor.info.dtype);
    const std::int64_t count = to.elements();
    if (count == 0) return;
    auto* place = static_cast<std::byte*>(to.data) + (tensor.half ? 2 * count : 0);
    open(file).read(files_[file].data_begin + tensor.begin + first * size, place, count * size);
    if (tensor.half) widen_halves(to.data, count);
  }

 private:
  struct Place {
    std::size_t file = 0;
    std::size_t index = 0;  ///< in the file's header
  };

  std::vector<TensorInfo> list_places() {
    std::vector<TensorInfo> tensors;
    for (std::size_t file = 0; file < files_.size(); ++file) {
      const std::vector<PlacedTensor>& found = files_[file].header.tensors;
      for (std::size_t i = 0; i < found.size(); ++i) {
        places_.push_back({file, i});
        tensors.push_back(found[i].info);
      }
    }
    return tensors;
  }

  /// One file is open at a time: a model may have more of them than a process may open.
  const RawReader& open(std::size_t file) {
    if (opened_ && current_ == file) return *opened_;
    opened_.reset();
    opened_.emplace(files_[file].path, ExitCode::checkpoint);
    VITRAIL_EXPECT(opened_->bytes() == files_[file].file_bytes, ExitCode::checkpoint,
                   text("'", files_[file].path.string(), "' has changed while it was read"),
                   text("it had ", files_[file].file_bytes, " bytes, now ", opened_->bytes()), "");
    current_ = file;
    return *opened_;
  }

  std::vector<ReadHeader> files_;
  std::vector<Place> places_;  ///< of the list's tensors
  TensorList list_;            ///< made from both: stands behind them
  std::optional<RawReader> opened_;
  std::size_t current_ = 0;
};

}  // namespace

std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& path) {
  return std::make_unique<SafetensorsSource>(path);
}

std::map<std::string, std::string> safetensors_metadata(const std::filesystem::path& path) {
  const std::vector<ReadHeader> files = read_headers(path);
  return files.empty() ? std::map<std::string, std::string>() : files.front().header.metadata;
}

}  // namespace vitrail
