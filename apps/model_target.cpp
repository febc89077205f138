#include "apps/model_target.hpp"

#include "base/file.hpp"
#include "convert/flax_msgpack.hpp"
#include "convert/npz.hpp"
#include "convert/safetensors.hpp"
#include "train/checkpoint_stream.hpp"

namespace vitrail {

namespace {

constexpr std::int64_t kStretch = std::int64_t{4} << 20;  // elements

/// PREFIX of PREFIX.index.
std::filesystem::path flax_prefix(const std::filesystem::path& path) {
  return path.extension() == ".index" ? path.parent_path() / path.stem() : path;
}

/// What is at the target, if there is something.
std::filesystem::path occupant(const ModelTarget& target) {
  std::vector<std::filesystem::path> places = {target.path};
  if (target.format == ModelFormat::vitrail) places = {target.path / "checkpoints"};
  if (target.format == ModelFormat::flax) places = {flax_prefix(target.path).string() + ".index"};
  if (target.format == ModelFormat::safetensors) places.emplace_back(target.path.string() + ".index.json");
  for (const std::filesystem::path& place : places) {
    if (std::filesystem::exists(place)) return place;
  }
  return {};
}

/// Copies tensors of bfloat16 as f32.
void write_widened(TensorSource& parameters, const TensorInfo& tensor, CheckpointStream& to) {
  std::vector<Bf16> stored;
  std::vector<float> values;
  for (std::int64_t first = 0; first < tensor.shape.elements(); first += kStretch) {
    const std::int64_t count = std::min(kStretch, tensor.shape.elements() - first);
    stored.resize(static_cast<std::size_t>(count));
    parameters.read(tensor.name, first, {stored.data(), {count}, Dtype::bf16});
    values.clear();
    for (const Bf16 x : stored) values.push_back(to_float(x));
    to.write({values.data(), {count}, Dtype::f32});
  }
}

void write_same(TensorSource& parameters, const TensorInfo& tensor, CheckpointStream& to) {
  std::vector<std::byte> bytes;
  for (std::int64_t first = 0; first < tensor.shape.elements(); first += kStretch) {
    const std::int64_t count = std::min(kStretch, tensor.shape.elements() - first);
    bytes.resize(static_cast<std::size_t>(count * size_of(tensor.dtype)));
    const Tensor values(bytes.data(), {count}, tensor.dtype);
    parameters.read(tensor.name, first, values);
    to.write(values);
  }
}

std::filesystem::path write_checkpoint(const std::filesystem::path& run_dir, const ModelTarget& target,
                                       const ModelSettings& model, std::int64_t step, TensorSource& parameters) {
  CheckpointStream stream(run_dir, {step, model.settings, Json::object()}, static_cast<int>(target.files));
  for (const TensorInfo& tensor : parameters.tensors()) {
    const bool widen = tensor.dtype == Dtype::bf16;
    stream.begin("parameters/" + tensor.name, tensor.shape, widen ? Dtype::f32 : tensor.dtype);
    widen ? write_widened(parameters, tensor, stream) : write_same(parameters, tensor, stream);
  }
  return stream.finish();
}

/// A whole run directory. What is overwritten stays until the new checkpoint is complete.
std::filesystem::path write_run(const ModelTarget& target, const ModelSettings& model, std::int64_t step,
                                TensorSource& parameters) {
  const bool replaces = !occupant(target).empty();
  std::filesystem::path run = target.path;
  if (replaces) run += ".tmp";
  std::filesystem::path folder = write_checkpoint(run, target, model, step, parameters);
  if (replaces) {
    std::error_code failed;
    std::filesystem::remove_all(target.path / "checkpoints", failed);
    VITRAIL_EXPECT(!failed, ExitCode::checkpoint, text(target.path.string(), " cannot be replaced"), failed.message(),
                   text("The new checkpoint is ", folder.string()));
    rename_durably(run / "checkpoints", target.path / "checkpoints", ExitCode::checkpoint);
    std::filesystem::remove_all(run, failed);
    folder = target.path / "checkpoints" / folder.filename();
  }
  write_file_atomically(target.path / "model.cfg", model.config_file, ExitCode::checkpoint);
  return folder;
}

std::unique_ptr<TensorSink> create_file(const ModelTarget& target, const ModelSettings& model,
                                        std::vector<TensorInfo> tensors) {
  if (target.format == ModelFormat::npz) return create_npz(target.path, std::move(tensors));
  if (target.format == ModelFormat::flax) {
    return create_flax(flax_prefix(target.path), std::move(tensors), static_cast<int>(target.files));
  }
  return create_safetensors(target.path, std::move(tensors),
                            {{"format", "pt"}, {kSettingsInMetadata, model.settings.dump()}});
}

}  // namespace

void expect_free(const ModelTarget& target) {
  const std::filesystem::path there = occupant(target);
  VITRAIL_EXPECT(there.empty() || target.overwrite, ExitCode::usage, text("there is a ", there.string(), " already"),
                 "it would be overwritten", "Name another place, or add --overwrite");
}

std::filesystem::path write_model(const ModelTarget& target, const ModelSettings& model, std::int64_t step,
                                  TensorSource& parameters) {
  if (target.format == ModelFormat::vitrail) return write_run(target, model, step, parameters);
  MappedSource theirs(parameters, file_parts(naming_of(target.format), model.model));
  const auto infos = theirs.tensors();
  const std::unique_ptr<TensorSink> sink = create_file(target, model, {infos.begin(), infos.end()});
  copy_tensors(theirs, *sink);
  sink->finish();
  if (target.format != ModelFormat::flax) return target.path;
  return flax_prefix(target.path).string() + ".index";
}

}  // namespace vitrail
