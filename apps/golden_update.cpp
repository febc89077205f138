#include "apps/golden_update.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "device/host_values.hpp"

namespace vitrail {

namespace {

double squared_distance(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

}  // namespace

bool has_zero_gradient(const std::string& name) { return name.ends_with("SelfAttention/key/bias"); }

GoldenUpdate::GoldenUpdate(const GoldenBackend& backend, const GoldenOptimizer& golden,
                           const std::vector<ParameterSpec>& table, const FlatParameters& parameters)
    : table_(table), golden_(golden) {
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

  std::vector<std::vector<double>> before;
  for (const Tensor& tensor : parameters.tensors()) before.push_back(to_doubles(parameters.device(), tensor));
  ++updates_;
  dense_->update(ops, gradients.dense(), clip, norms.learning_rate, updates_, parameters.dense());
  if (parameters.expert().elements() > 0) {
    expert_->update(ops, gradients.expert(), clip, norms.learning_rate, updates_, parameters.expert());
  }
  double change = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (has_zero_gradient(table_[i].name)) continue;
    change += squared_distance(to_doubles(parameters.device(), parameters.tensors()[i]), before[i]);
  }
  norms.updates = std::sqrt(change);
  norms.parameters = parameters.norm(ops);
  return norms;
}

void GoldenTrajectory::add(const GoldenUpdateNorms& norms, const FlatParameters& parameters) {
  norms_.push_back(norms);
  for (std::size_t i = 0; i < table_.size(); ++i) {
    const std::vector<double> now = to_doubles(parameters.device(), parameters.tensors()[i]);
    values_[i].insert(values_[i].end(), now.begin(), now.end());
  }
}

void GoldenTrajectory::compare_parameters(double tolerance, bool spare_zero_gradients, GoldenReport& report) const {
  std::set<std::string> known;
  for (std::size_t i = 0; i < table_.size(); ++i) {
    known.insert(table_[i].name);
    const std::string name = "/trajectory/" + table_[i].name;
    // Divided by the scale of their step, so that one line stands for all steps.
    std::vector<double> expected = file_.reals(name);
    std::vector<double> computed = values_[i];
    if (spare_zero_gradients && has_zero_gradient(name)) {
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

GoldenQuantity GoldenTrajectory::update_norms() const {
  GoldenQuantity norms = of(&GoldenUpdateNorms::updates, true);
  for (const ParameterSpec& spec : table_) {
    if (!has_zero_gradient(spec.name)) continue;
    std::vector<double> before = file_.reals("/params/" + spec.name);
    for (std::size_t step = 0; step < norms.values.size(); ++step) {
      std::vector<double> after = file_.reals_at("/trajectory/" + spec.name, static_cast<std::int64_t>(step));
      norms.values[step] = std::hypot(norms.values[step], std::sqrt(squared_distance(after, before)));
      before = std::move(after);
    }
  }
  return norms;
}

GoldenQuantity GoldenTrajectory::parameter_norms() const {
  GoldenQuantity norms = of(&GoldenUpdateNorms::parameters, true);
  const auto squares = [](std::span<const double> x) { return std::inner_product(x.begin(), x.end(), x.begin(), 0.0); };
  for (std::size_t i = 0; i < table_.size(); ++i) {
    if (!has_zero_gradient(table_[i].name)) continue;
    const auto each = static_cast<std::size_t>(table_[i].shape.elements());
    for (std::size_t step = 0; step < norms.values.size(); ++step) {
      const double ours = squares(std::span(values_[i]).subspan(step * each, each));
      const double theirs = squares(file_.reals_at("/trajectory/" + table_[i].name, static_cast<std::int64_t>(step)));
      norms.values[step] = std::sqrt(norms.values[step] * norms.values[step] - ours + theirs);
    }
  }
  return norms;
}

GoldenQuantity GoldenTrajectory::of(double GoldenUpdateNorms::*member, bool norm) const {
  GoldenQuantity quantity;
  for (const GoldenUpdateNorms& norms : norms_) quantity.values.push_back(norms.*member);
  quantity.shape = {static_cast<std::int64_t>(norms_.size())};
  if (norm) quantity.kind = GoldenQuantity::Kind::gradient;
  return quantity;
}

}  // namespace vitrail
