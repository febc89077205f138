#include "train/initial_weights.hpp"

#include <algorithm>
#include <set>

#include "device/host_values.hpp"
#include "model/position_resize.hpp"
#include "train/checkpoint_source.hpp"

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

}  // namespace

InitialWeights::InitialWeights(const std::vector<ParameterSpec>& table, std::unique_ptr<TensorSource> owned,
                               TensorSource* source, std::string where, std::string prefix, bool new_head)
    : table_(table),
      owned_(std::move(owned)),
      source_(owned_ ? *owned_ : *source),
      where_(std::move(where)),
      prefix_(std::move(prefix)),
      new_head_(new_head) {
  for (const TensorInfo& tensor : source_.tensors()) {
    if (tensor.name.starts_with(prefix_)) stored_[tensor.name] = tensor;
  }
  const bool average = prefix_ == "average/";
  VITRAIL_EXPECT(
      !stored_.empty(), ExitCode::usage, text(where_, " holds no ", prefix_, "..."),
      average ? "the run that wrote it kept no running average of its weights" : "it is no checkpoint of a model",
      average ? "Start without --init-average" : "");
  for (const ParameterSpec& spec : table) {
    if (spec.name != "head/bias" || !has(spec.name)) continue;
    if (shape(prefix_ + spec.name) != spec.shape) new_head_ = true;  // other classes
  }
  for (const ParameterSpec& spec : table) origins_.push_back(origin_of(spec));
  const auto has_pre_logits = [](const ParameterSpec& spec) { return spec.name.starts_with(kPreLogits); };
  const bool drop_pre_logits = std::none_of(table.begin(), table.end(), has_pre_logits);
  for (const auto& entry : stored_) {
    const std::string name = entry.first.substr(prefix_.size());
    if ((new_head_ && name.starts_with(kHead)) || (drop_pre_logits && name.starts_with(kPreLogits))) {
      dropped_.push_back(name);
    }
  }
  expect_nothing_left();
}

InitialWeights::InitialWeights(const std::vector<ParameterSpec>& table, const CheckpointReader& reader,
                               const InitialWeightsOptions& options)
    : InitialWeights(table, std::make_unique<CheckpointSource>(reader), nullptr, reader.path().string(),
                     options.average ? "average/" : "parameters/", options.new_head) {}

InitialWeights::InitialWeights(const std::vector<ParameterSpec>& table, TensorSource& source, std::string where,
                               bool new_head)
    : InitialWeights(table, nullptr, &source, std::move(where), "", new_head) {}

std::vector<double> InitialWeights::read_doubles(const std::string& name, std::int64_t first,
                                                 std::int64_t count) const {
  const Dtype dtype = stored_.at(name).dtype;
  std::vector<std::byte> bytes(static_cast<std::size_t>(count * size_of(dtype)));
  const Tensor values(bytes.data(), {count}, dtype);
  source_.read(name, first, values);
  return to_doubles(values);
}

void InitialWeights::read_into(const std::string& name, std::int64_t first, Device& device, Tensor to) const {
  const Tensor all = to.view({to.elements()});
  const bool same = stored_.at(name).dtype == to.dtype;
  if (same && to.device == DeviceKind::cpu) return source_.read(name, first, all);
  constexpr std::int64_t kStretch = std::int64_t{1} << 20;  // elements: the rest of a tensor waits in the file
  std::vector<std::byte> buffer;
  for (std::int64_t done = 0; done < all.elements(); done += kStretch) {
    const std::int64_t count = std::min(kStretch, all.elements() - done);
    const Tensor piece = all.slice(done, count);
    if (!same) {
      from_doubles(read_doubles(name, first + done, count), device, piece);
      continue;
    }
    buffer.resize(static_cast<std::size_t>(piece.bytes()));
    const Tensor host(buffer.data(), {count}, to.dtype);
    source_.read(name, first + done, host);
    device.copy(host, piece);
  }
}

/// Is this a tensor of the MoE half of a block whose MLP is dense in the checkpoint?
bool InitialWeights::is_upcycled(const std::string& name) const {
  const std::size_t at = name.find(kMoe);
  return at != std::string::npos && has(name.substr(0, at) + "/Mlp/Dense_0/kernel");
}

InitialWeights::Origin InitialWeights::origin_of_positions(const ParameterSpec& spec) const {
  const std::string source = prefix_ + spec.name;
  const Shape& stored = shape(source);
  VITRAIL_EXPECT(stored.axes() == 3 && stored[0] == 1 && stored[2] == spec.shape[2], ExitCode::usage,
                 text(where_, ": ", source, " is ", stored.str()),
                 text("the model of this run needs ", spec.shape.str()), advice_for(spec.name));
  return {stored == spec.shape ? Way::copied : Way::resized, source};
}

InitialWeights::Origin InitialWeights::origin_of(const ParameterSpec& spec) const {
  const std::string& name = spec.name;
  if (new_head_ && name.starts_with(kHead)) return {};
  if (name == kPositions && has(name)) return origin_of_positions(spec);
  const bool tiled = is_upcycled(name);
  if (tiled && !spec.expert) return {};
  const std::string source = prefix_ + (tiled ? dense_name(name) : name);
  VITRAIL_EXPECT(stored_.contains(source), ExitCode::usage, text(where_, " has no tensor ", source),
                 text("the model of this run has ", name, " ", spec.shape.str()), advice_for(name));
  const Shape needed = tiled ? without_experts(spec.shape) : spec.shape;
  VITRAIL_EXPECT(shape(source) == needed, ExitCode::usage, text(where_, ": ", source, " is ", shape(source).str()),
                 text("the model of this run needs ", needed.str(), tiled ? " to make experts of it" : ""),
                 tiled ? "Set --width and --mlp-width to those of the checkpoint" : advice_for(name));
  return {tiled ? Way::tiled : Way::copied, source};
}

void InitialWeights::expect_nothing_left() const {
  std::set<std::string> used;
  for (const Origin& origin : origins_) used.insert(origin.source);
  for (const std::string& name : dropped_) used.insert(prefix_ + name);
  for (const auto& [tensor, info] : stored_) {
    if (used.contains(tensor)) continue;
    fail(ExitCode::usage, {text(where_, " has ", tensor, " ", info.shape.str()),
                           "the model of this run has no place for it", advice_for(tensor.substr(prefix_.size()))});
  }
}

void InitialWeights::load(Device& device, std::int64_t first_expert, const std::vector<Tensor>& tensors) const {
  for (std::size_t i = 0; i < table_.size(); ++i) load_one(i, device, first_expert, tensors[i]);
}

void InitialWeights::load_one(std::size_t index, Device& device, std::int64_t first_expert, Tensor to) const {
  const ParameterSpec& spec = table_[index];
  const Origin& origin = origins_[index];
  switch (origin.way) {
    case Way::kept:
      break;
    case Way::copied: {
      const std::int64_t each = spec.expert ? spec.shape.elements() / spec.shape[0] : 0;
      read_into(origin.source, first_expert * each, device, to);
      break;
    }
    case Way::resized: {
      const Shape& from = shape(origin.source);
      from_doubles(
          vit_zoom(read_doubles(origin.source, 0, from.elements()), from[1], to_doubles(device, to), spec.shape[1]),
          device, to);
      break;
    }
    case Way::tiled:
      for (std::int64_t expert = 0; expert < to.shape[0]; ++expert) {
        read_into(origin.source, 0, device, to.slice(expert, 1));
      }
      break;
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
    lines.push_back(text("resized ", table_[i].name, " from ", shape(origins_[i].source)[1], " to ", table_[i].shape[1],
                         " tokens"));
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
