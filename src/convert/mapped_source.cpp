#include "convert/mapped_source.hpp"

#include <algorithm>
#include <cstring>
#include <set>

namespace vitrail {

namespace {

constexpr std::int64_t kStretchBytes = std::int64_t{16} << 20;

std::size_t bytes_of(std::int64_t elements, Dtype dtype) { return static_cast<std::size_t>(elements * size_of(dtype)); }

/// [c b a] at `from` as [a b c] at `to`; elements of `size` bytes, in tiles, so that both sides stay in the cache.
void reverse_axes(const std::byte* from, std::byte* to, std::int64_t a, std::int64_t b, std::int64_t c,
                  std::size_t size) {
  constexpr std::int64_t kTile = 32;
  for (std::int64_t j = 0; j < b; ++j) {
    for (std::int64_t i0 = 0; i0 < a; i0 += kTile) {
      for (std::int64_t k0 = 0; k0 < c; k0 += kTile) {
        for (std::int64_t i = i0; i < std::min(i0 + kTile, a); ++i) {
          for (std::int64_t k = k0; k < std::min(k0 + kTile, c); ++k) {
            std::memcpy(to + static_cast<std::size_t>((i * b + j) * c + k) * size,
                        from + static_cast<std::size_t>((k * b + j) * a + i) * size, size);
          }
        }
      }
    }
  }
}

/// As above. A size that the compiler knows makes its copies single moves.
void reverse_axes(const std::byte* from, std::byte* to, const TensorPart& part, Dtype dtype) {
  switch (size_of(dtype)) {
    case 2:
      return reverse_axes(from, to, part.a, part.b, part.c, 2);
    case 4:
      return reverse_axes(from, to, part.a, part.b, part.c, 4);
    case 8:
      return reverse_axes(from, to, part.a, part.b, part.c, 8);
    default:
      return reverse_axes(from, to, part.a, part.b, part.c, static_cast<std::size_t>(size_of(dtype)));
  }
}

Tensor stretch(std::byte* data, std::int64_t count, Dtype dtype) { return {data, {count}, dtype}; }

}  // namespace

std::vector<TensorPart> turned_round(const std::vector<TensorPart>& parts) {
  std::vector<TensorPart> turned;
  turned.reserve(parts.size());
  for (const TensorPart& part : parts) {
    turned.push_back({part.from, part.from_shape, part.to, part.to_shape, part.from_first, part.to_first, part.lead,
                      part.c, part.b, part.a});
  }
  return turned;
}

MappedSource::MappedSource(TensorSource& from, std::vector<TensorPart> parts) : from_(from), parts_(std::move(parts)) {
  std::map<std::string, Dtype> stored;
  for (const TensorInfo& tensor : from_.tensors()) stored[tensor.name] = tensor.dtype;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const TensorPart& part = parts_[i];
    const Dtype dtype = stored.at(part.from);
    const auto [known, is_new] = dtypes_.emplace(part.to, dtype);
    if (is_new) tensors_.push_back({part.to, part.to_shape, dtype});
    VITRAIL_EXPECT(known->second == dtype, ExitCode::checkpoint,
                   text(part.to, " would be ", name_of(known->second), " and ", name_of(dtype)),
                   text("it is joined of several tensors, of which ", part.from, " is ", name_of(dtype)), "");
    parts_of_[part.to].push_back(i);
  }
}

const std::byte* MappedSource::block(const TensorPart& part, std::int64_t index, Dtype dtype) {
  if (block_part_ == &part && block_index_ == index) return block_.data();
  block_part_ = nullptr;
  std::vector<std::byte> stored(bytes_of(part.block(), dtype));
  from_.read(part.from, part.from_first + index * part.block(), stretch(stored.data(), part.block(), dtype));
  block_.resize(stored.size());
  reverse_axes(stored.data(), block_.data(), part, dtype);
  block_part_ = &part;
  block_index_ = index;
  return block_.data();
}

