#pragma once
// The simulated device's memory: reserved addresses of which a block's can be touched while queued work runs, so that a
// host that follows a device pointer crashes. New blocks hold NaN. Every block has its own pages, with a page that is
// never there behind them; what is left of the first and last page is red zone (address sanitizer) and guard bytes
// (checked without it).

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
  void protect(int protection) const;
  [[nodiscard]] std::size_t find_room(std::size_t bytes) const;
  void map_poison(std::size_t start, std::size_t length) const;

  std::byte* base_ = nullptr;
  int poison_file_ = -1;                       ///< bytes of NaN: pages that nobody wrote are all the same few
  std::map<std::size_t, std::size_t> blocks_;  ///< offset of a block's first page -> its bytes
  std::size_t cursor_ = 0;                     ///< where the last block ended: freed addresses are reused late
  std::size_t used_ = 0;
  int open_ = 0;
};

}  // namespace vitrail::emulated
