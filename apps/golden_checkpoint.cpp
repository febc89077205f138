// Golden files of kind=checkpoint: files of the official software in the folder of the same name.

#include <cstring>

#include "apps/golden_config.hpp"
#include "apps/golden_kinds.hpp"
#include "apps/golden_upcycle.hpp"
#include "apps/scratch_folder.hpp"
#include "convert/flax_msgpack.hpp"
#include "device/host_values.hpp"

namespace vitrail {

namespace {

/// A whole tensor. The files are small.
std::vector<char> read_whole(TensorSource& source, const TensorInfo& info) {
  std::vector<char> bytes(static_cast<std::size_t>(info.shape.elements() * size_of(info.dtype)));
  source.read(info.name, 0, Tensor(bytes.data(), info.shape, info.dtype));
  return bytes;
}

/// Every tensor bit for bit: no type of the files has values that a double has not.
void compare_tensors(const GoldenFile& file, TensorSource& source, GoldenReport& report) {
  std::vector<std::string> names;
  for (const TensorInfo& info : source.tensors()) {
    const std::string name = "/tensors/" + info.name;
    names.push_back(info.name);
    if (!file.h5().has(name)) {
      report.failed(name, "the .h5 has no such tensor");
      continue;
    }
    const auto lengths = info.shape.lengths();
    if (file.shape(name) != h5::Shape(lengths.begin(), lengths.end())) {
      report.failed(name, "the shapes differ");
      continue;
    }
    const std::vector<char> bytes = read_whole(source, info);
    report.compare_exactly(name, to_doubles(ConstTensor(bytes.data(), info.shape, info.dtype)), file.reals(name));
  }
  for (const std::string& name : file.h5().datasets_below("/tensors")) {
    if (std::find(names.begin(), names.end(), name) == names.end()) report.failed("/tensors/" + name, "was not found");
  }
}

/// Writes everything with our writer and reads it again.
void compare_written(TensorSource& source, const FlaxCut& cut, const std::string& name, GoldenReport& report) {
  const ScratchFolder folder("vitrail-selftest");
  const std::vector<TensorInfo> infos(source.tensors().begin(), source.tensors().end());
  const auto sink = create_flax(folder.path() / "ckpt", infos, cut);
  for (const TensorInfo& info : infos) {
    const std::vector<char> bytes = read_whole(source, info);
    sink->write(ConstTensor(bytes.data(), info.shape, info.dtype));
  }
  sink->finish();
  const auto written = open_flax(folder.path() / "ckpt");
  std::vector<double> equal;
  for (const TensorInfo& info : written->tensors()) {
    equal.push_back(read_whole(*written, info) == read_whole(source, info) ? 1 : 0);
  }
  report.compare_exactly(name, equal, std::vector<double>(infos.size(), 1));
}

/// A checkpoint of the official V-MoE implementation.
void run_flax(const GoldenFile& file, const std::filesystem::path& folder, GoldenReport& report) {
  const std::filesystem::path prefix = folder / file.config().at("prefix").as_string();
  VITRAIL_EXPECT(std::filesystem::exists(prefix.string() + ".index"), ExitCode::data,
                 text("there is no '", prefix.string(), ".index'"), "it belongs to '" + file.h5().path() + "'", "");
  const auto source = open_flax(prefix);
  compare_tensors(file, *source, report);
  compare_written(*source, {}, "written and read again", report);
  compare_written(*source, {.shards = 3, .slice_bytes = 1000, .piece_bytes = 300},
                  "written in 3 data files, in pieces, and read again", report);
}

}  // namespace

void run_golden_checkpoint(const GoldenFile& file, GoldenReport& report) {
  const std::filesystem::path path = file.h5().path();
  const std::filesystem::path folder = path.parent_path() / path.stem();
  if (file.config().find("prefix") != nullptr) return run_flax(file, folder, report);
  if (file.config().find("rules") != nullptr) {
    return run_golden_upcycle(file, folder / file.config().at("file").as_string(), report);
  }
  throw Unsupported("a checkpoint without a prefix");
}

}  // namespace vitrail
