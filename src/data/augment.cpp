#include "data/augment.hpp"

#include <algorithm>
#include <cstring>

#include "base/philox.hpp"

namespace vitrail {

namespace {
// Uniform on 0 .. below-1: the upper half of a 64-bit product (bias below 2^-32 * below).
std::int64_t scaled(std::uint32_t bits, std::int64_t below) {
  return static_cast<std::int64_t>((static_cast<std::uint64_t>(bits) * static_cast<std::uint64_t>(below)) >> 32);
}
}  // namespace

AugmentationDraw draw_augmentation(const Augmentation& augmentation, std::uint64_t seed, std::int64_t epoch,
                                   std::int64_t sample) {
  // Four draws per image: counter index = sample; lanes: down, right, flip, not used.
  const Philox random(seed, Purpose::augmentation, static_cast<std::uint64_t>(epoch));
  const std::array<std::uint32_t, 4> words = random.words(static_cast<std::uint64_t>(sample));
  const std::int64_t reach = 2 * augmentation.shift + 1;
  return {scaled(words[0], reach) - augmentation.shift, scaled(words[1], reach) - augmentation.shift,
          augmentation.flip && (words[2] >> 31) != 0};
}

void augment(const AugmentationDraw& draw, const ImageShape& shape, const std::uint8_t* from, std::uint8_t* to) {
  const std::int64_t pixel = shape.channels;
  const std::int64_t row_bytes = shape.width * pixel;
  for (std::int64_t y = 0; y < shape.height; ++y) {
    std::uint8_t* const row = to + y * row_bytes;
    const std::int64_t source_y = y - draw.down;
    if (source_y < 0 || source_y >= shape.height) {
      std::memset(row, 0, static_cast<std::size_t>(row_bytes));
      continue;
    }
    for (std::int64_t x = 0; x < shape.width; ++x) {
      const std::int64_t inside_x = x - draw.right;
      const std::int64_t source_x = draw.flip ? shape.width - 1 - inside_x : inside_x;
      const bool outside = inside_x < 0 || inside_x >= shape.width;
      for (std::int64_t c = 0; c < pixel; ++c) {
        row[x * pixel + c] = outside ? std::uint8_t{0} : from[source_y * row_bytes + source_x * pixel + c];
      }
    }
  }
}

}  // namespace vitrail
