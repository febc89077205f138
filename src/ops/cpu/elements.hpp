#pragma once
// Where the elements of a `stored` tensor lie (ops/layers.hpp), which are f32 or bf16: what kernels take in place of a
// pointer. They ask for the type once for a whole run of rows, and then have one code for both.

#include <cstdint>
#include <type_traits>

#include "base/bf16.hpp"
#include "device/tensor.hpp"

namespace vitrail::cpu {

template <class Void>
class BasicElements {
 public:
  template <class T>
  using Like = std::conditional_t<std::is_const_v<Void>, const T, T>;

  // An argument that is left out is nullptr.
  BasicElements(std::nullptr_t) {}                            // NOLINT(google-explicit-constructor)
  BasicElements(Like<float>* p) : data_(p) {}                 // NOLINT(google-explicit-constructor)
  BasicElements(Like<Bf16>* p) : data_(p), is_bf16_(true) {}  // NOLINT(google-explicit-constructor)
  BasicElements(const BasicTensor<Void*>& x) {                // NOLINT(google-explicit-constructor)
    *this = !x ? nullptr : x.dtype == Dtype::bf16 ? BasicElements(x.template as<Bf16>()) : x.template as<float>();
  }
  template <class Other>
  requires(!std::is_same_v<Other, Void> && std::is_convertible_v<Other*, Void*>)
      BasicElements(const BasicElements<Other>& other)  // NOLINT(google-explicit-constructor)
      : data_(other.data()), is_bf16_(other.is_bf16()) {}

  /// From element `i` on.
  [[nodiscard]] BasicElements operator+(std::int64_t i) const {
    if (data_ == nullptr) return nullptr;
    return is_bf16_ ? BasicElements(as<Bf16>() + i) : BasicElements(as<float>() + i);
  }
  [[nodiscard]] Void* data() const { return data_; }
  [[nodiscard]] bool is_bf16() const { return is_bf16_; }
  template <class T>
  [[nodiscard]] Like<T>* as() const {
    return static_cast<Like<T>*>(data_);
  }

 private:
  Void* data_ = nullptr;
  bool is_bf16_ = false;
};
using Elements = BasicElements<void>;
using ConstElements = BasicElements<const void>;

}  // namespace vitrail::cpu
