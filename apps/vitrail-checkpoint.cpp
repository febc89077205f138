// vitrail-checkpoint: looks at checkpoints, compares them, makes others of them. One process, without MPI, GPU or job.

#include <algorithm>
#include <array>
#include <iostream>
#include <string>
#include <vector>

#include "apps/checkpoint_average.hpp"
#include "apps/checkpoint_convert.hpp"
#include "apps/checkpoint_diff.hpp"
#include "apps/checkpoint_ls.hpp"
#include "apps/checkpoint_prune.hpp"
#include "apps/checkpoint_reshard.hpp"
#include "apps/checkpoint_show.hpp"
#include "apps/checkpoint_upcycle.hpp"
#include "apps/checkpoint_verify.hpp"
#include "apps/options.hpp"
#include "apps/version.hpp"

namespace vitrail {
namespace {

constexpr const char* kProgram = "vitrail-checkpoint";

struct Command {
  const char* name;
  int (*run)(int argc, char** argv);
  const char* words;
  const char* says;
};

constexpr std::array kCommands{
    Command{"ls", checkpoint_ls, "RUN...", "which checkpoints runs have, and in what state"},
    Command{"verify", checkpoint_verify, "PATH...", "reads every byte, and names what is damaged"},
    Command{"show", checkpoint_show, "PATH [TENSOR]", "step, configuration, layout, tensors and their numbers"},
    Command{"diff", checkpoint_diff, "A B", "how two checkpoints differ, tensor by tensor"},
    Command{"convert", checkpoint_convert, "FROM TO", "to and from .npz, safetensors and the official V-MoE format"},
    Command{"upcycle", checkpoint_upcycle, "FROM TO", "a sparse model of a dense one"},
    Command{"reshard", checkpoint_reshard, "FROM TO", "the same checkpoint in another number of files"},
    Command{"average", checkpoint_average, "FROM... TO", "the mean of several checkpoints' parameters"},
    Command{"prune", checkpoint_prune, "RUN", "removes old checkpoints"},
};

void print_manual() {
  std::cout << kProgram
            << ": looks at checkpoints, compares them, makes others of them. One process; needs no MPI, no GPU and no\n"
               "job, and little memory whatever the size of a checkpoint.\n\n";
  for (const Command& command : kCommands) {
    const std::string call = std::string(command.name) + " " + command.words;
    std::cout << "  " << kProgram << ' ' << call << std::string(call.size() < 24 ? 24 - call.size() : 1, ' ')
              << command.says << '\n';
  }
  std::cout << "\nA path is the folder of a run or one of its checkpoints/step-... folders. " << kProgram
            << " COMMAND --help\ntells more; " << kProgram << " --version says which version this is.\n";
}

int run_command(int argc, char** argv) {
  const std::string word = argc > 1 ? argv[1] : "";
  if (word == "--help" || word == "-h") {
    print_manual();
    return 0;
  }
  if (word == "--version") {
    std::cout << version_line(kProgram);
    return 0;
  }
  std::vector<std::string> names;
  std::string list;
  for (const Command& command : kCommands) {
    if (word == command.name) return command.run(argc - 1, argv + 1);
    names.emplace_back(command.name);
    list += (list.empty() ? "" : ", ") + names.back();
  }
  fail(ExitCode::usage, {word.empty() ? "no command is given" : "'" + word + "' is not a command",
                         "the commands are " + list, did_you_mean(word, names)});
}

}  // namespace
}  // namespace vitrail

int main(int argc, char** argv) {
  return vitrail::run_guarded(vitrail::kProgram, [&] { return vitrail::run_command(argc, argv); });
}
