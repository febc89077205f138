#pragma once
// The weights of matrix products in the dtype in which the back end wants them (Ops::stored_weights). Where that is
// bf16, a copy of the parameters is rounded once for a whole step, instead of in every product.

#include <optional>
#include <vector>

#include "device/arena.hpp"
#include "ops/ops.hpp"
#include "train/flat_layout.hpp"

namespace vitrail {

class ProductWeights {
 public:
  /// `values`: the flat parameters of a layout. Allocates nothing where the back end takes f32.
  struct Share {
    const FlatLayout& layout;
    Tensor values;
  };
  ProductWeights(Arena& arena, const Ops& ops, const std::vector<ParameterSpec>& table,
                 const std::vector<Share>& shares);

  /// The tensors of the table as the layers take them: the copies of those that are marked `product`, else the
  /// parameters themselves.
  [[nodiscard]] const std::vector<Tensor>& tensors() const noexcept { return tensors_; }
  /// After the parameters have changed: copies them again.
  void refresh(Ops& ops) const;

 private:
  struct Copy {
    Tensor from, to;
  };
  std::vector<Copy> copies_;
  std::vector<Tensor> tensors_;
};

}  // namespace vitrail
