// Golden files of kind=posembed.

#include "apps/golden_kinds.hpp"
#include "model/position_resize.hpp"

namespace vitrail {

namespace {

/// As in every double back end: nothing here depends on what computes.
constexpr GoldenTolerances kTolerances{1e-9, 1e-9, 1e-9};

vitrail::Shape shape_of(const GoldenFile& file, const std::string& dataset) {
  const h5::Shape lengths = file.shape(dataset);
  VITRAIL_EXPECT(lengths.size() <= Shape::kMaxAxes, ExitCode::data,
                 text("dataset '", dataset, "' has ", lengths.size(), " axes"), "a tensor has at most 6", "");
  return vitrail::Shape(std::span<const std::int64_t>(lengths));
}

GoldenQuantity quantity(std::vector<double> values, const h5::Shape& shape) { return {std::move(values), shape}; }

void run_zoom(const GoldenFile& file, const std::string& at, GoldenReport& report) {
  const std::vector<double> zoomed =
      zoom(file.reals(at + "/source"), shape_of(file, at + "/source"), shape_of(file, at + "/result"));
  file.compare({.name = at, .required = {"result"}, .inputs = {"source"}},
               {{"result", quantity(zoomed, file.shape(at + "/result"))}}, kTolerances, report);
}

/// Where round-off carries the last coordinate past the grid, the original writes zeros into the last row and column
/// of `result`; `result_clamped` is what was meant, everywhere.
void run_vit_zoom(const GoldenFile& file, const std::string& at, GoldenReport& report) {
  const h5::Shape shape = file.shape(at + "/target");
  const h5::Shape source = file.shape(at + "/source");
  VITRAIL_EXPECT(shape.size() == 3 && source.size() == 3, ExitCode::data,
                 text("'", at, "' holds no position embeddings"), "these are [1, tokens, width]", "");
  const std::vector<double> zoomed =
      vit_zoom(file.reals(at + "/source"), source[1], file.reals(at + "/target"), shape[1]);
  GoldenGroup group{.name = at, .required = {"result_clamped"}, .inputs = {"source", "target"}};
  const auto zeros = [&](const char* name) {
    return file.h5().has_attribute(at, name) && file.h5().read_integer(at, name) != 0;
  };
  if (zeros("rows_all_zero") || zeros("columns_all_zero")) group.inputs.emplace_back("result");
  file.compare(group, {{"result", quantity(zoomed, shape)}, {"result_clamped", quantity(zoomed, shape)}}, kTolerances,
               report);
}

}  // namespace

void run_golden_posembed(const GoldenFile& file, GoldenReport& report) {
  for (const h5::Child& kind : file.h5().children("/")) {
    if (kind.name != "zoom" && kind.name != "vit_zoom") {
      report.unsupported("/" + kind.name);
      continue;
    }
    for (const h5::Child& child : file.h5().children("/" + kind.name)) {
      const std::string at = "/" + kind.name + "/" + child.name;
      kind.name == "zoom" ? run_zoom(file, at, report) : run_vit_zoom(file, at, report);
    }
  }
}

}  // namespace vitrail
