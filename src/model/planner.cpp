#include "model/planner.hpp"

#include <algorithm>
#include <cmath>

#include "model/params.hpp"

namespace vitrail {

namespace {

/// Experts that see a token, on average.
double experts_per_token(const ModelConfig& c) {
  const auto experts = static_cast<double>(c.experts);
  switch (c.router.kind) {
    case RouterKind::top_k:
      return static_cast<double>(c.router.selected);
    case RouterKind::experts_choice:
      return std::min(experts, experts * static_cast<double>(c.slots()) / static_cast<double>(c.group_tokens()));
    case RouterKind::soft:
      break;
  }
  return experts;
}

}  // namespace

ModelPlan plan_model(const ModelConfig& config) {
  config.check();
  ModelPlan plan;
  for (const ParameterSpec& spec : parameter_table(config)) {
    (spec.expert ? plan.expert_parameters : plan.dense_parameters) += spec.shape.elements();
  }
  plan.parameters = plan.dense_parameters + plan.expert_parameters;
  plan.active_parameters = plan.dense_parameters;
  if (plan.expert_parameters > 0) {
    const double share = experts_per_token(config) / static_cast<double>(config.experts);
    plan.active_parameters += std::llround(share * static_cast<double>(plan.expert_parameters));
  }
  plan.forward_flops = forward_flops_per_image(config);
  return plan;
}

double training_flops(const ModelPlan& plan, double images) { return 3 * plan.forward_flops * images; }

}  // namespace vitrail
