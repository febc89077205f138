#pragma once
// The library's own way to spread one large matrix product over threads. No verb uses it (its bits depend on the
// threads): it is the ceiling that the verbs are measured against.

#include <cstdint>
#include <optional>

#include "ops/cpu/bf16_product.hpp"
#include "ops/cpu/workspace.hpp"
#include "ops/ops.hpp"

namespace vitrail::cpu {

/// a b, all of them side x side, row-major, f32, by oneDNN on `threads` threads. In bf16 the operands are rounded
/// beforehand, once.
class WholeGemm {
 public:
  /// In f32 a and b must outlive it.
  WholeGemm(int threads, std::int64_t side, Precision precision, const float* a, const float* b);
  /// c = a b
  void multiply(float* c) const;

 private:
  int threads_;
  std::int64_t side_;
  const float* a_;  // as product_ or an f32 product wants it
  const float* b_;
  std::optional<Bf16Product> product_;
  Workspace rounded_;
  float* scratch_ = nullptr;
};

}  // namespace vitrail::cpu
