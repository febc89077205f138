#pragma once
// Which numbers a dropout keeps (DropoutDraw in ops/layers.hpp), said once for all back ends.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "base/philox.hpp"
#include "ops/layers.hpp"

namespace vitrail {

class DropoutMask {
 public:
  explicit DropoutMask(const DropoutDraw& draw)
      : draw_(draw),
        random_(draw.seed, Purpose::dropout, draw.step, draw.layer),
        // The uniform number of bits b is (b + 1/2) 2^-32, so it is not below the rate when b is at least this: the
        // comparison of two doubles as one of integers.
        least_(static_cast<std::uint64_t>(std::max(0.0, std::ceil(std::ldexp(draw.rate, 32) - 0.5)))),
        scale_(1.0 / (1.0 - draw.rate)) {}

  /// The index of element i of the tensor.
  [[nodiscard]] constexpr std::uint64_t index_of(std::int64_t i) const {
    const std::int64_t j = i / draw_.share;
    return draw_.first + static_cast<std::uint64_t>(j / draw_.run * draw_.stride + j % draw_.run);
  }
  /// What an element of this index is multiplied by: 1 / (1 - rate) or 0.
  [[nodiscard]] double factor(std::uint64_t index) const {
    return keeps_all() ? scale_ : factor_of(random_.bits(index));
  }
  /// The factors of `count` indices that follow each other. Draws four numbers at a time.
  template <class T>
  void factors(std::uint64_t first, std::int64_t count, T* to) const {
    if (keeps_all()) {
      std::fill_n(to, count, static_cast<T>(scale_));
      return;
    }
    for (std::int64_t i = 0; i < count;) {
      const std::uint64_t index = first + static_cast<std::uint64_t>(i);
      const std::array<std::uint32_t, 4> words = random_.words(index / 4);
      for (std::size_t lane = index % 4; lane < 4 && i < count; ++lane)
        to[i++] = static_cast<T>(factor_of(words[lane]));
    }
  }

  /// True when nothing is drawn.
  [[nodiscard]] constexpr bool keeps_all() const { return least_ == 0; }

  // For back ends that draw in vectors: an element is kept, times scale(), when the bits of its index are at least
  // least(), which may be 2^32.
  [[nodiscard]] constexpr const Philox& random() const { return random_; }
  [[nodiscard]] constexpr std::uint64_t least() const { return least_; }
  [[nodiscard]] double scale() const { return scale_; }

 private:
  [[nodiscard]] double factor_of(std::uint32_t bits) const { return bits >= least_ ? scale_ : 0.0; }

  DropoutDraw draw_;
  Philox random_;
  std::uint64_t least_;  // up to 2^32
  double scale_;
};

}  // namespace vitrail
