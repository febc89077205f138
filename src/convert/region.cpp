#include "convert/region.hpp"

#include <algorithm>

namespace vitrail {

Region whole_region(const Shape& tensor) {
  Region region;
  for (const std::int64_t length : tensor.lengths()) region.push_back({0, length});
  return region;
}

std::int64_t elements_of(const Region& region) {
  std::int64_t product = 1;
  for (const Interval& interval : region) product *= interval.length();
  return product;
}

std::string str(const Region& region) {
  std::string out = "[";
  for (const Interval& interval : region) {
    if (out.size() > 1) out += ", ";
    out += text(interval.begin, ":", interval.end);
  }
  return out + "]";
}

bool overlap(const Region& a, const Region& b) {
  for (std::size_t axis = 0; axis < a.size(); ++axis) {
    if (std::max(a[axis].begin, b[axis].begin) >= std::min(a[axis].end, b[axis].end)) return false;
  }
  return true;
}

std::int64_t elements_before(const Shape& tensor, const Region& region, std::int64_t element) {
  if (element >= tensor.elements()) return elements_of(region);
  // Digit by digit: what lies before the element's row of an axis counts whole; its own row is looked at in the next.
  std::int64_t below = tensor.elements();  // elements of the tensor per step of the axis
  std::int64_t inside = elements_of(region);
  if (inside == 0) return 0;
  std::int64_t count = 0;
  for (int axis = 0; axis < tensor.axes(); ++axis) {
    const Interval& interval = region[static_cast<std::size_t>(axis)];
    below /= tensor[axis];
    const std::int64_t at = element / below;
    element %= below;
    if (at < interval.begin) return count;
    if (at >= interval.end) return count + inside;
    inside /= interval.length();
    count += (at - interval.begin) * inside;
  }
  return count;
}

std::int64_t run_length(const Shape& tensor, const Region& region) {
  std::int64_t length = 1;
  for (int axis = tensor.axes() - 1; axis >= 0; --axis) {
    const std::int64_t extent = region[static_cast<std::size_t>(axis)].length();
    length *= extent;
    if (extent != tensor[axis]) break;
  }
  return length;
}

void for_each_run(const Shape& tensor, const Region& region, std::int64_t first, std::int64_t last,
                  const std::function<void(std::int64_t, std::int64_t)>& visit) {
  const std::int64_t run = first < last ? run_length(tensor, region) : 1;
  while (first < last) {
    std::int64_t rest = first;
    std::int64_t element = 0;
    std::int64_t stride = 1;
    for (int axis = tensor.axes() - 1; axis >= 0; --axis) {
      const Interval& interval = region[static_cast<std::size_t>(axis)];
      element += (interval.begin + rest % interval.length()) * stride;
      rest /= interval.length();
      stride *= tensor[axis];
    }
    const std::int64_t count = std::min(run - first % run, last - first);
    visit(element, count);
    first += count;
  }
}

}  // namespace vitrail
