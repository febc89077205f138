#include "data/shard.hpp"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/sha256.hpp"

namespace vitrail {

namespace {

constexpr std::size_t kOpenShards = 64;            // file handles are limited (often 1024 per process)
constexpr std::size_t kShardsOpenedAtStart = 256;  // beyond, opening all of them on every rank would take too long
constexpr std::int64_t kCacheBytes = std::int64_t{256} << 20;  // chunks in memory, over all open shards

constexpr char kRemedy[] = "Restore the file, or pack the dataset again with vitrail-pack";

}  // namespace

Dataset::Split Dataset::open_split(const std::filesystem::path& path, const std::string& split_name) {
  for (const std::filesystem::path& folder : {path, path / split_name}) {
    std::error_code ignored;
    if (std::filesystem::exists(folder / "manifest.json", ignored)) return {folder, Manifest::read(folder)};
  }
  fail(ExitCode::data, {text("there is no dataset in '", path.string(), "'"),
                        text("neither manifest.json nor ", split_name, "/manifest.json is there"),
                        "Is the path right? vitrail-pack makes datasets"});
}

Dataset Dataset::open(const std::vector<std::filesystem::path>& paths, const std::string& split_name) {
  VITRAIL_EXPECT(!paths.empty(), ExitCode::usage, "no dataset is given", "there is nothing to read", "Use --data PATH");
  Dataset dataset;
  for (const std::filesystem::path& path : paths) {
    const Split& split = dataset.splits_.emplace_back(open_split(path, split_name));
    const Manifest& first = dataset.splits_.front().manifest;
    VITRAIL_EXPECT(
        split.manifest.image == first.image && split.manifest.classes == first.classes, ExitCode::data,
        text("'", path.string(), "' has another image shape or number of classes than '", paths.front().string(), "'"),
        "datasets that are read together must agree", "");
  }
  dataset.list_shards();
  dataset.check_shards();
  return dataset;
}

void Dataset::list_shards() {
  for (const Split& split : splits_) {
    labels_per_image_ = std::max(labels_per_image_, split.manifest.labels_per_image);
    for (const ShardEntry& entry : split.manifest.shards) {
      shards_.push_back({split.folder / entry.file, &entry, images_, split.manifest.labels_per_image});
      images_ += entry.images;
    }
  }
}

void Dataset::check_shards() {
  for (const Shard& shard : shards_) {
    std::error_code failure;
    const auto bytes = std::filesystem::file_size(shard.path, failure);
    VITRAIL_EXPECT(!failure, ExitCode::data, text("shard '", shard.path.string(), "' is missing"), failure.message(),
                   kRemedy);
    VITRAIL_EXPECT(std::cmp_equal(bytes, shard.entry->bytes), ExitCode::data,
                   text("shard '", shard.path.string(), "' has ", bytes, " bytes"),
                   text("its manifest states ", shard.entry->bytes, ": it is cut short or was replaced"), kRemedy);
  }
  if (shards_.size() > kShardsOpenedAtStart) return;
  // Backwards, so that the first ones stay open.
  for (std::size_t which = shards_.size(); which-- > 0;) opened(which);
}

std::string Dataset::fingerprint() const {
  Sha256 sum;
  sum.update(text(image().height, ' ', image().width, ' ', image().channels, ' ', classes()));
  for (const Shard& shard : shards_) sum.update(text('\n', shard.entry->images, ' ', shard.entry->sha256));
  return sum.hex();
}

std::string Dataset::name() const {
  std::string names;
  for (const Split& split : splits_) names += (names.empty() ? "" : " + ") + split.manifest.name;
  return names;
}

Dataset::OpenShard Dataset::open_shard(std::size_t which) const {
  const Shard& shard = shards_[which];
  const std::string where = text("shard '", shard.path.string(), "'");
  h5::File file = h5::File::open(shard.path, ExitCode::data);
  const std::int64_t open_at_once = static_cast<std::int64_t>(std::min(kOpenShards, shards_.size()));
  h5::Dataset images = file.open_dataset("images", kCacheBytes / open_at_once);
  const h5::Shape expected{shard.entry->images, image().height, image().width, image().channels};
  VITRAIL_EXPECT(
      images.info().shape == expected && images.info().dtype == Dtype::u8, ExitCode::data,
      where + " holds other images than its manifest states",
      text("expected are ", expected[0], " images u8 of ", expected[1], " x ", expected[2], " x ", expected[3]),
      kRemedy);
  std::vector<std::int32_t> labels = read_labels(shard, file);
  return {which, std::move(file), std::move(images), std::move(labels)};
}

std::vector<std::int32_t> Dataset::read_labels(const Shard& shard, const h5::File& file) const {
  const std::int64_t images = shard.entry->images;
  const std::int64_t each = shard.labels_per_image;
  std::vector<std::int32_t> labels(static_cast<std::size_t>(images * each));
  file.read("labels", Dtype::i32, each == 1 ? h5::Shape{images} : h5::Shape{images, each}, labels.data());
  for (const std::int32_t label : labels) {
    VITRAIL_EXPECT(label >= -1 && label < classes(), ExitCode::data,
                   text("shard '", shard.path.string(), "' holds the label ", label),
                   text("with ", classes(), " classes, labels go from 0 to ", classes() - 1), kRemedy);
  }
  if (each == labels_per_image_) return labels;
  std::vector<std::int32_t> rows(static_cast<std::size_t>(images * labels_per_image_), -1);
  for (std::int64_t i = 0; i < images; ++i) {
    std::copy_n(labels.begin() + i * each, each, rows.begin() + i * labels_per_image_);
  }
  return rows;
}

Dataset::OpenShard& Dataset::opened(std::size_t which) {
  const auto found =
      std::find_if(open_.begin(), open_.end(), [&](const OpenShard& open) { return open.which == which; });
  if (found != open_.end()) {
    std::rotate(open_.begin(), found, found + 1);
    return open_.front();
  }
  if (open_.size() == kOpenShards) open_.pop_back();
  return open_.emplace_front(open_shard(which));
}

void Dataset::read(std::span<const std::int64_t> numbers, std::uint8_t* images, std::int32_t* labels) {
  wanted_.clear();
  for (std::size_t place = 0; place < numbers.size(); ++place) {
    VITRAIL_EXPECT(numbers[place] >= 0 && numbers[place] < images_, ExitCode::data,
                   text("image ", numbers[place], " is asked for"), text("the dataset has ", images_, " images"), "");
    wanted_.push_back({numbers[place], static_cast<std::int64_t>(place)});
  }
  std::sort(wanted_.begin(), wanted_.end(), [](const Wanted& a, const Wanted& b) {
    return a.number != b.number ? a.number < b.number : a.place < b.place;
  });
  for (std::size_t at = 0; at < wanted_.size();) {
    const auto beyond = std::upper_bound(shards_.begin(), shards_.end(), wanted_[at].number,
                                         [](std::int64_t number, const Shard& shard) { return number < shard.first; });
    const auto which = static_cast<std::size_t>(beyond - shards_.begin()) - 1;
    const std::int64_t end = shards_[which].first + shards_[which].entry->images;
    std::size_t stop = at;
    while (stop < wanted_.size() && wanted_[stop].number < end) ++stop;
    read_from(opened(which), std::span(wanted_).subspan(at, stop - at), images, labels);
    at = stop;
  }
}

void Dataset::read_from(OpenShard& shard, std::span<const Wanted> wanted, std::uint8_t* images, std::int32_t* labels) {
  const std::int64_t first = shards_[shard.which].first;
  for (std::size_t at = 0; at < wanted.size();) {
    // A run of rows that lie together both in the file and in the caller's block is one read.
    std::size_t run = 1;
    while (at + run < wanted.size() && wanted[at + run].number == wanted[at].number + static_cast<std::int64_t>(run) &&
           wanted[at + run].place == wanted[at].place + static_cast<std::int64_t>(run)) {
      ++run;
    }
    const std::int64_t row = wanted[at].number - first;
    const std::int64_t place = wanted[at].place;
    shard.images.read_region(Dtype::u8, {row, 0, 0, 0},
                             {static_cast<std::int64_t>(run), image().height, image().width, image().channels},
                             images + place * image().bytes());
    std::copy_n(shard.labels.begin() + row * labels_per_image_, static_cast<std::int64_t>(run) * labels_per_image_,
                labels + place * labels_per_image_);
    at += run;
  }
}

void Dataset::verify() {
  std::vector<std::uint8_t> images;
  for (std::size_t which = 0; which < shards_.size(); ++which) {
    const Shard& shard = shards_[which];
    VITRAIL_EXPECT(sha256_of_file(shard.path, ExitCode::data) == shard.entry->sha256, ExitCode::data,
                   text("shard '", shard.path.string(), "' is damaged"), "its SHA-256 is not the one in its manifest",
                   kRemedy);
    const OpenShard open = open_shard(which);
    images.resize(static_cast<std::size_t>(shard.entry->images * image().bytes()));
    open.images.read(Dtype::u8, images.data());
  }
}

}  // namespace vitrail
