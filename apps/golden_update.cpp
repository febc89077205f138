#include "apps/golden_update.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "device/host_values.hpp"

namespace vitrail {

GoldenUpdate::GoldenUpdate(const GoldenBackend& backend, const GoldenOptimizer& golden,
                           const std::vector<ParameterSpec>& table, const FlatParameters& parameters)
    : golden_(golden) {
  const auto lay_out = [&](Arena& arena) {
    dense_.emplace(arena, backend.ops.real(), golden.optimizer, table, parameters.dense_layout(), 0);
    expert_.emplace(arena, backend.ops.real(), golden.optimizer, table, parameters.expert_layout(), 0);
  };
  Arena measured("golden optimizer");
  lay_out(measured);
  arena_ = std::make_unique<Arena>("golden optimizer", backend.device, measured.bytes());
  lay_out(*arena_);
}

GoldenUpdateNorms GoldenUpdate::apply(Ops& ops, const FlatParameters& gradients, const FlatParameters& parameters) {
  GoldenUpdateNorms norms;
  norms.learning_rate = learning_rate(golden_.schedule, updates_);
  norms.gradients = gradients.norm(ops);
  double squares = 0;
  for (const double sum : dense_->square_sums(ops, gradients.dense())) squares += sum;
  for (const double sum : expert_->square_sums(ops, gradients.expert())) squares += sum;
  const double clip = clip_factor(golden_.optimizer, std::sqrt(squares));

  double change = 0;
  ++updates_;
  for (const auto& [optimizer, gradient, parameter] :
       {std::tuple{&*dense_, gradients.dense(), parameters.dense()},
        std::tuple{&*expert_, gradients.expert(), parameters.expert()}}) {
    if (parameter.elements() == 0) continue;
    const std::vector<double> before = to_doubles(parameter);
    optimizer->update(ops, gradient, clip, norms.learning_rate, updates_, parameter);
    const std::vector<double> after = to_doubles(parameter);
    for (std::size_t i = 0; i < before.size(); ++i) change += (after[i] - before[i]) * (after[i] - before[i]);
  }
  norms.updates = std::sqrt(change);
  norms.parameters = parameters.norm(ops);
  return norms;
}

void GoldenTrajectory::add(const GoldenUpdateNorms& norms, const FlatParameters& parameters) {
  norms_.push_back(norms);
  for (std::size_t i = 0; i < table_.size(); ++i) {
    const std::vector<double> now = to_doubles(parameters.tensors()[i]);
    values_[i].insert(values_[i].end(), now.begin(), now.end());
  }
}

void GoldenTrajectory::compare_parameters(double tolerance, bool model, GoldenReport& report) const {
  std::set<std::string> known;
  for (std::size_t i = 0; i < table_.size(); ++i) {
    known.insert(table_[i].name);
    const std::string name = "/trajectory/" + table_[i].name;
    // Divided by the scale of their step, so that one line stands for all steps.
    std::vector<double> expected = file_.reals(name);
    std::vector<double> computed = values_[i];
    if (model && name.ends_with("/key/bias")) {
      report.zero_gradient(name, computed, expected);
      continue;
    }
    const auto each = static_cast<std::size_t>(table_[i].shape.elements());
    double rates = 0;
    for (std::size_t step = 0; step < norms_.size() && (step + 1) * each <= expected.size(); ++step) {
      rates += norms_[step].learning_rate;
      const double scale = std::max(rates, largest_magnitude(std::span(expected).subspan(step * each, each)));
      for (std::size_t j = step * each; j < (step + 1) * each && scale > 0; ++j) {
        expected[j] /= scale;
        computed[j] /= scale;
      }
    }
    report.compare(name, computed, expected, 1.0, tolerance);
  }
  for (const std::string& name : file_.h5().datasets_below("/trajectory")) {
    if (!known.contains(name)) report.unsupported("/trajectory/" + name);
  }
}

GoldenQuantity GoldenTrajectory::of(double GoldenUpdateNorms::*member, bool norm) const {
  GoldenQuantity quantity;
  for (const GoldenUpdateNorms& norms : norms_) quantity.values.push_back(norms.*member);
  quantity.shape = {static_cast<std::int64_t>(norms_.size())};
  if (norm) quantity.kind = GoldenQuantity::Kind::gradient;
  return quantity;
}

}  // namespace vitrail
