#include "device_memory.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include <sys/mman.h>

#include "sanitizer.hpp"

namespace vitrail::emulated {
namespace {

constexpr std::size_t kReserved = std::size_t{64} << 30;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kGuardBytes = 256;  // before and behind a block
constexpr std::size_t kAlignment = 512;   // of the front guard: the block itself is aligned to 256 and not to 512
constexpr int kPoison = 0xFF;
constexpr std::byte kGuard{0xA5};

constexpr std::size_t round_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }
/// Front guard, block, rear guard.
constexpr std::size_t room_of(std::size_t bytes) { return round_up(bytes + 2 * kGuardBytes, kAlignment); }

}  // namespace

DeviceMemory::DeviceMemory() {
  void* memory = mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::fputs("CUDA emulation: no addresses for the device's memory\n", stderr);
    std::abort();
  }
  base_ = static_cast<std::byte*>(memory);
}

void DeviceMemory::open() {
  if (open_++ == 0 && high_ > 0) mprotect(base_, high_, PROT_READ | PROT_WRITE);
}
void DeviceMemory::close() {
  if (--open_ == 0 && high_ > 0) mprotect(base_, high_, PROT_NONE);
}

/// The first offset from the cursor on, and then from 0, where a block with its guards fits; kReserved if none.
std::size_t DeviceMemory::find_room(std::size_t bytes) const {
  for (const std::size_t from : {cursor_, std::size_t{0}}) {
    std::size_t start = from;
    for (auto next = blocks_.lower_bound(from); next != blocks_.end(); ++next) {
      if (start + room_of(bytes) <= next->first - kGuardBytes) return start;
      start = std::max(start, next->first - kGuardBytes + room_of(next->second));
    }
    if (start + room_of(bytes) <= kReserved) return start;
  }
  return kReserved;
}

void* DeviceMemory::allocate(std::size_t bytes, std::size_t limit) {
  if (bytes > limit || used_ + bytes > limit) return nullptr;
  const std::size_t start = find_room(bytes);
  if (start == kReserved) return nullptr;
  const std::size_t end = start + room_of(bytes);
  if (round_up(end, kPage) > high_) {
    if (open_ > 0) mprotect(base_ + high_, round_up(end, kPage) - high_, PROT_READ | PROT_WRITE);
    high_ = round_up(end, kPage);
  }
  const Window window(*this);
  std::byte* block = base_ + start + kGuardBytes;
  unpoison(base_ + start, end - start);
  std::memset(base_ + start, std::to_integer<int>(kGuard), end - start);
  std::memset(block, kPoison, bytes);
  poison(base_ + start, kGuardBytes);
  poison(block + bytes, end - start - kGuardBytes - bytes);
  blocks_.emplace(start + kGuardBytes, bytes);
  used_ += bytes;
  cursor_ = end;
  return block;
}

bool DeviceMemory::release(void* block) {
  if (!contains(block)) return false;
  const auto found = blocks_.find(static_cast<std::size_t>(static_cast<std::byte*>(block) - base_));
  if (found == blocks_.end()) return false;
  used_ -= found->second;
  poison(block, found->second);
  const auto first = round_up(found->first, kPage), last = (found->first + found->second) / kPage * kPage;
  if (last > first) madvise(base_ + first, last - first, MADV_DONTNEED);
  blocks_.erase(found);
  return true;
}

bool DeviceMemory::contains(const void* address) const noexcept {
  const auto* at = static_cast<const std::byte*>(address);
  return at >= base_ && at < base_ + kReserved;
}

bool DeviceMemory::is_in_a_block(const void* address, std::size_t bytes) const {
  if (!contains(address)) return false;
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(address) - base_);
  auto found = blocks_.upper_bound(offset);
  if (found == blocks_.begin()) return false;
  --found;
  return offset + bytes <= found->first + found->second;
}

std::string DeviceMemory::damage() const {
  if (kAddressSanitizer) return {};  // it has seen the write itself
  const auto is_guard = [](std::byte byte) { return byte == kGuard; };
  for (const auto& [offset, bytes] : blocks_) {
    const std::byte* block = base_ + offset;
    const std::byte* end = block - kGuardBytes + room_of(bytes);
    const bool before = !std::all_of(block - kGuardBytes, block, is_guard);
    if (!before && std::all_of(block + bytes, end, is_guard)) continue;
    std::ostringstream out;
    out << "a write " << (before ? "before" : "behind") << " a block of device memory of " << bytes << " bytes";
    return out.str();
  }
  return {};
}

}  // namespace vitrail::emulated
