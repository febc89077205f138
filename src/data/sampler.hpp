#pragma once
// Which image stands where in the endless sequence of training images.
//
// Position p of the sequence is place p mod n of epoch p div n; every epoch is a permutation of all n images, a pure
// function of (seed, epoch). Nothing is dropped: a batch may span two epochs. Global batch t holds the positions
// t * batch .. (t + 1) * batch - 1, whatever the number of ranks, so a run resumes anywhere from its step alone.

#include <cstdint>

namespace vitrail {

/// The permutation is a Feistel network keyed by Philox, with cycle walking (Black and Rogaway, "Ciphers with
/// arbitrary finite domains", 2002): any place costs constant time and no memory, also with billions of images.
class Sampler {
 public:
  Sampler(std::int64_t images, std::uint64_t seed);

  struct Place {
    std::int64_t epoch;
    std::int64_t sample;  ///< number of the image, 0 .. images-1
  };
  /// position >= 0
  [[nodiscard]] Place at(std::int64_t position) const;
  [[nodiscard]] std::int64_t images() const noexcept { return images_; }

 private:
  std::int64_t images_;
  std::uint64_t seed_;
  int half_bits_;  ///< the network permutes 0 .. 2^(2 * half_bits_) - 1
};

/// The part of every global batch that one rank reads. A batch is a run of leaves; a pass takes `leaves_per_pass`
/// leaves on every rank: pass j holds ranks * leaves_per_pass consecutive leaves, rank r the ones from
/// (j * ranks + r) * leaves_per_pass.
struct RankShare {
  std::int64_t batch = 0;  ///< images of the global batch
  std::int64_t leaf_images = 0;
  std::int64_t leaves_per_pass = 1;
  std::int64_t ranks = 1;
  std::int64_t rank = 0;

  /// Error(usage) if the batch is not a whole number of passes.
  void check() const;
  [[nodiscard]] std::int64_t passes() const { return batch / (pass_images() * ranks); }
  /// Images of this rank in one pass.
  [[nodiscard]] std::int64_t pass_images() const { return leaves_per_pass * leaf_images; }
  /// Position of this rank's first image of a pass; the others follow.
  [[nodiscard]] std::int64_t first_position(std::int64_t step, std::int64_t pass) const {
    return step * batch + (pass * ranks + rank) * pass_images();
  }
};

}  // namespace vitrail
