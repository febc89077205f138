#pragma once
// Boxes in a tensor: which of its elements they hold, counted in the tensor's row-major order.

#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "device/tensor.hpp"

namespace vitrail {

/// begin .. end - 1 of one axis.
struct Interval {
  friend auto operator<=>(const Interval&, const Interval&) = default;
  [[nodiscard]] std::int64_t length() const noexcept { return end - begin; }

  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// One interval per axis, outermost first; none: a scalar's only element. Compared axis by axis.
using Region = std::vector<Interval>;

Region whole_region(const Shape& tensor);
std::int64_t elements_of(const Region& region);
/// "[0:4, 2:8]".
std::string str(const Region& region);
/// Have they an element in common? Both are of the same tensor.
bool overlap(const Region& a, const Region& b);

/// How many elements of the region stand before element `element` of the tensor.
std::int64_t elements_before(const Shape& tensor, const Region& region, std::int64_t element);

/// Elements first .. last - 1 of the region, as runs that are contiguous in the tensor: visit(element of the tensor,
/// count), in ascending order.
void for_each_run(const Shape& tensor, const Region& region, std::int64_t first, std::int64_t last,
                  const std::function<void(std::int64_t, std::int64_t)>& visit);

/// Length of the region's longest contiguous runs.
std::int64_t run_length(const Shape& tensor, const Region& region);

}  // namespace vitrail
