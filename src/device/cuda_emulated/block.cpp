#include "block.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <sstream>
#include <utility>

#include "device_functions.hpp"
#include "machine.hpp"
#include "sanitizer.hpp"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace vitrail::emulated {
namespace {

struct KernelFailure {
  std::string text;
};

constexpr std::size_t kSharedRedZone = 1024;
constexpr int kPoison = 0xFF;  // bytes of NaN, for f32 and bf16 alike
constexpr int kGuard = 0xA5;

std::uint32_t bit_of(int lane) { return 1U << (lane % kWarp); }

std::string triple(unsigned int x, unsigned int y, unsigned int z) {
  std::ostringstream out;
  out << '(' << x << ", " << y << ", " << z << ')';
  return out.str();
}

}  // namespace

bool operator==(const Site& a, const Site& b) noexcept { return a.line == b.line && std::strcmp(a.file, b.file) == 0; }

BlockRunner& block_runner() {
  static auto* const runner = new BlockRunner;  // outlives every other static: a device may be one
  return *runner;
}

BlockRunner::BlockRunner() : lane_(kMaxLanes) {
  shared_ = static_cast<std::byte*>(std::aligned_alloc(1024, (kMaxSharedBytes + kSharedRedZone + 1023) / 1024 * 1024));
}
BlockRunner::~BlockRunner() {
  unpoison(shared_, kMaxSharedBytes + kSharedRedZone);
  std::free(shared_);
}

std::string BlockRunner::run(const Launch& launch, bool descending) {
  launch_ = &launch;
  descending_ = descending;
  failure_.clear();
  lanes_ = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  warps_ = (lanes_ + kWarp - 1) / kWarp;
  gridDim = launch.grid;
  blockDim = launch.block;
  const std::uint64_t blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  for (std::uint64_t i = 0; i < blocks && failure_.empty(); ++i) {
    const std::uint64_t block = descending ? blocks - 1 - i : i;
    blockIdx.x = static_cast<unsigned int>(block % launch.grid.x);
    blockIdx.y = static_cast<unsigned int>(block / launch.grid.x % launch.grid.y);
    blockIdx.z = static_cast<unsigned int>(block / launch.grid.x / launch.grid.y);
    run_block();
  }
  launch_ = nullptr;
  return failure_;
}

void BlockRunner::start_block() {
  for (int w = 0; w < warps_; ++w) {
    const int lanes = lanes_ - w * kWarp < kWarp ? lanes_ - w * kWarp : kWarp;
    const std::uint32_t all = lanes == kWarp ? 0xFFFFFFFFU : (1U << lanes) - 1;
    warp_[static_cast<std::size_t>(w)] = {.all = all, .ready = all};
  }
  for (int lane = 0; lane < lanes_; ++lane) {
    Lane& it = lane_[static_cast<std::size_t>(lane)];
    it.fiber = nullptr;
    it.copies.clear();
    it.next_group = 0;
  }
  barrier_votes_ = 0;
  const std::size_t bytes = launch_->shared_bytes;
  if (bytes != guarded_from_) {
    guarded_from_ = bytes;
    unpoison(shared_, kMaxSharedBytes + kSharedRedZone);
    std::memset(shared_ + bytes, kGuard, kSharedRedZone);
    poison(shared_ + bytes, kMaxSharedBytes - bytes + kSharedRedZone);
  }
  std::memset(shared_, kPoison, bytes);
}

void BlockRunner::end_block() {
  if (!failure_.empty()) {  // what the lanes left on their stacks is given up
    idle_fibers_.clear();
    for (auto& fiber : fibers_) {
      if (!fiber->is_idle()) fiber->abandon();
      idle_fibers_.push_back(fiber.get());
    }
    return;
  }
  if (kAddressSanitizer) return;  // it has seen a write behind the end itself
  const std::byte* guard = shared_ + guarded_from_;
  if (std::all_of(guard, guard + kSharedRedZone, [](std::byte byte) { return byte == std::byte{kGuard}; })) return;
  failure_ = where() + "a write behind the block's shared memory";
  guarded_from_ = SIZE_MAX;
}

