#pragma once
// The simulated device's memory: one reserved range of addresses that can only be touched while queued work runs, so
// that a host that follows a device pointer crashes. New blocks hold NaN; between blocks lie red zones (address
// sanitizer) with guard bytes (checked without it).

#include <cstddef>
#include <map>
#include <string>

namespace vitrail::emulated {

class DeviceMemory {
 public:
  DeviceMemory();
  /// Aligned to 256 bytes and to no more, as the toolkit promises. Null when `limit` would be exceeded.
  void* allocate(std::size_t bytes, std::size_t limit);
  /// False if no block starts there.
  bool release(void* block);
  /// Whether the address lies in the reserved range.
  [[nodiscard]] bool contains(const void* address) const noexcept;
  /// Whether [address, address + bytes) lies in one block.
  [[nodiscard]] bool is_in_a_block(const void* address, std::size_t bytes) const;
  [[nodiscard]] std::size_t used() const noexcept { return used_; }
  /// What was written outside of all blocks, or nothing. Only while open.
  [[nodiscard]] std::string damage() const;

  /// Opens the memory while it lives; may be nested.
  class Window {
   public:
    explicit Window(DeviceMemory& memory) : memory_(memory) { memory_.open(); }
    Window(const Window&) = delete;
    Window& operator=(const Window&) = delete;
    ~Window() { memory_.close(); }

   private:
    DeviceMemory& memory_;
  };

 private:
  void open();
  void close();
  [[nodiscard]] std::size_t find_room(std::size_t bytes) const;

  std::byte* base_ = nullptr;
  std::map<std::size_t, std::size_t> blocks_;  ///< offset -> bytes
  std::size_t cursor_ = 0;                     ///< where the last block ended: freed addresses are reused late
  std::size_t high_ = 0;                       ///< nothing was ever allocated from here on
  std::size_t used_ = 0;
  int open_ = 0;
};

}  // namespace vitrail::emulated
