// From pixels to tokens, and from tokens to one row per image.

#include <algorithm>

#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {

// y = (x / 255) * 2 - 1, in f32
template <class T>
void normalize_images(const NormalizeImages& a) {
  const auto* x = a.images.as<std::uint8_t>();
  T* y = a.y.as<T>();
  for (std::int64_t i = 0; i < a.y.elements(); ++i) {
    const float pixel = static_cast<float>(x[i]) / 255.0F * 2.0F - 1.0F;
    y[i] = static_cast<double>(pixel);
  }
}

// patches[b, row * grid_w + column, (y, x, channel)] = images[b, row * patch_rows + y, column * patch_columns + x,
// channel]
template <class T>
void patches_forward(const PatchesForward& a) {
  const std::int64_t images = a.images.shape[0], height = a.images.shape[1], width = a.images.shape[2];
  const std::int64_t channels = a.images.shape[3];
  const std::int64_t grid_h = height / a.patch_rows, grid_w = width / a.patch_columns;
  const T* image = a.images.as<T>();
  T* out = a.patches.as<T>();
  for (std::int64_t b = 0; b < images; ++b)
    for (std::int64_t row = 0; row < grid_h; ++row)
      for (std::int64_t column = 0; column < grid_w; ++column)
        for (std::int64_t y = row * a.patch_rows; y < (row + 1) * a.patch_rows; ++y)
          for (std::int64_t x = column * a.patch_columns; x < (column + 1) * a.patch_columns; ++x)
            for (std::int64_t c = 0; c < channels; ++c) *out++ = image[((b * height + y) * width + x) * channels + c];
}

// x[b,t] = (class token, or patches[b, t - 1] | patches[b,t] without a class token) + positions[t]
template <class T>
void embed_tokens_forward(const EmbedTokensForward& a) {
  const std::int64_t images = a.x.shape[0] * a.x.shape[1], tokens = a.x.shape[2], width = a.x.shape[3];
  const std::int64_t first = a.class_token ? 1 : 0;
  const T* patches = a.patches.as<T>();
  T* x = a.x.as<T>();
  for (std::int64_t b = 0; b < images; ++b) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const T* token = t < first ? a.class_token.as<T>() : patches + (b * (tokens - first) + t - first) * width;
      T* out = x + (b * tokens + t) * width;
      for (std::int64_t c = 0; c < width; ++c) {
        out[c] = token[c];
        if (a.positions) out[c] += a.positions.as<T>()[t * width + c];
      }
    }
  }
}

// dpatches[b,t] = dx[b, t + 1 | t];  dclass_token = sum over b of dx[b,0];  dpositions[t] = sum over b of dx[b,t]
template <class T>
void embed_tokens_backward(const EmbedTokensBackward& a) {
  const std::int64_t leaves = a.dx.shape[0], images = a.dx.shape[1], tokens = a.dx.shape[2], width = a.dx.shape[3];
  const std::int64_t first = a.dclass_token ? 1 : 0;
  const T* dx = a.dx.as<T>();
  T* dpatches = a.dpatches.as<T>();
  for (std::int64_t b = 0; b < leaves * images; ++b) {
    const T* from = dx + (b * tokens + first) * width;
    std::copy(from, from + (tokens - first) * width, dpatches + b * (tokens - first) * width);
  }
  // The sum over the images of a leaf of its first `n` tokens.
  const auto sum_of_tokens = [&](std::int64_t n, T* sum) {
    sum_over_leaves(0, leaves, sum, n * width, [&](std::int64_t leaf, T* out) {
      std::fill(out, out + n * width, T{});
      for (std::int64_t b = leaf * images; b < (leaf + 1) * images; ++b)
        for (std::int64_t i = 0; i < n * width; ++i) out[i] += dx[b * tokens * width + i];
    });
  };
  if (a.dclass_token) sum_of_tokens(1, a.dclass_token.as<T>());
  if (a.dpositions) sum_of_tokens(tokens, a.dpositions.as<T>());
}

