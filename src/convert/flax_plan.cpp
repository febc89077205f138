#include "convert/flax_plan.hpp"

#include <algorithm>
#include <map>
#include <numeric>

namespace vitrail {

namespace {

/// Parts of an axis: the smallest of 2 .. 9 that divides it and is enough, else its length.
std::int64_t parts_of(std::int64_t length, std::int64_t elements, std::int64_t limit) {
  for (std::int64_t parts = 2; parts <= 9; ++parts) {
    if (length % parts == 0 && elements / parts <= limit) return parts;
  }
  return length;
}

/// The slices of a tensor that stand for devices: equal parts of the first axis.
std::vector<Region> device_regions(const TensorInfo& info, const FlaxCut& cut) {
  const std::int64_t devices = cut.devices ? cut.devices(info) : 1;
  const Region whole = whole_region(info.shape);
  if (devices <= 1) return {whole};
  VITRAIL_EXPECT(info.shape.axes() > 0 && info.shape[0] % devices == 0, ExitCode::checkpoint,
                 text("tensor '", info.name, "' ", info.shape.str(), " for ", devices, " devices"),
                 "its first axis has other parts", "");
  std::vector<Region> regions;
  const std::int64_t length = info.shape[0] / devices;
  for (std::int64_t device = 0; device < devices; ++device) {
    regions.push_back(whole);
    regions.back()[0] = {device * length, (device + 1) * length};
  }
  return regions;
}

/// Numbers the data files anew in the order of their first slices, so that none is empty.
void drop_empty_shards(FlaxIndex& index) {
  std::map<std::int64_t, std::int64_t> renamed;
  for (FlaxLeaf& leaf : index.leaves) {
    for (std::int64_t& shard : leaf.shards) shard = renamed.emplace(shard, std::ssize(renamed)).first->second;
  }
  index.shards = std::ssize(renamed);
}

/// A data file as it grows: headers, and room for elements.
class DataFile {
 public:
  explicit DataFile(std::int64_t leaves) {
    writer_.map(1 + leaves);
    writer_.string(kFlaxChunksKey);
    writer_.boolean(true);
  }

  void begin_leaf(std::size_t number, std::int64_t slices) {
    writer_.string(std::to_string(number));
    writer_.array(slices);
  }

  std::vector<FlaxPieceSpot> add_slice(const Region& slice, const StoredType& type, std::int64_t piece_bytes) {
    const std::int64_t elements = elements_of(slice);
    const std::int64_t longest = std::max<std::int64_t>(1, piece_bytes / type.bytes);
    // A slice without elements gets one empty array: the official reader joins at least one.
    const std::int64_t count = std::max<std::int64_t>(1, (elements + longest - 1) / longest);
    std::vector<FlaxPieceSpot> spots;
    writer_.array(2);
    writer_.array(count);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t here = std::min(longest, elements - i * longest);
      flush(pack_flat_array_header(type, here));
      spots.push_back({end_, here});
      end_ += here * type.bytes;
    }
    writer_.extension(static_cast<std::int8_t>(FlaxExtension::slice_nd), pack_slice_nd(slice));
    return spots;
  }

  FlaxDataLayout finish() {
    flush("");
    return std::move(layout_);
  }

 private:
  void flush(const std::string& more) {
    std::string header = writer_.take() + more;
    const std::int64_t offset = end_;
    end_ += std::ssize(header);
    layout_.headers.push_back({offset, std::move(header)});
  }

  MsgpackWriter writer_;
  std::int64_t end_ = 0;
  FlaxDataLayout layout_;
};

std::vector<std::int64_t> leaves_per_file(const FlaxIndex& index) {
  std::vector<std::int64_t> count(static_cast<std::size_t>(index.shards));
  for (const FlaxLeaf& leaf : index.leaves) {
    for (std::int64_t shard = 0; shard < index.shards; ++shard) {
      if (std::find(leaf.shards.begin(), leaf.shards.end(), shard) != leaf.shards.end()) {
        ++count[static_cast<std::size_t>(shard)];
      }
    }
  }
  return count;
}

}  // namespace

