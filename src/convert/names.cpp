#include "convert/names.hpp"

#include <map>

#include "convert/npz_names.hpp"
#include "convert/timm_names.hpp"
#include "model/params.hpp"

namespace vitrail {

namespace {

constexpr const char* kPositions = "Encoder/posembed_input/pos_embedding";

/// Where the files of a naming have their parameters: the first place at which there is an embedding.
std::string find_prefix(Naming naming, std::span<const TensorInfo> tensors, const std::string& file) {
  if (naming == Naming::timm) return "";
  std::vector<std::string> names;
  for (const TensorInfo& tensor : tensors) names.push_back(tensor.name);
  for (const char* prefix : {"", "params/", "opt/target/", "target/", "optimizer/target/"}) {
    const std::string wanted = prefix + std::string("embedding/kernel");
    for (const std::string& name : names) {
      if (name == wanted) return prefix;
    }
  }
  fail(ExitCode::checkpoint,
       {text(file, " has no tensor embedding/kernel"), "a vision transformer has one, at the top or below params/",
        did_you_mean("embedding/kernel", names)});
}

std::string table_name(Naming naming, const std::string& name) {
  return naming == Naming::vit_npz ? table_name_of_npz(name) : name;
}

/// A tensor of the table of the tensor `from`, with the same elements.
TensorPart same_elements(const ParameterSpec& spec, const std::string& from) {
  return {.to = spec.name, .to_shape = spec.shape, .from = from, .from_shape = spec.shape, .a = spec.shape.elements()};
}

/// The router of the ensembles (E^3) is stored as [D members E/members]: each member chooses among its own experts.
void expect_no_ensemble(const std::string& name, const Shape& stored, const std::string& file) {
  VITRAIL_EXPECT(!name.ends_with("/Router/dense/kernel") || stored.axes() != 3, ExitCode::usage,
                 text(file, " holds an ensemble (E^3), which is not built"),
                 text("its router ", name, " is ", stored.str(), ": members that choose among experts of their own"),
                 "");
}

/// The patches' position embeddings alone: the class token's row is left 0.
void leave_out_class_row(TensorPart& part) {
  const std::int64_t width = part.to_shape[2];
  part.from_shape = {1, part.to_shape[1] - 1, width};
  part.to_first = width;
  part.a = part.from_shape.elements();
}

/// `stored`: the file's tensors by their names in the table, without prefix.
std::vector<TensorPart> official_parts(Naming naming, const ShapedModel& shaped,
                                       const std::map<std::string, TensorInfo>& stored) {
  std::vector<TensorPart> parts;
  for (const ParameterSpec& spec : parameter_table(shaped.model)) {
    const auto found = stored.find(spec.name);
    const bool known = found != stored.end();
    const std::string from =
        known ? found->second.name : (naming == Naming::vit_npz ? npz_name_of_table(spec.name) : spec.name);
    parts.push_back(same_elements(spec, from));
  }
  return parts;
}

}  // namespace

NamedModel find_model(Naming naming, std::span<const TensorInfo> tensors, const std::string& file,
                      const ModelHints& hints, const std::optional<std::string>& prefix) {
  NamedModel found;
  found.prefix = prefix ? *prefix : find_prefix(naming, tensors, file);
  std::vector<TensorInfo> inside;  // without the prefix
  for (const TensorInfo& tensor : tensors) {
    if (!tensor.name.starts_with(found.prefix)) {
      found.left_out.push_back(tensor.name);
      continue;
    }
    inside.push_back(tensor);
    inside.back().name = tensor.name.substr(found.prefix.size());
  }
  std::map<std::string, TensorInfo> stored;
  std::map<std::string, Shape> shapes;
  std::vector<std::string> assumptions;
  if (naming == Naming::timm) {
    shapes = shapes_of_timm(inside, file, hints, assumptions);
  } else {
    for (const TensorInfo& tensor : inside) {
      const std::string name = table_name(naming, tensor.name);
      expect_no_ensemble(name, tensor.shape, file);
      const auto [at, is_new] = stored.emplace(name, tensor);
      VITRAIL_EXPECT(is_new, ExitCode::checkpoint, text(file, " has both ", at->second.name, " and ", tensor.name),
                     text("both are names of ", name), "");
      shapes[name] = tensor.shape;
    }
  }
  found.shaped = model_of_shapes(shapes, hints, file);
  found.shaped.assumptions.insert(found.shaped.assumptions.begin(), assumptions.begin(), assumptions.end());
  if (naming == Naming::timm) {
    for (const ParameterSpec& spec : parameter_table(found.shaped.model)) found.parts.push_back(timm_part(spec));
  } else {
    found.parts = official_parts(naming, found.shaped, stored);
  }
  for (TensorPart& part : found.parts) {
    if (part.to == kPositions && found.shaped.patches_only) leave_out_class_row(part);
  }
  expect_tensors(found.parts, inside, file);
  for (TensorPart& part : found.parts) part.from = found.prefix + part.from;
  return found;
}

std::vector<TensorPart> file_parts(Naming naming, const ModelConfig& model) {
  std::vector<TensorPart> parts;
  for (const ParameterSpec& spec : parameter_table(model)) {
    if (naming == Naming::timm) {
      parts.push_back(timm_part(spec));
      continue;
    }
    VITRAIL_EXPECT(naming != Naming::vit_npz || spec.name.find("/Moe/") == std::string::npos, ExitCode::usage,
                   text("the model has ", spec.name), "ViT's .npz files have no names for experts",
                   "Convert to safetensors or flax");
    parts.push_back(same_elements(spec, naming == Naming::vit_npz ? npz_name_of_table(spec.name) : spec.name));
  }
  return turned_round(parts);
}

}  // namespace vitrail
