#include "train/initial_weights.hpp"

#include <algorithm>
#include <set>

#include "device/host_values.hpp"
#include "model/position_resize.hpp"

namespace vitrail {

namespace {

constexpr const char* kPositions = "Encoder/posembed_input/pos_embedding";
constexpr const char* kHead = "head/";
constexpr const char* kPreLogits = "pre_logits/";
constexpr const char* kMoe = "/Moe/";

/// What to try when a tensor does not fit, by its name.
std::string advice_for(const std::string& name) {
  if (name.starts_with(kHead)) return "Add --new-head to start with a fresh one";
  if (name.starts_with(kPreLogits)) return "Set --representation to that of the checkpoint, or to 0 to drop it";
  if (name.starts_with("embedding/")) return "Set --patch-rows, --patch-columns and --channels to the checkpoint's";
  if (name == "cls" || name.starts_with("MapHead/")) return "Set --classifier to that of the checkpoint";
  if (name == kPositions) return "Set --positions and --width to those of the checkpoint";
  if (name.ends_with("/Router/mu")) return "Set --experts, --capacity-slots and --router to those of the checkpoint";
  if (name.find(kMoe) != std::string::npos) return "Set --moe, --experts and --router to those of the checkpoint";
  return "Set --preset, --blocks, --width, --mlp-width and --moe to those of the checkpoint";
}

/// ".../encoderblock_1/Moe/Mlp/Dense_0/kernel" as it is called in a dense block; empty for other tensors.
std::string dense_name(const std::string& name) {
  const std::size_t at = name.find("/Moe/Mlp/");
  return at == std::string::npos ? std::string() : name.substr(0, at) + name.substr(at + std::string("/Moe").size());
}

Shape without_experts(const Shape& shape) { return Shape(shape.lengths().subspan(1)); }

/// Elements of a tensor of the checkpoint as doubles.
std::vector<double> read_doubles(const CheckpointReader& reader, const std::string& name, std::int64_t first,
                                 std::int64_t count) {
  const Dtype dtype = reader.dtype(name);
  std::vector<std::byte> bytes(static_cast<std::size_t>(count * size_of(dtype)));
  const Tensor values(bytes.data(), {count}, dtype);
  reader.read(name, first, values);
  return to_doubles(values);
}

/// Elements of a tensor of the checkpoint into `to`.
void read_into(const CheckpointReader& reader, const std::string& name, std::int64_t first, Device& device, Tensor to) {
  const Tensor flat = to.view({to.elements()});
  if (reader.dtype(name) == to.dtype) return reader.read(name, first, device, flat);
  from_doubles(read_doubles(reader, name, first, to.elements()), device, flat);
}

}  // namespace

InitialWeights::InitialWeights(const std::vector<ParameterSpec>& table, const CheckpointReader& reader,
                               const InitialWeightsOptions& options)
    : table_(table),
      reader_(reader),
      prefix_(options.average ? "average/" : "parameters/"),
      new_head_(options.new_head) {
  const std::vector<std::string> all = reader.tensors();
  VITRAIL_EXPECT(std::any_of(all.begin(), all.end(), [&](const auto& name) { return name.starts_with(prefix_); }),
                 ExitCode::usage, text(reader.path().string(), " holds no ", prefix_, "..."),
                 options.average ? "the run that wrote it kept no running average of its weights"
                                 : "it is no checkpoint of a model",
                 options.average ? "Start without --init-average" : "");
  for (const ParameterSpec& spec : table) {
    if (spec.name != "head/bias" || !has(spec.name)) continue;
    if (reader.shape(prefix_ + spec.name) != spec.shape) new_head_ = true;  // other classes
  }
  for (const ParameterSpec& spec : table) origins_.push_back(origin_of(spec));
  const auto has_pre_logits = [](const ParameterSpec& spec) { return spec.name.starts_with(kPreLogits); };
  const bool drop_pre_logits = std::none_of(table.begin(), table.end(), has_pre_logits);
  for (const std::string& tensor : all) {
    if (!tensor.starts_with(prefix_)) continue;
    const std::string name = tensor.substr(prefix_.size());
    if ((new_head_ && name.starts_with(kHead)) || (drop_pre_logits && name.starts_with(kPreLogits))) {
      dropped_.push_back(name);
    }
  }
  expect_nothing_left();
}

/// Is this a tensor of the MoE half of a block whose MLP is dense in the checkpoint?
bool InitialWeights::is_upcycled(const std::string& name) const {
  const std::size_t at = name.find(kMoe);
  return at != std::string::npos && has(name.substr(0, at) + "/Mlp/Dense_0/kernel");
}

InitialWeights::Origin InitialWeights::origin_of_positions(const ParameterSpec& spec) const {
  const std::string source = prefix_ + spec.name;
  const Shape shape = reader_.shape(source);
  VITRAIL_EXPECT(shape.axes() == 3 && shape[0] == 1 && shape[2] == spec.shape[2], ExitCode::usage,
                 text(reader_.path().string(), ": ", source, " is ", shape.str()),
                 text("the model of this run needs ", spec.shape.str()), advice_for(spec.name));
  return {shape == spec.shape ? Way::copied : Way::resized, source};
}

InitialWeights::Origin InitialWeights::origin_of(const ParameterSpec& spec) const {
  const std::string& name = spec.name;
  if (new_head_ && name.starts_with(kHead)) return {};
  if (name == kPositions && has(name)) return origin_of_positions(spec);
  const bool tiled = is_upcycled(name);
  if (tiled && !spec.expert) return {};
  const std::string source = prefix_ + (tiled ? dense_name(name) : name);
  VITRAIL_EXPECT(reader_.has(source), ExitCode::usage, text(reader_.path().string(), " has no tensor ", source),
                 text("the model of this run has ", name, " ", spec.shape.str()), advice_for(name));
  const Shape needed = tiled ? without_experts(spec.shape) : spec.shape;
  VITRAIL_EXPECT(reader_.shape(source) == needed, ExitCode::usage,
                 text(reader_.path().string(), ": ", source, " is ", reader_.shape(source).str()),
                 text("the model of this run needs ", needed.str(), tiled ? " to make experts of it" : ""),
                 tiled ? "Set --width and --mlp-width to those of the checkpoint" : advice_for(name));
  return {tiled ? Way::tiled : Way::copied, source};
}

void InitialWeights::expect_nothing_left() const {
  std::set<std::string> used;
  for (const Origin& origin : origins_) used.insert(origin.source);
  for (const std::string& name : dropped_) used.insert(prefix_ + name);
  for (const std::string& tensor : reader_.tensors()) {
    if (!tensor.starts_with(prefix_) || used.contains(tensor)) continue;
    fail(ExitCode::usage, {text(reader_.path().string(), " has ", tensor, " ", reader_.shape(tensor).str()),
                           "the model of this run has no place for it", advice_for(tensor.substr(prefix_.size()))});
  }
}

void InitialWeights::load(Device& device, std::int64_t first_expert, const std::vector<Tensor>& tensors) const {
  for (std::size_t i = 0; i < table_.size(); ++i) {
    const Origin& origin = origins_[i];
    const Tensor& to = tensors[i];
    switch (origin.way) {
      case Way::kept:
        break;
      case Way::copied: {
        const std::int64_t each = table_[i].expert ? table_[i].shape.elements() / table_[i].shape[0] : 0;
        read_into(reader_, origin.source, first_expert * each, device, to);
        break;
      }
      case Way::resized: {
        const Shape shape = reader_.shape(origin.source);
        from_doubles(vit_zoom(read_doubles(reader_, origin.source, 0, shape.elements()), shape[1],
                              to_doubles(device, to), table_[i].shape[1]),
                     device, to);
        break;
      }
      case Way::tiled:
        for (std::int64_t expert = 0; expert < to.shape[0]; ++expert) {
          read_into(reader_, origin.source, 0, device, to.slice(expert, 1));
        }
        break;
    }
  }
}

std::vector<std::string> InitialWeights::names_of(Way way) const {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < table_.size(); ++i) {
    if (origins_[i].way == way) names.push_back(table_[i].name);
  }
  return names;
}

std::vector<std::string> InitialWeights::report() const {
  std::vector<std::string> lines = {text("copied ", names_of(Way::copied).size(), " tensors")};
  for (std::size_t i = 0; i < table_.size(); ++i) {
    if (origins_[i].way != Way::resized) continue;
    lines.push_back(text("resized ", table_[i].name, " from ", reader_.shape(origins_[i].source)[1], " to ",
                         table_[i].shape[1], " tokens"));
  }
  const auto list = [&](const char* what, const std::vector<std::string>& names) {
    if (names.empty()) return;
    std::string line = what;
    for (const std::string& name : names) line += text(&name == &names.front() ? " " : ", ", name);
    lines.push_back(line);
  };
  list("tiled into all experts:", names_of(Way::tiled));
  list("fresh:", names_of(Way::kept));
  list("dropped:", dropped_);
  return lines;
}

}  // namespace vitrail