// y[b] = x[b,0]
template <class T>
void take_token_forward(const TakeTokenForward& a) {
  const std::int64_t images = a.x.shape[0], tokens = a.x.shape[1], width = a.x.shape[2];
  for (std::int64_t b = 0; b < images; ++b)
    for (std::int64_t c = 0; c < width; ++c) a.y.as<T>()[b * width + c] = a.x.as<T>()[b * tokens * width + c];
}

// dx[b,0] = dy[b], dx[b,t] = 0 for t > 0
template <class T>
void take_token_backward(const TakeTokenBackward& a) {
  const std::int64_t images = a.dx.shape[0], tokens = a.dx.shape[1], width = a.dx.shape[2];
  std::fill(a.dx.as<T>(), a.dx.as<T>() + a.dx.elements(), T{});
  for (std::int64_t b = 0; b < images; ++b)
    for (std::int64_t c = 0; c < width; ++c) a.dx.as<T>()[b * tokens * width + c] = a.dy.as<T>()[b * width + c];
}

// y[b] = sum over t of x[b,t] / T
template <class T>
void mean_tokens_forward(const MeanTokensForward& a) {
  const std::int64_t images = a.x.shape[0], tokens = a.x.shape[1], width = a.x.shape[2];
  for (std::int64_t b = 0; b < images; ++b) {
    for (std::int64_t c = 0; c < width; ++c) {
      T sum{};
      for (std::int64_t t = 0; t < tokens; ++t) sum += a.x.as<T>()[(b * tokens + t) * width + c];
      a.y.as<T>()[b * width + c] = sum / static_cast<double>(tokens);
    }
  }
}

// dx[b,t] = dy[b] / T
template <class T>
void mean_tokens_backward(const MeanTokensBackward& a) {
  const std::int64_t images = a.dx.shape[0], tokens = a.dx.shape[1], width = a.dx.shape[2];
  for (std::int64_t b = 0; b < images; ++b)
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t c = 0; c < width; ++c)
        a.dx.as<T>()[(b * tokens + t) * width + c] = a.dy.as<T>()[b * width + c] / static_cast<double>(tokens);
}

// y[l,i] = sum over j of weights[l,i,j] x[l, (i + j) mod B]
template <class T>
void mix_images(const MixImages& a) {
  const std::int64_t leaves = a.x.shape[0], images = a.x.shape[1], width = a.x.shape[2], mixed = a.weights.shape[2];
  for (std::int64_t leaf = 0; leaf < leaves; ++leaf) {
    const T* x = a.x.as<T>() + leaf * images * width;
    for (std::int64_t i = 0; i < images; ++i) {
      const T* weights = a.weights.as<T>() + (leaf * images + i) * mixed;
      for (std::int64_t c = 0; c < width; ++c) {
        T sum{};
        for (std::int64_t j = 0; j < mixed; ++j) sum += weights[j] * x[(i + j) % images * width + c];
        a.y.as<T>()[(leaf * images + i) * width + c] = sum;
      }
    }
  }
}

VITRAIL_REFERENCE_VERB(normalize_images, NormalizeImages)
VITRAIL_REFERENCE_VERB(patches_forward, PatchesForward)
VITRAIL_REFERENCE_VERB(embed_tokens_forward, EmbedTokensForward)
VITRAIL_REFERENCE_VERB(embed_tokens_backward, EmbedTokensBackward)
VITRAIL_REFERENCE_VERB(take_token_forward, TakeTokenForward)
VITRAIL_REFERENCE_VERB(take_token_backward, TakeTokenBackward)
VITRAIL_REFERENCE_VERB(mean_tokens_forward, MeanTokensForward)
VITRAIL_REFERENCE_VERB(mean_tokens_backward, MeanTokensBackward)
VITRAIL_REFERENCE_VERB(mix_images, MixImages)

}  // namespace vitrail::reference
