// Images, tokens and LayerNorm.

#include <algorithm>
#include <array>
#include <cstring>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/dense_kernels.hpp"
#include "ops/cpu/elementwise_kernels.hpp"
#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/weight_gradient.hpp"

namespace vitrail::cpu {

namespace {
constexpr std::int64_t kElements = 1 << 14;  // of a unit of elementwise work
constexpr std::int64_t kNormRows = 128;      // of a unit of LayerNorm, the same in every leaf

/// Rows of a unit when each costs `n` elements.
std::int64_t rows_of_unit(std::int64_t n) {
  return std::max<std::int64_t>(1, kElements / std::max<std::int64_t>(1, n));
}
}  // namespace

void CpuOps::run(const NormalizeImages& a) {
  const std::uint8_t* const images = a.images.as<std::uint8_t>();
  float* const y = a.y.as<float>();
  std::array<float, 256> levels{};
  for (std::size_t i = 0; i < levels.size(); ++i) levels[i] = static_cast<float>(i) / 255.0F * 2.0F - 1.0F;
  for_each_piece(threads_, a.y.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) y[i] = levels[images[i]];
  });
}

void CpuOps::run(const PatchesForward& a) {
  const std::int64_t height = a.images.shape[1];
  const std::int64_t width = a.images.shape[2];
  const std::int64_t channels = a.images.shape[3];
  const std::int64_t down = height / a.patch_rows;
  const std::int64_t across = width / a.patch_columns;
  const std::int64_t run = a.patch_columns * channels;  // contiguous in both
  const float* const images = a.images.as<float>();
  const Elements patches = a.patches;
  for_each_unit(threads_, a.images.shape[0], [&](std::int64_t image, int) {
    Elements to = patches + image * down * across * a.patch_rows * run;
    for (std::int64_t patch = 0; patch < down * across; ++patch) {
      const std::int64_t top = patch / across * a.patch_rows;
      const std::int64_t left = patch % across * a.patch_columns;
      copy_rows(images + ((image * height + top) * width + left) * channels, width * channels, to, a.patch_rows, run);
      to = to + a.patch_rows * run;
    }
  });
}

void CpuOps::run(const EmbedTokensForward& a) {
  const std::int64_t images = a.x.shape[0] * a.x.shape[1];
  const std::int64_t tokens = a.x.shape[2];
  const std::int64_t n = a.x.shape[3];
  const std::int64_t classes = a.class_token ? 1 : 0;
  for_each_unit(threads_, images, [&](std::int64_t image, int) {
    const float* const positions = a.positions ? a.positions.as<float>() : nullptr;
    float* const x = a.x.as<float>() + image * tokens * n;
    if (classes == 1) start_rows(a.class_token.as<float>(), positions, x, 1, n);
    const std::int64_t patches = tokens - classes;
    const ConstElements from = ConstElements(a.patches) + image * patches * n;
    // A whole image as one row: the positions are its bias.
    start_rows(positions != nullptr ? positions + classes * n : nullptr, from, x + classes * n, 1, patches * n);
  });
}

void CpuOps::run(const EmbedTokensBackward& a) {
  const std::int64_t leaves = a.dx.shape[0];
  const std::int64_t images = a.dx.shape[1];
  const std::int64_t tokens = a.dx.shape[2];
  const std::int64_t n = a.dx.shape[3];
  const std::int64_t classes = a.dclass_token ? 1 : 0;
  const float* const dx = a.dx.as<float>();
  const Elements dpatches = a.dpatches;
  for_each_unit(threads_, leaves * images, [&](std::int64_t image, int) {
    copy_run(dx + (image * tokens + classes) * n, dpatches + image * (tokens - classes) * n, (tokens - classes) * n);
  });
  if (!a.dclass_token && !a.dpositions) return;
  const std::int64_t columns = a.dpositions ? tokens * n : n;  // the class token alone is token 0
  const std::int64_t stride = aligned_floats(columns);
  float* const partials = workspace_.floats(leaves * stride);
  constexpr std::int64_t kColumns = 1024;
  const std::int64_t cuts = (columns + kColumns - 1) / kColumns;
  for_each_unit(threads_, leaves * cuts, [&](std::int64_t unit, int) {
    const std::int64_t leaf = unit / cuts;
    const std::int64_t begin = unit % cuts * kColumns;
    column_sums(dx + leaf * images * tokens * n + begin, tokens * n, images, std::min(kColumns, columns - begin),
                partials + leaf * stride + begin);
  });
  float* const out = a.dpositions ? a.dpositions.as<float>() : a.dclass_token.as<float>();
  tree_sums(1, columns, leaves, 1, threads_, [&](std::int64_t) -> PartialSum {
    return {partials, stride, columns, out};
  });
  if (a.dpositions && a.dclass_token) std::copy_n(out, n, a.dclass_token.as<float>());
}

