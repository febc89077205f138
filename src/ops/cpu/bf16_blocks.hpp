#pragma once
// A block of a product of bf16 by instructions for it: AVX512_BF16 (pairs) and AMX (tiles). Both take a with its rows'
// elements one after the other, and b as pairs of two rows: 32 bits hold b[2l][j] and, above it, b[2l+1][j].

#include <algorithm>
#include <cstdint>

#include "base/bf16.hpp"

namespace vitrail::cpu {

/// What only products write and read may be stored in strips of so many columns: of every block of rows the first
/// columns, row by row, then the next ones. Then rows that are used together lie together, which those of a wide matrix
/// do not: a multiple of 4096 bytes apart, they fight for the same few lines of the caches.
inline constexpr std::int64_t kStrip = 64;

/// Memory that will be needed soon, as a few runs of rows: fetched a piece at a time under the work on a block, because
/// the rows lie too far apart for the hardware to see them coming.
class Ahead {
 public:
  /// `after`: what is fetched when this is done.
  explicit Ahead(Ahead* after = nullptr) : after_(after) {}
  /// `bytes` of each of `count` rows, `stride` bytes apart.
  void add(const void* first, std::int64_t stride, std::int64_t bytes, std::int64_t count) {
    if (first == nullptr || count <= 0 || bytes <= 0 || end_ == kMost) return;
    runs_[end_++] = {static_cast<const char*>(first), stride, bytes, count};
  }
  /// All that has been added is to come in so many pieces; they are kPiece at least.
  void finish_within(std::int64_t pieces) {
    std::int64_t bytes = 0;
    for (int i = 0; i < end_; ++i) bytes += runs_[i].bytes * runs_[i].rows;
    const std::int64_t lines = (bytes + 63) / 64;
    at_once_ = std::max(kPiece, (lines + pieces - 1) / std::max<std::int64_t>(1, pieces) * 64);
  }
  __attribute__((always_inline)) void fetch() {
    if (now_ == end_) {
      if (after_ != nullptr && after_->now_ != after_->end_) after_->fetch_piece();
      return;
    }
    fetch_piece();
  }

  static constexpr std::int64_t kPiece = 512;  // the first cache can wait for some sixteen lines at a time

 private:
  struct Run {
    const char* row;
    std::int64_t stride, bytes, rows;
  };
  static constexpr int kMost = 6;

  __attribute__((always_inline)) void fetch_piece() {
    Run& run = runs_[now_];
    for (std::int64_t left = at_once_; left > 0;) {
      const std::int64_t end = place_ + left < run.bytes ? place_ + left : run.bytes;
      left -= end - place_;
      for (; place_ < end; place_ += 64) __builtin_prefetch(run.row + place_, 0, 2);
      if (place_ < run.bytes) return;
      place_ = 0;
      run.row += run.stride;
      if (--run.rows > 0) continue;
      ++now_;
      return;
    }
  }

  Run runs_[kMost];
  Ahead* after_;
  std::int64_t place_ = 0;  // in the row
  std::int64_t at_once_ = kPiece;
  int now_ = 0;
  int end_ = 0;
};

/// Terms of a tile's sums, in registers, under which one piece is fetched.
inline constexpr std::int64_t kTermsOfFetch = 32;

struct Epilogue;

/// a(i, l) = a[i * a_stride + l / kStrip * a_strip + l % kStrip], l / kStrip counting its strips.
struct Bf16Block {
  std::int64_t rows;
  std::int64_t columns;  // a multiple of 16, at most 64
  std::int64_t k;        // even; for tiles a multiple of 32
  const Bf16* a;
  std::int64_t a_stride;   // elements
  std::int64_t a_strip;    // from one kStrip elements of a row to the next
  const std::uint32_t* b;  // [k/2 b_stride]
  std::int64_t b_stride;
  float* c;  // [rows c_stride], 64-byte aligned rows
  std::int64_t c_stride;
  bool add;  // c += a b, else c = a b
  Ahead* ahead;
  const Epilogue* stored;  // Finish::store of f32 at the first column: c goes there, and is not written; or nullptr
};
void multiply_pairs(const Bf16Block& block);
void multiply_tiles(const Bf16Block& block);  // stored is nullptr

// f32 rounded on its way into such a product, by the instructions of AVX512_BF16. They take subnormal numbers for 0, as
// those that multiply do. What they write goes on with zeros to a multiple of 16 elements.
/// to[i] = the pair of even[i] and odd[i], i < n; no odd row counts as zeros.
void round_pairs(const float* even, const float* odd, std::int64_t n, std::uint32_t* to);
/// to[i] = from[i], i < n.
void round_row(const float* from, std::int64_t n, Bf16* to);

/// Whether this machine has AMX for bf16 and the kernel lets this process use it; asks it, once.
bool has_bf16_tiles();

}  // namespace vitrail::cpu
