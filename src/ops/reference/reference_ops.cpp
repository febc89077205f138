#include "ops/reference/reference.hpp"

namespace vitrail {
namespace {

template <class T>
class ReferenceOps final : public Ops {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "reference"; }
  [[nodiscard]] Dtype real() const noexcept override { return dtype_of<T>; }
  [[nodiscard]] bool updates_early(std::int64_t, std::int64_t) const noexcept override { return true; }

#define VITRAIL_RUN(verb, Arguments) \
  void run(const Arguments& a) override { reference::verb<T>(a); }
  VITRAIL_VERBS(VITRAIL_RUN)
#undef VITRAIL_RUN
};

}  // namespace

std::unique_ptr<Ops> make_reference_ops(Dtype real) {
  if (real == Dtype::f64) return std::make_unique<ReferenceOps<double>>();
  if (real == Dtype::c128) return std::make_unique<ReferenceOps<std::complex<double>>>();
  fail(ExitCode::usage, {text("the reference back end was asked for ", name_of(real)),
                         "it computes in f64, or in c128 for derivatives", "Use f64, or the cpu back end for f32"});
}

}  // namespace vitrail
