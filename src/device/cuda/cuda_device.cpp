#include "device/cuda/cuda_device.hpp"

#include <cstring>

#include "device/cuda/check.hpp"
#include "device/cuda/gpu.hpp"
#include "device/cuda/places.hpp"
#include "device/cuda/recordings.hpp"

namespace vitrail::cuda {
namespace {

UniqueStream make_stream() {
  cudaStream_t made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
  return UniqueStream(made);
}

std::size_t size_of_bytes(ConstTensor tensor) { return static_cast<std::size_t>(tensor.bytes()); }

void expect_equal(const char* verb, ConstTensor from, ConstTensor to) {
  VITRAIL_EXPECT(
      from.dtype == to.dtype && from.elements() == to.elements(), ExitCode::other,
      text(verb, " from ", name_of(from.dtype), " ", from.shape.str(), " to ", name_of(to.dtype), " ", to.shape.str()),
      "sizes or dtypes differ", "");
}

void expect_kinds(const char* verb, ConstTensor host, ConstTensor device) {
  VITRAIL_EXPECT(host.device == DeviceKind::cpu && device.device == DeviceKind::cuda, ExitCode::other,
                 text(verb, " between the wrong kinds of memory"), "one side is host memory, the other the device's",
                 "This is a bug");
}

class CudaDevice final : public StreamDevice {
 public:
  explicit CudaDevice(const CudaOptions& options)
      : index_(options.index),
        gpu_(open_gpu(options.index)),
        graphs_(options.graphs && !launches_block()),  // a graph would hide which kernel fails
        queue_(make_stream()),
        uploads_(make_stream()),
        uploaded_(make_event()),
        recordings_(queue_.get()) {}
  ~CudaDevice() override { finish_quietly(); }

  [[nodiscard]] std::string description() const override { return description_of(gpu_); }
  [[nodiscard]] cudaStream_t stream() const noexcept override { return queue_.get(); }
  [[nodiscard]] const cudaDeviceProp& properties() const noexcept override { return gpu_; }
  [[nodiscard]] bool asynchronous() const noexcept override { return true; }

  void* allocate(std::int64_t bytes) override;
  void release(void* memory, std::int64_t bytes) noexcept override;
  void* allocate_host(std::int64_t bytes) override;
  void release_host(void* memory, std::int64_t bytes) noexcept override;

  void copy(ConstTensor from, Tensor to) override;
  void zero(Tensor tensor) override;
  [[nodiscard]] Place place() override;
  void wait(Place place) override;
  void upload(ConstTensor from, Tensor to, Place free) override;
  void download(ConstTensor from, Tensor to) override;
  void submit(const std::string& name, const std::function<void()>& work) override;

 private:
  // Another thread may allocate, too; a thread begins with GPU 0.
  void make_current() const noexcept { static_cast<void>(cudaSetDevice(index_)); }
  // For destructors: what failed was said before, or is said by the next call.
  void finish_quietly() const noexcept {
    static_cast<void>(cudaStreamSynchronize(uploads_.get()));
    static_cast<void>(cudaStreamSynchronize(queue_.get()));
  }
  // What submit()'s work may never do where it is recorded, the first time included. Without graphs it is called like
  // any other: exchanges through host memory may be in it.
  void expect_no_submit(const char* call) const {
    VITRAIL_EXPECT(!submitting_ || !graphs_, ExitCode::other, text(call, " inside of work that was submitted"),
                   "such work consists of verbs, copies between the device's own tensors and zero() alone",
                   "This is a bug");
  }
  // What it may do where it is not recorded: verbs that grow their workspace wait for the device.
  void expect_no_recording(const char* call) const {
    VITRAIL_EXPECT(!recordings_.recording(), ExitCode::other, text(call, " while work is recorded as a graph"),
                   "a recording can neither wait nor allocate", "This is a bug: the work was not warmed up");
  }

  int index_;
  cudaDeviceProp gpu_;
  bool graphs_;
  bool submitting_ = false;
  UniqueStream queue_;
  UniqueStream uploads_;
  UniqueEvent uploaded_;  // behind the last upload
  Places places_;
  Recordings recordings_;
};

void* CudaDevice::allocate(std::int64_t bytes) {
  expect_no_recording("an allocation");
  if (bytes == 0) return nullptr;
  make_current();
  void* memory = nullptr;
  const cudaError_t rc = cudaMalloc(&memory, static_cast<std::size_t>(bytes));
  if (rc != cudaErrorMemoryAllocation) {
    check(rc);
    check(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes), queue_.get()));
    return memory;
  }
  static_cast<void>(cudaGetLastError());  // ours now
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total));
  fail(ExitCode::usage, {text(bytes, " bytes of GPU memory were refused"),
                         text(free, " of ", total, " bytes are free on GPU ", index_, ", ", gpu_.name),
                         "Use more GPUs, fewer leaves per pass, a smaller leaf or a smaller model"});
}

