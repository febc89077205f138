#pragma once
// What a program says to its reader: plain lines, whole lines, and only from the ranks that have something to say.

#include <cstdio>
#include <string>
#include <utility>

#include "base/error.hpp"

namespace vitrail {

/// `main` makes one and hands it down. Lines are written whole and at once, so that those of several ranks in one job
/// log do not mix and a killed job's log is complete.
class Log {
 public:
  explicit Log(std::string program, int rank = 0, int ranks = 1, std::FILE* out = stdout, std::FILE* err = stderr)
      : program_(std::move(program)), rank_(rank), ranks_(ranks), out_(out), err_(err) {}

  /// A line on stdout, from rank 0 alone.
  template <class... Parts>
  void info(const Parts&... parts) const {
    if (rank_ == 0) write(out_, text(parts..., '\n'));
  }
  /// "prog: warning: ..." on stderr, from rank 0 alone: for what all ranks see.
  template <class... Parts>
  void warn(const Parts&... parts) const {
    if (rank_ == 0) write(err_, text(program_, ": warning: ", parts..., '\n'));
  }
  /// "prog: rank 3/16: warning: ..." on stderr, from this rank: for what only it sees.
  template <class... Parts>
  void warn_here(const Parts&... parts) const {
    write(err_, ranks_ == 1 ? text(program_, ": warning: ", parts..., '\n')
                            : text(program_, ": rank ", rank_, "/", ranks_, ": warning: ", parts..., '\n'));
  }

 private:
  static void write(std::FILE* stream, const std::string& line) {
    std::fwrite(line.data(), 1, line.size(), stream);
    std::fflush(stream);
  }

  std::string program_;
  int rank_;
  int ranks_;
  std::FILE* out_;
  std::FILE* err_;
};

}  // namespace vitrail
