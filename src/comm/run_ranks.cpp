#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <thread>

#include <unistd.h>

#include "base/error.hpp"
#include "comm/mpi/mpi.hpp"
#include "comm/process.hpp"

namespace vitrail {

namespace {

// How long a failing rank waits for rank 0 to say the same and end all ranks.
constexpr std::chrono::seconds kPatience{2};

void say(const std::string& line) {
  std::fflush(stdout);  // the end that follows flushes nothing
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

// Ends this process, and with it all ranks.
[[noreturn]] void end_all_ranks(const std::string& program, const std::string& what, ExitCode code) {
  const int status = code == ExitCode::done ? static_cast<int>(ExitCode::other) : static_cast<int>(code);
  const auto [rank, size] = rank_of_process();
  // Most errors are seen by all ranks, and one line is clearer than a thousand: rank 0 speaks for them. A rank that is
  // still alive afterwards was alone with its own. Its launcher ends it with SIGTERM, which a program that stops in
  // good order has caught: then a second would pass before SIGKILL.
  if (rank != 0) {
    static_cast<void>(std::signal(SIGTERM, SIG_DFL));
    std::this_thread::sleep_for(kPatience);
  }
  std::string line = program + ": ";
  if (code != ExitCode::usage || rank != 0) line += text("rank ", rank, "/", size, " on ", host_name(), ": ");
  say(line + "error: " + what + "\n");
  abort_all_ranks(status);
  std::_Exit(status);  // when there is no MPI, or it returned from the abort
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown host";
  const std::string full(name.data());
  return full.substr(0, full.find('.'));
}

int run_ranks(int argc, char** argv, const std::string& program, const std::function<int(MpiSession&)>& body) {
  std::optional<MpiSession> session;  // outside: an error ends all ranks before anything could be finalised
  try {
    session.emplace(argc, argv);
    return body(*session);
  } catch (const Error& error) {
    end_all_ranks(program, error.what(), error.code());
  } catch (const std::bad_alloc&) {
    end_all_ranks(program, "out of memory (an allocation failed). Use more nodes or a smaller model", ExitCode::usage);
  } catch (const std::exception& error) {
    end_all_ranks(program, error.what(), ExitCode::other);
  } catch (...) {
    end_all_ranks(program, "an exception of unknown type", ExitCode::other);
  }
}

}  // namespace vitrail