void CudaDevice::release(void* memory, std::int64_t) noexcept {
  if (memory == nullptr) return;
  make_current();
  finish_quietly();  // it may still be in use
  static_cast<void>(cudaFree(memory));
}

void* CudaDevice::allocate_host(std::int64_t bytes) {
  if (bytes == 0) return nullptr;
  make_current();
  void* memory = nullptr;
  const cudaError_t rc = cudaMallocHost(&memory, static_cast<std::size_t>(bytes));
  if (rc != cudaErrorMemoryAllocation) {
    check(rc);
    return memory;
  }
  static_cast<void>(cudaGetLastError());
  fail(ExitCode::usage, {text(bytes, " bytes of page-locked host memory were refused"),
                         "the machine has not enough, or a limit of the job (ulimit -l, --mem) is reached",
                         "Ask for more memory, or use fewer ranks per node"});
}

void CudaDevice::release_host(void* memory, std::int64_t) noexcept {
  if (memory == nullptr) return;
  make_current();
  finish_quietly();
  static_cast<void>(cudaFreeHost(memory));
}

void CudaDevice::copy(ConstTensor from, Tensor to) {
  expect_equal("a copy", from, to);
  const bool on_device = from.device == DeviceKind::cuda && to.device == DeviceKind::cuda;
  if (!on_device) expect_no_submit("a copy of host memory");
  if (from.bytes() == 0) return;
  if (from.device == DeviceKind::cpu && to.device == DeviceKind::cpu) {
    synchronize();  // in the order of the queue, which may be about to write or read them
    std::memcpy(to.data, from.data, size_of_bytes(from));
    return;
  }
  check(cudaMemcpyAsync(to.data, from.data, size_of_bytes(from), cudaMemcpyDefault, queue_.get()));
  if (!on_device) synchronize();
}

void CudaDevice::zero(Tensor tensor) {
  if (tensor.device == DeviceKind::cpu) {
    expect_no_submit("zero() of host memory");
    synchronize();
    if (tensor.bytes() > 0) std::memset(tensor.data, 0, size_of_bytes(tensor));
    return;
  }
  if (tensor.bytes() > 0) check(cudaMemsetAsync(tensor.data, 0, size_of_bytes(tensor), queue_.get()));
}

Device::Place CudaDevice::place() {
  expect_no_recording("a place");
  return places_.record(queue_.get());
}

void CudaDevice::wait(Place place) {
  expect_no_recording("a wait");
  places_.wait(place);
}

void CudaDevice::upload(ConstTensor from, Tensor to, Place free) {
  expect_no_submit("an upload");
  expect_equal("an upload", from, to);
  expect_kinds("an upload", from, to);
  if (from.bytes() == 0) return;
  places_.hold(uploads_.get(), free);
  check(cudaMemcpyAsync(to.data, from.data, size_of_bytes(from), cudaMemcpyHostToDevice, uploads_.get()));
  check(cudaEventRecord(uploaded_.get(), uploads_.get()));
  check(cudaStreamWaitEvent(queue_.get(), uploaded_.get(), cudaEventWaitDefault));
}

void CudaDevice::download(ConstTensor from, Tensor to) {
  expect_no_submit("a download");
  expect_equal("a download", from, to);
  expect_kinds("a download", to, from);
  if (from.bytes() == 0) return;
  check(cudaMemcpyAsync(to.data, from.data, size_of_bytes(from), cudaMemcpyDeviceToHost, queue_.get()));
}

void CudaDevice::submit(const std::string& name, const std::function<void()>& work) {
  VITRAIL_EXPECT(!submitting_, ExitCode::other, "a submit inside of work that was submitted",
                 "such work cannot be cut into parts", "This is a bug");
  struct Scope {
    explicit Scope(bool& flag) : inside(flag) { inside = true; }
    ~Scope() { inside = false; }
    bool& inside;
  };
  const Scope scope(submitting_);
  if (graphs_) {
    recordings_.run(name, work);
  } else {
    work();
  }
}

}  // namespace

StreamDevice& stream_device(Device& device) {
  auto* gpu = dynamic_cast<StreamDevice*>(&device);
  VITRAIL_EXPECT(gpu != nullptr, ExitCode::other, text("the device '", device.description(), "' is no GPU"),
                 "the cuda back end and NCCL work on one", "This is a bug");
  return *gpu;
}

}  // namespace vitrail::cuda

namespace vitrail {

std::unique_ptr<Device> make_cuda_device(const CudaOptions& options) {
  return std::make_unique<cuda::CudaDevice>(options);
}

}  // namespace vitrail
