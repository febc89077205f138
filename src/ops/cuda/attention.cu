// The verbs of attention. The kernels take tensors of one element type: bf16 in Precision::bf16, else f32 (and for
// heads so wide that the bf16 kernels end before). A tensor of the other type is converted in scratch: what a caller
// that stores f32 gets in bf16 is rounded inputs, and outputs that were rounded once. The model stores what the kernels
// take.

#include <algorithm>
#include <type_traits>

#include "device/cuda/launch.hpp"
#include "ops/cuda/attention.hpp"
#include "ops/cuda/cuda_ops.hpp"

namespace vitrail::cuda {
namespace {

template <class To, class From>
__global__ void convert_elements(To* to, const From* from, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) to[i] = from_float<To>(to_float(from[i]));
}
template <class To, class From>
void convert(To* to, const From* from, std::int64_t count, cudaStream_t stream) {
  constexpr int kThreads = 256;
  launch(convert_elements<To, From>,
         {.grid = static_cast<unsigned int>((count + kThreads - 1) / kThreads), .block = kThreads, .stream = stream},
         to, from, count);
}

template <class T>
constexpr Dtype kDtype = std::is_same_v<T, Bfloat16> ? Dtype::bf16 : Dtype::f32;

/// The tensors of a call as tensors of T.
template <class T>
class Converted {
 public:
  using Other = std::conditional_t<std::is_same_v<T, Bfloat16>, float, Bfloat16>;

  /// Elements of scratch that these tensors need.
  template <class... Tensors>
  static std::int64_t elements(const Tensors&... tensors) {
    return (std::int64_t{0} + ... + (tensors.dtype == kDtype<T> ? 0 : whole(tensors.elements())));
  }
  Converted(T* scratch, cudaStream_t stream) : next_(scratch), stream_(stream) {}

  const T* input(const ConstTensor& tensor) {
    if (tensor.dtype == kDtype<T>) return data_of<T>(tensor);
    T* const copy = take(tensor);
    convert(copy, data_of<Other>(tensor), tensor.elements(), stream_);
    return copy;
  }
  T* output(const Tensor& tensor) { return tensor.dtype == kDtype<T> ? data_of<T>(tensor) : take(tensor); }
  /// Once the kernels have run: what output() gave for `tensor`.
  void deliver(const Tensor& tensor, const T* from) const {
    if (tensor.dtype != kDtype<T>) convert(data_of<Other>(tensor), from, tensor.elements(), stream_);
  }

 private:
  static std::int64_t whole(std::int64_t count) { return (count + 127) / 128 * 128; }
  T* take(const ConstTensor& tensor) {
    T* const here = next_;
    next_ += whole(tensor.elements());
    return here;
  }

  T* next_;
  cudaStream_t stream_;
};

AttentionShape shape_of(const ConstTensor& q, const ConstTensor& k) {
  const std::int64_t largest = std::max(q.shape[2], k.shape[2]) * q.shape[3] * q.shape[4];
  VITRAIL_EXPECT(largest < std::int64_t{1} << 31 && q.shape[4] <= kWidestFloatHead, ExitCode::usage,
                 text("attention over tensors ", q.shape.str(), " and ", k.shape.str()),
                 text("the cuda back end has kernels for heads up to ", kWidestFloatHead, " wide"), "Use more heads");
  return {q.shape[0] * q.shape[1], static_cast<int>(q.shape[3]), static_cast<int>(q.shape[2]),
          static_cast<int>(k.shape[2]), static_cast<int>(q.shape[4])};
}

DropoutBits bits_of(const DropoutDraw& draw) {
  const DropoutMask mask(draw);
  return {mask.random(), draw.first, mask.least(), static_cast<float>(mask.scale()), !mask.keeps_all()};
}

/// Calls work.operator()<T>() with the element type of the kernels.
template <class Work>
void dispatch_kernels(Precision precision, int width, Work&& work) {
  if (precision == Precision::bf16 && width <= kWidestBf16Head) return work.template operator()<Bfloat16>();
  work.template operator()<float>();
}

}  // namespace

void CudaOps::run(const AttentionForward& a) {
  const AttentionShape shape = shape_of(a.q, a.k);
  dispatch_kernels(precision_, shape.width, [&]<class T>() {
    Converted<T> tensors(workspace<T>(Scratch::a, Converted<T>::elements(a.q, a.k, a.v, a.out)), stream());
    const AttentionForwardCall<T> call{.shape = shape,
                                       .q = tensors.input(a.q),
                                       .k = tensors.input(a.k),
                                       .v = tensors.input(a.v),
                                       .out = tensors.output(a.out),
                                       .log_sum_exp = data_of<float>(a.log_sum_exp),
                                       .dropout = bits_of(a.dropout),
                                       .stream = stream()};
    run_attention_forward(call);
    tensors.deliver(a.out, call.out);
  });
}

void CudaOps::run(const AttentionBackward& a) {
  const AttentionShape shape = shape_of(a.q, a.k);
  dispatch_kernels(precision_, shape.width, [&]<class T>() {
    const std::int64_t elements = Converted<T>::elements(a.dout, a.q, a.k, a.v, a.out, a.dq, a.dk, a.dv);
    Converted<T> tensors(workspace<T>(Scratch::a, elements), stream());
    const AttentionBackwardCall<T> call{.shape = shape,
                                        .dout = tensors.input(a.dout),
                                        .q = tensors.input(a.q),
                                        .k = tensors.input(a.k),
                                        .v = tensors.input(a.v),
                                        .out = tensors.input(a.out),
                                        .log_sum_exp = data_of<float>(a.log_sum_exp),
                                        .dq = tensors.output(a.dq),
                                        .dk = tensors.output(a.dk),
                                        .dv = tensors.output(a.dv),
                                        .row_sums = workspace<float2>(Scratch::b, a.log_sum_exp.elements()),
                                        .dropout = bits_of(a.dropout),
                                        .stream = stream()};
    run_attention_backward_queries(call);
    run_attention_backward_keys(call);
    tensors.deliver(a.dq, call.dq);
    tensors.deliver(a.dk, call.dk);
    tensors.deliver(a.dv, call.dv);
  });
}

}  // namespace vitrail::cuda
