#include <cstdlib>
#include <cstring>
#include <memory>

#include <sys/mman.h>

#include "device/device.hpp"

namespace vitrail {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;

class CpuDevice final : public Device {
 public:
  [[nodiscard]] DeviceKind kind() const noexcept override { return DeviceKind::cpu; }
  [[nodiscard]] std::string description() const override { return "host"; }

  void* allocate(std::int64_t bytes) override {
    const std::int64_t alignment = bytes >= kHugePage ? kHugePage : 64;
    const std::int64_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void* memory = std::aligned_alloc(static_cast<std::size_t>(alignment), static_cast<std::size_t>(rounded));
    VITRAIL_EXPECT(memory != nullptr || bytes == 0, ExitCode::usage, text(bytes, " bytes of memory were refused"),
                   "this machine has not enough", "Use more ranks, a smaller leaf or a smaller model");
    if (alignment == kHugePage) madvise(memory, static_cast<std::size_t>(rounded), MADV_HUGEPAGE);
    return memory;
  }

  void release(void* memory, std::int64_t) noexcept override { std::free(memory); }
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
