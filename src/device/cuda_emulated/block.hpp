#pragma once
// Runs a kernel: block after block, the lanes of a block as fibers. A lane runs until it must wait for others; a warp
// runs as far as it can before the next one starts; lanes and blocks go up or down in order. Whatever depends on a
// barrier that is not there sees a wrong value in one of the two orders.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fiber.hpp"
#include "lanes.hpp"

namespace vitrail::emulated {

constexpr int kWarp = 32;
constexpr int kMaxLanes = 1024;
constexpr std::size_t kMaxSharedBytes = 232448;  ///< 227 KiB, as sm_90

struct Launch {
  std::function<void()> call;  ///< one lane
  const void* function = nullptr;
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;
};

class BlockRunner {
 public:
  BlockRunner();
  BlockRunner(const BlockRunner&) = delete;
  BlockRunner& operator=(const BlockRunner&) = delete;
  ~BlockRunner();

  /// Returns what went wrong, or nothing.
  std::string run(const Launch& launch, bool descending);

  // For the lane that runs.
  [[nodiscard]] int current_lane() const noexcept { return current_; }
  void collective(const Collective& collective, std::uint32_t mask, void* arguments, Site site);
  int barrier(bool predicate, Site site);
  void* shared_memory(std::size_t bytes, std::size_t alignment);
  [[nodiscard]] bool is_shared(const void* address, std::size_t bytes) const noexcept;
  void start_copy(void* shared, const void* global, std::size_t bytes, std::size_t valid);
  void commit_copies();
  void wait_for_copies(int groups_left);
  [[noreturn]] void fail(const std::string& problem, Site site) const;

 private:
  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes, valid;
    int group;
  };
  struct Lane {
    Fiber* fiber = nullptr;  ///< null before it starts and after it returned
    const Collective* collective = nullptr;
    void* arguments = nullptr;
    std::uint32_t mask = 0;
    Site site{"", 0};
    std::vector<Copy> copies;
    int next_group = 0;
  };
  struct Warp {
    std::uint32_t all = 0, ready = 0, in_collective = 0, at_barrier = 0, returned = 0;
  };

  static void run_lanes(void* runner);
  void run_block();
  void start_block();
  void end_block();
  int take_next_lane();
  void enter(int lane);
  void resume(int lane);
  void release_barrier();
  [[nodiscard]] bool all_returned() const;
  void check_barrier();
  [[nodiscard]] std::string where() const;
  [[nodiscard]] std::string lanes_and_sites() const;
  [[nodiscard]] std::string state_of(int lane) const;

  const Launch* launch_ = nullptr;
  bool descending_ = false;
  int lanes_ = 0, warps_ = 0;
  int warp_cursor_ = 0;  ///< warps of this pass that are through
  int current_ = -1;
  int taken_ = -1;  ///< taken by a fiber that must leave it to the scheduler
  int starting_ = -1;
  int barrier_votes_ = 0, barrier_result_ = 0;
  std::string failure_;
  std::vector<Lane> lane_;
  std::array<Warp, kMaxLanes / kWarp> warp_{};
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_fibers_;
  std::byte* shared_ = nullptr;
  std::size_t guarded_from_ = SIZE_MAX;  ///< where the guard behind shared memory begins now
};

/// The one that runs device work; device work runs on one thread at a time.
BlockRunner& block_runner();

}  // namespace vitrail::emulated
