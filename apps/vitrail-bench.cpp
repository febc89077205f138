// vitrail-bench: how fast this machine trains, next to what it could do at best.

#include <iostream>
#include <string>
#include <string_view>

#include "apps/bench_exchange.hpp"
#include "apps/bench_gemm.hpp"
#include "apps/bench_layouts.hpp"
#include "apps/bench_step.hpp"
#include "apps/options.hpp"
#include "apps/run_start.hpp"
#include "apps/version.hpp"

namespace vitrail {
namespace {

constexpr const char* kProgram = "vitrail-bench";
constexpr char kManual[] =
    "vitrail-bench: how fast this machine trains, next to what it could do at best.\n"
    "\n"
    "  vitrail-bench gemm        matrix products of a model's shapes, against the GEMM peak\n"
    "  vitrail-bench step        whole training steps, verb by verb, against GEMM peak and copy bandwidth\n"
    "  vitrail-bench exchange    all-to-all exchanges between ranks, against copy bandwidth\n"
    "  vitrail-bench layouts     whole training steps on all ranks x threads that fill this machine: the fastest\n"
    "\n"
    "Every command measures its ceiling in the same run, checks its results, prints tables or, with --json, one JSON\n"
    "object a line, and runs on any number of ranks (mpirun -np 2 vitrail-bench step --expert-parallel 2); `layouts`\n"
    "starts mpirun itself.\n"
    "vitrail-bench COMMAND --help tells more; vitrail-bench --version says which version this is.\n";

int run_command(MpiSession* session, int argc, const char* const* argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "gemm") return bench_gemm(session, argc - 1, argv + 1);
  if (command == "step") return bench_step(session, argc - 1, argv + 1);
  if (command == "exchange") return bench_exchange(session, argc - 1, argv + 1);
  if (command == "layouts") return bench_layouts(argc - 1, argv + 1);
  if (command == "--help") {
    std::cout << kManual;
    return 0;
  }
  if (command == "--version") {
    std::cout << version_line(kProgram);
    return 0;
  }
  fail(ExitCode::usage, {command.empty() ? "no command is given" : "'" + command + "' is not a command",
                         "the commands are gemm, step, exchange and layouts",
                         did_you_mean(command, std::vector<std::string>{"gemm", "step", "exchange", "layouts"})});
}

}  // namespace
}  // namespace vitrail

int main(int argc, char** argv) {
  using namespace vitrail;
  const bool starts_ranks = argc > 1 && std::string_view(argv[1]) == "layouts";
  if (starts_ranks || wants_manual(argc, argv)) {
    return run_guarded(kProgram, [&] { return run_command(nullptr, argc, argv); });
  }
  return run_ranks(argc, argv, kProgram, [&](MpiSession& session) { return run_command(&session, argc, argv); });
}
