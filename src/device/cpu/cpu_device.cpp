#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>

#include <sys/mman.h>

#include "device/device.hpp"

namespace vitrail {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kSmallest = 64;  // a cache line

constexpr std::int64_t whole(std::int64_t bytes, std::int64_t unit) { return (bytes + unit - 1) / unit * unit; }

/// Zeros that have not been touched, at the start of a huge page; nullptr when the machine refuses.
void* map_huge_pages(std::int64_t bytes) {
  if (bytes > std::numeric_limits<std::int64_t>::max() / 2) return nullptr;
  const auto length = static_cast<std::size_t>(bytes);
  constexpr auto kUnit = static_cast<std::size_t>(kHugePage);
  void* const mapped = mmap(nullptr, length + kUnit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(mapped);
  const std::size_t before = (kUnit - reinterpret_cast<std::uintptr_t>(mapped) % kUnit) % kUnit;
  if (before > 0) munmap(begin, before);
  if (before < kUnit) munmap(begin + before + length, kUnit - before);
  madvise(begin + before, length, MADV_HUGEPAGE);
  return begin + before;
}

class CpuDevice final : public Device {
 public:
  [[nodiscard]] DeviceKind kind() const noexcept override { return DeviceKind::cpu; }
  [[nodiscard]] std::string description() const override { return "host"; }

  // Large blocks are pages that the kernel clears when a thread touches them first: in parallel, near that thread, and
  // not before they are needed.
  void* allocate(std::int64_t bytes) override {
    const bool huge = bytes >= kHugePage;
    const std::int64_t rounded = whole(bytes, huge ? kHugePage : kSmallest);
    void* const memory =
        huge ? map_huge_pages(rounded) : std::aligned_alloc(kSmallest, static_cast<std::size_t>(rounded));
    VITRAIL_EXPECT(memory != nullptr || bytes == 0, ExitCode::usage, text(bytes, " bytes of memory were refused"),
                   "this machine has not enough", "Use more ranks, a smaller leaf or a smaller model");
    if (!huge && memory != nullptr) std::memset(memory, 0, static_cast<std::size_t>(rounded));
    return memory;
  }

  void release(void* memory, std::int64_t bytes) noexcept override {
    if (bytes < kHugePage) {
      std::free(memory);
    } else if (memory != nullptr) {
      munmap(memory, static_cast<std::size_t>(whole(bytes, kHugePage)));
    }
  }
  void* allocate_host(std::int64_t bytes) override { return allocate(bytes); }
  void release_host(void* memory, std::int64_t bytes) noexcept override { release(memory, bytes); }

  void copy(ConstTensor from, Tensor to) override {
    VITRAIL_EXPECT(from.dtype == to.dtype && from.elements() == to.elements(), ExitCode::other,
                   text("a copy from ", from.shape.str(), " to ", to.shape.str()), "sizes or dtypes differ", "");
    if (from.bytes() > 0) std::memcpy(to.data, from.data, static_cast<std::size_t>(from.bytes()));
  }

  void zero(Tensor tensor) override {
    if (tensor.bytes() > 0) std::memset(tensor.data, 0, static_cast<std::size_t>(tensor.bytes()));
  }

  [[nodiscard]] Place place() override { return 0; }
  void wait(Place) override {}
  void upload(ConstTensor from, Tensor to, Place) override { copy(from, to); }
  void download(ConstTensor from, Tensor to) override { copy(from, to); }
  void submit(const std::string&, const std::function<void()>& work) override { work(); }
  [[nodiscard]] bool asynchronous() const noexcept override { return false; }
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }

}  // namespace vitrail
