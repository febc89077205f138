#pragma once
// Owns one handle of a C library. Traits names the handle type, its null value and how it is closed:
//   struct FileTraits { using Handle = hid_t; static constexpr Handle null = -1; static void close(Handle h) noexcept;
//   };

#include <utility>

namespace vitrail {

template <class Traits>
class UniqueHandle {
 public:
  using Handle = typename Traits::Handle;
  UniqueHandle() = default;
  explicit UniqueHandle(Handle handle) noexcept : handle_(handle) {}
  UniqueHandle(UniqueHandle&& other) noexcept : handle_(std::exchange(other.handle_, Traits::null)) {}
  UniqueHandle& operator=(UniqueHandle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  UniqueHandle(const UniqueHandle&) = delete;
  UniqueHandle& operator=(const UniqueHandle&) = delete;
  ~UniqueHandle() { reset(); }

  [[nodiscard]] Handle get() const noexcept { return handle_; }
  explicit operator bool() const noexcept { return handle_ != Traits::null; }
  [[nodiscard]] Handle release() noexcept { return std::exchange(handle_, Traits::null); }
  void reset() noexcept {
    if (handle_ != Traits::null) Traits::close(std::exchange(handle_, Traits::null));
  }

 private:
  Handle handle_ = Traits::null;
};

}  // namespace vitrail
