#pragma once
// vitrail-checkpoint average. The mean of several checkpoints' parameters, as of one run's last ones.

#include <span>
#include <vector>

#include "device/tensor.hpp"

namespace vitrail {

/// The command, whose words follow argv[0]. Returns the exit code; an Error is the caller's to print.
int checkpoint_average(int argc, char** argv);

/// A weighted mean, element by element: sum of weight * x in f64, in the order of the calls, divided by the sum of the
/// weights, rounded once.
class WeightedMean {
 public:
  explicit WeightedMean(std::size_t elements) : sum_(elements) {}

  /// A tensor of f32, f64 or bf16 in host memory, with as many elements.
  void add(ConstTensor values, double weight);
  /// Into host memory of f32, f64 or bf16.
  void write(Tensor to) const;
  /// Whether every element of the mean is finite.
  [[nodiscard]] bool finite() const;

 private:
  [[nodiscard]] std::vector<double> mean() const;

  std::vector<double> sum_;
  double weights_ = 0;
};

/// The weights of `n` checkpoints: those that are given, or 1 for each. Error (usage) for another number of them, for
/// negative or infinite ones, and when their sum is 0.
std::vector<double> weights_of(std::span<const double> given, std::size_t n);

}  // namespace vitrail
