// The MLP. Large ones are products one after the other, with the GELU where a product is finished; of small ones
// everything that a panel of rows needs and gives stays in cache.

#include <algorithm>
#include <optional>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/row_products.hpp"
#include "ops/cpu/weight_gradient.hpp"

namespace vitrail::cpu {

namespace {

struct Sizes {
  std::int64_t leaves, experts, rows, width, hidden;
  [[nodiscard]] std::int64_t weights() const { return width * hidden; }
  [[nodiscard]] std::int64_t blocks() const { return leaves * experts; }
  [[nodiscard]] bool is_small() const { return weights() <= kSmallWeights; }
  /// Of u, h and du, which nobody else looks into.
  [[nodiscard]] std::int64_t strip_rows() const { return is_small() || hidden % kStrip != 0 ? 0 : rows; }
  [[nodiscard]] Matrix hidden_rows(const ConstTensor& tensor) const {
    Matrix m = matrix(tensor, hidden);
    m.strip_rows = strip_rows();
    return m;
  }
};
template <class Arguments>
Sizes sizes_of(const Arguments& a) {
  return {a.x.shape[0], a.x.shape[1], a.x.shape[2], a.w1.shape[1], a.w1.shape[2]};
}
const float* floats_of(const ConstTensor& tensor) { return tensor ? tensor.as<float>() : nullptr; }
float* floats_of(const Tensor& tensor) { return tensor ? tensor.as<float>() : nullptr; }

/// An update as the kernels take it.
std::optional<AdamWRun> run_of(const EarlyUpdate* update) {
  if (update == nullptr) return std::nullopt;
  AdamWRun run = adamw_constants(*update);
  run.parameter = update->parameter.as<float>();
  run.m = update->m.as<float>();
  run.v = update->v.as<float>();
  run.gradient_scale = static_cast<float>(update->multiplier);
  run.decay = static_cast<float>(update->decay);
  run.frozen = update->frozen;
  return run;
}

/// u = x w1 + b1, h = gelu(u) * mask. h's rows are h_stride apart.
Epilogue into_hidden(const MlpForward& a, const Sizes& s, void* h, std::int64_t h_stride) {
  Epilogue e;
  e.finish = Finish::gelu;
  e.dtype = a.u.dtype;
  e.stride = s.hidden;
  e.bias = a.b1.as<float>();
  e.mask = floats_of(a.hidden_mask);
  e.u = a.u.data;
  e.y = h;
  e.y_stride = h_stride;
  e.strip_rows = s.strip_rows();
  return e;
}
/// y = h w2 + b2 + residual.
Epilogue into_output(const MlpForward& a, const Sizes& s) {
  Epilogue e;
  e.dtype = a.y.dtype;
  e.stride = s.width;
  e.bias = a.b2.as<float>();
  e.residual = floats_of(a.residual);
  e.y = a.y.data;
  e.y_stride = s.width;
  return e;
}
/// From dh: h again, and du.
Epilogue into_hidden_gradient(const MlpBackward& a, const Sizes& s, void* h, void* du, std::int64_t stride) {
  Epilogue e;
  e.finish = Finish::gelu_backward;
  e.dtype = a.u.dtype;
  e.stride = s.hidden;
  e.mask = floats_of(a.hidden_mask);
  e.u = const_cast<void*>(a.u.data);  // only read
  e.h = h;
  e.h_stride = stride;
  e.y = du;
  e.y_stride = stride;
  e.strip_rows = s.strip_rows();
  return e;
}
Epilogue into_input_gradient(const MlpBackward& a, const Sizes& s) {
  Epilogue e;
  e.dtype = a.dx.dtype;
  e.y = a.dx.data;
  e.y_stride = s.width;
  return e;
}

// --- large -----------------------------------------------------------------------------------------------------------

RowProducts product_of(const Sizes& s, Way way, std::int64_t k, std::int64_t n, const Matrix& a, const Matrix& w,
                       const Epilogue& epilogue) {
  RowProducts p{way, s.leaves, s.experts, s.rows, k, n};
  p.a[0] = a;
  p.w[0] = w;
  p.epilogue = epilogue;
  return p;
}

void forward_in_turn(const MlpForward& a, const Sizes& s, Way way, int threads, Workspace& workspace) {
  const RowProducts first = product_of(s, way, s.width, s.hidden, matrix(a.x, s.width), matrix(a.w1, s.hidden),
                                       into_hidden(a, s, a.h.data, s.hidden));
  multiply({&first, 1}, threads, workspace);
  const RowProducts second =
      product_of(s, way, s.hidden, s.width, s.hidden_rows(a.h), matrix(a.w2, s.width), into_output(a, s));
  multiply({&second, 1}, threads, workspace);
}

/// u alone.
void hidden_alone(const MlpForward& a, const Sizes& s, Way way, int threads, Workspace& workspace) {
  Epilogue epilogue = into_hidden(a, s, a.u.data, s.hidden);
  epilogue.finish = Finish::store;
  epilogue.u = nullptr;
  epilogue.mask = nullptr;
  const RowProducts product =
      product_of(s, way, s.width, s.hidden, matrix(a.x, s.width), matrix(a.w1, s.hidden), epilogue);
  multiply({&product, 1}, threads, workspace);
}

void backward_in_turn(const MlpBackward& a, const Sizes& s, Way way, int threads, Workspace& workspace) {
  RowProducts hidden = product_of(s, way, s.width, s.hidden, matrix(a.dy, s.width), transposed(a.w2, s.width),
                                  into_hidden_gradient(a, s, a.h.data, a.du.data, s.hidden));
  Matrix h = s.hidden_rows(a.h);
  if (way == Way::f32 && a.h.dtype == Dtype::f32 && s.strip_rows() != 0) {  // it is for dw2 alone, which wants it so
    h = transposed(a.h, s.rows);
    hidden.epilogue.h_transposed = true;
    hidden.epilogue.h_stride = s.rows;
  }
  multiply({&hidden, 1}, threads, workspace);
  const RowProducts input =
      product_of(s, way, s.hidden, s.width, s.hidden_rows(a.du), transposed(a.w1, s.hidden), into_input_gradient(a, s));
  multiply({&input, 1}, threads, workspace);
  const std::optional<AdamWRun> update1 = run_of(a.update1), update2 = run_of(a.update2);
  const WeightGradient first{matrix(a.x, s.width), s.hidden_rows(a.du), floats_of(a.dw1), a.db1.as<float>(),
                             update1 ? &*update1 : nullptr};
  weight_gradients({&first, 1}, {way, s.leaves, s.experts, s.rows, s.width, s.hidden}, threads, workspace);
  const WeightGradient second{h, matrix(a.dy, s.width), floats_of(a.dw2), a.db2.as<float>(),
                              update2 ? &*update2 : nullptr};
  weight_gradients({&second, 1}, {way, s.leaves, s.experts, s.rows, s.hidden, s.width}, threads, workspace);
}

// --- small -----------------------------------------------------------------------------------------------------------

/// Two weights of every expert, packed beforehand, whole.
class PackedPairs {
 public:
  /// `first` is [k1 n1], `second` [k2 n2] as they enter the products.
  struct Weight {
    Matrix w;  // [experts ...]
    std::int64_t k, n;
  };
  PackedPairs(Way way, std::int64_t experts, const Weight& first, const Weight& second)
      : way_(way),
        experts_(experts),
        weights_{first, second},
        second_(packed_floats(way, first.n, first.k)),
        expert_(second_ + packed_floats(way, second.n, second.k)) {}
  [[nodiscard]] std::int64_t floats() const { return experts_ * expert_; }
  void pack(int threads, float* to) {
    packed_ = to;
    for_each_unit(threads, 2 * experts_, [&](std::int64_t unit, int) {
      const Weight& weight = weights_[static_cast<std::size_t>(unit % 2)];
      pack_panels(way_, weight.k, weight.w.at(unit / 2 * (weight.w.transposed ? weight.n : weight.k), 0), 0, weight.n,
                  packed_ + unit / 2 * expert_ + (unit % 2) * second_);
    });
  }
  [[nodiscard]] const float* first(std::int64_t expert) const { return packed_ + expert * expert_; }
  [[nodiscard]] const float* second(std::int64_t expert) const { return first(expert) + second_; }

