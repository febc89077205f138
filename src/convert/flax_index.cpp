#include "convert/flax_index.hpp"

#include <algorithm>
#include <map>
#include <regex>
#include <set>

namespace vitrail {

namespace {

using Kind = MsgpackValue::Kind;

constexpr std::int64_t kMostShards = 100000;               // the names of data files have five digits
constexpr std::size_t kMostSlices = std::size_t{1} << 14;  // of a tensor

/// Slices that hold every element of the tensor once: they do not overlap, and together have as many elements.
void expect_tiling(const FlaxLeaf& leaf, const std::string& where) {
  VITRAIL_EXPECT(leaf.slices.size() <= kMostSlices, ExitCode::checkpoint,
                 text(where, ": ", leaf.slices.size(), " slices of one tensor"), text("at most ", kMostSlices), "");
  std::vector<Region> sorted;
  std::int64_t elements = 0;
  for (const Region& slice : leaf.slices) {
    if (elements_of(slice) > 0) sorted.push_back(slice);
    elements += elements_of(slice);
  }
  bool once = elements == leaf.shape.elements();
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 0; i < sorted.size() && once; ++i) {
    for (std::size_t j = i + 1; j < sorted.size() && once; ++j) {
      if (leaf.shape.axes() > 0 && sorted[j][0].begin >= sorted[i][0].end) break;  // as all that follow
      once = !overlap(sorted[i], sorted[j]);
    }
  }
  VITRAIL_EXPECT(once, ExitCode::checkpoint, text(where, ": its slices hold ", elements, " elements"),
                 text(leaf.shape.str(), " has ", leaf.shape.elements(), ", and each belongs to one slice"), "");
}

void expect_shards(const FlaxLeaf& leaf, std::int64_t shards, const std::string& where) {
  for (const std::int64_t shard : leaf.shards) {
    VITRAIL_EXPECT(shard >= 0 && shard < shards, ExitCode::checkpoint, text(where, ": a slice in data file ", shard),
                   text("there are ", shards), "");
  }
}

/// The leaves below the key `name`, in the order of their numbers.
void collect_leaves(const MsgpackValue& value, const std::string& name, const std::string& where,
                    std::vector<FlaxLeaf>& leaves) {
  if (is(value, FlaxExtension::index_info)) {
    FlaxLeaf leaf = parse_index_info(value, text(where, ", tensor '", name, "'"));
    leaf.name = name;
    leaves.push_back(std::move(leaf));
    return;
  }
  if (value.is(Kind::nil)) return;  // None is no leaf
  expect_kind(value, Kind::map, "the tree of tensors", text(where, ", '", name, "'"));
  std::map<std::string_view, const MsgpackValue*> children;
  for (std::size_t i = 0; i < value.items.size(); i += 2) {
    const std::string_view key = expect_kind(value.items[i], Kind::string, "a key", where).bytes;
    const bool fresh = children.emplace(key, &value.items[i + 1]).second;
    VITRAIL_EXPECT(fresh, ExitCode::checkpoint, text(where, ", '", name, "' has the key '", key, "' twice"),
                   "keys are unique", "");
  }
  for (const auto& [key, child] : children) {
    collect_leaves(*child, name.empty() ? std::string(key) : text(name, "/", key), where, leaves);
  }
}

/// One level of the tree that is written.
struct Branch {
  std::map<std::string, Branch, std::less<>> below;
  const FlaxLeaf* leaf = nullptr;
};

void grow(Branch& root, const FlaxLeaf& leaf) {
  Branch* at = &root;
  std::string_view rest = leaf.name;
  const auto expect = [&](bool condition) {
    VITRAIL_EXPECT(condition, ExitCode::checkpoint, text("the tensor name '", leaf.name, "'"),
                   "it is there twice, or a part of another tensor's", "");
  };
  for (;;) {
    expect(at->leaf == nullptr);
    const std::size_t slash = rest.find('/');
    at = &at->below[std::string(rest.substr(0, slash))];
    if (slash == std::string_view::npos) break;
    rest.remove_prefix(slash + 1);
  }
  expect(at->leaf == nullptr && at->below.empty());
  at->leaf = &leaf;
}

void pack_branch(const Branch& branch, MsgpackWriter& out) {
  if (branch.leaf != nullptr) {
    out.extension(static_cast<std::int8_t>(FlaxExtension::index_info), pack_index_info(*branch.leaf));
    return;
  }
  out.map(std::ssize(branch.below));
  for (const auto& [key, below] : branch.below) {
    out.string(key);
    pack_branch(below, out);
  }
}

void expect_version(const MsgpackValue& root, const std::string& where) {
  const MsgpackValue* const version = root.find("version");
  if (version == nullptr || version->is(Kind::nil)) return;
  const std::string_view name = expect_kind(*version, Kind::string, "the version", where).bytes;
  VITRAIL_EXPECT(name == kFlaxVersion, ExitCode::checkpoint, text(where, " has version '", name, "'"),
                 text("known are ", kFlaxVersion, " and files without one"), "");
}

}  // namespace

