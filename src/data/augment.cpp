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
    const std::int64_t left = std::clamp<std::int64_t>(draw.right, 0, shape.width);
    const std::int64_t end = std::clamp<std::int64_t>(shape.width + draw.right, 0, shape.width);
    std::memset(row, 0, static_cast<std::size_t>(left * pixel));
    std::memset(row + end * pixel, 0, static_cast<std::size_t>((shape.width - end) * pixel));
    for (std::int64_t x = left; x < end; ++x) {
      const std::int64_t source_x = draw.flip ? shape.width - 1 - (x - draw.right) : x - draw.right;
      const std::uint8_t* const source = from + source_y * row_bytes + source_x * pixel;
      for (std::int64_t c = 0; c < pixel; ++c) row[x * pixel + c] = source[c];
    }
  }
}

}  // namespace vitrail
