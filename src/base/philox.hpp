#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A value is a pure function of (seed, purpose, step or epoch, layer, index), so no generator state exists, nothing is
// saved but the step, and a result does not depend on which rank computes it.
//
// key = the run's 64-bit seed; counter words = (index low, index high, step, purpose << 16 | layer). Value i of a
// purpose is lane i mod 4 of counter index i div 4.

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace vitrail {

/// What a random number is for. Never renumber: runs would change.
enum class Purpose : std::uint16_t {
  initialisation = 1,  ///< layer = number of the parameter tensor
  router_noise = 2,    ///< index = global token * E + expert
  shuffle = 3,         ///< step = epoch, index: data/sampler.cpp
  augmentation = 4,    ///< step = epoch, index = sample * 4 + draw (data/augment.cpp)
  dropout = 5,         ///< layer = block and place, index: ops/layers.hpp
  mixup = 6,           ///< layer = attempt, index: train/mixup.cpp
  token_order = 7,     ///< index = global token
  random_experts = 8,  ///< index = global token * E + expert
  few_shot = 12,       ///< step = class, index = training image: train/fewshot.cpp
  test = 15,
};

class Philox {
 public:
  constexpr Philox(std::uint64_t seed, Purpose purpose, std::uint64_t step, std::uint32_t layer = 0)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        step_(static_cast<std::uint32_t>(step)),
        stream_((static_cast<std::uint32_t>(purpose) << 16) | layer) {}

  static constexpr int kRounds = 10;
  static constexpr std::array<std::uint32_t, 2> kMultipliers{0xD2511F53U, 0xCD9E8D57U};
  static constexpr std::array<std::uint32_t, 2> kKeySteps{0x9E3779B9U, 0xBB67AE85U};

  /// The generator itself: ten rounds on a counter under a key.
  static constexpr std::array<std::uint32_t, 4> rounds(std::array<std::uint32_t, 4> c,
                                                       std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < kRounds; ++round) {
      const std::uint64_t p0 = std::uint64_t{kMultipliers[0]} * c[0];
      const std::uint64_t p1 = std::uint64_t{kMultipliers[1]} * c[2];
      c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ key[0], static_cast<std::uint32_t>(p1),
           static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ key[1], static_cast<std::uint32_t>(p0)};
      key[0] += kKeySteps[0];
      key[1] += kKeySteps[1];
    }
    return c;
  }
  /// What `rounds` gets for counter index `block`.
  [[nodiscard]] constexpr std::array<std::uint32_t, 4> counter(std::uint64_t block) const {
    return {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), step_, stream_};
  }
  [[nodiscard]] constexpr std::array<std::uint32_t, 2> key() const { return key_; }
  /// The four words of counter index `block`.
  [[nodiscard]] constexpr std::array<std::uint32_t, 4> words(std::uint64_t block) const {
    return rounds(counter(block), key_);
  }
  /// Value `index`: uniform on 0 .. 2^32-1.
  [[nodiscard]] constexpr std::uint32_t bits(std::uint64_t index) const { return words(index / 4)[index % 4]; }
  /// Value `index`: uniform in the open interval (0, 1), a multiple of 2^-33.
  [[nodiscard]] constexpr double uniform(std::uint64_t index) const { return to_uniform(bits(index)); }
  /// Value `index`: standard normal by Box-Muller in double; values 2i and 2i+1 share their two words.
  [[nodiscard]] double normal(std::uint64_t index) const {
    const std::array<std::uint32_t, 4> w = words(index / 4);
    const std::size_t pair = (index % 4) / 2 * 2;
    const double radius = std::sqrt(-2.0 * std::log(to_uniform(w[pair])));
    const double angle = 2.0 * std::numbers::pi * to_uniform(w[pair + 1]);
    return index % 2 == 0 ? radius * std::cos(angle) : radius * std::sin(angle);
  }

 private:
  static constexpr double to_uniform(std::uint32_t bits) { return (static_cast<double>(bits) + 0.5) * 0x1p-32; }

  std::array<std::uint32_t, 2> key_;
  std::uint32_t step_;
  std::uint32_t stream_;
};

}  // namespace vitrail
