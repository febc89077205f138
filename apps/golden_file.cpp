#include "apps/golden_file.hpp"

#include <algorithm>

#include "device/host_values.hpp"

namespace vitrail {

GoldenQuantity golden_quantity(Device& device, ConstTensor tensor, const Shape& shape) {
  const auto lengths = shape.lengths();
  const bool integers = tensor.dtype == Dtype::i32 || tensor.dtype == Dtype::i64;
  return {to_doubles(device, tensor.view(shape)),
          {lengths.begin(), lengths.end()},
          integers ? GoldenQuantity::Kind::integers : GoldenQuantity::Kind::output};
}

GoldenQuantity golden_quantity(Device& device, ConstTensor tensor) {
  return golden_quantity(device, tensor, tensor.shape);
}
GoldenQuantity golden_quantity(double value) { return {{value}, {}}; }
GoldenQuantity golden_integer(std::int64_t value) {
  return {{static_cast<double>(value)}, {}, GoldenQuantity::Kind::integers};
}
GoldenQuantity golden_gradient(Device& device, ConstTensor tensor) {
  GoldenQuantity quantity = golden_quantity(device, tensor);
  quantity.kind = GoldenQuantity::Kind::gradient;
  return quantity;
}

GoldenFile::GoldenFile(const std::filesystem::path& path) : file_(h5::File::open(path, ExitCode::data)) {
  const std::string format = file_.has_attribute("/", "format") ? file_.read_string("/", "format") : "none";
  VITRAIL_EXPECT(format == "vitrail-golden-1", ExitCode::data,
                 text("'", path.string(), "' has the format '", format, "'"), "a golden file has 'vitrail-golden-1'",
                 "See tests/golden/README.md");
  kind_ = file_.read_string("/", "kind");
  precision_ = file_.read_string("/", "precision");
  config_ = Json::parse(file_.read_string("/", "config"), text("attribute 'config' of '", path.string(), "'"),
                        ExitCode::data);
}

std::vector<double> GoldenFile::reals_at(const std::string& dataset, std::int64_t index) const {
  const h5::Dataset opened = file_.open_dataset(dataset);
  h5::Shape count = opened.info().shape;
  VITRAIL_EXPECT(!count.empty() && index < count[0], ExitCode::data, text("dataset '", dataset, "' ends too early"),
                 text("entry ", index, " of its first axis is needed"), "");
  h5::Shape start(count.size(), 0);
  start[0] = index;
  count[0] = 1;
  std::vector<double> values(static_cast<std::size_t>(opened.elements() / opened.info().shape[0]));
  opened.read_region(Dtype::f64, start, count, values.data());
  return values;
}

void GoldenFile::read(const std::string& dataset, Device& device, Tensor to) const {
  const auto lengths = to.shape.lengths();
  std::vector<double> values(static_cast<std::size_t>(to.elements()));
  file_.read(dataset, Dtype::f64, {lengths.begin(), lengths.end()}, values.data());
  from_doubles(values, device, to);
}

void GoldenFile::read_integers(const std::string& dataset, Device& device, Tensor to) const {
  const std::vector<std::int32_t> values = file_.read<std::int32_t>(dataset);
  VITRAIL_EXPECT(std::ssize(values) == to.elements(), ExitCode::data, text(dataset, " has ", values.size(), " entries"),
                 text("the model needs ", to.elements()), "");
  device.copy(ConstTensor(values.data(), {std::ssize(values)}, Dtype::i32), to);
}

void GoldenFile::compare(const GoldenGroup& group, const GoldenQuantities& computed, const GoldenTolerances& tolerances,
                         GoldenReport& report) const {
  for (const std::string& name : group.required) {
    VITRAIL_EXPECT(file_.has(group.name + "/" + name), ExitCode::data,
                   text("'", file_.path(), "' has no '", group.name, "/", name, "'"), "files of this kind have it", "");
  }
  for (const std::string& name : file_.datasets_below(group.name)) {
    if (std::find(group.inputs.begin(), group.inputs.end(), name) != group.inputs.end()) continue;
    const std::string shown = group.name + "/" + name;
    const auto found = computed.find(name);
    if (found == computed.end()) {
      report.unsupported(shown);
      continue;
    }
    const GoldenQuantity& quantity = found->second;
    if (shape(shown) != quantity.shape) {
      report.failed(shown, "the shapes differ");
      continue;
    }
    const std::vector<double> expected = reals(shown);
    if (quantity.kind == GoldenQuantity::Kind::integers) {
      report.compare_exactly(shown, quantity.values, expected);
      continue;
    }
    const double scale = group.scale ? group.scale(expected) : largest_magnitude(expected);
    const bool gradient = quantity.kind == GoldenQuantity::Kind::gradient;
    report.compare(shown, quantity.values, expected, scale, gradient ? tolerances.gradients : tolerances.outputs);
  }
}

}  // namespace vitrail
