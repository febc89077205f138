// Dense layers, the MLP (dense or of experts) and the projections to queries, keys and values.

#include <vector>

#include "ops/reference/matrix.hpp"
#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
namespace {

// Rows in E blocks per leaf, each block with weights [in out] of its own.
struct Blocks {
  std::int64_t leaves, experts, rows, in, out;
};

template <class T>
const T* data_or_null(const ConstTensor& tensor) {
  return tensor ? tensor.as<T>() : nullptr;
}

// y[l,e] = x[l,e] w[e] + b[e] + residual[l,e]
template <class T>
void blocks_forward(const Blocks& n, const T* x, const T* w, const T* b, const T* residual, T* y) {
  for (std::int64_t block = 0; block < n.leaves * n.experts; ++block) {
    const std::int64_t e = block % n.experts;
    affine(x + block * n.rows * n.in, w + e * n.in * n.out, b == nullptr ? nullptr : b + e * n.out,
           residual == nullptr ? nullptr : residual + block * n.rows * n.out, y + block * n.rows * n.out, n.rows, n.in,
           n.out);
  }
}

// dw[e] = sum over leaves of x[l,e]^T dy[l,e];  db[e] = sum over leaves of the column sums of dy[l,e]
template <class T>
void blocks_parameter_gradients(const Blocks& n, const T* x, const T* dy, T* dw, T* db) {
  sum_over_leaves(0, n.leaves, dw, n.experts * n.in * n.out, [&](std::int64_t leaf, T* out) {
    for (std::int64_t e = 0; e < n.experts; ++e) {
      const std::int64_t row = (leaf * n.experts + e) * n.rows;
      transposed_times(x + row * n.in, dy + row * n.out, out + e * n.in * n.out, n.rows, n.in, n.out);
    }
  });
  if (db == nullptr) return;
  sum_over_leaves(0, n.leaves, db, n.experts * n.out, [&](std::int64_t leaf, T* out) {
    for (std::int64_t e = 0; e < n.experts; ++e)
      column_sums(dy + (leaf * n.experts + e) * n.rows * n.out, out + e * n.out, n.rows, n.out);
  });
}

// dx[l,e] = dresidual[l,e] + dy[l,e] w[e]^T
template <class T>
void blocks_input_gradient(const Blocks& n, const T* dy, const T* w, const T* dresidual, T* dx) {
  for (std::int64_t block = 0; block < n.leaves * n.experts; ++block) {
    const T* dresidual_block = dresidual == nullptr ? nullptr : dresidual + block * n.rows * n.in;
    times_transposed(dy + block * n.rows * n.out, w + block % n.experts * n.in * n.out, dresidual_block,
                     dx + block * n.rows * n.in, n.rows, n.in, n.out);
  }
}

constexpr double kGeluCubic = 0.044715;
constexpr double kGeluScale = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;

// gelu(u) = u/2 (1 + tanh(c0 (u + 0.044715 u^3))), c0 = sqrt(2 / pi)
template <class T>
T gelu(T u) {
  return 0.5 * u * (1.0 + std::tanh(kGeluScale * (u + kGeluCubic * u * u * u)));
}

// gelu'(u) = (1 + th)/2 + u/2 (1 - th^2) c0 (1 + 3 * 0.044715 u^2), th = tanh(c0 (u + 0.044715 u^3))
template <class T>
T gelu_slope(T u) {
  const T th = std::tanh(kGeluScale * (u + kGeluCubic * u * u * u));
  return 0.5 * (1.0 + th) + 0.5 * u * (1.0 - th * th) * kGeluScale * (1.0 + 3.0 * kGeluCubic * u * u);
}

// Element i of a mask, 1 if it was left out.
template <class T>
T mask_at(const ConstTensor& mask, std::int64_t i) {
  return mask ? mask.as<T>()[i] : T(1.0);
}

// The gradient of a weight: where it is wanted, or a buffer of which an update is made in the end.
template <class T>
class WeightGradient {
 public:
  WeightGradient(const Tensor& dw, const EarlyUpdate* update) : update_(update) {
    if (update != nullptr) buffer_.resize(static_cast<std::size_t>(update->parameter.elements()));
    data_ = update != nullptr ? buffer_.data() : dw.as<T>();
  }
  [[nodiscard]] T* data() const { return data_; }
  void update() const {
    if (update_ == nullptr) return;
    const auto n = static_cast<std::int64_t>(buffer_.size());
    const std::int64_t begin[] = {0, n};
    const auto frozen = static_cast<std::uint8_t>(update_->frozen ? 1 : 0);
    adamw_step<T>({.gradient = {buffer_.data(), {n}, dtype_of<T>},
                   .block_begin = {begin, {2}, Dtype::i64},
                   .decay = {&update_->decay, {1}, Dtype::f64},
                   .multiplier = {&update_->multiplier, {1}, Dtype::f64},
                   .frozen = {&frozen, {1}, Dtype::u8},
                   .learning_rate = update_->learning_rate,
                   .beta1 = update_->beta1,
                   .beta2 = update_->beta2,
                   .epsilon = update_->epsilon,
                   .updates = update_->updates,
                   .parameter = update_->parameter.view({n}),
                   .m = update_->m.view({n}),
                   .v = update_->v.view({n})});
  }

 private:
  const EarlyUpdate* update_;
  std::vector<T> buffer_;
  T* data_;
};

}  // namespace

// y = x w + b + residual
template <class T>
void linear_forward(const LinearForward& a) {
  const Blocks n{a.x.shape[0], a.x.shape[1], a.x.shape[2], a.x.shape[3], a.y.shape[3]};
  blocks_forward(n, a.x.as<T>(), a.w.as<T>(), data_or_null<T>(a.b), data_or_null<T>(a.residual), a.y.as<T>());
}

