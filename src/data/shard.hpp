#pragma once
// Datasets on disk, and reading images out of them by number.
//
// A *split* is a folder with `manifest.json` and N shards `shard-00000.h5` ...; a dataset is a folder of splits:
//     fashion-mnist/train/manifest.json  fashion-mnist/train/shard-00000.h5 ...  fashion-mnist/test/manifest.json ...
// A shard is an HDF5 file with `/images` u8 [n, height, width, channels], cut into chunks of a run of rows with a
// Fletcher-32 checksum each (a flipped bit is an Error when the row is read), and `/labels` i32: [n], or [n, L] where
// images may have up to L > 1 labels; 0 <= label < classes, or -1: none. The manifest states L as `labels_per_image`
// (absent: 1) and names every shard with its number of images, bytes and SHA-256. Images are numbered through the
// shards in the manifest's order.

#include <cstdint>
#include <deque>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/h5.hpp"

namespace vitrail {

struct ImageShape {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 0;

  [[nodiscard]] std::int64_t bytes() const { return height * width * channels; }  ///< of one u8 image
  bool operator==(const ImageShape&) const = default;
};

struct ShardEntry {
  std::string file;  ///< relative to the manifest's folder
  std::int64_t images = 0;
  std::int64_t bytes = 0;
  std::string sha256;
};

struct Manifest {
  std::string name;  ///< for people: "fashion-mnist/train"
  std::int64_t images = 0;
  std::int64_t classes = 0;
  ImageShape image;
  std::int64_t labels_per_image = 1;     ///< L: an image has at most so many
  std::vector<std::string> class_names;  ///< empty or one per class
  std::vector<ShardEntry> shards;

  /// Reads FOLDER/manifest.json and checks that it agrees with itself.
  static Manifest read(const std::filesystem::path& folder);
  void write(const std::filesystem::path& folder) const;
};

/// Images of a split in memory, to be written.
struct ImageView {
  ImageShape shape;
  std::span<const std::uint8_t> images;  ///< [n, height, width, channels]
  std::span<const std::int32_t> labels;  ///< [n, labels_per_image], -1: none
  std::int64_t labels_per_image = 1;
};

/// Writes `shards` shards of nearly equal size and the manifest into an existing folder, and forces all to disk.
/// The same images make the same bytes. Error (data) for a label outside the classes, or twice at one image.
Manifest write_split(const std::filesystem::path& folder, const std::string& name, const ImageView& view,
                     std::int64_t classes, std::vector<std::string> class_names, std::int64_t shards);

/// One or more splits, read as one sequence of images. Where splits differ in their labels per image, the largest
/// number counts, and the rows of the others are filled up with -1. Belongs to one thread at a time.
class Dataset {
 public:
  /// Each path is a split, or a dataset's folder in which split_name is looked up. All must have the same image shape
  /// and classes. Checks that every shard is there with the bytes that the manifest states, and (all, unless there are
  /// more than 256) that it opens, holds the images that the manifest states, and labels below `classes`.
  static Dataset open(const std::vector<std::filesystem::path>& paths, const std::string& split_name);

  [[nodiscard]] std::int64_t images() const noexcept { return images_; }
  [[nodiscard]] std::int64_t classes() const noexcept { return splits_.front().manifest.classes; }
  [[nodiscard]] const ImageShape& image() const noexcept { return splits_.front().manifest.image; }
  [[nodiscard]] std::int64_t labels_per_image() const noexcept { return labels_per_image_; }
  /// SHA-256 over shapes, classes and the checksums of all shards, in order: what the data is, wherever it lies.
  [[nodiscard]] std::string fingerprint() const;
  /// "fashion-mnist/train", or several names joined by " + ".
  [[nodiscard]] std::string name() const;

  /// Reads images by number, in any order: images u8 [n, height, width, channels], labels i32 [n, labels_per_image].
  /// Only the chunks that hold these rows are read.
  void read(std::span<const std::int64_t> numbers, std::uint8_t* images, std::int32_t* labels);

  /// Reads every shard from end to end: SHA-256 against the manifest, every chunk's checksum, every label.
  void verify();

 private:
  struct Split {
    std::filesystem::path folder;
    Manifest manifest;
  };
  struct Shard {
    std::filesystem::path path;
    const ShardEntry* entry;        ///< in splits_
    std::int64_t first;             ///< number of its first image
    std::int64_t labels_per_image;  ///< in its file
  };
  struct OpenShard {
    std::size_t which;
    h5::File file;
    h5::Dataset images;
    std::vector<std::int32_t> labels;  // [n, labels_per_image()]
  };
  struct Wanted {
    std::int64_t number;  ///< of the image
    std::int64_t place;   ///< in the caller's block
  };

  Dataset() = default;
  static Split open_split(const std::filesystem::path& path, const std::string& split_name);
  void list_shards();
  void check_shards();
  OpenShard& opened(std::size_t which);
  [[nodiscard]] OpenShard open_shard(std::size_t which) const;
  [[nodiscard]] std::vector<std::int32_t> read_labels(const Shard& shard, const h5::File& file) const;
  void read_from(OpenShard& shard, std::span<const Wanted> wanted, std::uint8_t* images, std::int32_t* labels);

  std::deque<Split> splits_;  ///< a deque: shards point into it
  std::vector<Shard> shards_;
  std::int64_t images_ = 0;
  std::int64_t labels_per_image_ = 1;
  std::deque<OpenShard> open_;  ///< the latest used first
  std::vector<Wanted> wanted_;  ///< kept between reads for its memory
};

}  // namespace vitrail
