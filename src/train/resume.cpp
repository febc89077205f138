#include "train/resume.hpp"

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "train/agreement.hpp"
#include "train/state_checkpoint.hpp"

namespace vitrail {

namespace {

/// Newest first, as rank 0 sees them: all ranks must try the same ones.
std::vector<std::filesystem::path> find_complete(Communicator& world, const std::filesystem::path& run_dir) {
  std::string lines;
  if (world.rank() == 0) {
    for (const auto& path : complete_checkpoints(run_dir)) lines += path.filename().string() + "\n";
  }
  std::istringstream names(world.all_gather_strings(lines)[0]);
  std::vector<std::filesystem::path> paths;
  for (std::string name; std::getline(names, name);) paths.push_back(run_dir / "checkpoints" / name);
  return paths;
}

/// What a rank finds damaged; other errors are none of this file's business.
template <class Work>
std::optional<Fault> damage_in(Work work) {
  try {
    work();
    return std::nullopt;
  } catch (const Error& error) {
    if (error.code() != ExitCode::checkpoint) throw;
    return error.fault();
  }
}

}  // namespace

std::filesystem::path restore_newest(TrainState& state, const std::filesystem::path& run_dir, const Log& log,
                                     const std::function<void(const CheckpointReader&)>& expect_fits) {
  Communicator& world = state.ranks.world;
  const std::vector<std::filesystem::path> paths = find_complete(world, run_dir);
  std::string reasons;
  for (const std::filesystem::path& path : paths) {
    std::optional<CheckpointReader> reader;
    auto damage = agree_on_fault(world, damage_in([&] { reader.emplace(path); }));
    if (!damage) {
      expect_fits(*reader);
      expect_tensors(state, *reader);
      damage = agree_on_fault(world, damage_in([&] { restore(state, *reader); }));
    }
    if (!damage) return path;
    const std::string found =
        text(path.filename().string(), ": ", damage->who(), ": ", damage->fault.problem, " (", damage->fault.why, ")");
    reasons += text(reasons.empty() ? "" : "; ", found);
    if (&path != &paths.back()) log.warn("checkpoint ", found, ". Trying the one before");
  }
  fail(ExitCode::checkpoint,
       {text("no checkpoint in ", (run_dir / "checkpoints").string(), " is intact"),
        paths.empty() ? "there is none" : reasons, "Restore one of them, or name another --run-dir to start anew"});
}

}  // namespace vitrail
