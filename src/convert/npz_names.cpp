#include "convert/npz_names.hpp"

#include <utility>
#include <vector>

namespace vitrail {

namespace {

using Words = std::vector<std::pair<const char*, const char*>>;  // of the file, ours; the first is written

const Words& block_words() {
  static const Words words = {{"MultiHeadDotProductAttention_1", "SelfAttention"},
                              {"MultiHeadDotProductAttention_0", "SelfAttention"},
                              {"LayerNorm_2", "LayerNorm_1"},
                              {"MlpBlock_3", "Mlp"},
                              {"MlpBlock_0", "Mlp"}};
  return words;
}
const Words& map_head_words() {
  static const Words words = {{"MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention"},
                              {"LayerNorm_0", "LayerNorm"},
                              {"MlpBlock_0", "Mlp"}};
  return words;
}

constexpr const char* kPositions = "Encoder/posembed_input/pos_embedding";

/// "head/rest" with another head, if it begins with that.
bool replace_front(std::string& name, const std::string& front, const std::string& by) {
  if (!name.starts_with(front)) return false;
  name = by + name.substr(front.size());
  return true;
}

/// Replaces the word between the slash before `at` and the next one.
void replace_word(std::string& name, std::size_t at, const Words& words, bool to_ours) {
  const std::size_t end = name.find('/', at);
  if (end == std::string::npos) return;
  const std::string word = name.substr(at, end - at);
  for (const auto& [theirs, ours] : words) {
    if (word != (to_ours ? theirs : ours)) continue;
    name.replace(at, end - at, to_ours ? ours : theirs);
    return;
  }
}

std::size_t after_block(const std::string& name, const std::string& front) {
  if (!name.starts_with(front)) return std::string::npos;
  const std::size_t slash = name.find('/', front.size());
  return slash == std::string::npos ? slash : slash + 1;
}

}  // namespace

std::string table_name_of_npz(const std::string& name) {
  if (name == "pos_embedding") return kPositions;
  std::string ours = name;
  if (replace_front(ours, "Transformer/", "Encoder/")) {
    const std::size_t at = after_block(ours, "Encoder/encoderblock_");
    if (at != std::string::npos) replace_word(ours, at, block_words(), true);
  } else if (replace_front(ours, "MAPHead_0/", "MapHead/")) {
    replace_word(ours, std::string("MapHead/").size(), map_head_words(), true);
  }
  return ours;
}

std::string npz_name_of_table(const std::string& name) {
  std::string theirs = name;
  if (replace_front(theirs, "Encoder/", "Transformer/")) {
    const std::size_t at = after_block(theirs, "Transformer/encoderblock_");
    if (at != std::string::npos) replace_word(theirs, at, block_words(), false);
  } else if (replace_front(theirs, "MapHead/", "MAPHead_0/")) {
    replace_word(theirs, std::string("MAPHead_0/").size(), map_head_words(), false);
  }
  return theirs;
}

}  // namespace vitrail
