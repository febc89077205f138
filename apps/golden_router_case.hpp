#pragma once
// What the cases of golden files of kind=router have in common: tensors, and the way of the data through the experts.

#include <functional>
#include <memory>
#include <string>

#include "apps/golden.hpp"
#include "apps/golden_file.hpp"
#include "base/json.hpp"
#include "device/arena.hpp"

namespace vitrail {

/// One routing group after another, in tensors of their own.
struct RouterCase {
  std::int64_t groups, tokens, experts, choices, capacity, width;
  Tensor logits, noise, gates_clean, gates;  // [groups S E]
  Tensor selected, slot, row;                // i32 [groups S K]
  Tensor gate, dgate;                        // [groups S K]
  Tensor source;                             // i32 [1 1 E groups*C]
  Tensor data, combined, upstream, d_data;   // [groups S D]
  Tensor rows, outputs, d_rows;              // [E*groups*C D]
  Tensor importance, load, gshard, z;        // [groups]
  Tensor dlogits;                            // [groups S E]

  void lay_out(Arena& arena, Dtype real);
  /// data -> rows of the experts.
  void dispatch(Ops& ops) const;
  /// outputs = f(expert, x) for every number x of the rows; on the host, in double.
  void apply_experts(Device& device, const std::function<double(std::size_t expert, double x)>& f) const;
  /// Expert e is y = (e+1) x.
  void multiply_by_experts(Device& device) const;
  /// outputs -> combined.
  void combine(Ops& ops) const;
  [[nodiscard]] Tensor by_token(Tensor x) const { return x.view({groups * tokens, x.shape[2]}); }
};

/// Memory for a case, as long as it lives.
class RouterMemory {
 public:
  RouterMemory(const GoldenBackend& backend, RouterCase& router) {
    Arena measured("golden router");
    router.lay_out(measured, backend.ops.real());
    arena_ = std::make_unique<Arena>("golden router", backend.device, measured.bytes());
    router.lay_out(*arena_, backend.ops.real());
  }

 private:
  std::unique_ptr<Arena> arena_;
};

/// The tensors of a case without groups lose that axis.
GoldenQuantity without_groups(Device& device, ConstTensor x);
void compare_capacity(const GoldenFile& file, const std::string& at, const RouterCase& c, GoldenReport& report);

/// Of a file in which experts choose tokens (golden_router_choice.cpp).
void run_experts_choice_case(const GoldenBackend& backend, const GoldenFile& file, const std::string& at,
                             const Json& described, GoldenReport& report);

}  // namespace vitrail
