#pragma once
// One matrix product of bf16 operands with f32 sums by oneDNN, of a shape that is known beforehand.

#include <compare>
#include <cstdint>
#include <memory>

#include "base/bf16.hpp"

namespace vitrail::cpu {

/// c (m x n) = or, with `add`, += a (m x k) b (k x n). All dense and row-major; an operand that is `transposed` is
/// stored as its transpose. No length is 0.
struct Bf16Shape {
  std::int64_t m, n, k;
  bool a_transposed, b_transposed, add;
  auto operator<=>(const Bf16Shape&) const = default;
};

class Bf16Product {
 public:
  /// For `threads` threads; the bits may depend on them. Error (usage) when there is not enough memory.
  explicit Bf16Product(const Bf16Shape& shape, int threads = 1);
  Bf16Product(Bf16Product&&) noexcept;
  Bf16Product& operator=(Bf16Product&&) noexcept;
  ~Bf16Product();

  /// Floats of scratch, 64-byte aligned, that a call needs.
  [[nodiscard]] std::int64_t scratch() const noexcept;
  /// Several threads may call it at a time, each with scratch of its own.
  void operator()(const Bf16* a, const Bf16* b, float* c, float* scratch) const;

 private:
  struct Primitive;
  std::unique_ptr<Primitive> primitive_;
};

/// Does oneDNN multiply bf16 with instructions of this machine, and not with those for f32? It fixes oneDNN's
/// instruction set (ops/cpu/cpu_isa.hpp).
bool multiplies_bf16();

}  // namespace vitrail::cpu
