#pragma once
// Matrix products by cuBLASLt: row-major, strided batches, f32 or bf16 inputs, sums in f32 (never TF32).
//
// The algorithm of a product is chosen once for its key - lengths, transposes, row strides, dtypes, epilogue - and
// kept. The key holds neither pointers nor the batch count, and the library is asked about a batch of one with the
// alignment that the lengths promise: so the bits of a product do not depend on which leaf or expert it is, on how many
// others come with it, or on which call came first. (Asked about the true batch, the library might cut the sums of a
// lone expert otherwise than those of one among eight.) A batch whose workspace would be too large is multiplied in
// parts.

#include <compare>
#include <cstdint>
#include <map>

#include <cublasLt.h>

#include "base/unique_handle.hpp"
#include "device/cuda/cuda_device.hpp"
#include "ops/cuda/workspace.hpp"

namespace vitrail::cuda {

/// A row-major operand: `row_stride` elements from one stored row to the next, `batch_stride` from one matrix of a
/// batch to the next (0: the same for all); `transposed` if the product uses its transpose. Pointers and strides are
/// aligned to 16 bytes, or to the largest power of two that divides the bytes of a row stride.
struct Operand {
  const void* data = nullptr;
  std::int64_t row_stride = 0;
  std::int64_t batch_stride = 0;
  bool transposed = false;
};

/// What is done to an element of the product (after C was added) before it is rounded.
enum class Epilogue : std::uint8_t {
  none,
  bias,       ///< + bias[column]
  gelu_bias,  ///< aux = product + bias[column]; D = gelu(aux), in its tanh form
  gelu_slope  ///< D = product * gelu'(aux)
};

/// D[m n] = A[m k] B[k n] + C, `batch` times. D is dense and of dtype `output`, and so are C, aux and bias.
struct Product {
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t batch = 1;
  Operand a, b;
  Dtype inputs = Dtype::f32;
  Dtype output = Dtype::f32;  ///< bf16 only of bf16 inputs
  const void* c = nullptr;    ///< left out, or of D's layout; may be D itself
  void* d = nullptr;          ///< m * n elements
  std::int64_t d_stride = 0;  ///< of C and D, from one matrix of the batch to the next
  Epilogue epilogue = Epilogue::none;
  const void* bias = nullptr;  ///< n elements
  std::int64_t bias_stride = 0;
  void* aux = nullptr;  ///< m * n elements; only read by gelu_slope
  std::int64_t aux_stride = 0;
};

class Gemm {
 public:
  /// Takes 32 MiB of the device as workspace, as the library's manual advises for Hopper.
  explicit Gemm(StreamDevice& device);

  /// Whether the library has an algorithm for the product with its epilogue; pointers and the batch count do not
  /// matter. Error for a key that is new after seal().
  [[nodiscard]] bool offers(const Product& product);
  /// In the order of the queue. Nothing is done for an empty D; an empty sum is 0. Error for a key that is new after
  /// seal(), for one that the library does not offer and for misaligned operands.
  void multiply(const Product& product);
  void seal() noexcept { sealed_ = true; }

 private:
  struct Key {
    std::int64_t m, n, k, a_stride, b_stride;
    bool a_transposed, b_transposed;
    Dtype inputs, output;
    Epilogue epilogue;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct HandleTraits {
    using Handle = cublasLtHandle_t;
    static constexpr Handle null = nullptr;
    static void close(Handle handle) noexcept { static_cast<void>(cublasLtDestroy(handle)); }
  };
  struct DescriptionTraits {
    using Handle = cublasLtMatmulDesc_t;
    static constexpr Handle null = nullptr;
    static void close(Handle handle) noexcept { static_cast<void>(cublasLtMatmulDescDestroy(handle)); }
  };
  struct LayoutTraits {
    using Handle = cublasLtMatrixLayout_t;
    static constexpr Handle null = nullptr;
    static void close(Handle handle) noexcept { static_cast<void>(cublasLtMatrixLayoutDestroy(handle)); }
  };
  struct Plan {
    UniqueHandle<DescriptionTraits> description;
    UniqueHandle<LayoutTraits> a, b, d;
    cublasLtMatmulAlgo_t algorithm{};
    bool offered = false;
    std::map<std::int64_t, std::int64_t> parts;  // by batch count: how many of a batch fit the workspace
  };

  static Key key_of(const Product& product);
  static UniqueHandle<LayoutTraits> layout(const Operand& operand, Dtype dtype, std::int64_t rows,
                                           std::int64_t columns);
  Plan& plan_of(const Product& product);
  Plan make_plan(const Product& product) const;
  void choose_algorithm(const Product& product, Plan& plan) const;
  std::int64_t part_of(const Product& product, Plan& plan) const;
  void multiply_part(const Product& product, const Plan& plan, std::int64_t first, std::int64_t count) const;
  void multiply_nothing(const Product& product) const;

  StreamDevice& device_;
  Workspace memory_;
  void* workspace_;
  UniqueHandle<HandleTraits> handle_;
  std::map<Key, Plan> plans_;
  bool sealed_ = false;
};

}  // namespace vitrail::cuda
