#include "train/starting_weights.hpp"

#include <algorithm>

namespace vitrail {

namespace {

/// Elements that are made together.
std::int64_t block_of(const ParameterSpec& spec) {
  return spec.expert ? spec.shape.elements() / spec.shape[0] : spec.shape.elements();
}

/// The shape of one expert's part of a tensor, with its leading axis; of another tensor its own.
Shape shape_of_block(const ParameterSpec& spec) {
  std::vector<std::int64_t> lengths(spec.shape.lengths().begin(), spec.shape.lengths().end());
  if (spec.expert) lengths[0] = 1;
  return Shape(std::span<const std::int64_t>(lengths));
}

}  // namespace

StartingWeights::StartingWeights(const std::vector<ParameterSpec>& table, const InitialWeights& weights,
                                 std::uint64_t seed, bool experts_alike)
    : table_(table),
      weights_(weights),
      seed_(seed),
      experts_alike_(experts_alike),
      device_(make_cpu_device()),
      ops_(make_cpu_ops(1)) {
  for (const ParameterSpec& spec : table) tensors_.push_back({spec.name, spec.shape, Dtype::f32});
}

void StartingWeights::make(std::size_t index, std::int64_t expert) {
  if (made_expert_ == expert && made_index_ == index) return;
  const ParameterSpec& spec = table_[index];
  made_expert_ = -1;
  made_.resize(static_cast<std::size_t>(block_of(spec)));
  const Tensor to(made_.data(), shape_of_block(spec), Dtype::f32);
  // Most tensors are about to be replaced: only what keeps initial values needs them.
  if (weights_.keeps_initial_values(index)) {
    initialize(*ops_, spec, seed_, static_cast<std::uint32_t>(index), experts_alike_, expert, to);
  }
  weights_.load_one(index, *device_, expert, to);
  made_index_ = index;
  made_expert_ = expert;
}

void StartingWeights::read(const std::string& name, std::int64_t first, Tensor to) {
  const auto found = std::find_if(table_.begin(), table_.end(), [&](const auto& spec) { return spec.name == name; });
  const std::int64_t end = first + to.elements();
  VITRAIL_EXPECT(found != table_.end() && first >= 0 && end <= found->shape.elements(), ExitCode::checkpoint,
                 text("there are no elements ", first, " to ", end, " of ", name), "the model has no such tensor", "");
  const std::int64_t block = block_of(*found);
  auto* out = to.as<float>();
  for (std::int64_t at = first; at < end;) {
    make(static_cast<std::size_t>(found - table_.begin()), at / block);
    const std::int64_t inside = at % block;
    const std::int64_t count = std::min(block - inside, end - at);
    std::copy_n(made_.begin() + inside, count, out);
    out += count;
    at += count;
  }
}

}  // namespace vitrail
