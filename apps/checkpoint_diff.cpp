#include "apps/checkpoint_diff.hpp"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "apps/checkpoint_stretches.hpp"
#include "apps/options.hpp"
#include "apps/table.hpp"
#include "device/host_values.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "vitrail-checkpoint diff A B : how two checkpoints differ, tensor by tensor. Of a run, its latest one is taken.\n"
    "\n"
    "  max |a-b|   over the elements of a tensor; inf where one is NaN or infinite and the other is not the same\n"
    "  relative    max |a-b| / max |a|\n"
    "  differing   elements whose bits differ (their values, where the dtypes differ)\n"
    "\n"
    "  vitrail-checkpoint diff runs/a runs/b\n"
    "  vitrail-checkpoint diff runs/a/checkpoints/step-00000420 runs/a --all\n"
    "  vitrail-checkpoint diff runs/a runs/b --tolerance 1e-6 --quiet && echo close\n"
    "\n"
    "Two checkpoints are equal when they have the same tensors with the same bits. With --tolerance T, tensors are\n"
    "equal too when their shapes are the same and their relative difference is at most T, whatever their dtypes.\n"
    "Steps and configurations may differ; the summary tells. With --json, null stands for inf.\n"
    "\n"
    "Exit codes: 0 equal; 2 usage; 4 a checkpoint cannot be read; 5 they differ.";

struct Settings {
  std::vector<std::filesystem::path> checkpoints;
  std::optional<double> tolerance;
  bool all = false;
  bool quiet = false;
  bool json = false;
};

struct Compared {
  std::string name;
  std::string kind;  ///< "equal", "close", "values", "dtype", "shape", "only in A", "only in B"
  std::string shape;
  std::string dtype;
  TensorDifference difference;

  [[nodiscard]] bool equal() const { return kind == "equal" || kind == "close"; }
};

struct Pair {
  CheckpointReader a;
  CheckpointReader b;
  StretchBuffer of_a = {};
  StretchBuffer of_b = {};
};

Compared compare(Pair& pair, const std::string& name, std::optional<double> tolerance) {
  Compared result{.name = name, .kind = {}, .shape = {}, .dtype = {}, .difference = {}};
  if (!pair.a.has(name) || !pair.b.has(name)) {
    const CheckpointReader& owner = pair.a.has(name) ? pair.a : pair.b;
    result.kind = pair.a.has(name) ? "only in A" : "only in B";
    result.shape = owner.shape(name).str();
    result.dtype = name_of(owner.dtype(name));
    return result;
  }
  const Shape shape = pair.a.shape(name);
  const Dtype dtype = pair.a.dtype(name);
  const bool same_dtype = dtype == pair.b.dtype(name);
  result.shape = shape.str();
  result.dtype = name_of(dtype);
  if (!same_dtype) result.dtype += text(" ", name_of(pair.b.dtype(name)));
  if (!(shape == pair.b.shape(name))) {
    result.kind = "shape";
    result.shape += text(" ", pair.b.shape(name).str());
    return result;
  }
  in_stretches(shape.elements(), [&](std::int64_t first, std::int64_t count) {
    result.difference.add(pair.of_a.read(pair.a, name, first, count), pair.of_b.read(pair.b, name, first, count));
  });
  if (same_dtype && result.difference.differing() == 0) {
    result.kind = "equal";
  } else if (tolerance && result.difference.relative() <= *tolerance) {
    result.kind = "close";
  } else {
    result.kind = same_dtype ? "values" : "dtype";
  }
  return result;
}

/// Keys of the configurations whose values differ.
std::vector<std::string> differing_settings(const Json& a, const Json& b) {
  std::vector<std::string> names;
  if (!a.is_object() || !b.is_object()) return names;
  for (const JsonMember& member : a.members()) {
    const Json* other = b.find(member.key);
    if (other == nullptr || !(*other == member.value)) names.push_back(member.key);
  }
  for (const JsonMember& member : b.members()) {
    if (!a.has(member.key)) names.push_back(member.key);
  }
  return names;
}

std::string number(double value) { return text(value); }

void print(const Settings& s, const Pair& pair, const std::vector<Compared>& compared, std::int64_t unequal) {
  Table table({{"tensor"}, {"shape"}, {"dtype"}, {"max |a-b|", true}, {"relative", true}, {"differing", true}, {""}});
  std::int64_t rows = 0;
  double max_abs = 0;
  double relative = 0;
  for (const Compared& one : compared) {
    max_abs = std::max(max_abs, one.difference.max_abs());
    relative = std::max(relative, one.difference.relative());
    if (one.kind == "equal" && !s.all) continue;
    const bool numbers = one.difference.elements() > 0;
    table.add({one.name, one.shape, one.dtype, numbers ? number(one.difference.max_abs()) : "",
               numbers ? number(one.difference.relative()) : "",
               numbers ? std::to_string(one.difference.differing()) : "", one.kind});
    ++rows;
  }
  std::cout << "A " << pair.a.path().string() << ", step " << pair.a.info().step << "\nB " << pair.b.path().string()
            << ", step " << pair.b.info().step << '\n';
  if (rows > 0) table.print(std::cout);
  const std::vector<std::string> settings = differing_settings(pair.a.info().config, pair.b.info().config);
  if (!settings.empty()) {
    std::cout << "settings that differ:";
    for (const std::string& name : settings) std::cout << ' ' << name;
    std::cout << '\n';
  }
  std::cout << compared.size() << " tensors, " << unequal << " differ; max |a-b| " << number(max_abs) << ", relative "
            << number(relative) << '\n';
}