void CpuOps::run(const LayernormForward& a) {
  const std::int64_t n = a.x.shape[2];
  const std::int64_t rows = a.x.shape[0] * a.x.shape[1];
  const ConstElements x = a.x;
  const Elements y = a.y;
  for_each_piece(threads_, rows, kNormRows, [&](std::int64_t begin, std::int64_t end) {
    layernorm_rows({x + begin * n, a.scale.as<float>(), a.bias ? a.bias.as<float>() : nullptr, y + begin * n,
                    a.mean.as<float>() + begin, a.rstd.as<float>() + begin, end - begin, n});
  });
}

void CpuOps::run(const LayernormBackward& a) {
  const std::int64_t leaves = a.x.shape[0];
  const std::int64_t rows = a.x.shape[1];
  const std::int64_t n = a.x.shape[2];
  const Cut cut{rows, kNormRows};
  const std::int64_t pieces = cut.pieces();
  const std::int64_t stride = aligned_floats(n);
  float* const partials = workspace_.floats(2 * leaves * pieces * stride);
  const ConstElements dy = a.dy, x = a.x;
  const Elements dx = a.dx;
  for_each_unit(threads_, leaves * pieces, [&](std::int64_t unit, int) {
    const std::int64_t first = unit / pieces * rows + cut.begin(unit % pieces);
    layernorm_rows_backward({dy + first * n, x + first * n, a.scale.as<float>(), a.mean.as<float>() + first,
                             a.rstd.as<float>() + first, a.dresidual ? a.dresidual.as<float>() + first * n : nullptr,
                             dx + first * n, partials + 2 * unit * stride, partials + (2 * unit + 1) * stride,
                             cut.length(unit % pieces), n});
  });
  tree_sums(a.dbias ? 2 : 1, n, leaves, pieces, threads_, [&](std::int64_t i) -> PartialSum {
    return {partials + i * stride, 2 * stride, n, i == 0 ? a.dscale.as<float>() : a.dbias.as<float>()};
  });
}

void CpuOps::run(const TakeTokenForward& a) {
  const std::int64_t tokens = a.x.shape[1];
  const std::int64_t n = a.x.shape[2];
  for_each_piece(threads_, a.x.shape[0], rows_of_unit(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      std::copy_n(a.x.as<float>() + i * tokens * n, n, a.y.as<float>() + i * n);
  });
}

void CpuOps::run(const TakeTokenBackward& a) {
  const std::int64_t tokens = a.dx.shape[1];
  const std::int64_t n = a.dx.shape[2];
  for_each_unit(threads_, a.dx.shape[0], [&](std::int64_t image, int) {
    float* const dx = a.dx.as<float>() + image * tokens * n;
    std::copy_n(a.dy.as<float>() + image * n, n, dx);
    std::fill_n(dx + n, (tokens - 1) * n, 0.0F);
  });
}

void CpuOps::run(const MeanTokensForward& a) {
  const std::int64_t tokens = a.x.shape[1];
  const std::int64_t n = a.x.shape[2];
  for_each_unit(threads_, a.x.shape[0], [&](std::int64_t image, int) {
    float* const y = a.y.as<float>() + image * n;
    column_sums(a.x.as<float>() + image * tokens * n, n, tokens, n, y);
    for (std::int64_t c = 0; c < n; ++c) y[c] /= static_cast<float>(tokens);
  });
}

void CpuOps::run(const MeanTokensBackward& a) {
  const std::int64_t tokens = a.dx.shape[1];
  const std::int64_t n = a.dx.shape[2];
  for_each_unit(threads_, a.dx.shape[0], [&](std::int64_t image, int) {
    const float* const dy = a.dy.as<float>() + image * n;
    float* const dx = a.dx.as<float>() + image * tokens * n;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t c = 0; c < n; ++c) dx[t * n + c] = dy[c] / static_cast<float>(tokens);
    }
  });
}

void CpuOps::run(const MixImages& a) {
  const std::int64_t images = a.x.shape[1];
  const std::int64_t n = a.x.shape[2];
  const std::int64_t mixed = a.weights.shape[2];
  const std::int64_t cuts = (n + kElements - 1) / kElements;
  for_each_unit(threads_, a.x.shape[0] * images * cuts, [&](std::int64_t unit, int) {
    const std::int64_t image = unit / cuts;              // counted over the call
    const std::int64_t first = image / images * images;  // of its leaf
    const std::int64_t begin = unit % cuts * kElements;
    const std::int64_t count = std::min(kElements, n - begin);
    const float* const weights = a.weights.as<float>() + image * mixed;
    float* const y = a.y.as<float>() + image * n + begin;
    std::fill_n(y, count, 0.0F);
    for (std::int64_t j = 0; j < mixed; ++j) {
      const std::int64_t other = first + (image - first + j) % images;
      scale_and_add(1.0F, weights[j], a.x.as<float>() + other * n + begin, y, count);
    }
  });
}

}  // namespace vitrail::cpu
