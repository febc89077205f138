#include "data/sampler.hpp"

#include "base/error.hpp"
#include "base/philox.hpp"

namespace vitrail {

namespace {
constexpr int kRounds = 8;
}

Sampler::Sampler(std::int64_t images, std::uint64_t seed) : images_(images), seed_(seed), half_bits_(1) {
  VITRAIL_EXPECT(images >= 1 && images <= std::int64_t{1} << 62, ExitCode::data,
                 text("a training sequence over ", images, " images"), "there must be 1 to 2^62", "");
  while ((std::int64_t{1} << (2 * half_bits_)) < images) ++half_bits_;
}

Sampler::Place Sampler::at(std::int64_t position) const {
  VITRAIL_ASSERT(position >= 0);
  const std::int64_t epoch = position / images_;
  const Philox random(seed_, Purpose::shuffle, static_cast<std::uint64_t>(epoch));
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  auto value = static_cast<std::uint64_t>(position % images_);
  do {
    // One round: (left, right) -> (right, left xor f(round, right)); f = counter index round * 2^32 + right.
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::uint64_t left = value >> half_bits_;
      const std::uint64_t right = value & mask;
      value = right << half_bits_ | (left ^ (random.words(round << 32 | right)[0] & mask));
    }
    // A value outside is permuted again until it falls inside: still a permutation of the inside.
  } while (value >= static_cast<std::uint64_t>(images_));
  return {epoch, static_cast<std::int64_t>(value)};
}

void RankShare::check() const {
  VITRAIL_EXPECT(batch >= 1 && leaf_images >= 1 && leaves_per_pass >= 1 && ranks >= 1 && rank >= 0 && rank < ranks,
                 ExitCode::usage,
                 text("batch ", batch, ", leaf ", leaf_images, ", leaves per pass ", leaves_per_pass, ", rank ", rank,
                      " of ", ranks),
                 "these must be positive", "");
  VITRAIL_EXPECT(batch % leaf_images == 0, ExitCode::usage,
                 text("a batch of ", batch, " images with leaves of ", leaf_images),
                 "a batch is a whole number of leaves", "Change the batch or the leaf");
  VITRAIL_EXPECT(batch % (pass_images() * ranks) == 0, ExitCode::usage,
                 text("a batch of ", batch / leaf_images, " leaves on ", ranks, " ranks with ", leaves_per_pass,
                      " leaves per pass"),
                 text("a batch is a whole number of passes of ", ranks * leaves_per_pass, " leaves"),
                 "Use fewer leaves per pass, fewer ranks or a larger batch");
}

}  // namespace vitrail
