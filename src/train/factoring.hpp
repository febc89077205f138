#pragma once
// How Adafactor sees parameters: which two axes of a tensor it factors, and the units (ops/training.hpp) of an owner's
// slice. [V-MoE]

#include <cstdint>
#include <vector>

#include "model/params.hpp"
#include "train/flat_layout.hpp"

namespace vitrail {

/// The axes are those of the logical tensor. A tensor that is not factored has x = y = -1.
struct Factoring {
  int x = -1;  ///< the earlier of the two largest axes
  int y = -1;  ///< the later
  [[nodiscard]] bool factored() const { return x >= 0; }
};

/// The two largest axes (of equal ones the later counts as larger), when the second largest has at least
/// `factored_above` entries.
Factoring factoring_of(const Shape& shape, std::int64_t factored_above);

/// The shape without one axis.
Shape without_axis(const Shape& shape, int axis);

/// Elements of every tensor that Adafactor treats as one, so that one owner must have them all: a dense tensor, one
/// expert of an expert tensor, or all experts when it is factored over them. Error (usage) in that last case, unless
/// `all_experts_here`.
std::vector<std::int64_t> adafactor_pieces(const std::vector<ParameterSpec>& table, std::int64_t factored_above,
                                           bool all_experts_here);

/// What an owner's slice consists of, as AdafactorStep wants it.
struct AdafactorUnits {
  /// Of slice `owner` of a layout that is cut at `pieces`.
  AdafactorUnits(const std::vector<ParameterSpec>& table, std::int64_t factored_above,
                 const std::vector<std::int64_t>& pieces, const FlatLayout& layout, std::int64_t owner);

  /// The place of a unit's statistics in a logical tensor: the whole shape, and the first of `count` elements.
  struct Statistic {
    const char* kind;  ///< over_x, over_y or v
    Shape shape;
    std::int64_t first;
    std::int64_t count;
    std::int64_t begin;  ///< in `statistics`
  };

  std::vector<std::int64_t> begin;              // [units], relative to the slice
  std::vector<std::int64_t> factors;            // [units 5]
  std::vector<std::int64_t> statistics_begin;   // [units]
  std::vector<std::size_t> tensor;              // [units], number in the table
  std::vector<std::vector<Statistic>> entries;  // of each unit: over_x and over_y, or v
  std::int64_t statistics = 0;                  ///< numbers in all

 private:
  void add(const ParameterSpec& spec, const Factoring& axes, std::int64_t piece, std::int64_t first);
};

}  // namespace vitrail
