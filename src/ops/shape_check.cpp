#include "ops/shape_check.hpp"

#include <charconv>

namespace vitrail {

namespace {
std::string_view next_word(std::string_view& rest) {
  const std::size_t begin = rest.find_first_not_of(' ');
  if (begin == std::string_view::npos) return rest = {};
  const std::size_t end = rest.find(' ', begin);
  const std::string_view word = rest.substr(begin, end == std::string_view::npos ? end : end - begin);
  rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end);
  return word;
}
}  // namespace

bool ShapeCheck::bind(std::string_view name, std::int64_t length) {
  if (name[0] >= '0' && name[0] <= '9') {
    std::int64_t fixed = 0;
    std::from_chars(name.data(), name.data() + name.size(), fixed);
    return fixed == length;
  }
  for (std::size_t i = 0; i < used_; ++i) {
    if (letters_[i].name == name) return letters_[i].length == length;
  }
  expect(used_ < letters_.size(), "too many letters");
  letters_[used_++] = {name, length};
  return true;
}

void ShapeCheck::match(std::string_view field, const ConstTensor& tensor, std::string_view shape) {
  std::string_view rest = shape;
  int axis = 0;
  bool fits = tensor.data != nullptr || tensor.elements() == 0;
  for (std::string_view word = next_word(rest); !word.empty(); word = next_word(rest), ++axis) {
    fits = fits && axis < tensor.shape.axes() && bind(word, tensor.shape[axis]);
  }
  if (!fits || axis != tensor.shape.axes()) {
    std::string bound;
    for (std::size_t i = 0; i < used_; ++i)
      bound += text(i == 0 ? "" : ", ", letters_[i].name, " = ", letters_[i].length);
    fail(ExitCode::other,
         {text(verb_, ": ", field, " is ", tensor.data == nullptr ? "missing or " : "", tensor.shape.str()),
          text("it must be [", shape, "] with ", bound), "This is a bug in the calling layer"});
  }
  if (has_device_ && tensor.device != device_) {
    fail(ExitCode::other, {text(verb_, ": ", field, " is on another device"), "all tensors of a call share one", ""});
  }
  device_ = tensor.device;
  has_device_ = true;
}

// bf16 stands for f32 here: the other floating-point tensors of such a call are f32.
void ShapeCheck::expect_real(std::string_view field, Dtype dtype) {
  if (!has_real_) {
    real_ = dtype;
    has_real_ = true;
    expect(real_ == Dtype::f32 || real_ == Dtype::f64 || real_ == Dtype::c128, "floating-point tensors must be");
  }
  if (dtype != real_) {
    fail(ExitCode::other, {text(verb_, ": ", field, " is ", name_of(dtype)),
                           text("the floating-point tensors of this call are ", name_of(real_)), ""});
  }
}

void ShapeCheck::real(std::string_view field, const ConstTensor& tensor, std::string_view shape) {
  match(field, tensor, shape);
  expect_real(field, tensor.dtype);
}

void ShapeCheck::stored(std::string_view field, const ConstTensor& tensor, std::string_view shape) {
  match(field, tensor, shape);
  expect_real(field, tensor.dtype == Dtype::bf16 ? Dtype::f32 : tensor.dtype);
}

void ShapeCheck::optional_stored(std::string_view field, const ConstTensor& tensor, std::string_view shape) {
  if (tensor) stored(field, tensor, shape);
}

void ShapeCheck::optional(std::string_view field, const ConstTensor& tensor, std::string_view shape) {
  if (tensor) real(field, tensor, shape);
}

void ShapeCheck::exactly(Dtype dtype, std::string_view field, const ConstTensor& tensor, std::string_view shape) {
  match(field, tensor, shape);
  if (tensor.dtype != dtype) {
    fail(ExitCode::other,
         {text(verb_, ": ", field, " is ", name_of(tensor.dtype)), text("it must be ", name_of(dtype)), ""});
  }
}

void ShapeCheck::optional_exactly(Dtype dtype, std::string_view field, const ConstTensor& tensor,
                                  std::string_view shape) {
  if (tensor) exactly(dtype, field, tensor, shape);
}

void ShapeCheck::letter(std::string_view name, std::int64_t length) {
  if (!bind(name, length)) {
    fail(ExitCode::other, {text(verb_, ": ", name, " is ", (*this)[name]), text("it must be ", length), ""});
  }
}

std::int64_t ShapeCheck::operator[](std::string_view name) const {
  for (std::size_t i = 0; i < used_; ++i) {
    if (letters_[i].name == name) return letters_[i].length;
  }
  fail(ExitCode::other, {text(verb_, ": unknown letter ", name), "this is a bug", ""});
}

void ShapeCheck::expect(bool condition, std::string_view what) const {
  if (!condition) fail(ExitCode::other, {text(verb_, ": ", what), "this is a bug in the calling layer", ""});
}

}  // namespace vitrail
