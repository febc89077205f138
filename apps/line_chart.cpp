#include "apps/line_chart.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>

#include "base/error.hpp"

namespace vitrail {

namespace {

// Okabe and Ito's palette, without the yellow, which is pale on white.
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"};
constexpr const char* kDashes[] = {"", "7 4", "2 3", "9 3 2 3"};
// Circle, square, triangle, diamond around the origin.
constexpr const char* kMarkers[] = {"M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z", "M-3.2 -3.2h6.4v6.4h-6.4z",
                                    "M0 -4.2L4 3H-4z", "M0 -4.6L4.2 0L0 4.6L-4.2 0z"};
constexpr double kPlotWidth = 560;
constexpr double kPlotHeight = 360;
constexpr double kLeft = 76;
constexpr double kTop = 52;
constexpr double kBottom = 62;
constexpr double kLegendRow = 22;
constexpr double kCharacter = 7.2;  // width of a letter, about; SVG has no way to ask

std::string number(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.6g", value);
  return buffer;
}
std::string exact(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.17g", value);
  return buffer;
}
/// A place in the picture.
std::string place(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.2f", value);
  return buffer;
}

/// Text between tags and inside quotes. Control characters are no characters of XML.
std::string escaped(const std::string& words) {
  std::string result;
  for (const char c : words) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return result;
}

const char* chosen(std::span<const char* const> from, int index) {
  return from[static_cast<std::size_t>(index < 0 ? 0 : index) % from.size()];
}

/// Where values stand along an axis of `length` pixels.
struct Axis {
  double low = 0;
  double high = 1;
  bool logarithmic = false;
  std::vector<double> ticks = {};

  [[nodiscard]] double share(double value) const {
    if (logarithmic) return std::log(value / low) / std::log(high / low);
    return (value - low) / (high - low);
  }
};

/// Of values low .. high: ends at ticks.
Axis linear_axis(double low, double high) {
  if (!(high > low)) {
    const double room = low == 0 ? 1 : std::abs(low) / 10;
    low -= room;
    high += room;
  }
  Axis axis{low, high};
  axis.ticks = linear_ticks(low, high, 8);
  if (axis.ticks.size() < 2) return axis;
  const double step = axis.ticks[1] - axis.ticks[0];
  const double slack = step * 1e-9;
  if (axis.low < axis.ticks.front() - slack) axis.ticks.insert(axis.ticks.begin(), axis.ticks.front() - step);
  if (axis.high > axis.ticks.back() + slack) axis.ticks.push_back(axis.ticks.back() + step);
  axis.low = axis.ticks.front();
  axis.high = axis.ticks.back();
  return axis;
}

/// Ends a little outside the values.
Axis logarithmic_axis(double low, double high) {
  const double room = high > low ? std::pow(high / low, 0.04) : 2;
  Axis axis{low / room, high * room, true};
  axis.ticks = logarithmic_ticks(axis.low, axis.high);
  return axis;
}

bool is_shown(const LineChart& chart, const std::pair<double, double>& point) {
  return std::isfinite(point.first) && std::isfinite(point.second) && (!chart.log_x || point.first > 0);
}

/// The document under construction.
class Picture {
 public:
  Picture(const LineChart& chart, const Axis& x, const Axis& y) : chart_(chart), x_(x), y_(y) {}