// dx = dresidual + dy w^T, dw = x^T dy, db = column sums of dy
template <class T>
void linear_backward(const LinearBackward& a) {
  const Blocks n{a.x.shape[0], a.x.shape[1], a.x.shape[2], a.x.shape[3], a.dy.shape[3]};
  blocks_parameter_gradients(n, a.x.as<T>(), a.dy.as<T>(), a.dw.as<T>(), a.db ? a.db.as<T>() : nullptr);
  if (a.dx) blocks_input_gradient(n, a.dy.as<T>(), a.w.as<T>(), data_or_null<T>(a.dresidual), a.dx.as<T>());
}

// u = x w1 + b1;  h = gelu(u) mask;  y = h w2 + b2 + residual
template <class T>
void mlp_forward(const MlpForward& a) {
  const Blocks up{a.x.shape[0], a.x.shape[1], a.x.shape[2], a.x.shape[3], a.u.shape[3]};
  const Blocks down{up.leaves, up.experts, up.rows, up.out, up.in};
  T* const u = a.u.as<T>();
  blocks_forward<T>(up, a.x.as<T>(), a.w1.as<T>(), a.b1.as<T>(), nullptr, u);
  if (!a.y) return;
  T* const h = a.h.as<T>();
  for (std::int64_t i = 0; i < a.u.elements(); ++i) h[i] = gelu(u[i]) * mask_at<T>(a.hidden_mask, i);
  blocks_forward<T>(down, h, a.w2.as<T>(), a.b2.as<T>(), data_or_null<T>(a.residual), a.y.as<T>());
}

// h = gelu(u) mask;       dw2 = h^T dy;  db2 = column sums of dy;  dh = dy w2^T
// du = dh mask gelu'(u);  dw1 = x^T du;  db1 = column sums of du;  dx = du w1^T
// An update of a weight comes after its last use.
template <class T>
void mlp_backward(const MlpBackward& a) {
  const Blocks up{a.x.shape[0], a.x.shape[1], a.x.shape[2], a.x.shape[3], a.u.shape[3]};
  const Blocks down{up.leaves, up.experts, up.rows, up.out, up.in};
  const T *u = a.u.as<T>(), *dy = a.dy.as<T>();
  T *h = a.h.as<T>(), *du = a.du.as<T>();
  for (std::int64_t i = 0; i < a.u.elements(); ++i) h[i] = gelu(u[i]) * mask_at<T>(a.hidden_mask, i);
  const WeightGradient<T> dw1(a.dw1, a.update1), dw2(a.dw2, a.update2);
  blocks_parameter_gradients<T>(down, h, dy, dw2.data(), a.db2.as<T>());
  blocks_input_gradient<T>(down, dy, a.w2.as<T>(), nullptr, du);  // dh
  for (std::int64_t i = 0; i < a.u.elements(); ++i) du[i] *= mask_at<T>(a.hidden_mask, i) * gelu_slope(u[i]);
  blocks_parameter_gradients<T>(up, a.x.as<T>(), du, dw1.data(), a.db1.as<T>());
  blocks_input_gradient<T>(up, du, a.w1.as<T>(), nullptr, a.dx.as<T>());
  dw1.update();
  dw2.update();
}

// q = x wq + bq, k = x wk + bk, v = x wv + bv
template <class T>
void qkv_forward(const QkvForward& a) {
  const Blocks n{a.x.shape[0], 1, a.x.shape[1], a.x.shape[2], a.q.shape[2]};
  blocks_forward<T>(n, a.x.as<T>(), a.wq.as<T>(), a.bq.as<T>(), nullptr, a.q.as<T>());
  blocks_forward<T>(n, a.x.as<T>(), a.wk.as<T>(), a.bk.as<T>(), nullptr, a.k.as<T>());
  blocks_forward<T>(n, a.x.as<T>(), a.wv.as<T>(), a.bv.as<T>(), nullptr, a.v.as<T>());
}

// dx = dq wq^T + dk wk^T + dv wv^T
template <class T>
void qkv_backward(const QkvBackward& a) {
  const Blocks n{a.x.shape[0], 1, a.x.shape[1], a.x.shape[2], a.dq.shape[2]};
  const T* x = a.x.as<T>();
  T* dx = a.dx.as<T>();
  blocks_parameter_gradients(n, x, a.dq.as<T>(), a.dwq.as<T>(), a.dbq.as<T>());
  blocks_parameter_gradients(n, x, a.dk.as<T>(), a.dwk.as<T>(), a.dbk.as<T>());
  blocks_parameter_gradients(n, x, a.dv.as<T>(), a.dwv.as<T>(), a.dbv.as<T>());
  blocks_input_gradient<T>(n, a.dq.as<T>(), a.wq.as<T>(), nullptr, dx);
  blocks_input_gradient<T>(n, a.dk.as<T>(), a.wk.as<T>(), dx, dx);
  blocks_input_gradient<T>(n, a.dv.as<T>(), a.wv.as<T>(), dx, dx);
}

VITRAIL_REFERENCE_VERB(linear_forward, LinearForward)
VITRAIL_REFERENCE_VERB(linear_backward, LinearBackward)
VITRAIL_REFERENCE_VERB(mlp_forward, MlpForward)
VITRAIL_REFERENCE_VERB(mlp_backward, MlpBackward)
VITRAIL_REFERENCE_VERB(qkv_forward, QkvForward)
VITRAIL_REFERENCE_VERB(qkv_backward, QkvBackward)

}  // namespace vitrail::reference
