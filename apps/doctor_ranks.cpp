#include "apps/doctor_ranks.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "apps/bench_measure.hpp"
#include "apps/progress.hpp"
#include "base/timer.hpp"

namespace vitrail {

namespace {

constexpr int kCalls = 50;

std::string micros(double seconds) { return fixed(1e6 * seconds, 0) + " us"; }

/// Median over calls of the slowest rank's time. Collective.
template <class Work>
double slowest_median(Communicator& world, int calls, const Work& work) {
  work();
  std::vector<double> seconds;
  for (int i = 0; i < calls; ++i) {
    world.barrier();
    const Stopwatch clock;
    work();
    seconds.push_back(clock.seconds());
  }
  return largest_of_ranks(world, median(seconds));
}

double exchange_time(Communicator& world, std::int64_t bytes_per_pair, int calls) {
  const std::int64_t bytes = bytes_per_pair * world.size();
  const std::vector<std::byte> from(static_cast<std::size_t>(bytes));
  std::vector<std::byte> to(from.size());
  return slowest_median(world, calls, [&] {
    world.all_to_all(ConstTensor(from.data(), {bytes}, Dtype::u8), Tensor(to.data(), {bytes}, Dtype::u8));
  });
}

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

ExchangeSeen see_exchange(Communicator& world) {
  ExchangeSeen seen;
  seen.barrier = slowest_median(world, kCalls, [&] { world.barrier(); });
  seen.small = exchange_time(world, 1 << 10, kCalls);
  seen.large = exchange_time(world, 1 << 18, kCalls / 5);
  return seen;
}

Finding judge_exchange(const ExchangeSeen& seen, int ranks) {
  if (ranks == 1) return ok("exchange", "one rank exchanges with nobody");
  const double sent = static_cast<double>(ranks) * (1 << 18);
  const std::string said =
      text("a barrier takes ", micros(seen.barrier), ", an all-to-all of 1 KiB a pair ", micros(seen.small),
           ", of 256 KiB ", micros(seen.large), " (", fixed(1e-9 * sent / seen.large, 2), " GB/s a rank)");
  if (std::max(seen.barrier, seen.small) > 2e-3) {
    return warn("exchange", said,
                "Small messages are slow. More ranks than cores: export OMPI_MCA_mpi_yield_when_idle=1; between nodes: "
                "is the fast network used, not Ethernet?");
  }
  return ok("exchange", said);
}

Finding judge_world(const std::string& library, const Launch& launch, int ranks) {
  const std::string world = text(library, ", ", ranks, ranks == 1 ? " rank" : " ranks");
  if (launch.tasks > 1 && launch.tasks != ranks) {
    return bad("mpi", text(world, ", but ", launch.by, " started ", launch.tasks, " tasks"),
               "The launcher does not connect the tasks to this MPI: use its own mpirun, or srun --mpi=pmix "
               "('srun --mpi=list' shows what this site has)");
  }
  if (launch.by.empty()) return ok("mpi", text(world, ", started by hand"));
  return ok("mpi", text(world, ", as many as ", launch.by, " started; MPI_THREAD_MULTIPLE"));
}

ClocksSeen see_clocks(Communicator& world) {
  ClocksSeen best{.apart = 0, .doubt = 1e9};
  // A barrier ends at nearly the same time everywhere; of several, the one that ended closest to it.
  for (int i = 0; i < 10; ++i) {
    const Stopwatch clock;
    world.barrier();
    const std::int64_t mine = now_ns();
    const double doubt = largest_of_ranks(world, clock.seconds());
    std::vector<std::int64_t> all(static_cast<std::size_t>(world.size()));
    world.all_gather(ConstTensor(&mine, {1}, Dtype::i64), Tensor(all.data(), {world.size()}, Dtype::i64));
    const auto [first, last] = std::minmax_element(all.begin(), all.end());
    if (doubt < best.doubt) best = {1e-9 * static_cast<double>(*last - *first), doubt};
  }
  return best;
}

Finding judge_clocks(const ClocksSeen& seen) {
  const std::string said = text("clocks of all ranks are ", fixed(1e3 * seen.apart, 1), " ms apart, give or take ",
                                fixed(1e3 * seen.doubt, 1));
  if (seen.apart - seen.doubt > 1) {
    return warn("clocks", said, "Logs of several nodes cannot be compared: is chrony or ntpd running?");
  }
  return ok("clocks", said);
}

Finding judge_start(const std::vector<double>& seconds) {
  double slowest = 0;
  bool known = true;
  for (const double one : seconds) {
    known = known && std::isfinite(one);
    slowest = std::max(slowest, one);
  }
  if (!known) return ok("start", "the system does not tell when processes began");
  const std::string said =
      text("from the start of a process to after MPI's ", fixed(slowest, 2), " s, the slowest rank");
  if (slowest > 20) {
    return warn("start", said,
                "Many nodes that load programs and libraries from one file system are slow: install on a parallel one, "
                "or copy to the nodes first (sbcast)");
  }
  return ok("start", said);
}

Finding judge_alike(const std::string& check, const std::string& what, const std::vector<std::string>& of_ranks,
                    const std::vector<std::string>& hosts, const std::string& advice) {
  for (std::size_t rank = 1; rank < of_ranks.size(); ++rank) {
    if (of_ranks[rank] == of_ranks[0]) continue;
    return bad(check,
               text(what, " is ", of_ranks[0], " on rank 0 (", hosts[0], ") and ", of_ranks[rank], " on rank ", rank,
                    " (", hosts[rank], ")"),
               advice);
  }
  return ok(check, text(what, " ", of_ranks[0], of_ranks.size() > 1 ? ", the same on all ranks" : ""));
}

}  // namespace vitrail
