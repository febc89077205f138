#pragma once
// Verbs of the dense layers. Conventions of all verb headers:
//
// * The first axis of an activation is `leaves`: runs of images that are computed apart (ops.hpp). Every GEMM,
//   reduction and attention is called with one leaf's shapes, so a leaf's bits do not depend on its neighbours.
// * Parameter gradients have no leaf axis: they are the sum of the leaf gradients over the binary tree of the leaves
//   ((l0 + l1) + (l2 + l3)) ... `leaves` is a power of two wherever one is written. Everything is overwritten.
// * `real` tensors of a call share one dtype, that of the back end. Optional tensors are marked [optional]: leave them
//   out by not setting them. Tensors may not overlap unless it says so.
// * `stored` tensors enter products, or come out of them: each is either `real` or, where the back end keeps them in
//   half the memory (Ops::stored, for weights Ops::stored_weights), bf16. What is written to a bf16 tensor is computed
//   in f32 and rounded once.

#include <cstdint>

#include "device/tensor.hpp"
#include "ops/early_update.hpp"

namespace vitrail {

/// images in 0..255 to (x/255)*2 - 1, computed in f32 as the original does, then converted. [V-MoE]
struct NormalizeImages {
  ConstTensor images;  // u8 [images h w c]
  Tensor y;            // real [images h w c]
  void check() const;
};

/// Cuts images into patches, the input of the patch embedding's GEMM; borders that fill no patch are left out.
/// Patch index = row * grid_w + column; inside a patch (row, column, channel). [V-MoE]
struct PatchesForward {
  ConstTensor images;         // real [images h w c]
  std::int64_t patch_rows{};  // pixels
  std::int64_t patch_columns{};
  Tensor patches;  // stored [images Tp patch], Tp = floor(h/patch_rows) * floor(w/patch_columns)
  void check() const;
};

/// x[b,t] = (class token if there is one and t = 0, else the embedded patch) + position[t]. [V-MoE]
struct EmbedTokensForward {
  ConstTensor patches;      // stored [leaves B Tp D]
  ConstTensor class_token;  // real [D] [optional]: then T = Tp + 1, else T = Tp
  ConstTensor positions;    // real [T D] [optional]
  Tensor x;                 // real [leaves B T D]
  void check() const;
};
struct EmbedTokensBackward {
  ConstTensor dx;       // real [leaves B T D]
  Tensor dpatches;      // stored [leaves B Tp D]
  Tensor dclass_token;  // real [D] [optional]
  Tensor dpositions;    // real [T D] [optional]
  void check() const;
};

/// y = (x - mean) * rstd * scale + bias over the last axis; biased variance, rstd = 1/sqrt(var + 1e-6). [V-MoE]
struct LayernormForward {
  ConstTensor x;      // stored [leaves rows D]
  ConstTensor scale;  // real [D]
  ConstTensor bias;   // real [D] [optional]
  Tensor y;           // stored [leaves rows D]
  Tensor mean;        // real [leaves rows]
  Tensor rstd;        // real [leaves rows]
  void check() const;
};
/// dx = dresidual + J^T dy. [derived]
struct LayernormBackward {
  ConstTensor dy;         // stored [leaves rows D]
  ConstTensor x;          // stored [leaves rows D]
  ConstTensor scale;      // real [D]
  ConstTensor mean;       // real [leaves rows]
  ConstTensor rstd;       // real [leaves rows]
  ConstTensor dresidual;  // real [leaves rows D] [optional]; may be dx itself
  Tensor dx;              // stored [leaves rows D]; may be dy itself
  Tensor dscale;          // real [D]
  Tensor dbias;           // real [D] [optional]
  void check() const;
};

/// y = x w + b + residual, for each of E blocks of rows with weights of its own (dense layers have E = 1).
/// `exact`: the product's inputs are not rounded, whatever the precision (ops.hpp): a router's are not.
struct LinearForward {
  ConstTensor x;         // stored [leaves E rows in]
  ConstTensor w;         // stored [E in out]
  ConstTensor b;         // real [E out] [optional]
  ConstTensor residual;  // real [leaves E rows out] [optional]; may be y itself
  Tensor y;              // stored [leaves E rows out]
  bool exact = false;    // the product's inputs are not rounded
  void check() const;
};
/// dx = dresidual + dy w^T, dw = x^T dy, db = column sums of dy.
struct LinearBackward {
  ConstTensor dy;         // stored [leaves E rows out]
  ConstTensor x;          // stored [leaves E rows in]
  ConstTensor w;          // stored [E in out]
  ConstTensor dresidual;  // real [leaves E rows in] [optional]; may be dx itself
  Tensor dx;              // stored [leaves E rows in] [optional]: not computed when left out
  Tensor dw;              // real [E in out]
  Tensor db;              // real [E out] [optional]
  bool exact = false;     // the products' inputs are not rounded
  void check() const;
};

/// u = x w1 + b1; h = gelu(u) * hidden_mask; y = h w2 + b2 + residual. GELU in its tanh form. E as in LinearForward. In
/// which order the elements of u stand is the back end's matter. Without y, u alone is made, the same bits (but by cuda
/// in bf16), and w2, b2 and h may be left out. [V-MoE]
struct MlpForward {
  ConstTensor x;                 // stored [leaves E rows D]
  ConstTensor w1;                // stored [E D F]
  ConstTensor b1;                // real [E F]
  ConstTensor w2 = {};           // stored [E F D]
  ConstTensor b2 = {};           // real [E D]
  ConstTensor hidden_mask = {};  // real [leaves E rows F] [optional]: of a dropout; left out it counts as 1
  ConstTensor residual = {};     // real [leaves E rows D] [optional]; may be y itself
  Tensor u;                      // stored [leaves E rows F]; kept for the backward pass
  Tensor h = {};                 // stored [leaves E rows F]; scratch
  Tensor y = {};                 // stored [leaves E rows D] [optional]
  void check() const;
};
/// [derived]; h is computed again from u.
struct MlpBackward {
  ConstTensor dy;                // stored [leaves E rows D]
  ConstTensor x;                 // stored [leaves E rows D]
  ConstTensor u;                 // stored [leaves E rows F]
  ConstTensor w1;                // stored [E D F]
  ConstTensor w2;                // stored [E F D]
  ConstTensor hidden_mask = {};  // real [leaves E rows F] [optional]: that of the forward pass
  Tensor h;                      // stored [leaves E rows F]; scratch
  Tensor du;                     // stored [leaves E rows F]; scratch
  Tensor dx;                     // stored [leaves E rows D]
  Tensor dw1;                    // real [E D F]; left out with update1
  Tensor db1;                    // real [E F]
  Tensor dw2;                    // real [E F D]; left out with update2
  Tensor db2;                    // real [E D]
  // In place of a gradient, where Ops::updates_early says so.
  const EarlyUpdate* update1 = nullptr;  // [optional] of w1
  const EarlyUpdate* update2 = nullptr;  // [optional] of w2
  void check() const;
};

/// q = x wq + bq, and likewise k and v. A = H * Dh.
struct QkvForward {
  ConstTensor x;           // stored [leaves rows D]
  ConstTensor wq, wk, wv;  // stored [D A]
  ConstTensor bq, bk, bv;  // real [A]
  Tensor q, k, v;          // stored [leaves rows A]
  void check() const;
};
/// dx = dq wq^T + dk wk^T + dv wv^T.
struct QkvBackward {
  ConstTensor dq, dk, dv;  // stored [leaves rows A]
  ConstTensor x;           // stored [leaves rows D]
  ConstTensor wq, wk, wv;  // stored [D A]
  Tensor dx;               // stored [leaves rows D]
  Tensor dwq, dwk, dwv;    // real [D A]
  Tensor dbq, dbk, dbv;    // real [A]
  void check() const;
};

/// Which elements of a tensor a dropout keeps. Element i has the index first + (j / run) * stride + j % run with
/// j = i / share, and is kept, times 1 / (1 - rate), when the uniform number of that index (base/philox.hpp) of
/// (seed, Purpose::dropout, step, layer) is not below rate; else it is 0. So the bits depend on what an element is, not
/// on where it lies. [V-MoE]; `share` makes it the stochastic depth of Huang et al. 2016.
struct DropoutDraw {
  double rate = 0;  ///< in [0, 1); 0 keeps everything and draws nothing
  std::uint64_t seed{};
  std::uint64_t step{};
  std::uint32_t layer{};    ///< block and place in it (model/dropout.hpp)
  std::uint64_t first{};    ///< index of element 0
  std::int64_t run = 1;     ///< indices follow each other in runs of so many ...
  std::int64_t stride = 1;  ///< ... that begin this far apart. run == stride: all follow each other
  std::int64_t share = 1;   ///< consecutive elements that live or die together
};

/// y = residual + mask * x. The backward pass is the same verb on gradients: dx = mask * dy.
struct Dropout {
  ConstTensor x;         // stored [n] [optional]: left out, every element is 1; may be y itself
  ConstTensor residual;  // real [n] [optional]; may be y itself
  DropoutDraw draw;
  Tensor y;  // stored [n]
  void check() const;
};

/// out = dropout(softmax(q k^T / sqrt(Dh))) v for every image and head, no mask. Tq queries, T keys. [V-MoE]
/// The dropout's element (image, head, query, key) has the index first + ((image * H + head) * Tq + query) * T + key,
/// images counted over the call; run, stride and share are not used. The `stored` tensors share one dtype.
struct AttentionForward {
  ConstTensor q;     // stored [leaves B Tq H Dh]
  ConstTensor k, v;  // stored [leaves B T H Dh]
  DropoutDraw dropout = {};
  Tensor out;          // stored [leaves B Tq H Dh]
  Tensor log_sum_exp;  // real [leaves B H Tq]: of the scaled scores, kept for the backward pass
  void check() const;
};
/// [derived]; the probabilities come again from q, k and log_sum_exp, the dropout from its draw. One `stored` dtype.
struct AttentionBackward {
  ConstTensor dout;  // stored [leaves B Tq H Dh]
  ConstTensor q;     // stored [leaves B Tq H Dh]
  ConstTensor k, v;  // stored [leaves B T H Dh]
  DropoutDraw dropout = {};
  ConstTensor out;          // stored [leaves B Tq H Dh]
  ConstTensor log_sum_exp;  // real [leaves B H Tq]
  Tensor dq;                // stored [leaves B Tq H Dh]
  Tensor dk, dv;            // stored [leaves B T H Dh]
  void check() const;
};

/// y = x[:, 0]: the class token of every image.
struct TakeTokenForward {
  ConstTensor x;  // real [images T D]
  Tensor y;       // real [images D]
  void check() const;
};
/// dx = dy at token 0, 0 elsewhere.
struct TakeTokenBackward {
  ConstTensor dy;  // real [images D]
  Tensor dx;       // real [images T D]
  void check() const;
};

/// y = mean over the tokens of every image (global average pooling). [V-MoE]
struct MeanTokensForward {
  ConstTensor x;  // real [images T D]
  Tensor y;       // real [images D]
  void check() const;
};
/// dx = dy / T at every token.
struct MeanTokensBackward {
  ConstTensor dy;  // real [images D]
  Tensor dx;       // real [images T D]
  void check() const;
};

/// y = tanh(x), elementwise.
struct TanhForward {
  ConstTensor x;  // real [n]
  Tensor y;       // real [n]; may be x itself
  void check() const;
};
/// dx = dy (1 - y^2).
struct TanhBackward {
  ConstTensor dy;  // real [n]
  ConstTensor y;   // real [n]
  Tensor dx;       // real [n]; may be dy itself
  void check() const;
};

/// y = the nearest bfloat16, ties to even. Rows travel in it when the exchange is in bfloat16. [V-MoE]
struct ToBf16 {
  ConstTensor x;  // real [n]
  Tensor y;       // bf16 [n]
  void check() const;
};
/// y = residual + x.
struct FromBf16 {
  ConstTensor x;         // bf16 [n]
  ConstTensor residual;  // real [n] [optional]; may be y itself
  Tensor y;              // real [n]
  void check() const;
};

}  // namespace vitrail
