#pragma once
// Holds the gradient that a backward verb computes in f64 against the derivative of the forward verb by complex step:
// f(x + ih) = f(x) + ih f'(x) in c128 with h = 1e-30 gives f' without subtraction, to about 1e-15.

#include <cmath>
#include <complex>
#include <functional>
#include <map>
#include <string>

#include <gtest/gtest.h>

#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {

/// Tensors by name. tensors["b"] of a name that is not there is a tensor left out.
using Tensors = std::map<std::string, OwnedTensor>;

struct GradientCase {
  Tensors inputs;  ///< f64; the gradient of every one is checked, every entry
  /// Outputs of the verb for inputs of dtype ops.real().
  std::function<Tensors(Ops& ops, Tensors in)> forward;
  /// Gradients by the names of the inputs, of the sum over outputs of <cotangent, output>.
  std::function<Tensors(Ops& ops, Tensors in, Tensors out, Tensors cotangent)> backward;
  /// Cotangents that must not be random, by the names of the outputs.
  Tensors cotangents = {};
};

inline double imaginary_sum(const Tensors& cotangents, const Tensors& outputs) {
  double sum = 0.0;
  for (const auto& [name, output] : outputs) {
    const auto* values = output.as<std::complex<double>>();
    for (std::int64_t i = 0; i < output.elements(); ++i) sum += cotangents.at(name).get(i) * values[i].imag();
  }
  return sum;
}

/// The derivatives by every entry of input `name`.
inline OwnedTensor complex_step(const GradientCase& test, Ops& complex_ops, const Tensors& cotangents,
                                const std::string& name) {
  constexpr double kStep = 1e-30;
  Tensors inputs;
  for (const auto& [other, input] : test.inputs) inputs[other] = input.to(Dtype::c128);
  OwnedTensor derivative(Dtype::f64, test.inputs.at(name).shape());
  for (std::int64_t i = 0; i < derivative.elements(); ++i) {
    auto& entry = inputs[name].as<std::complex<double>>()[i];
    const std::complex<double> before = entry;
    entry = {before.real(), kStep};
    derivative.set(i, imaginary_sum(cotangents, test.forward(complex_ops, inputs)) / kStep);
    entry = before;
  }
  return derivative;
}

/// Agreement to 1e-11 of the scale: the largest entry of the tensor, or 1e-3 of the largest of all gradients.
inline void check_gradients(const GradientCase& test) {
  const auto ops = make_reference_ops(Dtype::f64);
  const auto complex_ops = make_reference_ops(Dtype::c128);
  const Tensors outputs = test.forward(*ops, test.inputs);
  Tensors cotangents = test.cotangents;
  std::uint32_t stream = 900;
  for (const auto& [name, output] : outputs) {
    if (!cotangents[name]) cotangents[name] = random_tensor(Dtype::f64, output.shape(), ++stream);
  }
  const Tensors gradients = test.backward(*ops, test.inputs, outputs, cotangents);
  Tensors expected;
  double largest = 0.0;
  for (const auto& [name, input] : test.inputs) {
    expected[name] = complex_step(test, *complex_ops, cotangents, name);
    largest = std::max(largest, expected[name].largest());
  }
  EXPECT_GT(largest, 0.0) << "nothing was differentiated";
  for (const auto& [name, derivative] : expected) {
    ASSERT_TRUE(gradients.contains(name)) << name;
    const double scale = std::max(derivative.largest(), 1e-3 * largest);
    EXPECT_LE(largest_difference(gradients.at(name), derivative), 1e-11 * scale) << "d" << name << ", scale " << scale;
  }
}

}  // namespace vitrail::testing
