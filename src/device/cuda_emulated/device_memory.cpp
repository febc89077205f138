#include "device_memory.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "sanitizer.hpp"

namespace vitrail::emulated {
namespace {

constexpr std::size_t kReserved = std::size_t{64} << 30;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kPoisonFile = std::size_t{8} << 20;
constexpr std::size_t kGuardBytes = 256;  // in front: a block is aligned to 256 bytes and not to 512; behind: at least
constexpr int kPoison = 0xFF;
constexpr std::byte kGuard{0xA5};

/// The pages of a block.
constexpr std::size_t pages_of(std::size_t bytes) { return (bytes + 2 * kGuardBytes + kPage - 1) / kPage * kPage; }
/// With the page that is not there.
constexpr std::size_t room_of(std::size_t bytes) { return pages_of(bytes) + kPage; }

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::abort();
}

void map(std::byte* address, std::size_t length, int protection, int flags, int file) {
  if (mmap(address, length, protection, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED | flags, file, 0) == MAP_FAILED) {
    give_up("CUDA emulation: mmap of device memory");
  }
}

}  // namespace

DeviceMemory::DeviceMemory() {
  void* memory = mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  poison_file_ = memfd_create("vitrail emulated device memory", MFD_CLOEXEC);
  const std::vector<char> poisoned(kPoisonFile, static_cast<char>(kPoison));
  if (memory == MAP_FAILED || poison_file_ < 0 ||
      write(poison_file_, poisoned.data(), kPoisonFile) != static_cast<ssize_t>(kPoisonFile)) {
    give_up("CUDA emulation: device memory");
  }
  base_ = static_cast<std::byte*>(memory);
}

void DeviceMemory::protect(int protection) const {
  for (const auto& [start, bytes] : blocks_) mprotect(base_ + start, pages_of(bytes), protection);
}
void DeviceMemory::open() {
  if (open_++ == 0) protect(PROT_READ | PROT_WRITE);
}
void DeviceMemory::close() {
  if (--open_ == 0) protect(PROT_NONE);
}

/// The first offset from the cursor on, and then from 0, where a block fits; kReserved if none.
std::size_t DeviceMemory::find_room(std::size_t bytes) const {
  for (const std::size_t from : {cursor_, std::size_t{0}}) {
    std::size_t start = from;
    for (auto next = blocks_.lower_bound(from); next != blocks_.end(); ++next) {
      if (start + room_of(bytes) <= next->first) return start;
      start = next->first + room_of(next->second);
    }
    if (start + room_of(bytes) <= kReserved) return start;
  }
  return kReserved;
}

void DeviceMemory::map_poison(std::size_t start, std::size_t length) const {
  for (std::size_t done = 0; done < length; done += kPoisonFile) {
    map(base_ + start + done, std::min(kPoisonFile, length - done), PROT_READ | PROT_WRITE, 0, poison_file_);
  }
}

void* DeviceMemory::allocate(std::size_t bytes, std::size_t limit) {
  if (bytes > limit || used_ + bytes > limit) return nullptr;
  const std::size_t start = find_room(bytes);
  if (start == kReserved) return nullptr;
  std::byte* const first = base_ + start;
  std::byte* const block = first + kGuardBytes;
  std::byte* const end = first + pages_of(bytes);
  map_poison(start, pages_of(bytes));
  unpoison(first, pages_of(bytes));
  std::fill(first, block, kGuard);
  std::fill(block + bytes, end, kGuard);
  poison(first, kGuardBytes);
  poison(block + bytes, static_cast<std::size_t>(end - block) - bytes);
  if (open_ == 0) mprotect(first, pages_of(bytes), PROT_NONE);
  blocks_.emplace(start, bytes);
  used_ += bytes;
  cursor_ = start + room_of(bytes);
  return block;
}

bool DeviceMemory::release(void* block) {
  if (!contains(block)) return false;
  const auto found = blocks_.find(static_cast<std::size_t>(static_cast<std::byte*>(block) - base_) - kGuardBytes);
  if (found == blocks_.end()) return false;
  map(base_ + found->first, pages_of(found->second), PROT_NONE, MAP_ANONYMOUS, -1);
  poison(block, found->second);
  used_ -= found->second;
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
  const std::size_t block = found->first + kGuardBytes;
  return offset >= block && offset + bytes <= block + found->second;
}

std::string DeviceMemory::damage() const {
  if (kAddressSanitizer) return {};  // it has seen the write itself
  const auto is_guard = [](std::byte byte) { return byte == kGuard; };
  for (const auto& [start, bytes] : blocks_) {
    const std::byte* const first = base_ + start;
    const std::byte* const block = first + kGuardBytes;
    const bool before = !std::all_of(first, block, is_guard);
    if (!before && std::all_of(block + bytes, first + pages_of(bytes), is_guard)) continue;
    std::ostringstream out;
    out << "a write " << (before ? "before" : "behind") << " a block of device memory of " << bytes << " bytes";
    return out.str();
  }
  return {};
}

}  // namespace vitrail::emulated