void BlockRunner::run_block() {
  start_block();
  while (failure_.empty() && !all_returned()) {
    warp_cursor_ = 0;
    for (int lane = take_next_lane(); lane >= 0 && failure_.empty(); lane = take_next_lane()) resume(lane);
    if (failure_.empty() && !all_returned()) check_barrier();
  }
  current_ = -1;
  taken_ = -1;
  end_block();
}

/// The next lane that can run in this pass over the warps, or -1.
int BlockRunner::take_next_lane() {
  if (taken_ >= 0) return std::exchange(taken_, -1);
  for (; warp_cursor_ < warps_; ++warp_cursor_) {
    const int w = descending_ ? warps_ - 1 - warp_cursor_ : warp_cursor_;
    Warp& warp = warp_[static_cast<std::size_t>(w)];
    if (warp.ready == 0) continue;
    const int in_warp = descending_ ? kWarp - 1 - std::countl_zero(warp.ready) : std::countr_zero(warp.ready);
    warp.ready &= ~(1U << in_warp);
    return w * kWarp + in_warp;
  }
  return -1;
}

void BlockRunner::enter(int lane) {
  current_ = lane;
  const auto i = static_cast<unsigned int>(lane);
  threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
}

void BlockRunner::resume(int lane) {
  Lane& it = lane_[static_cast<std::size_t>(lane)];
  if (it.fiber == nullptr) {
    if (idle_fibers_.empty()) {
      fibers_.push_back(std::make_unique<Fiber>(&BlockRunner::run_lanes, this));
      idle_fibers_.push_back(fibers_.back().get());
    }
    it.fiber = idle_fibers_.back();
    idle_fibers_.pop_back();
    starting_ = lane;
  }
  Fiber* fiber = it.fiber;
  enter(lane);
  fiber->resume();
  if (fiber->is_idle()) idle_fibers_.push_back(fiber);
}

/// What a fiber does: one lane, and then, while lanes that have not started come next, those too, without a switch.
void BlockRunner::run_lanes(void* runner) {
  auto& self = *static_cast<BlockRunner*>(runner);
  int lane = self.starting_;
  Fiber* fiber = self.lane_[static_cast<std::size_t>(lane)].fiber;
  for (;;) {
    try {
      self.launch_->call();
    } catch (const KernelFailure& failure) {
      self.failure_ = failure.text;
    } catch (const std::exception& error) {
      self.failure_ = self.where() + "an exception: " + error.what();
    } catch (...) {
      self.failure_ = self.where() + "an exception";
    }
    self.warp_[static_cast<std::size_t>(lane / kWarp)].returned |= bit_of(lane);
    self.lane_[static_cast<std::size_t>(lane)].fiber = nullptr;
    if (!self.failure_.empty()) return;
    lane = self.take_next_lane();
    if (lane < 0) return;
    Lane& next = self.lane_[static_cast<std::size_t>(lane)];
    if (next.fiber != nullptr) {
      self.taken_ = lane;
      return;
    }
    next.fiber = fiber;
    self.enter(lane);
  }
}

bool BlockRunner::all_returned() const {
  for (int w = 0; w < warps_; ++w) {
    const Warp& warp = warp_[static_cast<std::size_t>(w)];
    if (warp.returned != warp.all) return false;
  }
  return true;
}

