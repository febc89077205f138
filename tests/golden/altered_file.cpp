// Copies a golden file with one thing changed, for the tests that must see it: altered_file FROM TO CHANGE
//   value    one entry of /out/logits, by 1e-3 of itself
//   integer  one entry of /out/moe/.../slot
//   key      config gets a setting that nobody knows
//   setting  config asks for a classifier that is not built

#include <filesystem>
#include <iostream>
#include <vector>

#include "base/json.hpp"
#include "io/h5.hpp"

namespace vitrail {
namespace {

void copy(const h5::File& from, h5::File& to) {
  for (const char* name : {"format", "kind", "name", "precision", "source", "config"})
    to.write_string("/", name, from.read_string("/", name));
  for (const std::string& name : from.datasets_below("/")) {
    const h5::DatasetInfo info = from.info(name);
    std::vector<double> values = from.read<double>(name);  // holds every f32, f64 and i32 exactly
    h5::Dataset made = to.create_dataset(name, info.dtype, info.shape);
    if (info.dtype == Dtype::i32) {
      const std::vector<std::int32_t> integers = from.read<std::int32_t>(name);
      made.write(Dtype::i32, integers.data());
    } else {
      made.write(Dtype::f64, values.data());
    }
  }
}

void change(const h5::File& from, h5::File& to, const std::string& what) {
  Json config = Json::parse(from.read_string("/", "config"), "config", ExitCode::data);
  if (what == "value") {
    std::vector<double> logits = from.read<double>("/out/logits");
    logits[1] *= 1.001;
    to.open_dataset("/out/logits").write(Dtype::f64, logits.data());
  } else if (what == "integer") {
    std::vector<std::int32_t> slots = from.read<std::int32_t>("/out/moe/encoderblock_1/slot");
    slots.back() += 1;
    to.open_dataset("/out/moe/encoderblock_1/slot").write(Dtype::i32, slots.data());
  } else if (what == "key") {
    Json model = config.at("model");
    config.set("model", model.set("stochastic_depth", 0.1));
  } else if (what == "setting") {
    Json model = config.at("model");
    config.set("model", model.set("classifier", "mean"));
  } else {
    fail(ExitCode::usage, {"no change '" + what + "'", "it is value, integer, key or setting", ""});
  }
  to.write_string("/", "config", config.dump());
}

int run(int argc, char** argv) {
  if (argc != 4) return static_cast<int>(ExitCode::usage);
  const h5::File from = h5::File::open(argv[1], ExitCode::data);
  h5::File to = h5::File::create(argv[2], ExitCode::data);
  copy(from, to);
  change(from, to, argv[3]);
  to.close();
  return 0;
}

}  // namespace
}  // namespace vitrail

int main(int argc, char** argv) {
  try {
    return vitrail::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "altered_file: " << error.what() << '\n';
    return 1;
  }
}
