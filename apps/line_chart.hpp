#pragma once
// Line charts as SVG, for curves that a program has measured: one file that every browser shows.

#include <string>
#include <utility>
#include <vector>

namespace vitrail {

struct ChartLine {
  std::string label;                              ///< of the legend
  std::vector<std::pair<double, double>> points;  ///< (x, y), in the order in which they are joined
  int colour = 0;                                 ///< one of seven that colour-blind people can tell apart
  int stroke = 0;                                 ///< one of four: its dashes and the shape of its points
};

struct LineChart {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_x = false;
  std::vector<ChartLine> lines;
};

/// The chart as an SVG document. Texts may hold any characters. Every point is an element of class "point" whose data-x
/// and data-y are its values and whose tooltip says them. Points that are not finite are left out, and with log_x those
/// of x <= 0.
std::string to_svg(const LineChart& chart);

/// Round numbers in low .. high: multiples of 1, 2 or 5 times a power of ten, about `wanted` of them.
std::vector<double> linear_ticks(double low, double high, int wanted);
/// 1, 2 and 5 times the powers of ten in low .. high (both positive), or the powers of ten alone where these are many.
std::vector<double> logarithmic_ticks(double low, double high);

}  // namespace vitrail