std::vector<Region> cut_region(const Region& region, std::int64_t limit) {
  std::int64_t elements = elements_of(region);
  std::vector<std::size_t> axes(region.size());
  std::iota(axes.begin(), axes.end(), std::size_t{0});
  std::stable_sort(axes.begin(), axes.end(),
                   [&](std::size_t a, std::size_t b) { return region[a].length() < region[b].length(); });
  std::vector<Region> parts{region};
  for (const std::size_t axis : axes) {
    if (elements <= limit) break;
    const std::int64_t length = region[axis].length();
    if (length <= 1) continue;
    const std::int64_t count = parts_of(length, elements, limit);
    elements /= count;
    std::vector<Region> finer;
    for (const Region& part : parts) {
      for (std::int64_t i = 0; i < count; ++i) {
        finer.push_back(part);
        const std::int64_t begin = region[axis].begin;
        finer.back()[axis] = {begin + i * (length / count), begin + (i + 1) * (length / count)};
      }
    }
    parts = std::move(finer);
  }
  std::sort(parts.begin(), parts.end());
  return parts;
}

std::int64_t lightest_shard(const std::vector<std::int64_t>& bytes) {
  return std::min_element(bytes.begin(), bytes.end()) - bytes.begin();
}

FlaxPlan plan_flax(const std::vector<TensorInfo>& tensors, const FlaxCut& cut) {
  FlaxPlan plan;
  plan.place.resize(tensors.size());
  std::iota(plan.place.begin(), plan.place.end(), std::size_t{0});
  std::stable_sort(plan.place.begin(), plan.place.end(),
                   [&](std::size_t a, std::size_t b) { return leaf_before(tensors[a].name, tensors[b].name); });
  std::vector<std::int64_t> filled(static_cast<std::size_t>(std::max<std::int64_t>(1, cut.shards)));
  for (const std::size_t place : plan.place) {
    const TensorInfo& info = tensors[place];
    FlaxLeaf leaf{.name = info.name, .shape = info.shape, .type = stored_type(info.dtype), .slices = {}, .shards = {}};
    const std::int64_t limit = std::max<std::int64_t>(1, cut.slice_bytes / leaf.type.bytes);
    for (const Region& region : device_regions(info, cut)) {
      for (Region& part : cut_region(region, limit)) leaf.slices.push_back(std::move(part));
    }
    std::sort(leaf.slices.begin(), leaf.slices.end());
    for (const Region& slice : leaf.slices) {
      leaf.shards.push_back(lightest_shard(filled));
      filled[static_cast<std::size_t>(leaf.shards.back())] += elements_of(slice) * leaf.type.bytes;
    }
    plan.index.leaves.push_back(std::move(leaf));
  }
  drop_empty_shards(plan.index);
  return plan;
}

FlaxLayout lay_out_flax(const FlaxIndex& index, std::int64_t piece_bytes) {
  std::vector<DataFile> files;
  for (const std::int64_t leaves : leaves_per_file(index)) files.emplace_back(leaves);
  FlaxLayout layout;
  for (std::size_t number = 0; number < index.leaves.size(); ++number) {
    const FlaxLeaf& leaf = index.leaves[number];
    auto& pieces = layout.pieces.emplace_back(leaf.slices.size());
    for (std::size_t shard = 0; shard < files.size(); ++shard) {
      const auto in_file = static_cast<std::int64_t>(shard);
      const std::int64_t slices = std::count(leaf.shards.begin(), leaf.shards.end(), in_file);
      if (slices == 0) continue;
      files[shard].begin_leaf(number, slices);
      for (std::size_t i = 0; i < leaf.slices.size(); ++i) {
        if (leaf.shards[i] == in_file) pieces[i] = files[shard].add_slice(leaf.slices[i], leaf.type, piece_bytes);
      }
    }
  }
  for (DataFile& file : files) layout.files.push_back(file.finish());
  return layout;
}

}  // namespace vitrail
