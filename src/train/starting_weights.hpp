#pragma once
// The parameters with which a run would begin, a piece at a time: for programs that write them down instead of
// training, and have less memory than the model needs.

#include <vector>

#include "convert/tensors.hpp"
#include "train/initial_weights.hpp"

namespace vitrail {

class StartingWeights : public TensorSource {
 public:
  /// Those that train/state gives a model of `table` by its seed, with `weights`, which were made for this table, on
  /// top. f32. Table and weights must outlive it.
  StartingWeights(const std::vector<ParameterSpec>& table, const InitialWeights& weights, std::uint64_t seed,
                  bool experts_alike);

  [[nodiscard]] std::span<const TensorInfo> tensors() const override { return tensors_; }
  /// Holds one expert's matrix, or one other tensor, in memory.
  void read(const std::string& name, std::int64_t first, Tensor to) override;

 private:
  /// Makes expert `expert` of an expert tensor, or all of another one.
  void make(std::size_t index, std::int64_t expert);

  const std::vector<ParameterSpec>& table_;
  const InitialWeights& weights_;
  const std::uint64_t seed_;
  const bool experts_alike_;
  std::vector<TensorInfo> tensors_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  std::vector<float> made_;
  std::size_t made_index_ = 0;
  std::int64_t made_expert_ = -1;  ///< none yet
};

}  // namespace vitrail