  std::string draw() {
    std::size_t longest = 0;
    for (const ChartLine& line : chart_.lines) longest = std::max(longest, line.label.size());
    const double title = 1.4 * kCharacter * static_cast<double>(chart_.title.size());
    width_ = kLeft + std::max(kPlotWidth + 74 + kCharacter * static_cast<double>(longest), title);
    height_ = kTop + std::max(kPlotHeight + kBottom, kLegendRow * static_cast<double>(chart_.lines.size() + 1));
    svg_ = text("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", place(width_), "\" height=\"", place(height_),
                "\" viewBox=\"0 0 ", place(width_), " ", place(height_),
                "\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#222222\">\n", "<title>",
                escaped(chart_.title), "</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
    draw_axes();
    for (const ChartLine& line : chart_.lines) draw_line(line);
    draw_legend();
    return svg_ + "</svg>\n";
  }

 private:
  [[nodiscard]] double x_of(double value) const { return kLeft + kPlotWidth * x_.share(value); }
  [[nodiscard]] double y_of(double value) const { return kTop + kPlotHeight * (1 - y_.share(value)); }

  void draw_stroke(double x1, double y1, double x2, double y2, const char* colour, const char* kind) {
    svg_ += text("<line class=\"", kind, "\" x1=\"", place(x1), "\" y1=\"", place(y1), "\" x2=\"", place(x2),
                 "\" y2=\"", place(y2), "\" stroke=\"", colour, "\"/>\n");
  }
  void draw_words(double x, double y, const char* attributes, const std::string& words) {
    svg_ += text("<text x=\"", place(x), "\" y=\"", place(y), "\" ", attributes, ">", escaped(words), "</text>\n");
  }

  void draw_axes() {
    const double right = kLeft + kPlotWidth;
    const double bottom = kTop + kPlotHeight;
    for (const double tick : x_.ticks) {
      draw_stroke(x_of(tick), kTop, x_of(tick), bottom + 5, "#e3e3e3", "grid");
      draw_words(x_of(tick), bottom + 20, "class=\"x-tick\" text-anchor=\"middle\"", number(tick));
    }
    for (const double tick : y_.ticks) {
      draw_stroke(kLeft - 5, y_of(tick), right, y_of(tick), "#e3e3e3", "grid");
      draw_words(kLeft - 10, y_of(tick) + 4.5, "class=\"y-tick\" text-anchor=\"end\"", number(tick));
    }
    draw_stroke(kLeft, bottom, right, bottom, "#555555", "axis");
    draw_stroke(kLeft, kTop, kLeft, bottom, "#555555", "axis");
    draw_words(kLeft, kTop - 22, "font-size=\"16\" font-weight=\"bold\"", chart_.title);
    draw_words(kLeft + kPlotWidth / 2, bottom + 46, "text-anchor=\"middle\"", chart_.x_label);
    const std::string turned =
        text("text-anchor=\"middle\" transform=\"rotate(-90 22 ", place(kTop + kPlotHeight / 2), ")\"");
    draw_words(22, kTop + kPlotHeight / 2, turned.c_str(), chart_.y_label);
  }

  void begin_line(const ChartLine& line) {
    const char* const colour = chosen(kColours, line.colour);
    svg_ += text("<g stroke=\"", colour, "\" fill=\"", colour, "\">\n");
  }
  /// `path` is what stands in the attribute d.
  void draw_path(const ChartLine& line, const std::string& path) {
    const std::string dashes = chosen(kDashes, line.stroke);
    svg_ += text("<path d=\"", path, "\" fill=\"none\" stroke-width=\"2\" stroke-linejoin=\"round\"",
                 dashes.empty() ? "" : " stroke-dasharray=\"" + dashes + "\"", "/>\n");
  }

  void draw_line(const ChartLine& line) {
    std::string path;
    std::string points;
    for (const auto& point : line.points) {
      if (!is_shown(chart_, point)) continue;
      const std::string x = place(x_of(point.first));
      const std::string y = place(y_of(point.second));
      path += text(path.empty() ? "M" : "L", x, " ", y);
      points += text("<path class=\"point\" d=\"", chosen(kMarkers, line.stroke), "\" transform=\"translate(", x, " ",
                     y, ")\" stroke=\"#ffffff\" stroke-width=\"0.7\" data-x=\"", exact(point.first), "\" data-y=\"",
                     exact(point.second), "\"><title>", escaped(line.label), ": ", number(point.first), ", ",
                     number(point.second), "</title></path>\n");
    }
    begin_line(line);
    if (!path.empty()) draw_path(line, path);
    svg_ += points + "</g>\n";
  }

  void draw_legend() {
    const double left = kLeft + kPlotWidth + 20;
    double y = kTop + 10;
    for (const ChartLine& line : chart_.lines) {
      begin_line(line);
      draw_path(line, text("M", place(left), " ", place(y), "h32"));
      svg_ += text("<path d=\"", chosen(kMarkers, line.stroke), "\" transform=\"translate(", place(left + 16), " ",
                   place(y), ")\" stroke=\"#ffffff\" stroke-width=\"0.7\"/>\n</g>\n");
      draw_words(left + 40, y + 4.5, "class=\"legend\"", line.label);
      y += kLegendRow;
    }
  }

  const LineChart& chart_;
  Axis x_, y_;
  double width_ = 0;
  double height_ = 0;
  std::string svg_;
};

}  // namespace

std::vector<double> linear_ticks(double low, double high, int wanted) {
  const double rough = (high - low) / std::max(wanted, 1);
  if (!std::isfinite(rough) || !(rough > 0)) return {low};
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0}) {
    if (factor * power >= rough * (1 - 1e-9)) step = factor * power;
  }
  std::vector<double> ticks;
  const double last = std::floor(high / step + 1e-9);
  for (double i = std::ceil(low / step - 1e-9); i <= last; ++i) ticks.push_back(i == 0 ? 0 : i * step);
  return ticks;
}

std::vector<double> logarithmic_ticks(double low, double high) {
  std::vector<double> all;
  std::vector<double> powers;
  for (double exponent = std::floor(std::log10(low)); exponent <= std::ceil(std::log10(high)); ++exponent) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * std::pow(10, exponent);
      if (tick < low * (1 - 1e-9) || tick > high * (1 + 1e-9)) continue;
      all.push_back(tick);
      if (factor == 1) powers.push_back(tick);
    }
  }
  return all.size() <= 10 || powers.size() < 2 ? all : powers;
}

std::string to_svg(const LineChart& chart) {
  std::vector<double> xs;
  std::vector<double> ys;
  for (const ChartLine& line : chart.lines) {
    for (const auto& point : line.points) {
      if (!is_shown(chart, point)) continue;
      xs.push_back(point.first);
      ys.push_back(point.second);
    }
  }
  if (xs.empty()) {
    xs.push_back(1);
    ys.push_back(0);
  }
  const auto [x_low, x_high] = std::minmax_element(xs.begin(), xs.end());
  const auto [y_low, y_high] = std::minmax_element(ys.begin(), ys.end());
  const Axis x = chart.log_x ? logarithmic_axis(*x_low, *x_high) : linear_axis(*x_low, *x_high);
  return Picture(chart, x, linear_axis(*y_low, *y_high)).draw();
}

}  // namespace vitrail
