#pragma once
// Position embeddings without parameters.

#include <vector>

#include "model/config.hpp"

namespace vitrail {

/// sincos2d, [T D]: with omega_i = temperature^(-i/(D/4-1)), i = 0 .. D/4-1, the grid cell (row y, column x) has
/// [sin(x omega), cos(x omega), sin(y omega), cos(y omega)]; the class token, if there is one, has zeros. [V-MoE],
/// after MoCo v3 (Chen et al. 2021). D is a multiple of 4 and at least 8.
std::vector<double> sincos2d_positions(const ModelConfig& config);

}  // namespace vitrail
