#pragma once
// What all formats check: which tensors a file has, which elements are asked of them, and in which order they come.

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/tensors.hpp"

namespace vitrail {

/// shape.elements(), but an Error (checkpoint) if a length is negative or the bytes exceed 2^62. `what` names the
/// tensor in the message.
std::int64_t expect_elements(std::span<const std::int64_t> lengths, Dtype dtype, const std::string& what);

/// The tensors of a file, found by name.
class TensorList {
 public:
  /// `file` as messages name it. Error (checkpoint) if two tensors have one name, or a shape is impossible.
  TensorList(std::string file, std::vector<TensorInfo> tensors);

  [[nodiscard]] std::span<const TensorInfo> tensors() const noexcept { return tensors_; }
  [[nodiscard]] const std::string& file() const noexcept { return file_; }
  /// "tensor 'head/bias' of 'model.npz'".
  [[nodiscard]] std::string what(std::size_t index) const;
  /// The place of a tensor in the list, after a check that TensorSource::read() may be called so.
  [[nodiscard]] std::size_t expect_stretch(const std::string& name, std::int64_t first, const Tensor& to) const;

 private:
  std::string file_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, std::size_t> places_;
};

/// Follows the stretches that a TensorSink is given.
class TensorOrder {
 public:
  explicit TensorOrder(const TensorList& list) : list_(&list) {}

  struct Place {
    std::size_t tensor = 0;
    std::int64_t first = 0;  ///< element
  };
  /// Where the next stretch belongs. Error (checkpoint) if it is of another dtype, reaches into the next tensor, or
  /// comes after the last one. A stretch of no elements stays where it is.
  Place place(const ConstTensor& stretch);
  /// Error (checkpoint) if elements are missing.
  void expect_complete();

 private:
  /// Passes tensors that are complete, and those without elements.
  void pass_complete();

  const TensorList* list_;
  std::size_t tensor_ = 0;
  std::int64_t done_ = 0;  ///< elements of that tensor
};

}  // namespace vitrail