/// No lane can run: either all wait at one barrier, or this never ends.
void BlockRunner::check_barrier() {
  bool all_at_barrier = true, some_at_barrier = false;
  for (int w = 0; w < warps_; ++w) {
    const Warp& warp = warp_[static_cast<std::size_t>(w)];
    all_at_barrier = all_at_barrier && warp.at_barrier == warp.all;
    some_at_barrier = some_at_barrier || warp.at_barrier != 0;
  }
  for (int lane = 1; lane < lanes_ && all_at_barrier; ++lane) {
    all_at_barrier = lane_[static_cast<std::size_t>(lane)].site == lane_[0].site;
  }
  if (all_at_barrier) {
    release_barrier();
  } else {
    current_ = -1;
    failure_ = where() + (some_at_barrier ? "a divergent __syncthreads" : "a deadlock") + lanes_and_sites();
  }
}

void BlockRunner::release_barrier() {
  barrier_result_ = std::exchange(barrier_votes_, 0);
  for (int w = 0; w < warps_; ++w) {
    Warp& warp = warp_[static_cast<std::size_t>(w)];
    warp.ready = std::exchange(warp.at_barrier, 0U);
  }
}

int BlockRunner::barrier(bool predicate, Site site) {
  Lane& it = lane_[static_cast<std::size_t>(current_)];
  it.site = site;
  it.collective = nullptr;
  if (predicate) ++barrier_votes_;
  warp_[static_cast<std::size_t>(current_ / kWarp)].at_barrier |= bit_of(current_);
  it.fiber->suspend();
  return barrier_result_;
}

void BlockRunner::collective(const Collective& collective, std::uint32_t mask, void* arguments, Site site) {
  Warp& warp = warp_[static_cast<std::size_t>(current_ / kWarp)];
  const int first = current_ / kWarp * kWarp;
  const std::uint32_t mine = bit_of(current_);
  const auto fail_if = [&](std::uint32_t lanes, const std::string& what) {
    if (lanes == 0) return;
    std::ostringstream out;
    out << collective.name << " with mask 0x" << std::hex << mask << ": " << what << " (lanes 0x" << lanes << ')';
    fail(out.str(), site);
  };
  fail_if(mine & ~mask, "the calling lane is not in its own mask");
  fail_if(mask & ~warp.all, "the mask names lanes that the block does not have");
  fail_if(mask & warp.returned, "the mask names lanes that have returned");
  fail_if(mask & warp.at_barrier, "the mask names lanes that wait at __syncthreads");
  const auto lane_at = [&](int in_warp) -> Lane& {
    return lane_[static_cast<std::size_t>(first) + static_cast<std::size_t>(in_warp)];
  };
  std::uint32_t others = 0;
  for (std::uint32_t rest = warp.in_collective; rest != 0; rest &= rest - 1) {
    const int in_warp = std::countr_zero(rest);
    const Lane& other = lane_at(in_warp);
    const bool here = other.collective == &collective && other.mask == mask && other.site == site;
    if (!here && ((other.mask & mine) != 0 || (mask >> in_warp & 1U) != 0)) {
      fail(std::string(collective.name) + ", while " + state_of(first + in_warp) + lanes_and_sites(), site);
    }
    if (here) others |= 1U << in_warp;
  }
  Lane& it = lane_at(current_ - first);
  it.collective = &collective;
  it.mask = mask;
  it.arguments = arguments;
  it.site = site;
  if ((others | mine) != mask) {
    warp.in_collective |= mine;
    it.fiber->suspend();
    return;
  }
  void* all[kWarp] = {};
  for (std::uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    all[std::countr_zero(rest)] = lane_at(std::countr_zero(rest)).arguments;
  }
  collective.complete(all, mask);
  warp.in_collective &= ~others;
  warp.ready |= others;
}

void* BlockRunner::shared_memory(std::size_t bytes, std::size_t alignment) {
  if (bytes > launch_->shared_bytes || alignment > 1024) {
    std::ostringstream out;
    out << "shared_memory of " << bytes << " bytes, but the launch gave " << launch_->shared_bytes;
    fail(out.str(), {"", 0});
  }
  return shared_;
}