void print_json(const Pair& pair, const std::vector<Compared>& compared, std::int64_t unequal) {
  Json tensors = Json::array();
  for (const Compared& one : compared) {
    tensors.push_back(Json::object()
                          .set("tensor", one.name)
                          .set("result", one.kind)
                          .set("shape", one.shape)
                          .set("dtype", one.dtype)
                          .set("bit_equal", one.kind == "equal")
                          .set("max_abs", one.difference.max_abs())
                          .set("relative", one.difference.relative())
                          .set("elements", one.difference.elements())
                          .set("differing", one.difference.differing())
                          .set("first_differing", one.difference.first()));
  }
  Json settings = Json::array();
  for (const std::string& name : differing_settings(pair.a.info().config, pair.b.info().config)) {
    settings.push_back(name);
  }
  const auto side = [](const CheckpointReader& reader) {
    return Json::object().set("path", reader.path().string()).set("step", reader.info().step);
  };
  std::cout << Json::object()
                   .set("a", side(pair.a))
                   .set("b", side(pair.b))
                   .set("equal", unequal == 0)
                   .set("unequal_tensors", unequal)
                   .set("settings_that_differ", std::move(settings))
                   .set("tensors", std::move(tensors))
                   .dump()
            << '\n';
}

}  // namespace

void TensorDifference::add(ConstTensor a, ConstTensor b) {
  VITRAIL_ASSERT(a.elements() == b.elements());
  const std::vector<double> left = to_doubles(a);
  const bool same_dtype = a.dtype == b.dtype;
  const bool equal = same_dtype && std::memcmp(a.data, b.data, static_cast<std::size_t>(a.bytes())) == 0;
  const std::vector<double> right = equal ? std::vector<double>() : to_doubles(b);
  const auto* bits_a = static_cast<const std::byte*>(a.data);
  const auto* bits_b = static_cast<const std::byte*>(b.data);
  const auto size = static_cast<std::size_t>(size_of(a.dtype));
  for (std::size_t i = 0; i < left.size(); ++i) {
    const double x = left[i];
    if (std::isfinite(x)) largest_ = std::max(largest_, std::abs(x));
    if (equal) continue;
    const double y = right[i];
    const bool same_value = x == y || (std::isnan(x) && std::isnan(y));
    if (same_dtype ? std::memcmp(bits_a + i * size, bits_b + i * size, size) == 0 : same_value) continue;
    ++differing_;
    if (first_ < 0) first_ = elements_ + static_cast<std::int64_t>(i);
    const bool both = std::isfinite(x) && std::isfinite(y);
    const double distance = both ? std::abs(x - y) : std::numeric_limits<double>::infinity();
    max_abs_ = std::max(max_abs_, same_value ? 0 : distance);
  }
  elements_ += std::ssize(left);
}

double TensorDifference::relative() const noexcept {
  if (max_abs_ == 0) return 0;
  return largest_ == 0 ? std::numeric_limits<double>::infinity() : max_abs_ / largest_;
}

int checkpoint_diff(int argc, char** argv) {
  Settings s;
  Options options("vitrail-checkpoint diff", kManual);
  options.add("checkpoints", s.checkpoints, "A B", "two checkpoints, or runs").required();
  options.add("tolerance", s.tolerance, "T", "relative difference up to which tensors count as equal");
  options.add("all", s.all, "", "also list the tensors that are equal");
  options.add("quiet", s.quiet, "", "print nothing, and stop at the first difference: the exit code tells");
  options.add("json", s.json, "", "one JSON object with every tensor instead of a table");
  options.positional("checkpoints");
  if (!options.parse(argc, argv)) return 0;
  options.apply();
  VITRAIL_EXPECT(s.checkpoints.size() == 2, ExitCode::usage, text(s.checkpoints.size(), " checkpoints are given"),
                 "two are compared", "vitrail-checkpoint diff A B");
  VITRAIL_EXPECT(!s.tolerance || *s.tolerance >= 0, ExitCode::usage, text("--tolerance ", s.tolerance.value_or(0)),
                 "a difference is 0 or more", "");

  Pair pair{CheckpointReader(s.checkpoints[0]), CheckpointReader(s.checkpoints[1])};
  std::set<std::string> names;
  for (const CheckpointReader* reader : {&pair.a, &pair.b}) {
    const std::vector<std::string> some = reader->tensors();
    names.insert(some.begin(), some.end());
  }
  std::vector<Compared> compared;
  std::int64_t unequal = 0;
  for (const std::string& name : names) {
    compared.push_back(compare(pair, name, s.tolerance));
    if (!compared.back().equal()) ++unequal;
    if (s.quiet && unequal > 0) break;
  }
  if (s.json && !s.quiet) print_json(pair, compared, unequal);
  if (!s.json && !s.quiet) print(s, pair, compared, unequal);
  return static_cast<int>(unequal == 0 ? ExitCode::done : ExitCode::numbers);
}

}  // namespace vitrail