 private:
  Way way_;
  std::int64_t experts_;
  std::array<Weight, 2> weights_;
  std::int64_t second_, expert_;  // floats before the second weight, and before the next expert
  float* packed_ = nullptr;
};

/// Rows of a panel, and floats of a thread's hidden rows and of its products' scratch.
struct SmallPanels {
  SmallPanels(Way way, const Sizes& s, std::int64_t rows_, Dtype dtype)
      : rows(cut_evenly(rows_, std::min(most_rows(way, s.width), most_rows(way, s.hidden)), 16)),
        stride(s.hidden + 32),  // not a multiple of 4096 bytes
        hidden(aligned_floats(rows.length(0) * stride * size_of(dtype) / 4)),
        sums(panel_sums(way, rows.length(0), std::max(s.width, s.hidden))),
        scratch(sums + panel_scratch(way, rows.length(0), std::max(s.width, s.hidden))) {}
  Cut rows;
  std::int64_t stride, hidden, sums, scratch;
};

/// scratch: sums, then that of the product.
void multiply_panel(Way way, std::int64_t rows, std::int64_t k, std::int64_t n, const Matrix& a, const float* packed,
                    const Epilogue& epilogue, float* scratch) {
  multiply(PanelProduct{way, rows, k, a, packed, 0, n, epilogue, scratch, scratch + panel_sums(way, rows, n)});
}

void forward_at_once(const MlpForward& a, const Sizes& s, Way way, int threads, Workspace& workspace) {
  PackedPairs weights(way, s.experts, {matrix(a.w1, s.hidden), s.width, s.hidden},
                      {matrix(a.w2, s.width), s.hidden, s.width});
  const SmallPanels panels(way, s, s.rows, a.u.dtype);
  const std::int64_t per_thread = panels.hidden + panels.scratch;
  float* const scratches = workspace.floats(threads * per_thread + weights.floats());
  weights.pack(threads, scratches + threads * per_thread);
  for_each_unit(threads, s.blocks() * panels.rows.pieces(), [&](std::int64_t unit, int thread) {
    const std::int64_t block = unit / panels.rows.pieces();
    const std::int64_t expert = block % s.experts;
    const std::int64_t row = block * s.rows + panels.rows.begin(unit % panels.rows.pieces());
    const std::int64_t rows = panels.rows.length(unit % panels.rows.pieces());
    float* const h = scratches + thread * per_thread;
    float* const scratch = h + panels.hidden;
    Epilogue hidden = into_hidden(a, s, nullptr, panels.stride).at(row);
    hidden.bias += expert * s.hidden;
    hidden.y = h;
    multiply_panel(way, rows, s.width, s.hidden, matrix(a.x, s.width).at(row, 0), weights.first(expert), hidden,
                   scratch);
    Epilogue output = into_output(a, s).at(row);
    output.bias += expert * s.width;
    multiply_panel(way, rows, s.hidden, s.width, {h, a.u.dtype, panels.stride}, weights.second(expert), output,
                   scratch);
  });
}

/// Where the four parameter gradients stand in a partial sum.
struct Partial {
  explicit Partial(const Sizes& s)
      : dw2(aligned_floats(s.weights())),
        db1(2 * dw2),
        db2(db1 + aligned_floats(s.hidden)),
        end(db2 + aligned_floats(s.width)) {}
  std::int64_t dw1 = 0;
  std::int64_t dw2, db1, db2, end;
};
/// A unit of work is a piece of the rows of one (expert, leaf), so large that its partial sum is small beside it. How a
/// piece is cut in panels depends on the shapes alone, for the parameter gradients are added panel by panel.
void backward_at_once(const MlpBackward& a, const Sizes& s, Way way, int threads, Workspace& workspace) {
  PackedPairs weights(way, s.experts, {transposed(a.w2, s.width), s.width, s.hidden},
                      {transposed(a.w1, s.hidden), s.hidden, s.width});
  const Cut pieces = pieces_of_rows(s.rows);
  const SmallPanels panels(way, s, pieces.length(0), a.u.dtype);
  const std::int64_t of_columns =
      aligned_floats(std::max(column_product_scratch(way, s.width, s.hidden, panels.rows.length(0)),
                              column_product_scratch(way, s.hidden, s.width, panels.rows.length(0))));
  const std::int64_t per_thread = 2 * panels.hidden + std::max(panels.scratch, of_columns);
  const Partial at(s);
  const std::int64_t units = s.blocks() * pieces.pieces();
  float* const scratches = workspace.floats(threads * per_thread + weights.floats() + units * at.end);
  float* const partials = scratches + threads * per_thread + weights.floats();
  weights.pack(threads, scratches + threads * per_thread);
  for_each_unit(threads, units, [&](std::int64_t unit, int thread) {
    const std::int64_t expert = unit / (s.leaves * pieces.pieces());
    const std::int64_t leaf = unit / pieces.pieces() % s.leaves;
    const std::int64_t piece = unit % pieces.pieces();
    const std::int64_t first = (leaf * s.experts + expert) * s.rows + pieces.begin(piece);
    float* const h = scratches + thread * per_thread;
    float* const du = h + panels.hidden;
    float* const scratch = du + panels.hidden;
    float* const partial = partials + unit * at.end;
    const Matrix hidden_rows{h, a.u.dtype, panels.stride};
    const Matrix gradient_rows{du, a.u.dtype, panels.stride};
    for (std::int64_t i = 0; i == 0 || i < pieces.length(piece); i += panels.rows.piece) {
      const std::int64_t rows = std::min(panels.rows.piece, pieces.length(piece) - i);
      const std::int64_t row = first + i;
      const Matrix x = matrix(a.x, s.width).at(row, 0);
      const Matrix dy = matrix(a.dy, s.width).at(row, 0);
      Epilogue hidden = into_hidden_gradient(a, s, nullptr, nullptr, panels.stride).at(row);
      hidden.h = h;
      hidden.y = du;
      multiply_panel(way, rows, s.width, s.hidden, dy, weights.first(expert), hidden, scratch);
      multiply_panel(way, rows, s.hidden, s.width, gradient_rows, weights.second(expert),
                     into_input_gradient(a, s).at(row), scratch);
      multiply(ColumnProduct{way, s.width, s.hidden, rows, x, gradient_rows,
                             into_floats(partial + at.dw1, s.hidden, i > 0), partial + at.db1, scratch});
      multiply(ColumnProduct{way, s.hidden, s.width, rows, hidden_rows, dy,
                             into_floats(partial + at.dw2, s.width, i > 0), partial + at.db2, scratch});
    }
  });
  const std::int64_t longest = std::max({s.weights(), s.hidden, s.width});
  tree_sums(4 * s.experts, longest, s.leaves, pieces.pieces(), threads, [&](std::int64_t i) -> PartialSum {
    const std::int64_t expert = i / 4;
    float* const from = partials + expert * s.leaves * pieces.pieces() * at.end;
    switch (i % 4) {
      case 0:
        return {from + at.dw1, at.end, s.weights(), a.dw1.as<float>() + expert * s.weights()};
      case 1:
        return {from + at.dw2, at.end, s.weights(), a.dw2.as<float>() + expert * s.weights()};
      case 2:
        return {from + at.db1, at.end, s.hidden, a.db1.as<float>() + expert * s.hidden};
      default:
        return {from + at.db2, at.end, s.width, a.db2.as<float>() + expert * s.width};
    }
  });
}

}  // namespace

void CpuOps::run(const MlpForward& a) {
  const Sizes s = sizes_of(a);
  if (!a.y) return hidden_alone(a, s, gemm_.way(), threads_, workspace_);
  (s.is_small() ? forward_at_once : forward_in_turn)(a, s, gemm_.way(), threads_, workspace_);
}

void CpuOps::run(const MlpBackward& a) {
  const Sizes s = sizes_of(a);
  (s.is_small() ? backward_at_once : backward_in_turn)(a, s, gemm_.way(), threads_, workspace_);
}

}  // namespace vitrail::cpu