bool BlockRunner::is_shared(const void* address, std::size_t bytes) const noexcept {
  const auto* at = static_cast<const std::byte*>(address);
  return at >= shared_ && at + bytes <= shared_ + launch_->shared_bytes;
}

void BlockRunner::start_copy(void* shared, const void* global, std::size_t bytes, std::size_t valid) {
  Lane& it = lane_[static_cast<std::size_t>(current_)];
  std::memset(shared, kPoison, bytes);
  it.copies.push_back({shared, global, bytes, valid, it.next_group});
}

void BlockRunner::commit_copies() { ++lane_[static_cast<std::size_t>(current_)].next_group; }

void BlockRunner::wait_for_copies(int groups_left) {
  Lane& it = lane_[static_cast<std::size_t>(current_)];
  std::size_t kept = 0;
  for (const Copy& copy : it.copies) {
    if (copy.group < it.next_group - groups_left) {
      std::memcpy(copy.to, copy.from, copy.valid);
      std::memset(static_cast<std::byte*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
    } else {
      it.copies[kept++] = copy;
    }
  }
  it.copies.resize(kept);
}

void BlockRunner::fail(const std::string& problem, Site site) const {
  std::ostringstream out;
  out << where() << problem;
  if (site.line > 0) out << ", " << site.file << ':' << site.line;
  throw KernelFailure{out.str()};
}

std::string BlockRunner::where() const {
  std::string text = "kernel " + name_of_function(launch_->function) + ", block " +
                     triple(blockIdx.x, blockIdx.y, blockIdx.z) + " of " + triple(gridDim.x, gridDim.y, gridDim.z);
  if (current_ >= 0) text += ", thread " + triple(threadIdx.x, threadIdx.y, threadIdx.z);
  return text + ": ";
}

std::string BlockRunner::state_of(int lane) const {
  const Lane& it = lane_[static_cast<std::size_t>(lane)];
  const Warp& warp = warp_[static_cast<std::size_t>(lane / kWarp)];
  const std::uint32_t bit = bit_of(lane);
  std::ostringstream out;
  if ((warp.returned & bit) != 0) return "has returned";
  if ((warp.at_barrier & bit) != 0) {
    out << "waits at __syncthreads, " << it.site.file << ':' << it.site.line;
  } else if ((warp.in_collective & bit) != 0) {
    out << "waits at " << it.collective->name << " with mask 0x" << std::hex << it.mask << std::dec << ", "
        << it.site.file << ':' << it.site.line;
  } else {
    out << "runs";
  }
  return out.str();
}

std::string BlockRunner::lanes_and_sites() const {
  std::ostringstream out;
  for (int first = 0, last = 0; first < lanes_; first = last) {
    const std::string state = state_of(first);
    while (last < lanes_ && state_of(last) == state) ++last;
    out << "\n  threads " << first << " to " << last - 1 << ": " << state;
  }
  return out.str();
}

// --- what kernels call -----------------------------------------------------------------------------------------------
void warp_collective(const Collective& collective, std::uint32_t mask, void* arguments, Site site) {
  block_runner().collective(collective, mask, arguments, site);
}
int block_barrier(bool predicate, Site site) { return block_runner().barrier(predicate, site); }
void* block_shared_memory(std::size_t bytes, std::size_t alignment) {
  return block_runner().shared_memory(bytes, alignment);
}
bool is_shared_memory(const void* address, std::size_t bytes) { return block_runner().is_shared(address, bytes); }
void start_copy(void* shared, const void* global, std::size_t bytes, std::size_t valid) {
  block_runner().start_copy(shared, global, bytes, valid);
}
void commit_copies() { block_runner().commit_copies(); }
void wait_for_copies(int groups_left) { block_runner().wait_for_copies(groups_left); }
void fail_kernel(const std::string& problem, Site site) { block_runner().fail(problem, site); }
int lane_of_warp() { return block_runner().current_lane() % kWarp; }

}  // namespace vitrail::emulated
