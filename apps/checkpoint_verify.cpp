#include "apps/checkpoint_verify.hpp"

#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "apps/checkpoint_listing.hpp"
#include "apps/options.hpp"
#include "apps/progress.hpp"
#include "base/timer.hpp"
#include "train/checkpoint.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "vitrail-checkpoint verify PATH... : reads every byte of checkpoints and holds it against the checksums in their\n"
    "manifests. For a run, all its complete checkpoints. What is damaged is named: file, byte and tensor; the\n"
    "byte is where the first block whose checksum does not fit begins.\n"
    "\n"
    "  vitrail-checkpoint verify runs/mine\n"
    "  vitrail-checkpoint verify runs/mine/checkpoints/step-00000420 --json\n"
    "\n"
    "--json prints one object a checkpoint. Exit codes: 0 whole; 2 usage; 4 damaged, or there is no checkpoint.";

struct Verdict {
  std::vector<Damage> damages;
  std::string problem;  ///< why it could not even be opened; empty: it could
  double seconds = 0;
};

Verdict verify_one(const ListedCheckpoint& one) {
  Verdict verdict;
  verdict.problem = one.problem;
  const Stopwatch clock;
  try {
    if (verdict.problem.empty()) verdict.damages = CheckpointReader(one.path).verify();
  } catch (const Error& error) {
    verdict.problem = error.what();
  }
  verdict.seconds = clock.seconds();
  return verdict;
}

Json to_json(const ListedCheckpoint& one, const Verdict& verdict, bool whole) {
  Json damages = Json::array();
  for (const Damage& damage : verdict.damages) {
    damages.push_back(Json::object()
                          .set("file", damage.file)
                          .set("offset", damage.offset ? Json(*damage.offset) : Json())
                          .set("tensor", damage.tensor)
                          .set("what", damage.what));
  }
  return Json::object()
      .set("path", one.path.string())
      .set("step", one.step)
      .set("whole", whole)
      .set("problem", verdict.problem)
      .set("damages", std::move(damages))
      .set("bytes", one.bytes)
      .set("seconds", verdict.seconds);
}

void print(const ListedCheckpoint& one, const Verdict& verdict, bool whole) {
  const double rate = verdict.seconds > 0 ? 1e-9 * static_cast<double>(one.bytes) / verdict.seconds : 0;
  std::cout << one.path.string() << ": "
            << (whole ? text("whole: ", one.tensors, " tensors, ", size_text(one.bytes), " in ", one.files,
                             one.files == 1 ? " file, " : " files, ", fixed(rate, 2), " GB/s")
                      : "DAMAGED")
            << '\n';
  if (!verdict.problem.empty()) std::cout << "  " << verdict.problem << '\n';
  for (const Damage& damage : verdict.damages) {
    std::cout << "  " << damage.file;
    if (damage.offset) std::cout << " at byte " << *damage.offset << ": tensor " << damage.tensor;
    std::cout << ": " << damage.what << '\n';
  }
}

}  // namespace

int checkpoint_verify(int argc, char** argv) {
  std::vector<std::filesystem::path> paths;
  bool json = false;
  Options options("vitrail-checkpoint verify", kManual);
  options.add("path", paths, "PATH...", "runs or checkpoints").required();
  options.add("json", json, "", "one JSON object a checkpoint instead of lines");
  options.positional("path");
  if (!options.parse(argc, argv)) return 0;
  options.apply();

  bool all_whole = true;
  for (const std::filesystem::path& path : paths) {
    std::int64_t verified = 0;
    for (const ListedCheckpoint& one : list_checkpoints(path)) {
      if (one.state == ListedCheckpoint::State::unfinished) continue;
      const Verdict verdict = verify_one(one);
      const bool whole = verdict.damages.empty() && verdict.problem.empty();
      all_whole = all_whole && whole;
      ++verified;
      if (json) {
        std::cout << to_json(one, verdict, whole).dump() << std::endl;
      } else {
        print(one, verdict, whole);
        std::cout.flush();
      }
    }
    VITRAIL_EXPECT(verified > 0, ExitCode::checkpoint, text("no complete checkpoint in '", path.string(), "'"),
                   "there is nothing to verify", "'vitrail-checkpoint ls' shows what is there");
  }
  return static_cast<int>(all_whole ? ExitCode::done : ExitCode::checkpoint);
}

}  // namespace vitrail
