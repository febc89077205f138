// Golden files of kind=mixup. A leaf stands for a device of the original.

#include "apps/golden_config.hpp"
#include "apps/golden_kinds.hpp"
#include "device/arena.hpp"
#include "train/mixup.hpp"

namespace vitrail {

namespace {

/// Images or labels, before and after.
struct Mixed {
  const char* name;
  h5::Shape file_shape;
  Tensor x, y;  // [devices images n]
};

/// Draws of a group: [1 1 m], [devices 1 m] or [devices images m].
h5::Shape draws_shape(const GoldenFile& file, const std::string& group, std::int64_t devices, std::int64_t images) {
  const h5::Shape shape = file.shape(group + "/dirichlet");
  const bool known = shape.size() == 3 && (shape[0] == devices || (shape[0] == 1 && shape[1] == 1)) &&
                     (shape[1] == 1 || shape[1] == images) && shape[2] >= 1;
  VITRAIL_EXPECT(
      known, ExitCode::data, text("'", file.h5().path(), "': ", group, "/dirichlet has another shape"),
      text("draws are for the batch, for each of ", devices, " devices, or each of their ", images, " images"), "");
  if (shape[2] > images) throw Unsupported(text(group, ": ", shape[2], " images mixed of ", images));
  return shape;
}

}  // namespace

void run_golden_mixup(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report) {
  ConfigKeys keys(file.config(), "config");
  const std::int64_t devices = keys.at("devices").as_integer();
  keys.ignore("mixup");  // how weights would be drawn; the draws are given
  keys.done();
  const std::int64_t batch = file.shape("/images").at(0);
  VITRAIL_EXPECT(devices >= 1 && batch % devices == 0, ExitCode::data,
                 text("'", file.h5().path(), "' has ", batch, " images on ", devices, " devices"),
                 "every device has as many", "");
  const std::int64_t images = batch / devices;

  for (const h5::Child& group : file.h5().children("/")) {
    if (!group.is_group) continue;
    const std::string name = "/" + group.name;
    const std::int64_t m = draws_shape(file, name, devices, images)[2];
    Mixed both[] = {{"images", file.shape("/images"), {}, {}}, {"labels", file.shape("/labels"), {}, {}}};
    Tensor weights;
    const auto lay_out = [&](Arena& arena) {
      weights = arena.allocate(backend.ops.real(), {devices, images, m});
      for (Mixed& each : both) {
        const std::int64_t n = Shape(std::span<const std::int64_t>(each.file_shape)).elements() / batch;
        for (Tensor* x : {&each.x, &each.y}) *x = arena.allocate(backend.ops.real(), {devices, images, n});
      }
    };
    Arena measured("golden mixup");
    lay_out(measured);
    Arena arena("golden mixup", backend.device, measured.bytes());
    lay_out(arena);

    set_mixup_weights(file.reals(name + "/dirichlet"), weights);
    GoldenQuantities out;
    for (const Mixed& each : both) {
      const Shape shape{std::span<const std::int64_t>(each.file_shape)};
      file.read(text("/", each.name), each.x.view(shape));
      backend.ops.mix_images({.x = each.x, .weights = weights, .y = each.y});
      out[each.name] = golden_quantity(each.y, shape);
    }
    file.compare({.name = name, .required = {"dirichlet", "images", "labels"}, .inputs = {"dirichlet"}}, out,
                 golden_tolerances(backend.ops), report);
  }
}

}  // namespace vitrail
