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
  Shape shape;  // as in the file
  Tensor x, y;  // [devices images n]
};

/// The draws of a group: [1 1 m], [devices 1 m] or [devices images m].
std::int64_t images_mixed(const GoldenFile& file, const std::string& group, std::int64_t devices, std::int64_t images) {
  const h5::Shape shape = file.shape(group + "/dirichlet");
  const bool known = shape.size() == 3 && (shape[0] == devices || (shape[0] == 1 && shape[1] == 1)) &&
                     (shape[1] == 1 || shape[1] == images) && shape[2] >= 1;
  VITRAIL_EXPECT(
      known, ExitCode::data, text("'", file.h5().path(), "': ", group, "/dirichlet has another shape"),
      text("draws are for the batch, for each of ", devices, " devices, or each of their ", images, " images"), "");
  if (shape[2] > images) throw Unsupported(text(group, ": ", shape[2], " images mixed of ", images));
  return shape[2];
}

/// Mixes everything with the draws of one group.
void run_group(const GoldenBackend& backend, const GoldenFile& file, const std::string& group, std::int64_t devices,
               std::int64_t images, GoldenReport& report) {
  const std::int64_t m = images_mixed(file, group, devices, images);
  const auto shape_of = [&](const char* dataset) { return Shape(std::span<const std::int64_t>(file.shape(dataset))); };
  Mixed both[] = {{"images", shape_of("/images"), {}, {}}, {"labels", shape_of("/labels"), {}, {}}};
  Tensor weights;
  const auto lay_out = [&](Arena& arena) {
    weights = arena.allocate(backend.ops.real(), {devices, images, m});
    for (Mixed& each : both) {
      const std::int64_t n = each.shape.elements() / (devices * images);
      for (Tensor* x : {&each.x, &each.y}) *x = arena.allocate(backend.ops.real(), {devices, images, n});
    }
  };
  Arena measured("golden mixup");
  lay_out(measured);
  Arena arena("golden mixup", backend.device, measured.bytes());
  lay_out(arena);

  const auto host = make_cpu_device();
  Arena host_arena("golden mixup weights", *host, weights.bytes() + 64);
  const Tensor host_weights = host_arena.allocate(weights.dtype, weights.shape);
  set_mixup_weights(file.reals(group + "/dirichlet"), host_weights);
  backend.device.copy(host_weights, weights);
  GoldenQuantities out;
  for (const Mixed& each : both) {
    file.read(text("/", each.name), backend.device, each.x.view(each.shape));
    backend.ops.mix_images({.x = each.x, .weights = weights, .y = each.y});
    out[each.name] = golden_quantity(backend.device, each.y, each.shape);
  }
  file.compare({.name = group, .required = {"dirichlet", "images", "labels"}, .inputs = {"dirichlet"}}, out,
               golden_tolerances(backend.ops), report);
}

}  // namespace

void run_golden_mixup(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report) {
  ConfigKeys keys(file.config(), "config");
  const std::int64_t devices = keys.at("devices").as_integer();
  keys.ignore("mixup");  // how weights would be drawn; the draws are given
  keys.done();
  const std::int64_t batch = file.shape("/images").at(0);
  VITRAIL_EXPECT(devices >= 1 && batch % devices == 0 && file.shape("/labels").at(0) == batch, ExitCode::data,
                 text("'", file.h5().path(), "' has ", batch, " images on ", devices, " devices"),
                 "every device has as many, and every image has a row of labels", "");
  for (const h5::Child& group : file.h5().children("/")) {
    if (group.is_group) run_group(backend, file, "/" + group.name, devices, batch / devices, report);
  }
}

}  // namespace vitrail
