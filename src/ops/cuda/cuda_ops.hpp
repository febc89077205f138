#pragma once
// The back end for NVIDIA GPUs: every verb of Ops in the queue of one device. cuBLASLt multiplies matrices
// (ops/cuda/gemm.hpp); all else are own kernels, one .cu file per kind of verb. No verb waits for the device, allocates
// (once sealed) or copies to the host, so a step can be recorded as a graph.

#include <array>
#include <cstddef>

#include "device/cuda/cuda_device.hpp"
#include "ops/cuda/gemm.hpp"
#include "ops/cuda/workspace.hpp"
#include "ops/ops.hpp"

namespace vitrail::cuda {

/// Scratch blocks of a verb. One verb may use all of them; none keeps anything from verb to verb.
enum class Scratch : std::size_t { a, b, c, d, count };

class CudaOps final : public Ops {
 public:
  CudaOps(StreamDevice& device, Precision precision);
  [[nodiscard]] std::string_view name() const noexcept override { return "cuda"; }
  [[nodiscard]] Dtype real() const noexcept override { return Dtype::f32; }
  [[nodiscard]] Precision precision() const noexcept override { return precision_; }
  [[nodiscard]] Dtype stored() const noexcept override {
    return precision_ == Precision::bf16 ? Dtype::bf16 : Dtype::f32;
  }
  [[nodiscard]] Dtype stored_weights() const noexcept override { return stored(); }
  void seal() override;
  [[nodiscard]] std::int64_t workspace_bytes() const noexcept override;

#define VITRAIL_CUDA_VERB(verb, Arguments) void run(const Arguments& a) override;
  VITRAIL_VERBS(VITRAIL_CUDA_VERB)
#undef VITRAIL_CUDA_VERB

 private:
  [[nodiscard]] cudaStream_t stream() const noexcept { return device_.stream(); }
  /// `count` elements of T, 256-byte aligned, not initialised.
  template <class T>
  T* workspace(Scratch which, std::int64_t count) {
    return static_cast<T*>(scratch_[static_cast<std::size_t>(which)].bytes(count * std::int64_t{sizeof(T)}));
  }

  StreamDevice& device_;
  Precision precision_;
  std::array<Workspace, static_cast<std::size_t>(Scratch::count)> scratch_;
  Gemm gemm_;
};

}  // namespace vitrail::cuda
