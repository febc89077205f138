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

The first packs one split (a folder with manifest.json and HDF5 shards); the usual names are train and
test, side by side, so that --data fashion-mnist finds both. Each rank reads only the rows it needs, so
take at least as many shards as nodes. The second reads everything again and compares all checksums.
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

IdxArray read_array(const fs::path& path, int dimensions) { return read_idx(path, dimensions, ExitCode::data); }

Manifest write_beside(const fs::path& beside, const Settings& settings) {
  const IdxArray images = read_array(settings.images, 3);
  const IdxArray labels = read_array(settings.labels, 1);
  const ImageView view{{images.shape[1], images.shape[2], 1}, images.values, labels.values};
  VITRAIL_EXPECT(images.shape[0] == labels.shape[0], ExitCode::data,
                 text("'", settings.images.string(), "' has ", images.shape[0], " images, '", settings.labels.string(),
                      "' has ", labels.shape[0], " labels"),
                 "every image has one label", "Do the two files belong together?");
  VITRAIL_EXPECT(view.shape.bytes() > 0 && labels.shape[0] > 0, ExitCode::data,
                 text("'", settings.images.string(), "' holds no pixels"), "there is nothing to pack", "");
  fs::remove_all(beside);
  fs::create_directories(beside);
  const std::string name = settings.name.empty() ? name_from(settings.output) : settings.name;
  return write_split(beside, name, view, *settings.classes, settings.class_names, settings.shards);
}

void pack(Settings settings, const Log& log) {
  settings.output = settings.output.lexically_normal();
  if (!settings.output.has_filename()) settings.output = settings.output.parent_path();  // a trailing '/'
  VITRAIL_EXPECT(*settings.classes >= 1 && *settings.classes <= 256, ExitCode::usage,
                 text("--classes ", *settings.classes), "IDX labels are bytes: there are 1 to 256 classes", "");
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
             made.image.channels, ", ", made.classes, " classes, into ", made.shards.size(), " shards (",
             (bytes + 500'000) / 1'000'000, " MB): ", settings.output.string());
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
  options.add("labels", settings.labels, "FILE", "labels: IDX [n], plain or gzip");
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
