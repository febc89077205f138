// Writing shards: the other half of shard.hpp.

#include <algorithm>

#include "base/file.hpp"
#include "base/sha256.hpp"
#include "data/shard.hpp"

namespace vitrail {

namespace {

// A chunk is read, and its checksum computed, as a whole: small enough for shuffled reading of single rows, large
// enough that the index of chunks stays short.
constexpr std::int64_t kChunkBytes = 1 << 16;

std::string shard_name(std::int64_t number) {
  const std::string digits = std::to_string(number);
  return "shard-" + std::string(5 - std::min<std::size_t>(5, digits.size()), '0') + digits + ".h5";
}

void write_shard(const std::filesystem::path& path, const ImageShape& shape, std::span<const std::uint8_t> images,
                 std::span<const std::uint8_t> labels) {
  const auto count = static_cast<std::int64_t>(labels.size());
  const std::int64_t rows = std::clamp<std::int64_t>(kChunkBytes / shape.bytes(), 1, std::max<std::int64_t>(1, count));
  h5::File file = h5::File::create(path, ExitCode::data);
  file.write("images", Dtype::u8, {count, shape.height, shape.width, shape.channels}, images.data(),
             {.chunk = {rows, shape.height, shape.width, shape.channels}, .checksum = true});
  const std::vector<std::int32_t> wide(labels.begin(), labels.end());
  file.write("labels", Dtype::i32, {count}, wide.data(), {.checksum = true});
  file.close();
  sync_to_disk(path, ExitCode::data);
}

}  // namespace

Manifest write_split(const std::filesystem::path& folder, const std::string& name, const ImageView& view,
                     std::int64_t classes, std::vector<std::string> class_names, std::int64_t shards) {
  const auto count = static_cast<std::int64_t>(view.labels.size());
  VITRAIL_EXPECT(shards >= 1 && shards <= count, ExitCode::usage, text(shards, " shards for ", count, " images"),
                 "every shard holds at least one image", "Use fewer shards");
  VITRAIL_EXPECT(
      static_cast<std::int64_t>(view.images.size()) == count * view.shape.bytes(), ExitCode::data,
      text(count, " labels, but ", static_cast<std::int64_t>(view.images.size()) / view.shape.bytes(), " images"),
      "every image has one label", "Do the two files belong together?");
  for (std::int64_t i = 0; i < count; ++i) {
    const int label = view.labels[static_cast<std::size_t>(i)];
    VITRAIL_EXPECT(label < classes, ExitCode::data, text("image ", i, " has the label ", label),
                   text("with ", classes, " classes, labels go from 0 to ", classes - 1),
                   "Is the number of classes right?");
  }
  Manifest manifest{name, count, classes, view.shape, std::move(class_names), {}};
  for (std::int64_t shard = 0; shard < shards; ++shard) {
    // Sizes that differ by one at most.
    const auto first = static_cast<std::size_t>(shard * count / shards);
    const auto images = static_cast<std::size_t>((shard + 1) * count / shards) - first;
    const auto image_bytes = static_cast<std::size_t>(view.shape.bytes());
    const std::filesystem::path path = folder / shard_name(shard);
    write_shard(path, view.shape, view.images.subspan(first * image_bytes, images * image_bytes),
                view.labels.subspan(first, images));
    manifest.shards.push_back({shard_name(shard), static_cast<std::int64_t>(images),
                               static_cast<std::int64_t>(std::filesystem::file_size(path)),
                               sha256_of_file(path, ExitCode::data)});
  }
  manifest.write(folder);
  return manifest;
}

}  // namespace vitrail
