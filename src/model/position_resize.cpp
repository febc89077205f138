#include "model/position_resize.hpp"

#include <algorithm>
#include <cmath>

namespace vitrail {

namespace {

/// A place between two neighbours of an axis.
struct Between {
  std::int64_t low;
  std::int64_t high;
  double share;  ///< of `high`
};

Between place_of(std::int64_t index, std::int64_t from, std::int64_t to) {
  const double step = to > 1 ? static_cast<double>(from - 1) / static_cast<double>(to - 1) : 0;
  const double coordinate = std::min(static_cast<double>(index) * step, static_cast<double>(from - 1));
  const double low = std::floor(coordinate);
  return {static_cast<std::int64_t>(low), std::min(static_cast<std::int64_t>(low) + 1, from - 1), coordinate - low};
}

/// x [outer from inner] -> [outer to inner]
std::vector<double> zoom_axis(const std::vector<double>& x, std::int64_t outer, std::int64_t from, std::int64_t to,
                              std::int64_t inner) {
  std::vector<double> y(static_cast<std::size_t>(outer * to * inner));
  for (std::int64_t o = 0; o < outer; ++o) {
    for (std::int64_t i = 0; i < to; ++i) {
      const Between place = place_of(i, from, to);
      const double* low = x.data() + (o * from + place.low) * inner;
      const double* high = x.data() + (o * from + place.high) * inner;
      double* row = y.data() + (o * to + i) * inner;
      for (std::int64_t j = 0; j < inner; ++j) row[j] = (1 - place.share) * low[j] + place.share * high[j];
    }
  }
  return y;
}

/// A number of tokens as a square grid, perhaps behind a class token.
struct Grid {
  std::int64_t side;
  bool class_token;
};

/// A single token is a grid of one patch.
Grid grid_of(std::int64_t tokens, const char* whose) {
  for (const bool class_token : {false, true}) {
    const std::int64_t patches = tokens - (class_token ? 1 : 0);
    const std::int64_t side = std::llround(std::sqrt(static_cast<double>(patches)));
    if (side >= 1 && side * side == patches) return {side, class_token};
  }
  fail(ExitCode::usage, {text("the ", tokens, " position embeddings of the ", whose, " cannot be resized"),
                         "they are neither a square grid nor a square grid and a class token",
                         "Use square images and patches, or the number of tokens that the source has"});
}

}  // namespace

template <class T>
std::vector<T> zoom(const std::vector<T>& source, const Shape& from, const Shape& to) {
  VITRAIL_EXPECT(from.axes() == to.axes() && from.elements() > 0 && to.elements() > 0 &&
                     static_cast<std::int64_t>(source.size()) == from.elements(),
                 ExitCode::usage, text("an array ", from.str(), " cannot be zoomed to ", to.str()),
                 "both need the same number of axes, none of them empty", "");
  std::vector<double> values(source.begin(), source.end());
  std::int64_t outer = 1;
  std::int64_t inner = from.elements();
  for (int axis = 0; axis < from.axes(); ++axis) {
    inner /= from[axis];
    if (from[axis] != to[axis]) values = zoom_axis(values, outer, from[axis], to[axis], inner);
    outer *= to[axis];
  }
  std::vector<T> result;
  result.reserve(values.size());
  for (const double value : values) result.push_back(static_cast<T>(value));
  return result;
}

template <class T>
std::vector<T> vit_zoom(const std::vector<T>& source, std::int64_t source_tokens, const std::vector<T>& target,
                        std::int64_t target_tokens) {
  const Grid from = grid_of(source_tokens, "source");
  const Grid to = grid_of(target_tokens, "target");
  const std::int64_t width = static_cast<std::int64_t>(source.size()) / source_tokens;
  VITRAIL_EXPECT(static_cast<std::int64_t>(source.size()) == source_tokens * width &&
                     static_cast<std::int64_t>(target.size()) == target_tokens * width,
                 ExitCode::usage,
                 text(source.size(), " numbers of ", source_tokens, " position embeddings for ", target.size(), " of ",
                      target_tokens),
                 "both need the same width", "");
  const std::vector<T> grid(source.begin() + (from.class_token ? width : 0), source.end());
  const std::vector<T> zoomed = zoom(grid, {from.side, from.side, width}, {to.side, to.side, width});
  std::vector<T> result;
  result.reserve(target.size());
  if (to.class_token) {
    const std::vector<T>& row = from.class_token ? source : target;
    result.assign(row.begin(), row.begin() + width);
  }
  result.insert(result.end(), zoomed.begin(), zoomed.end());
  return result;
}

template std::vector<float> zoom(const std::vector<float>&, const Shape&, const Shape&);
template std::vector<double> zoom(const std::vector<double>&, const Shape&, const Shape&);
template std::vector<float> vit_zoom(const std::vector<float>&, std::int64_t, const std::vector<float>&, std::int64_t);
template std::vector<double> vit_zoom(const std::vector<double>&, std::int64_t, const std::vector<double>&,
                                      std::int64_t);

}  // namespace vitrail
