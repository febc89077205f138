#include "apps/model_file.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <map>
#include <utility>

#include "apps/progress.hpp"
#include "apps/run_options.hpp"
#include "convert/flax_msgpack.hpp"
#include "convert/npz.hpp"
#include "convert/safetensors.hpp"
#include "device/host_values.hpp"
#include "model/moe_blocks.hpp"
#include "train/checkpoint_source.hpp"

namespace vitrail {

namespace {

constexpr std::array<std::pair<ModelFormat, const char*>, 4> kFormats = {{{ModelFormat::npz, "npz"},
                                                                          {ModelFormat::flax, "flax"},
                                                                          {ModelFormat::safetensors, "safetensors"},
                                                                          {ModelFormat::vitrail, "vitrail"}}};

bool begins_as_zip(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, 4> begin{};
  return file.read(begin.data(), begin.size()) && std::string(begin.data(), begin.size()) == "PK\x03\x04";
}

/// "opt_state (48 tensors), step": names by what stands before the first slash.
std::string summary(const std::vector<std::string>& names) {
  std::map<std::string, int> counts;
  for (const std::string& name : names) ++counts[name.substr(0, name.find('/'))];
  std::string line;
  for (const auto& [part, count] : counts) {
    line += text(line.empty() ? "" : ", ", part);
    if (count > 1) line += text(" (", count, " tensors)");
  }
  return line;
}

std::optional<std::int64_t> whole(const std::optional<std::string>& digits) {
  std::int64_t value = 0;
  if (!digits || option_text::read(*digits, value) != nullptr) return std::nullopt;
  return value;
}

using Said = std::function<std::optional<std::string>(const char*)>;

/// What `said` answers to the names of options.
ModelHints hints_from(const Said& said) {
  ModelHints hints;
  hints.heads = whole(said("heads"));
  hints.image_height = whole(said("image-height"));
  hints.image_width = whole(said("image-width"));
  if (const auto name = said("classifier")) hints.classifier = classifier_of(*name);
  if (const auto name = said("positions")) hints.positions = position_embedding_of(*name);
  return hints;
}

/// What is not hinted at is as the settings say.
ModelHints with_settings(ModelHints hints, const Json& settings) {
  const ModelHints remembered = hints_from([&](const char* name) -> std::optional<std::string> {
    const Json* setting = settings.find(name);
    if (setting == nullptr || setting->items().empty()) return std::nullopt;
    return setting->items().front().as_string();
  });
  if (!hints.heads) hints.heads = remembered.heads;
  if (!hints.image_height) hints.image_height = remembered.image_height;
  if (!hints.image_width) hints.image_width = remembered.image_width;
  if (!hints.classifier) hints.classifier = remembered.classifier;
  if (!hints.positions) hints.positions = remembered.positions;
  return hints;
}

void expect_floats(const NamedModel& model, std::span<const TensorInfo> tensors, const std::string& file) {
  std::map<std::string, Dtype> dtypes;
  for (const TensorInfo& tensor : tensors) dtypes[tensor.name] = tensor.dtype;
  for (const TensorPart& part : model.parts) {
    const Dtype dtype = dtypes.at(part.from);
    VITRAIL_EXPECT(dtype == Dtype::f32 || dtype == Dtype::f64 || dtype == Dtype::bf16, ExitCode::checkpoint,
                   text(file, ": ", part.from, " is ", name_of(dtype)), "parameters are f32, f64 or bf16", "");
  }
}

}  // namespace

std::vector<std::string> model_format_names() {
  std::vector<std::string> names = {"auto"};
  for (const auto& [format, name] : kFormats) names.emplace_back(name);
  return names;
}

std::string name_of(ModelFormat format) {
  const auto* const found =
      std::find_if(kFormats.begin(), kFormats.end(), [&](const auto& entry) { return entry.first == format; });
  return found->second;
}

Naming naming_of(ModelFormat format) {
  if (format == ModelFormat::npz) return Naming::vit_npz;
  return format == ModelFormat::safetensors ? Naming::timm : Naming::official;
}

ModelFormat format_by_name(const std::string& name, const std::filesystem::path& path) {
  for (const auto& [format, known] : kFormats) {
    if (name == known) return format;
  }
  const std::string file = path.filename().string();
  if (file.ends_with(".npz")) return ModelFormat::npz;
  if (file.ends_with(".safetensors") || file.ends_with(".safetensors.index.json")) return ModelFormat::safetensors;
  if (file.ends_with(".index")) return ModelFormat::flax;
  return ModelFormat::vitrail;
}

ModelFormat format_to_read(const std::string& name, const std::filesystem::path& path) {
  const ModelFormat format = format_by_name(name, path);
  if (name != "auto" || format != ModelFormat::vitrail) return format;
  if (std::filesystem::is_directory(path)) return ModelFormat::vitrail;
  if (std::filesystem::exists(path.string() + ".index")) return ModelFormat::flax;
  if (path.extension() == ".msgpack" || path.filename().string().find(".data-") != std::string::npos) {
    return ModelFormat::flax;
  }
  if (begins_as_zip(path)) return ModelFormat::npz;
  VITRAIL_EXPECT(std::filesystem::exists(path), ExitCode::checkpoint, text("there is no ", path.string()),
                 "it is what is to be read", "");
  fail(ExitCode::usage, {text(path.string(), " is of no known format"),
                         "known are run directories, .npz, .safetensors and PREFIX.index", "Give --from-format"});
}

ModelHints hints_of(const Options& options) {
  return hints_from([&](const char* name) { return options.given(name); });
}

ModelFile::ModelFile(const std::filesystem::path& path, ModelFormat format, bool average, const ModelHints& given)
    : format_(format), name_(path.string()), settings_(Json::object()) {
  VITRAIL_EXPECT(!average || format == ModelFormat::vitrail, ExitCode::usage, text("--average with ", name_),
                 "only our own checkpoints hold a running average", "");
  open(path);
  const ModelHints hints = with_settings(given, settings_);
  std::optional<std::string> prefix;
  if (reader_) {
    prefix = average ? "average/" : "parameters/";
    VITRAIL_EXPECT(!average || reader_->has("average/embedding/kernel"), ExitCode::usage,
                   text("--average: ", name_, " holds no running average of the weights"),
                   "it was trained with --average-decay 0", "Leave --average out");
    step_ = reader_->info().step;
  }
  model_ = find_model(naming_of(format_), file_->tensors(), name_, hints, prefix);
  if (!reader_) read_step();
  expect_floats(model_, file_->tensors(), name_);
  parameters_ = std::make_unique<MappedSource>(*file_, model_.parts);
}

void ModelFile::open(const std::filesystem::path& path) {
  switch (format_) {
    case ModelFormat::vitrail:
      reader_ = std::make_unique<CheckpointReader>(path);
      name_ = reader_->path().string();
      settings_ = reader_->info().config;
      file_ = std::make_unique<CheckpointSource>(*reader_);
      break;
    case ModelFormat::npz:
      file_ = open_npz(path);
      break;
    case ModelFormat::flax:
      file_ = open_flax(path);
      break;
    case ModelFormat::safetensors: {
      file_ = open_safetensors(path);
      const auto metadata = safetensors_metadata(path);
      const auto found = metadata.find(kSettingsInMetadata);
      if (found == metadata.end()) break;
      settings_ = Json::parse(found->second, text(name_, ": metadata ", kSettingsInMetadata), ExitCode::checkpoint);
      break;
    }
  }
}

/// A training state counts its steps.
void ModelFile::read_step() {
  const auto at = std::find(model_.left_out.begin(), model_.left_out.end(), "step");
  if (at == model_.left_out.end()) return;
  for (const TensorInfo& tensor : file_->tensors()) {
    if (tensor.name != "step" || tensor.shape.elements() != 1) continue;
    std::vector<std::byte> bytes(static_cast<std::size_t>(size_of(tensor.dtype)));
    const Tensor value(bytes.data(), {1}, tensor.dtype);
    file_->read("step", 0, value);
    const double step = to_doubles(value).front();
    VITRAIL_EXPECT(step >= 0 && step < 0x1p53, ExitCode::checkpoint, text(name_, ": step is ", step),
                   "it counts the steps that were done", "");
    step_ = static_cast<std::int64_t>(step);
    model_.left_out.erase(at);
    return;
  }
}

std::vector<std::string> ModelFile::report() const {
  const ModelConfig& m = model_.shaped.model;
  std::int64_t numbers = 0;
  std::int64_t bytes = 0;
  for (const TensorInfo& tensor : parameters_->tensors()) {
    numbers += tensor.shape.elements();
    bytes += tensor.shape.elements() * size_of(tensor.dtype);
  }
  std::string blocks = text(m.blocks, " blocks, ");
  if (m.moe_blocks.empty()) {
    blocks += "all dense";
  } else {
    blocks += text("sparse: ", name_of_moe_blocks(m.moe_blocks, m.blocks), ", ", m.experts, " experts");
  }
  std::vector<std::string> lines = {
      text("from      ", name_, " (", name_of(format_), step_ > 0 ? text(", step ", step_) : "", ")"),
      text("model     width ", m.width, ", ", m.heads, " heads, MLP ", m.mlp_width, ", ", blocks, "; patches ",
           m.patch_rows, "x", m.patch_columns, ", ", m.classes, " classes"),
      text("taken     ", parameters_->tensors().size(), " tensors of ", numbers, " parameters, ", megabytes(bytes))};
  if (!model_.left_out.empty()) lines.push_back("left out  " + summary(model_.left_out));
  for (const std::string& assumption : model_.shaped.assumptions) lines.push_back("assumed   " + assumption);
  if (model_.shaped.patches_only) lines.emplace_back("added     a position embedding of 0 for the class token");
  return lines;
}

std::string megabytes(std::int64_t bytes) { return fixed(static_cast<double>(bytes) / 1e6, 1) + " MB"; }

}  // namespace vitrail
