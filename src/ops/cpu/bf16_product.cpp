#include "ops/cpu/bf16_product.hpp"

#include <array>

#include <oneapi/dnnl/dnnl.hpp>
#include <oneapi/dnnl/dnnl_version.h>

#include "base/error.hpp"
#include "ops/cpu/parallel.hpp"

namespace vitrail::cpu {

namespace {

using Memory = dnnl::memory;

Memory::desc matrix(std::int64_t rows, std::int64_t columns, Memory::data_type type, bool transposed) {
  return {{rows, columns}, type, transposed ? Memory::format_tag::ba : Memory::format_tag::ab};
}

/// What oneDNN throws, as an Error.
template <class Call>
void checked(const Bf16Shape& s, const Call& call) {
  try {
    call();
  } catch (const dnnl::error& error) {
    const bool memory = error.status == dnnl_out_of_memory;
    fail(memory ? ExitCode::usage : ExitCode::other,
         {text("oneDNN failed on a bf16 product ", s.m, " x ", s.n, " x ", s.k, ": ", error.what()),
          memory ? "not enough memory" : "the arguments are wrong, or the library is",
          memory ? "Try fewer leaves per pass" : "This is a bug"});
  }
}

}  // namespace

struct Bf16Product::Primitive {
  Bf16Shape shape;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  Memory::desc a, b, c, scratch;
  dnnl::matmul matmul;
};

Bf16Product::Bf16Product(const Bf16Shape& shape, int threads) : primitive_(std::make_unique<Primitive>()) {
  const OmpThreads team(threads);  // a primitive is made for as many threads as there are
  checked(shape, [&] {
    Primitive& p = *primitive_;
    p.shape = shape;
    p.a = matrix(shape.m, shape.k, Memory::data_type::bf16, shape.a_transposed);
    p.b = matrix(shape.k, shape.n, Memory::data_type::bf16, shape.b_transposed);
    p.c = matrix(shape.m, shape.n, Memory::data_type::f32, false);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (shape.add) {
      dnnl::post_ops add;
      add.append_sum(1.0F);
      attributes.set_post_ops(add);
    }
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc chosen(p.engine, p.a, p.b, p.c, attributes);
#else
    const dnnl::matmul::primitive_desc chosen(dnnl::matmul::desc(p.a, p.b, p.c), attributes, p.engine);
#endif
    p.scratch = chosen.scratchpad_desc();
    p.matmul = dnnl::matmul(chosen);
  });
}

Bf16Product::Bf16Product(Bf16Product&&) noexcept = default;
Bf16Product& Bf16Product::operator=(Bf16Product&&) noexcept = default;
Bf16Product::~Bf16Product() = default;

std::int64_t Bf16Product::scratch() const noexcept {
  return (static_cast<std::int64_t>(primitive_->scratch.get_size()) + 3) / 4;
}

void Bf16Product::operator()(const Bf16* a, const Bf16* b, float* c, float* scratch) const {
  const Primitive& p = *primitive_;
  checked(p.shape, [&] {
    // Handles, made anew because a call belongs to its thread; the library only reads what the descriptions name.
    const dnnl::stream stream(p.engine);
    const Memory from_a(p.a, p.engine, const_cast<Bf16*>(a));
    const Memory from_b(p.b, p.engine, const_cast<Bf16*>(b));
    const Memory to(p.c, p.engine, c);
    const Memory scratchpad(p.scratch, p.engine, scratch);
    const std::array<dnnl_exec_arg_t, 4> arguments{{{DNNL_ARG_SRC, from_a.get()},
                                                    {DNNL_ARG_WEIGHTS, from_b.get()},
                                                    {DNNL_ARG_DST, to.get()},
                                                    {DNNL_ARG_SCRATCHPAD, scratchpad.get()}}};
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(p.matmul.get(), stream.get(), static_cast<int>(arguments.size()), arguments.data()),
        "the product itself");
  });
}

bool multiplies_bf16() {
  const auto has = static_cast<unsigned>(dnnl_get_effective_cpu_isa());
  constexpr auto needs = static_cast<unsigned>(dnnl_cpu_isa_avx512_core_bf16);
  return (has & needs) == needs;
}

}  // namespace vitrail::cpu
