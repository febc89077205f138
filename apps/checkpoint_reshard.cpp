#include "apps/checkpoint_reshard.hpp"

#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "apps/checkpoint_listing.hpp"
#include "apps/checkpoint_stretches.hpp"
#include "apps/new_run.hpp"
#include "apps/options.hpp"
#include "apps/progress.hpp"
#include "base/timer.hpp"
#include "train/checkpoint_stream.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "vitrail-checkpoint reshard FROM TO --files N : the same checkpoint in N files. FROM is a checkpoint, or a run:\n"
    "then its latest one. TO becomes a run with this one checkpoint: 'vitrail-train --resume --run-dir TO' goes on\n"
    "from it to the same bits. It must not be there yet, or be empty. Any number of ranks reads any number of files;\n"
    "few large files copy faster, many are read and written by many nodes at the same time.\n"
    "\n"
    "  vitrail-checkpoint reshard runs/mine runs/copy --files 1\n"
    "\n"
    "The digests of both (SHA-256 over all tensors) are compared at the end. --json prints one object.\n"
    "\n"
    "Exit codes: 0 written; 2 usage, or TO is there; 4 FROM cannot be read or TO cannot be written.";

constexpr std::int64_t kMostFiles = 99999;  // their names have five digits

}  // namespace

int checkpoint_reshard(int argc, char** argv) {
  std::vector<std::filesystem::path> paths;
  std::int64_t files = 1;
  bool json = false;
  Options options("vitrail-checkpoint reshard", kManual);
  options.add("paths", paths, "FROM TO", "a checkpoint or run, and the folder of a new run").required();
  options.add("files", files, "N", "number of files that hold the tensors").required();
  options.add("json", json, "", "one JSON object instead of a line");
  options.positional("paths");
  if (!options.parse(argc, argv)) return 0;
  options.apply();
  VITRAIL_EXPECT(paths.size() == 2, ExitCode::usage, text(paths.size(), " paths are given"), "two are needed",
                 "vitrail-checkpoint reshard FROM TO --files N");
  VITRAIL_EXPECT(files >= 1 && files <= kMostFiles, ExitCode::usage, text("--files ", files),
                 text("it must be 1 to ", kMostFiles), "");

  const Stopwatch clock;
  const CheckpointReader from(paths[0]);
  NewRun run(paths[1]);
  CheckpointStream stream(run.path(), from.info(), static_cast<int>(files));
  StretchBuffer buffer;
  std::int64_t bytes = 0;
  for (const std::string& name : from.tensors()) {
    const Shape shape = from.shape(name);
    stream.begin(name, shape, from.dtype(name));
    in_stretches(shape.elements(), [&](std::int64_t first, std::int64_t count) {
      const ConstTensor stretch = buffer.read(from, name, first, count);
      stream.write(stretch);
      bytes += stretch.bytes();
    });
  }
  const std::filesystem::path written = stream.finish();
  run.keep();
  const std::string digest = from.digest();
  const std::string found = CheckpointReader(written).digest();
  VITRAIL_EXPECT(found == digest, ExitCode::checkpoint, text("'", written.string(), "' has the digest ", found),
                 text("'", from.path().string(), "' has ", digest), "Is the file system in order?");
  if (json) {
    std::cout << Json::object()
                     .set("from", from.path().string())
                     .set("to", written.string())
                     .set("files", files)
                     .set("bytes", bytes)
                     .set("digest", digest)
                     .set("seconds", clock.seconds())
                     .dump()
              << '\n';
  } else {
    std::cout << written.string() << ": " << from.tensors().size() << " tensors, " << size_text(bytes) << " in "
              << files << (files == 1 ? " file" : " files") << ", digest " << digest << ", "
              << duration(clock.seconds()) << '\n';
  }
  return 0;
}

}  // namespace vitrail
