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

void write_shard(const std::filesystem::path& path, const ImageView& view) {
  const ImageShape& shape = view.shape;
  const std::int64_t count = std::ssize(view.labels) / view.labels_per_image;
  const std::int64_t rows = std::clamp<std::int64_t>(kChunkBytes / shape.bytes(), 1, std::max<std::int64_t>(1, count));
  h5::File file = h5::File::create(path, ExitCode::data);
  file.write("images", Dtype::u8, {count, shape.height, shape.width, shape.channels}, view.images.data(),
             {.chunk = {rows, shape.height, shape.width, shape.channels}, .checksum = true});
  const h5::Shape labels = view.labels_per_image == 1 ? h5::Shape{count} : h5::Shape{count, view.labels_per_image};
  file.write("labels", Dtype::i32, labels, view.labels.data(), {.checksum = true});
  file.close();
  sync_to_disk(path, ExitCode::data);
}

void expect_labels_of(const ImageView& view, std::int64_t classes) {
  const auto each = static_cast<std::size_t>(view.labels_per_image);
  for (std::size_t at = 0; at < view.labels.size(); ++at) {
    const std::int32_t label = view.labels[at];
    VITRAIL_EXPECT(label >= -1 && label < classes, ExitCode::data, text("image ", at / each, " has the label ", label),
                   text("with ", classes, " classes, labels go from 0 to ", classes - 1),
                   "Is the number of classes right?");
    const auto row = view.labels.subspan(at / each * each, at % each);
    VITRAIL_EXPECT(label < 0 || std::find(row.begin(), row.end(), label) == row.end(), ExitCode::data,
                   text("image ", at / each, " has the label ", label, " twice"), "an image has a label or not", "");
  }
}

}  // namespace

Manifest write_split(const std::filesystem::path& folder, const std::string& name, const ImageView& view,
                     std::int64_t classes, std::vector<std::string> class_names, std::int64_t shards) {
  const std::int64_t count = std::ssize(view.labels) / view.labels_per_image;
  VITRAIL_EXPECT(shards >= 1 && shards <= count, ExitCode::usage, text(shards, " shards for ", count, " images"),
                 "every shard holds at least one image", "Use fewer shards");
  VITRAIL_EXPECT(std::ssize(view.images) == count * view.shape.bytes(), ExitCode::data,
                 text("labels of ", count, " images, but ", std::ssize(view.images) / view.shape.bytes(), " images"),
                 "every image has its labels", "Do the two files belong together?");
  expect_labels_of(view, classes);
  Manifest manifest{name, count, classes, view.shape, view.labels_per_image, std::move(class_names), {}};
  for (std::int64_t shard = 0; shard < shards; ++shard) {
    // Sizes that differ by one at most.
    const std::int64_t first = shard * count / shards;
    const std::int64_t images = (shard + 1) * count / shards - first;
    const auto part = [&](auto all, std::int64_t each) {
      return all.subspan(static_cast<std::size_t>(first * each), static_cast<std::size_t>(images * each));
    };
    const std::filesystem::path path = folder / shard_name(shard);
    write_shard(path, {view.shape, part(view.images, view.shape.bytes()), part(view.labels, view.labels_per_image),
                       view.labels_per_image});
    manifest.shards.push_back({shard_name(shard), images, static_cast<std::int64_t>(std::filesystem::file_size(path)),
                               sha256_of_file(path, ExitCode::data)});
  }
  manifest.write(folder);
  return manifest;
}

}  // namespace vitrail
