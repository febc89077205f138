#pragma once
// Where the blocks of attention's kernels find their image and head, and which probabilities a dropout keeps.

#include <array>
#include <cstdint>
#include <cstring>

#include "base/error.hpp"
#include "ops/cuda/attention.hpp"

namespace vitrail::cuda {

/// One block's part of the work: a tile of tokens of one head of one image. Blocks that follow each other share an
/// image and head, so that they find each other's tokens in the L2 cache.
struct BlockPlace {
  std::int64_t image;
  int head;
  int first;  // token of the tile

  __device__ __forceinline__ BlockPlace(const AttentionShape& shape, int tokens, int tile) {
    const int tiles = (tokens + tile - 1) / tile;
    const int whole_head = static_cast<int>(blockIdx.x) / tiles;
    first = (static_cast<int>(blockIdx.x) - whole_head * tiles) * tile;
    image = whole_head / shape.heads;
    head = whole_head - static_cast<int>(image) * shape.heads;
  }
  /// Index of a query's element in tensors [images heads queries].
  [[nodiscard]] __device__ __forceinline__ std::int64_t row(const AttentionShape& shape, int query) const {
    return (image * shape.heads + head) * shape.queries + query;
  }
};
/// The number of blocks when each has `tile` of `tokens`.
inline unsigned int blocks_of_tiles(const AttentionShape& shape, int tokens, int tile) {
  const std::int64_t blocks = shape.images * shape.heads * ((std::int64_t{tokens} + tile - 1) / tile);
  VITRAIL_EXPECT(blocks < std::int64_t{1} << 31, ExitCode::usage,
                 text("attention over ", shape.images, " images in one call"), "there are too many blocks for a grid",
                 "Use smaller batches");
  return static_cast<unsigned int>(blocks);
}

/// The tokens of one image and head in a tensor [images tokens heads width].
template <class Element>
struct TokenRows {
  Element* origin;  // of token 0
  int tokens, width, stride;
  bool vectors;  // every token begins at a multiple of 16 bytes and is whole vectors of 16 bytes long

  __device__ __forceinline__ TokenRows(Element* tensor, const AttentionShape& shape, const BlockPlace& place,
                                       int tokens_, bool vectors_)
      : origin(tensor + (place.image * tokens_ * shape.heads + place.head) * shape.width),
        tokens(tokens_),
        width(shape.width),
        stride(shape.heads * shape.width),
        vectors(vectors_) {}
  [[nodiscard]] __device__ __forceinline__ Element* token(int index) const {
    return origin + static_cast<std::int64_t>(index) * stride;
  }
};
/// Whether all of these tensors' heads can be read in vectors of 16 bytes.
template <class... Pointers>
bool vectors_of_16_bytes(const AttentionShape& shape, const Pointers*... tensors) {
  const bool aligned = ((reinterpret_cast<std::uintptr_t>(tensors) % 16 == 0) && ...);
  return aligned && ((shape.width * static_cast<int>(sizeof(Pointers)) % 16 == 0) && ...);
}

/// A vector V at an address that is a multiple of its size, whatever the elements there are.
template <class V>
__device__ __forceinline__ V vector_at(const void* address) {
  V vector;
  std::memcpy(&vector, __builtin_assume_aligned(address, sizeof(V)), sizeof(V));
  return vector;
}
template <class V>
__device__ __forceinline__ void store_vector(void* address, const V& vector) {
  std::memcpy(__builtin_assume_aligned(address, sizeof(V)), &vector, sizeof(V));
}

/// The fate of 32 keys of a query that follow each other: bit i of the result is set when index + i is kept.
__device__ __forceinline__ std::uint32_t kept_of_32(const DropoutBits& dropout, std::uint64_t index) {
  std::uint64_t kept = 0;
  const int offset = static_cast<int>(index % 4);
  const int draws = offset == 0 ? 8 : 9;
#pragma unroll 1
  for (int draw = 0; draw < draws; ++draw) {
    const std::array<std::uint32_t, 4> words = dropout.random.words(index / 4 + static_cast<std::uint64_t>(draw));
#pragma unroll
    for (std::size_t lane = 0; lane < 4; ++lane)
      kept |= static_cast<std::uint64_t>(words[lane] >= dropout.least) << (4 * draw + static_cast<int>(lane));
  }
  return static_cast<std::uint32_t>(kept >> offset);
}

/// kept[i][j] = fate of keys first_key + 32 j ... of query first_query + i. By all threads of the block.
template <int kThreads, int kQueries, int kWords>
__device__ __forceinline__ void draw_kept(std::uint32_t (&kept)[kQueries][kWords], const DropoutBits& dropout,
                                          const AttentionShape& shape, const BlockPlace& place, int first_query,
                                          int first_key) {
  for (int i = static_cast<int>(threadIdx.x); i < kQueries * kWords; i += kThreads) {
    const int query = i / kWords;
    const int word = i % kWords;
    const std::int64_t element = place.row(shape, first_query + query) * shape.keys + first_key + 32 * word;
    kept[query][word] = kept_of_32(dropout, dropout.first + static_cast<std::uint64_t>(element));
  }
}

}  // namespace vitrail::cuda
