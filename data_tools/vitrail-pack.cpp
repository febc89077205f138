// vitrail-pack: makes and checks sharded datasets (src/data/shard.hpp).

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "apps/options.hpp"
#include "base/error.hpp"
#include "base/file.hpp"
#include "base/log.hpp"
#include "data/shard.hpp"
#include "io/idx.hpp"

namespace vitrail {
namespace {

namespace fs = std::filesystem;

constexpr char kManual[] =
    R"(vitrail-pack: packs images and labels into the sharded dataset that vitrail-train reads.

  vitrail-pack --images train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz
               --classes 10 --output fashion-mnist/train
  vitrail-pack --verify fashion-mnist

The first packs one split (a folder with manifest.json and HDF5 shards). Where images have several labels
or none, the labels are an IDX file of two axes, [n, classes]: 1 where image and class belong together,
else 0. The usual names of splits are train and test, side by side, so that --data fashion-mnist finds both.
Each rank reads only the rows it needs, so take at least as many shards as nodes. The second
reads everything again and compares all checksums.
A split is written beside its place and renamed when complete: what has the name is whole.)";

struct Settings {
  fs::path images;
  fs::path labels;
  fs::path output;
  std::optional<std::int64_t> classes;
  std::int64_t shards = 8;
  std::string name;
  std::vector<std::string> class_names;
  bool force = false;
  fs::path verify;
};

bool is_split(const fs::path& folder) { return fs::exists(folder / "manifest.json"); }

// The folder's last two names: "fashion-mnist/train".
std::string name_from(const fs::path& output) {
  const fs::path above = output.parent_path().filename();
  return (above.empty() || above == "." || above == ".." ? output.filename() : above / output.filename()).string();
}

// Refuses to touch a folder that is not ours, or that is and may not be replaced.
void expect_replaceable(const fs::path& output, bool force) {
  if (!fs::exists(output)) return;
  VITRAIL_EXPECT(fs::is_directory(output) && (is_split(output) || fs::is_empty(output)), ExitCode::usage,
                 text("'", output.string(), "' exists and is not a dataset"), "it would be replaced",
                 "Choose another --output");
  VITRAIL_EXPECT(force || !is_split(output), ExitCode::usage, text("'", output.string(), "' is already a dataset"),
                 "it would be replaced", "Use --force to replace it, or --verify to check it");
}

// Puts the complete folder `made` in the place of `output`; the old one goes only when the new one stands.
void put_in_place(const fs::path& made, const fs::path& output) {
  const fs::path old = output.string() + ".old";
  fs::remove_all(old);
  if (fs::exists(output)) rename_durably(output, old, ExitCode::data);
  rename_durably(made, output, ExitCode::data);
  fs::remove_all(old);
}

struct Labels {
  std::int64_t each;                 ///< per image, at most
  std::vector<std::int32_t> values;  ///< [n, each], -1: none
};

/// A row of 0 and 1 over the classes for every image -> the numbers of the classes, ascending.
Labels labels_of_rows(const IdxArray& rows, const fs::path& path) {
  const std::int64_t images = rows.shape[0], classes = rows.shape[1];
  std::vector<std::vector<std::int32_t>> found(static_cast<std::size_t>(images));
  std::size_t most = 1;
  for (std::int64_t i = 0; i < images; ++i) {
    std::vector<std::int32_t>& labels = found[static_cast<std::size_t>(i)];
    for (std::int64_t c = 0; c < classes; ++c) {
      const int value = rows.values[static_cast<std::size_t>(i * classes + c)];
      VITRAIL_EXPECT(value <= 1, ExitCode::data,
                     text("'", path.string(), "' holds the value ", value, " for image ", i, " and class ", c),
                     "labels of two axes are 1 where image and class belong together, else 0", "");
      if (value == 1) labels.push_back(static_cast<std::int32_t>(c));
    }
    most = std::max(most, labels.size());
  }
  Labels labels{static_cast<std::int64_t>(most), std::vector<std::int32_t>(found.size() * most, -1)};
  for (std::size_t i = 0; i < found.size(); ++i) {
    std::copy(found[i].begin(), found[i].end(), labels.values.begin() + static_cast<std::ptrdiff_t>(i * most));
  }
  return labels;
}

Labels labels_of(const IdxArray& array, const fs::path& path, std::int64_t classes) {
  if (array.shape.size() == 1) {
    VITRAIL_EXPECT(classes <= 256, ExitCode::usage, text("--classes ", classes),
                   "IDX labels are bytes: there are 1 to 256 classes",
                   "Labels of two axes, [n, classes], may have more");
    return {1, {array.values.begin(), array.values.end()}};
  }
  VITRAIL_EXPECT(array.shape[1] == classes, ExitCode::usage, text("--classes ", classes),
                 text("'", path.string(), "' has ", array.shape[1], " columns, one per class"),
                 text("Use --classes ", array.shape[1]));
  return labels_of_rows(array, path);
}

Manifest write_beside(const fs::path& beside, const Settings& settings) {
  const IdxArray images = read_idx(settings.images, {3}, ExitCode::data);
  const IdxArray rows = read_idx(settings.labels, {1, 2}, ExitCode::data);
  VITRAIL_EXPECT(images.shape[0] == rows.shape[0], ExitCode::data,
                 text("'", settings.images.string(), "' has ", images.shape[0], " images, '", settings.labels.string(),
                      "' has ", rows.shape[0], " labels"),
                 "every image has its labels", "Do the two files belong together?");
  const Labels labels = labels_of(rows, settings.labels, *settings.classes);
  const ImageView view{{images.shape[1], images.shape[2], 1}, images.values, labels.values, labels.each};
  VITRAIL_EXPECT(view.shape.bytes() > 0 && images.shape[0] > 0, ExitCode::data,
                 text("'", settings.images.string(), "' holds no pixels"), "there is nothing to pack", "");
  fs::remove_all(beside);
  fs::create_directories(beside);
  const std::string name = settings.name.empty() ? name_from(settings.output) : settings.name;
  return write_split(beside, name, view, *settings.classes, settings.class_names, settings.shards);
}

void pack(Settings settings, const Log& log) {
  settings.output = settings.output.lexically_normal();
  if (!settings.output.has_filename()) settings.output = settings.output.parent_path();  // a trailing '/'
  VITRAIL_EXPECT(*settings.classes >= 1, ExitCode::usage, text("--classes ", *settings.classes),
                 "there is at least one", "");
  VITRAIL_EXPECT(settings.class_names.empty() || std::ssize(settings.class_names) == *settings.classes, ExitCode::usage,
                 text(settings.class_names.size(), " class names"), text("--classes is ", *settings.classes), "");
  expect_replaceable(settings.output, settings.force);
  const fs::path beside = settings.output.string() + ".packing";
  try {
    const Manifest made = write_beside(beside, settings);
    put_in_place(beside, settings.output);
    std::int64_t bytes = 0;
    for (const ShardEntry& shard : made.shards) bytes += shard.bytes;
    log.info("packed ", made.images, " images of ", made.image.height, " x ", made.image.width, " x ",
             made.image.channels, ", ", made.classes, " classes, ",
             made.labels_per_image > 1 ? text("up to ", made.labels_per_image, " labels each, ") : "", "into ",
             made.shards.size(), " shards (", (bytes + 500'000) / 1'000'000, " MB): ", settings.output.string());
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(beside, ignored);
    throw;
  }
}

void verify(const fs::path& folder, const Log& log) {
  std::vector<fs::path> splits;
  if (is_split(folder)) {
    splits.push_back(folder);
  } else if (fs::is_directory(folder)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      if (is_split(entry.path())) splits.push_back(entry.path());
    }
  }
  VITRAIL_EXPECT(!splits.empty(), ExitCode::data, text("there is no dataset in '", folder.string(), "'"),
                 "neither manifest.json nor a folder with one is there", "Is the path right?");
  std::sort(splits.begin(), splits.end());
  for (const fs::path& split : splits) {
    Dataset dataset = Dataset::open({split}, "");
    dataset.verify();
    log.info(split.string(), ": ", dataset.images(), " images, every checksum agrees");
  }
}

int run(int argc, char** argv) {
  Settings settings;
  Options options("vitrail-pack", kManual);
  options.section("Packing");
  options.add("images", settings.images, "FILE", "images: IDX [n, rows, columns], plain or gzip");
  options.add("labels", settings.labels, "FILE", "labels: IDX [n], or [n, N] of 0 and 1, plain or gzip");
  options.add("classes", settings.classes, "N", "number of classes; labels go from 0 to N-1");
  options.add("output", settings.output, "DIR", "folder of the split to make");
  options.add("shards", settings.shards, "N", "number of files");
  options.add("name", settings.name, "TEXT", "name in the manifest; otherwise from --output");
  options.add("class-names", settings.class_names, "TEXT...", "names of the classes, for people");
  options.add("force", settings.force, "", "replace a dataset that is there already");
  options.section("Checking");
  options.add("verify", settings.verify, "DIR", "check a split, or all splits of a dataset");
  if (!options.parse(argc, argv)) return 0;
  options.apply();
  const Log log("vitrail-pack");
  if (options.given("verify")) {
    VITRAIL_EXPECT(!options.given("output") && !options.given("images"), ExitCode::usage,
                   "--verify together with --output or --images", "it packs or checks, not both",
                   "Run it twice: first without --verify");
    verify(settings.verify, log);
    return 0;
  }
  for (const char* needed : {"images", "labels", "classes", "output"}) {
    VITRAIL_EXPECT(options.given(needed), ExitCode::usage, text("--", needed, " is missing"),
                   "packing needs --images, --labels, --classes and --output", "See vitrail-pack --help");
  }
  pack(settings, log);
  return 0;
}

}  // namespace
}  // namespace vitrail

int main(int argc, char** argv) {
  return vitrail::run_guarded("vitrail-pack", [&] {
    try {
      return vitrail::run(argc, argv);
    } catch (const std::filesystem::filesystem_error& failure) {
      vitrail::fail(vitrail::ExitCode::data, {failure.what(), "the operating system refuses", ""});
    }
  });
}
