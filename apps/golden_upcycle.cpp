#include "apps/golden_upcycle.hpp"

#include <algorithm>

#include "convert/names.hpp"
#include "convert/npz.hpp"
#include "device/arena.hpp"
#include "device/host_values.hpp"
#include "train/initial_weights.hpp"

namespace vitrail {

namespace {

/// Interpolated position embeddings are rounded to f32, once on either side.
constexpr double kRounding = 1e-6;

/// Every tensor of the archive, bit for bit.
void compare_source(const GoldenFile& file, TensorSource& source, GoldenReport& report) {
  for (const TensorInfo& tensor : source.tensors()) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.shape.elements() * size_of(tensor.dtype)));
    const Tensor values(bytes.data(), {tensor.shape.elements()}, tensor.dtype);
    source.read(tensor.name, 0, values);
    const std::string name = "/source/" + tensor.name;
    report.compare_exactly(name, to_doubles(values), file.reals(name));
  }
}

/// The model of the tensors below a group.
ModelConfig model_below(const GoldenFile& file, const std::string& group) {
  std::map<std::string, Shape> shapes;
  for (const std::string& name : file.h5().datasets_below(group)) {
    const h5::Shape lengths = file.shape(text(group, "/", name));
    shapes[name] = Shape(std::span<const std::int64_t>(lengths));
  }
  return model_of_shapes(shapes, {}, file.h5().path() + " " + group).model;
}

}  // namespace

void run_golden_upcycle(const GoldenFile& file, const std::filesystem::path& npz, GoldenReport& report) {
  VITRAIL_EXPECT(std::filesystem::exists(npz), ExitCode::data, text("there is no '", npz.string(), "'"),
                 "it belongs to '" + file.h5().path() + "'", "");
  const std::unique_ptr<TensorSource> archive = open_npz(npz);
  compare_source(file, *archive, report);
  MappedSource dense(*archive, find_model(Naming::vit_npz, archive->tensors(), npz.string(), {}).parts);

  const std::vector<ParameterSpec> table = parameter_table(model_below(file, "/params"));
  const std::unique_ptr<Device> device = make_cpu_device();
  std::vector<std::vector<float>> memory(table.size());
  std::vector<Tensor> tensors;
  for (std::size_t i = 0; i < table.size(); ++i) {
    memory[i].resize(static_cast<std::size_t>(table[i].shape.elements()));
    tensors.emplace_back(memory[i].data(), table[i].shape, Dtype::f32);
    from_doubles(file.reals("/params_before/" + table[i].name), tensors[i]);
  }
  // The original's rules drop the head.
  const InitialWeights weights(table, dense, npz.string(), true);
  weights.load(*device, 0, tensors);
  std::size_t compared = 0;
  for (std::size_t i = 0; i < table.size(); ++i, ++compared) {
    const std::string name = "/params/" + table[i].name;
    const std::vector<double> expected = file.reals(name);
    if (table[i].name.ends_with("/pos_embedding")) {
      report.compare(name, to_doubles(tensors[i]), expected, largest_magnitude(expected), kRounding);
    } else {
      report.compare_exactly(name, to_doubles(tensors[i]), expected);
    }
  }
  VITRAIL_EXPECT(compared == file.h5().datasets_below("/params").size(), ExitCode::data,
                 text(compared, " tensors of /params are a model's"), "there are others beside", "");
}

}  // namespace vitrail
