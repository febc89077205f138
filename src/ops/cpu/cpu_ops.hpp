#pragma once
// The back end for CPUs. Every product with weights is made of packed panels (ops/cpu/product_kernels.hpp), and
// everything else is cut in units by shapes alone (ops/cpu/parallel.hpp): bits depend neither on the number of leaves
// or experts in a call nor on the number of threads, only on the instruction set and the build. In bf16 the products
// round their inputs, and what enters them is kept in bf16; weights are rounded where they are packed.

#include "ops/cpu/gemm.hpp"
#include "ops/cpu/workspace.hpp"
#include "ops/ops.hpp"

namespace vitrail::cpu {

class CpuOps final : public Ops {
 public:
  explicit CpuOps(int threads, Precision precision = Precision::f32);
  [[nodiscard]] std::string_view name() const noexcept override { return "cpu"; }
  [[nodiscard]] Dtype real() const noexcept override { return Dtype::f32; }
  [[nodiscard]] Precision precision() const noexcept override { return precision_; }
  [[nodiscard]] Dtype stored() const noexcept override {
    return precision_ == Precision::bf16 ? Dtype::bf16 : Dtype::f32;
  }
  [[nodiscard]] bool updates_early(std::int64_t in, std::int64_t out) const noexcept override;
  void seal() override { workspace_.seal(); }
  [[nodiscard]] std::int64_t workspace_bytes() const noexcept override { return workspace_.bytes(); }

#define VITRAIL_CPU_VERB(verb, Arguments) void run(const Arguments& a) override;
  VITRAIL_VERBS(VITRAIL_CPU_VERB)
#undef VITRAIL_CPU_VERB

 private:
  int threads_;
  Precision precision_;
  Gemm gemm_;
  Gemm exact_gemm_{Precision::f32};  // of products that are never rounded
  Workspace workspace_;
};

}  // namespace vitrail::cpu
