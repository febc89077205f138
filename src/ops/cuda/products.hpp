#pragma once
// What the verbs of dense layers are made of: products of blocks of rows with weights, in the precision of a verb.

#include <initializer_list>
#include <span>

#include "ops/cuda/dense_kernels.hpp"
#include "ops/cuda/gemm.hpp"
#include "ops/cuda/workspace.hpp"

namespace vitrail::cuda {

/// Rows in E blocks per leaf, each block with weights [in out] of its own.
struct Blocks {
  std::int64_t leaves, experts, rows, in, out;
  [[nodiscard]] std::int64_t count() const { return leaves * experts; }
  /// Of h w2 where these are of x w1.
  [[nodiscard]] Blocks reversed() const { return {leaves, experts, rows, out, in}; }
};

/// The parameter gradient of `batch` weights: dw[i] = sum over the tree of the leaves of x[leaf, i]^T dy[leaf, i].
struct WeightGradient {
  std::int64_t leaves, batch, rows, in, out;
  const void* x;                               // [rows in] matrices
  std::int64_t x_of_leaf, x_stride;            // elements from one leaf, and one of the batch, to the next
  const void* dy;                              // [rows out] matrices
  std::int64_t dy_row, dy_of_leaf, dy_stride;  // dy_row: from one row to the next
  float* dw;                                   // [in out] matrices
  std::int64_t dw_stride;
};

/// Three weights of one input, and their results, at equal distances in memory.
struct ThreeProducts {
  std::int64_t leaves, rows, in, out;
  const void* x;  // [leaves rows in]
  const void* w;  // three [in out], w_stride elements apart
  std::int64_t w_stride;
  const float* b;  // three [out], b_stride apart
  std::int64_t b_stride;
  Elements y;  // three [leaves rows out], y_stride apart
  std::int64_t y_stride;
};

/// Made for one call of a verb: its scratch is that of the back end.
class Products {
 public:
  /// `inputs`: what operands are rounded to. `scratch`: three blocks.
  Products(Gemm& gemm, std::span<Workspace> scratch, cudaStream_t stream, Dtype inputs)
      : gemm_(gemm), scratch_(scratch), stream_(stream), inputs_(inputs) {}

  /// Makes room for these operands as inputs (those that are already of that dtype take none) and for extra_bytes.
  /// Before all else.
  void reserve(std::initializer_list<ConstTensor> operands, std::int64_t extra_bytes = 0);
  /// Part of the room: 256-byte aligned.
  void* take(std::int64_t bytes);
  template <class T>
  T* take_elements(std::int64_t count) {
    return static_cast<T*>(take(count * std::int64_t{sizeof(T)}));
  }
  /// The operand in the dtype of inputs: itself, or rounded.
  const void* input(const ConstTensor& operand);
  [[nodiscard]] Dtype inputs() const { return inputs_; }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }

  /// y = x w + b + residual; b, residual may be left out.
  void forward(const Blocks& n, const void* x, const void* w, const ConstTensor& b, const ConstTensor& residual,
               Tensor y);
  /// u = x w + b; h = gelu(u). False, and nothing done, where the library does not do that in one.
  bool forward_gelu(const Blocks& n, const void* x, const void* w, const ConstTensor& b, Tensor u, Tensor h);
  /// y[i] = x w[i] + b[i]. False, and nothing done, where the library does not do that in one.
  bool forward_three(const ThreeProducts& a);
  /// dx = dresidual + dy w^T
  void input_gradient(const Blocks& n, const void* dy, const void* w, const ConstTensor& dresidual, Tensor dx);
  /// du = (dy w^T) gelu'(u). False, and nothing done, where the library does not do that in one.
  bool input_gradient_gelu(const Blocks& n, const void* dy, const void* w, const ConstTensor& u, Tensor du);
  void weight_gradient(const WeightGradient& a);
  /// dw[e] = sum over the leaves of x[leaf, e]^T dy[leaf, e]
  void weight_gradient(const Blocks& n, const void* x, const void* dy, Tensor dw);

  /// dy as an input, and its column sums in db if that is there; dy is read once.
  const void* input_and_bias_gradient(const Blocks& n, const ConstTensor& dy, Tensor db);
  /// Room for the column sums of the pieces of rows of n.out columns ...
  float* partial_sums(const Blocks& n);
  /// ... and what becomes of them: db = the sums over the leaves.
  void finish_bias_gradient(const Blocks& n, const float* partial, float* db);

 private:
  /// Elements from one leaf, and from one expert, to the next.
  struct Steps {
    std::int64_t leaf, expert;
  };
  /// x and y of blocks that follow each other.
  static Steps dense(const Blocks& n, std::int64_t width) { return {n.experts * n.rows * width, n.rows * width}; }
  Product forward_product(const Blocks& n, const void* x, const void* w) const;
  Product gradient_product(const Blocks& n, const void* dy, const void* w) const;
  /// The product of all blocks with their experts' weights. `product` is that of the first block; the batch strides of
  /// its B and bias go from expert to expert.
  void multiply_blocks(const Blocks& n, const Product& product, Steps of_a, Steps of_d);
  void multiply_rows(const Blocks& n, Product product, const ConstTensor& b, const ConstTensor& residual, Tensor y);
  bool with_bias(Product& product, std::int64_t experts, const float* b, std::int64_t stride, Epilogue epilogue);
  void weight_gradient_tree(const WeightGradient& a, std::int64_t first, std::int64_t count, float* dw,
                            std::int64_t stride, float* levels);

  Gemm& gemm_;
  std::span<Workspace> scratch_;
  cudaStream_t stream_;
  Dtype inputs_;
  std::byte* room_ = nullptr;
  std::int64_t left_ = 0;
};

}  // namespace vitrail::cuda
