#include "apps/checkpoint_ls.hpp"

#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "apps/checkpoint_listing.hpp"
#include "apps/options.hpp"
#include "apps/table.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "vitrail-checkpoint ls RUN... : the checkpoints of runs, the newest first. Dates are UTC; sizes are those of\n"
    "everything in the folder, in powers of 1000. 'unfinished' is being written or was left by a crash, and the next\n"
    "save of the run removes it; 'damaged' has a manifest that cannot be read, or files missing or cut short. No\n"
    "tensor is read: 'vitrail-checkpoint verify' looks at every byte.\n"
    "\n"
    "  vitrail-checkpoint ls runs/mine\n"
    "  vitrail-checkpoint ls runs/* --json\n"
    "\n"
    "--json prints one object a run. Exit codes: 0 listed; 2 usage; 4 one is damaged, or there is no such folder.";

Json to_json(const ListedCheckpoint& one) {
  return Json::object()
      .set("path", one.path.string())
      .set("step", one.step)
      .set("state", name_of(one.state))
      .set("latest", one.latest)
      .set("written", one.written)
      .set("bytes", one.bytes)
      .set("files", one.files)
      .set("tensors", one.tensors)
      .set("layout", one.layout)
      .set("problem", one.problem);
}

void print_run(const std::filesystem::path& run, const std::vector<ListedCheckpoint>& found) {
  if (found.empty()) {
    std::cout << run.string() << ": no checkpoints\n";
    return;
  }
  std::cout << run.string() << ":\n";
  Table table({{"checkpoint"}, {"step", true}, {"written"}, {"size", true}, {"files", true}, {"by"}, {"state"}});
  for (const ListedCheckpoint& one : found) {
    const bool known = one.state == ListedCheckpoint::State::complete;
    table.add({one.path.filename().string(), std::to_string(one.step), one.written, size_text(one.bytes),
               known ? std::to_string(one.files) : "", writers_text(one.layout),
               text(name_of(one.state), one.latest ? ", latest" : "")});
  }
  table.print(std::cout);
  for (const ListedCheckpoint& one : found) {
    if (!one.problem.empty()) std::cout << one.path.filename().string() << ": " << one.problem << '\n';
  }
}

}  // namespace

int checkpoint_ls(int argc, char** argv) {
  std::vector<std::filesystem::path> runs;
  bool json = false;
  Options options("vitrail-checkpoint ls", kManual);
  options.add("run", runs, "RUN...", "folders of runs, or single checkpoints").required();
  options.add("json", json, "", "one JSON object a run instead of tables");
  options.positional("run");
  if (!options.parse(argc, argv)) return 0;
  options.apply();

  bool damaged = false;
  for (const std::filesystem::path& run : runs) {
    const std::vector<ListedCheckpoint> found = list_checkpoints(run);
    Json list = Json::array();
    for (const ListedCheckpoint& one : found) {
      damaged = damaged || one.state == ListedCheckpoint::State::damaged;
      list.push_back(to_json(one));
    }
    if (json) {
      std::cout << Json::object().set("run", run.string()).set("checkpoints", std::move(list)).dump() << '\n';
    } else {
      print_run(run, found);
    }
  }
  return static_cast<int>(damaged ? ExitCode::checkpoint : ExitCode::done);
}

}  // namespace vitrail
