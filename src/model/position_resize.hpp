#pragma once
// Position embeddings for another number of patches: linear interpolation between the corners of the grid. [V-MoE]

#include <cstdint>
#include <vector>

#include "device/tensor.hpp"

namespace vitrail {

/// An array of any shape at another shape with as many axes: element i of an axis with n elements is read at
/// i * (m - 1) / (n - 1) of the m old ones (at 0 when n = 1), linearly between neighbours, one axis after the other.
/// The corners stay where they are; nothing is smoothed when an axis shrinks. A coordinate that round-off carries past
/// the last element counts as the last one: scipy, and with it the original, reads zeros there. T: float or double;
/// sums are made in double. Error (usage) when the numbers of axes differ or an axis is empty.
template <class T>
std::vector<T> zoom(const std::vector<T>& source, const Shape& from, const Shape& to);

/// Position embeddings [source_tokens D] for target_tokens tokens. Both are square grids, or square grids behind a row
/// for the class token. The grid is zoomed; the class token's row is that of the source, else that of `target`
/// [target_tokens D], the values that the target has at present; a target without one drops it.
/// Error (usage) for grids that are not square.
template <class T>
std::vector<T> vit_zoom(const std::vector<T>& source, std::int64_t source_tokens, const std::vector<T>& target,
                        std::int64_t target_tokens);

}  // namespace vitrail
