#include "train/product_weights.hpp"

namespace vitrail {

ProductWeights::ProductWeights(Arena& arena, const Ops& ops, const std::vector<ParameterSpec>& table,
                               const std::vector<Share>& shares) {
  std::vector<Tensor> copied;
  for (const Share& share : shares) {
    share.layout.cut(table, share.values, tensors_);
    if (ops.stored_weights() == ops.real()) continue;
    copies_.push_back({share.values, arena.allocate(ops.stored_weights(), share.values.shape)});
    share.layout.cut(table, copies_.back().to, copied);
  }
  for (std::size_t i = 0; i < copied.size(); ++i) {
    if (table[i].product) tensors_[i] = copied[i];
  }
}

void ProductWeights::refresh(Ops& ops) const {
  for (const Copy& copy : copies_) ops.to_bf16({.x = copy.from, .y = copy.to});
}

}  // namespace vitrail