bool leaf_before(std::string_view a, std::string_view b) {
  for (;;) {
    const std::size_t a_end = a.find('/');
    const std::size_t b_end = b.find('/');
    if (const int order = a.substr(0, a_end).compare(b.substr(0, b_end)); order != 0) return order < 0;
    if (a_end == std::string_view::npos || b_end == std::string_view::npos) {
      return a_end == std::string_view::npos && b_end != std::string_view::npos;
    }
    a.remove_prefix(a_end + 1);
    b.remove_prefix(b_end + 1);
  }
}

FlaxIndex parse_flax_index(const MsgpackValue& root, const std::string& where) {
  expect_kind(root, Kind::map, "an index", where);
  const MsgpackValue* const count = root.find("shard_count");
  const MsgpackValue* const tree = root.find("index");
  VITRAIL_EXPECT(count != nullptr && tree != nullptr, ExitCode::checkpoint, where + " is no index of a checkpoint",
                 "it has no 'shard_count' or no 'index'", "");
  expect_version(root, where);
  FlaxIndex index;
  index.shards = expect_kind(*count, Kind::integer, "the number of data files", where).integer;
  VITRAIL_EXPECT(index.shards >= 0 && index.shards <= kMostShards, ExitCode::checkpoint,
                 text(where, " asks for ", index.shards, " data files"), text("at most ", kMostShards), "");
  collect_leaves(*tree, "", where, index.leaves);
  std::set<std::string_view> names;
  for (const FlaxLeaf& leaf : index.leaves) {
    const std::string at = text(where, ", tensor '", leaf.name, "'");
    VITRAIL_EXPECT(names.insert(leaf.name).second, ExitCode::checkpoint, at + " is there twice", "names are unique",
                   "");
    expect_tiling(leaf, at);
    expect_shards(leaf, index.shards, at);
  }
  return index;
}

std::string pack_flax_index(const FlaxIndex& index) {
  Branch root;
  for (const FlaxLeaf& leaf : index.leaves) grow(root, leaf);
  MsgpackWriter out;
  out.map(3);
  out.string("shard_count");
  out.integer(index.shards);
  out.string("index");
  pack_branch(root, out);
  out.string("version");
  out.string(kFlaxVersion);
  return out.take();
}

std::filesystem::path flax_data_path(const std::filesystem::path& prefix, std::int64_t shard, std::int64_t shards) {
  const auto digits = [](std::int64_t number) {
    const std::string written = std::to_string(number);
    return std::string(written.size() < 5 ? 5 - written.size() : 0, '0') + written;
  };
  return prefix.string() + ".data-" + digits(shard) + "-of-" + digits(shards);
}

std::filesystem::path flax_index_path(const std::filesystem::path& prefix) { return prefix.string() + ".index"; }

std::filesystem::path flax_prefix_of(const std::filesystem::path& path) {
  const std::regex suffix(R"((.+)(\.index|\.data-\d{5,}-of-\d{5,}))");
  std::smatch parts;
  const std::string name = path.filename().string();
  if (!std::regex_match(name, parts, suffix)) return {};
  return path.parent_path() / parts[1].str();
}

}  // namespace vitrail
