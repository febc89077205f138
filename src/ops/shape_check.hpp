#pragma once
// Executes the shapes that stand beside the fields of a verb's arguments.
//   ShapeCheck check("layernorm_forward");
//   check("x", x, "leaves rows D", real);
// A word is a letter whose length the first use fixes and every later use must repeat; a number is a fixed length.

#include <array>
#include <cstdint>
#include <string_view>

#include "device/tensor.hpp"

namespace vitrail {

class ShapeCheck {
 public:
  /// `real` is the dtype of every floating-point tensor of the call: that of the first one checked.
  explicit ShapeCheck(std::string_view verb) : verb_(verb) {}

  /// A floating-point tensor: all of a call have one dtype (f32, f64 or c128).
  void real(std::string_view field, const ConstTensor& tensor, std::string_view shape);
  /// The same, or left out.
  void optional(std::string_view field, const ConstTensor& tensor, std::string_view shape);
  /// A tensor that enters or leaves products: of the call's floating-point dtype, or bf16 beside f32.
  void stored(std::string_view field, const ConstTensor& tensor, std::string_view shape);
  /// The same, or left out.
  void optional_stored(std::string_view field, const ConstTensor& tensor, std::string_view shape);
  /// A tensor of a fixed dtype.
  void exactly(Dtype dtype, std::string_view field, const ConstTensor& tensor, std::string_view shape);
  /// The same, or left out.
  void optional_exactly(Dtype dtype, std::string_view field, const ConstTensor& tensor, std::string_view shape);
  /// Fixes a letter, or demands that it has this length.
  void letter(std::string_view name, std::int64_t length);
  /// The length of a letter that was used before.
  [[nodiscard]] std::int64_t operator[](std::string_view name) const;
  /// Error unless the condition holds.
  void expect(bool condition, std::string_view what) const;

 private:
  struct Letter {
    std::string_view name;
    std::int64_t length;
  };
  void expect_real(std::string_view field, Dtype dtype);
  void match(std::string_view field, const ConstTensor& tensor, std::string_view shape);
  bool bind(std::string_view name, std::int64_t length);

  std::string_view verb_;
  std::array<Letter, 16> letters_{};
  std::size_t used_ = 0;
  bool has_real_ = false;
  Dtype real_ = Dtype::f32;
  DeviceKind device_ = DeviceKind::cpu;
  bool has_device_ = false;
};

}  // namespace vitrail
