#pragma once
// MPI counts are int: what is larger than one call may carry is cut.

#include <algorithm>
#include <cstdint>

namespace vitrail {

/// 0 .. total-1 in the fewest pieces of at most `limit` >= 1, whose lengths differ by at most one. No piece is tiny
/// beside the others: MPI picks algorithms by size, and some keep buffers of a whole stride for small messages.
class Cut {
 public:
  struct Piece {
    std::int64_t first;
    std::int64_t count;
  };

  Cut(std::int64_t total, std::int64_t limit)
      : pieces_(total / limit + (total % limit == 0 ? 0 : 1)),
        shortest_(pieces_ == 0 ? 0 : total / pieces_),
        longer_(pieces_ == 0 ? 0 : total % pieces_) {}

  /// 0 for a total of 0.
  [[nodiscard]] std::int64_t pieces() const noexcept { return pieces_; }
  [[nodiscard]] Piece piece(std::int64_t i) const noexcept {
    return {i * shortest_ + std::min(i, longer_), shortest_ + (i < longer_ ? 1 : 0)};
  }

 private:
  std::int64_t pieces_;
  std::int64_t shortest_;
  std::int64_t longer_;  // the first pieces are one longer than the others
};

}  // namespace vitrail