void MappedSource::read_part(const TensorPart& part, std::int64_t first, Tensor to) {
  if (part.same_order()) return from_.read(part.from, part.from_first + first, to);
  auto* out = static_cast<std::byte*>(to.data);
  for (std::int64_t at = first; at < first + to.elements();) {
    const std::int64_t index = at / part.block();
    const std::int64_t inside = at - index * part.block();
    const std::int64_t count = std::min(part.block() - inside, first + to.elements() - at);
    std::memcpy(out, block(part, index, to.dtype) + bytes_of(inside, to.dtype), bytes_of(count, to.dtype));
    out += bytes_of(count, to.dtype);
    at += count;
  }
}

void MappedSource::read(const std::string& name, std::int64_t first, Tensor to) {
  const auto parts = parts_of_.find(name);
  VITRAIL_EXPECT(parts != parts_of_.end(), ExitCode::checkpoint, text("there is no tensor ", name),
                 "no part of the mapping makes it", "");
  const Shape& shape = parts_[parts->second.front()].to_shape;
  const std::int64_t end = first + to.elements();
  VITRAIL_EXPECT(first >= 0 && end <= shape.elements() && to.dtype == dtypes_.at(name), ExitCode::checkpoint,
                 text(name, " has no elements ", first, " to ", end, " of ", name_of(to.dtype)),
                 text("it is ", shape.str(), " of ", name_of(dtypes_.at(name))), "");
  auto* bytes = static_cast<std::byte*>(to.data);
  std::fill_n(bytes, bytes_of(to.elements(), to.dtype), std::byte{0});
  for (const std::size_t i : parts->second) {
    const TensorPart& part = parts_[i];
    const std::int64_t from = std::max(first, part.to_first);
    const std::int64_t until = std::min(end, part.to_first + part.elements());
    if (from >= until) continue;
    read_part(part, from - part.to_first, stretch(bytes + bytes_of(from - first, to.dtype), until - from, to.dtype));
  }
}

void expect_tensors(const std::vector<TensorPart>& parts, std::span<const TensorInfo> tensors,
                    const std::string& file) {
  std::map<std::string, Shape> unused;
  for (const TensorInfo& tensor : tensors) unused[tensor.name] = tensor.shape;
  const std::map<std::string, Shape> all = unused;
  for (const TensorPart& part : parts) unused.erase(part.from);
  std::set<std::string> leftover;
  for (const auto& [name, shape] : unused) leftover.insert(name);
  for (const TensorPart& part : parts) {
    const auto found = all.find(part.from);
    VITRAIL_EXPECT(found != all.end(), ExitCode::checkpoint, text(file, " has no tensor ", part.from),
                   text("it would be ", part.from_shape.str(), ", of ", part.to, " ", part.to_shape.str()),
                   did_you_mean(part.from, leftover));
    VITRAIL_EXPECT(found->second == part.from_shape, ExitCode::checkpoint,
                   text(file, ": ", part.from, " is ", found->second.str()),
                   text("beside the file's other tensors it would be ", part.from_shape.str(), ", of ", part.to, " ",
                        part.to_shape.str()),
                   "");
  }
  if (leftover.empty()) return;
  std::set<std::string> known;
  for (const TensorPart& part : parts) known.insert(part.from);
  const std::string& name = *leftover.begin();
  fail(ExitCode::checkpoint, {text(file, " has ", name, " ", unused.at(name).str(),
                                   leftover.size() > 1 ? text(" and ", leftover.size() - 1, " more") : ""),
                              "such a model has no tensor of that name", did_you_mean(name, known)});
}

void copy_tensors(TensorSource& from, TensorSink& to) {
  std::vector<std::byte> bytes;
  for (const TensorInfo& tensor : from.tensors()) {
    const std::int64_t all = tensor.shape.elements();
    const std::int64_t most = kStretchBytes / size_of(tensor.dtype);
    for (std::int64_t first = 0; first < all; first += most) {
      const std::int64_t count = std::min(most, all - first);
      bytes.resize(bytes_of(count, tensor.dtype));
      const Tensor values = stretch(bytes.data(), count, tensor.dtype);
      from.read(tensor.name, first, values);
      to.write(values);
    }
  }
}

}  // namespace vitrail
