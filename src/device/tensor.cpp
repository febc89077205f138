#include "device/tensor.hpp"

#include <algorithm>

namespace vitrail {

Shape::Shape(std::initializer_list<std::int64_t> lengths)
    : Shape(std::span<const std::int64_t>(lengths.begin(), lengths.size())) {}

Shape::Shape(std::span<const std::int64_t> lengths) {
  VITRAIL_EXPECT(lengths.size() <= kMaxAxes, ExitCode::other, text("a shape of ", lengths.size(), " axes"),
                 text("at most ", kMaxAxes, " are supported"), "");
  axes_ = static_cast<int>(lengths.size());
  std::copy(lengths.begin(), lengths.end(), lengths_.begin());
}

std::string Shape::str() const {
  std::string shown = "[";
  for (int axis = 0; axis < axes_; ++axis) shown += (axis == 0 ? "" : ", ") + std::to_string((*this)[axis]);
  return shown + "]";
}

bool operator==(const Shape& a, const Shape& b) noexcept {
  return a.axes_ == b.axes_ && std::equal(a.lengths_.begin(), a.lengths_.begin() + a.axes_, b.lengths_.begin());
}

}  // namespace vitrail
