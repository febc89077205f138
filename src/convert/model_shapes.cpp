#include "convert/model_shapes.hpp"

#include <algorithm>
#include <cmath>

namespace vitrail {

namespace {

constexpr const char* kBlock = "Encoder/encoderblock_";

/// Finds shapes by name, and fails by name.
struct Shapes {
  const std::map<std::string, Shape>& shapes;
  const std::string& file;

  [[nodiscard]] const Shape* find(const std::string& name, int axes) const {
    const auto found = shapes.find(name);
    if (found == shapes.end()) return nullptr;
    VITRAIL_EXPECT(found->second.axes() == axes, ExitCode::checkpoint,
                   text(file, ": ", name, " is ", found->second.str()), text("it has ", axes, " axes in such a model"),
                   "");
    VITRAIL_EXPECT(found->second.elements() > 0, ExitCode::checkpoint,
                   text(file, ": ", name, " is ", found->second.str()), "it has no elements", "");
    return &found->second;
  }
  [[nodiscard]] const Shape& at(const std::string& name, int axes) const {
    const Shape* shape = find(name, axes);
    if (shape != nullptr) return *shape;
    std::vector<std::string> names;
    for (const auto& entry : shapes) names.push_back(entry.first);
    fail(ExitCode::checkpoint,
         {text(file, " has no tensor ", name), "a vision transformer has one", did_you_mean(name, names)});
  }
};

std::int64_t side_of(std::int64_t tokens) {
  const auto side = static_cast<std::int64_t>(std::lround(std::sqrt(static_cast<double>(tokens))));
  return side > 0 && side * side == tokens ? side : 0;
}

/// One more than the largest index of a block.
std::int64_t count_blocks(const std::map<std::string, Shape>& shapes) {
  std::int64_t blocks = 0;
  for (const auto& entry : shapes) {
    const std::string& name = entry.first;
    if (!name.starts_with(kBlock)) continue;
    const std::string digits = name.substr(std::string(kBlock).size(), 6);
    const std::size_t end = digits.find_first_not_of("0123456789");
    if (end == 0 || end == std::string::npos) continue;
    blocks = std::max<std::int64_t>(blocks, std::stoll(digits.substr(0, end)) + 1);
  }
  return blocks;
}

/// What the blocks say: heads, hidden width, which are sparse and how.
void read_blocks(const Shapes& shapes, ModelConfig& model) {
  model.moe_blocks.clear();
  bool mlp_known = false;
  const auto take_mlp_width = [&](std::int64_t width) {
    if (!mlp_known) model.mlp_width = width;
    mlp_known = true;
  };
  for (std::int64_t block = 0; block < model.blocks; ++block) {
    const std::string at = kBlock + std::to_string(block);
    if (shapes.shapes.contains(at + "/SelfAttention/query_ln/scale")) model.qk_norm = true;
    if (const Shape* dense = shapes.find(at + "/Mlp/Dense_0/kernel", 2)) take_mlp_width((*dense)[1]);
    const Shape* experts = shapes.find(at + "/Moe/Mlp/Dense_0/kernel", 3);
    if (experts == nullptr) continue;
    take_mlp_width((*experts)[2]);
    if (model.moe_blocks.empty()) model.experts = (*experts)[0];
    model.moe_blocks.push_back(block);
    if (const Shape* mu = shapes.find(at + "/Moe/Router/mu", 3)) {
      model.router.kind = RouterKind::soft;
      model.router.capacity = {.factor = std::nullopt, .slots = (*mu)[2]};
    }
  }
}

void read_positions(const Shapes& shapes, const ModelHints& hints, ShapedModel& result) {
  ModelConfig& model = result.model;
  const bool class_token = model.classifier == Classifier::token;
  const Shape* positions = shapes.find("Encoder/posembed_input/pos_embedding", 3);
  if (positions == nullptr) {
    model.positions = hints.positions.value_or(PositionEmbedding::none);
    model.image_height = hints.image_height.value_or(model.patch_rows);
    model.image_width = hints.image_width.value_or(model.patch_columns);
    result.image_is_known = hints.positions && hints.image_height && hints.image_width;
    if (!hints.positions) result.assumptions.emplace_back("no position embedding (--positions sincos2d: else)");
    return;
  }
  model.positions = PositionEmbedding::learned;
  const std::int64_t tokens = (*positions)[1];
  if (hints.image_height || hints.image_width) {
    model.image_height = hints.image_height ? *hints.image_height : *hints.image_width;
    model.image_width = hints.image_width ? *hints.image_width : *hints.image_height;
    result.patches_only = class_token && tokens == model.patches();
    return;
  }
  const std::int64_t patches = class_token && side_of(tokens - 1) > 0 ? tokens - 1 : tokens;
  const std::int64_t side = side_of(patches);
  VITRAIL_EXPECT(side > 0, ExitCode::usage, text(shapes.file, " has ", tokens, " position embeddings"),
                 text("these are no square images", class_token ? " and a class token" : ""),
                 "Give --image-height and --image-width");
  result.patches_only = class_token && patches == tokens;
  model.image_height = side * model.patch_rows;
  model.image_width = side * model.patch_columns;
}

}  // namespace

ShapedModel model_of_shapes(const std::map<std::string, Shape>& named, const ModelHints& hints,
                            const std::string& file) {
  const Shapes shapes{named, file};
  ShapedModel result;
  ModelConfig& model = result.model;
  const Shape& embedding = shapes.at("embedding/kernel", 4);
  model.patch_rows = embedding[0];
  model.patch_columns = embedding[1];
  model.channels = embedding[2];
  model.width = embedding[3];
  model.blocks = count_blocks(named);
  VITRAIL_EXPECT(model.blocks > 0, ExitCode::checkpoint, text(file, " has no transformer block"),
                 text("no name begins with ", kBlock, "0"), "");
  model.heads = shapes.at(text(kBlock, "0/SelfAttention/query/kernel"), 3)[1];
  read_blocks(shapes, model);
  model.classes = shapes.at("head/kernel", 2)[1];
  const Shape* pre_logits = shapes.find("pre_logits/kernel", 2);
  model.representation = pre_logits != nullptr ? (*pre_logits)[1] : 0;
  if (named.contains("cls")) {
    model.classifier = Classifier::token;
  } else if (named.contains("MapHead/probe")) {
    model.classifier = Classifier::map;
  } else {
    model.classifier = hints.classifier.value_or(Classifier::gap);
    if (!hints.classifier) result.assumptions.emplace_back("the head reads the mean (--classifier first: else)");
  }
  if (model.router.kind == RouterKind::soft) model.router.group_images = 1;
  model.router.selected = std::min(model.router.selected, model.experts);
  read_positions(shapes, hints, result);
  model.check();
  return result;
}

}  // namespace vitrail
