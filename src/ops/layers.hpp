#pragma once
// Verbs of the dense layers. Conventions of all verb headers:
//
// * The first axis of an activation is `leaves`: runs of images that are computed apart (ops.hpp). Every GEMM,
//   reduction and attention is called with one leaf's shapes, so a leaf's bits do not depend on its neighbours.
// * Parameter gradients have no leaf axis: they are the sum of the leaf gradients over the binary tree of the leaves
//   ((l0 + l1) + (l2 + l3)) ... `leaves` is a power of two wherever one is written. Everything is overwritten.
// * `real` tensors of a call share one dtype, that of the back end. Optional tensors are marked [optional]: leave them
//   out by not setting them. Tensors may not overlap unless it says so.

#include <cstdint>

#include "device/tensor.hpp"

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
  Tensor patches;  // real [images Tp patch], Tp = floor(h/patch_rows) * floor(w/patch_columns)
  void check() const;
};

/// x[b,t] = (class token if there is one and t = 0, else the embedded patch) + position[t]. [V-MoE]
struct EmbedTokensForward {
  ConstTensor patches;      // real [leaves B Tp D]
  ConstTensor class_token;  // real [D] [optional]: then T = Tp + 1, else T = Tp
  ConstTensor positions;    // real [T D] [optional]
  Tensor x;                 // real [leaves B T D]
  void check() const;
};
struct EmbedTokensBackward {
  ConstTensor dx;       // real [leaves B T D]
  Tensor dpatches;      // real [leaves B Tp D]
  Tensor dclass_token;  // real [D] [optional]
  Tensor dpositions;    // real [T D] [optional]
  void check() const;
};

/// y = (x - mean) * rstd * scale + bias over the last axis; biased variance, rstd = 1/sqrt(var + 1e-6). [V-MoE]
struct LayernormForward {
  ConstTensor x;      // real [leaves rows D]
  ConstTensor scale;  // real [D]
  ConstTensor bias;   // real [D]
  Tensor y;           // real [leaves rows D]
  Tensor mean;        // real [leaves rows]
  Tensor rstd;        // real [leaves rows]
  void check() const;
};
/// dx = dresidual + J^T dy. [derived]
struct LayernormBackward {
  ConstTensor dy;         // real [leaves rows D]
  ConstTensor x;          // real [leaves rows D]
  ConstTensor scale;      // real [D]
  ConstTensor mean;       // real [leaves rows]
  ConstTensor rstd;       // real [leaves rows]
  ConstTensor dresidual;  // real [leaves rows D] [optional]; may be dx itself
  Tensor dx;              // real [leaves rows D]; may be dy itself
  Tensor dscale;          // real [D]
  Tensor dbias;           // real [D]
  void check() const;
};

/// y = x w + b + residual, for each of E blocks of rows with weights of its own (dense layers have E = 1).
struct LinearForward {
  ConstTensor x;         // real [leaves E rows in]
  ConstTensor w;         // real [E in out]
  ConstTensor b;         // real [E out] [optional]
  ConstTensor residual;  // real [leaves E rows out] [optional]; may be y itself
  Tensor y;              // real [leaves E rows out]
  void check() const;
};
/// dx = dresidual + dy w^T, dw = x^T dy, db = column sums of dy.
struct LinearBackward {
  ConstTensor dy;         // real [leaves E rows out]
  ConstTensor x;          // real [leaves E rows in]
  ConstTensor w;          // real [E in out]
  ConstTensor dresidual;  // real [leaves E rows in] [optional]; may be dx itself
  Tensor dx;              // real [leaves E rows in] [optional]: not computed when left out
  Tensor dw;              // real [E in out]
  Tensor db;              // real [E out] [optional]
  void check() const;
};

/// u = x w1 + b1; h = gelu(u); y = h w2 + b2 + residual. GELU in its tanh form. E as in LinearForward. [V-MoE]
struct MlpForward {
  ConstTensor x;         // real [leaves E rows D]
  ConstTensor w1;        // real [E D F]
  ConstTensor b1;        // real [E F]
  ConstTensor w2;        // real [E F D]
  ConstTensor b2;        // real [E D]
  ConstTensor residual;  // real [leaves E rows D] [optional]; may be y itself
  Tensor u;              // real [leaves E rows F]; kept for the backward pass
  Tensor h;              // real [leaves E rows F]; scratch
  Tensor y;              // real [leaves E rows D]
  void check() const;
};
/// [derived]; h is computed again from u.
struct MlpBackward {
  ConstTensor dy;  // real [leaves E rows D]
  ConstTensor x;   // real [leaves E rows D]
  ConstTensor u;   // real [leaves E rows F]
  ConstTensor w1;  // real [E D F]
  ConstTensor w2;  // real [E F D]
  Tensor h;        // real [leaves E rows F]; scratch
  Tensor du;       // real [leaves E rows F]; scratch
  Tensor dx;       // real [leaves E rows D]
  Tensor dw1;      // real [E D F]
  Tensor db1;      // real [E F]
  Tensor dw2;      // real [E F D]
  Tensor db2;      // real [E D]
  void check() const;
};

/// q = x wq + bq, and likewise k and v. A = H * Dh.
struct QkvForward {
  ConstTensor x;           // real [leaves rows D]
  ConstTensor wq, wk, wv;  // real [D A]
  ConstTensor bq, bk, bv;  // real [A]
  Tensor q, k, v;          // real [leaves rows A]
  void check() const;
};
/// dx = dq wq^T + dk wk^T + dv wv^T.
struct QkvBackward {
  ConstTensor dq, dk, dv;  // real [leaves rows A]
  ConstTensor x;           // real [leaves rows D]
  ConstTensor wq, wk, wv;  // real [D A]
  Tensor dx;               // real [leaves rows D]
  Tensor dwq, dwk, dwv;    // real [D A]
  Tensor dbq, dbk, dbv;    // real [A]
  void check() const;
};

/// out = softmax(q k^T / sqrt(Dh)) v for every image and head, no mask. [V-MoE]
struct AttentionForward {
  ConstTensor q, k, v;  // real [leaves B T H Dh]
  Tensor out;           // real [leaves B T H Dh]
  Tensor log_sum_exp;   // real [leaves B H T]: of the scaled scores, kept for the backward pass
  void check() const;
};
/// [derived]; the probabilities are computed again from q, k and log_sum_exp.
struct AttentionBackward {
  ConstTensor dout;         // real [leaves B T H Dh]
  ConstTensor q, k, v;      // real [leaves B T H Dh]
  ConstTensor out;          // real [leaves B T H Dh]
  ConstTensor log_sum_exp;  // real [leaves B H T]
  Tensor dq, dk, dv;        // real [leaves B T H Dh]
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

}  // namespace vitrail
