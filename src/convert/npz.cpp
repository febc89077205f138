#include "convert/npz.hpp"

#include <utility>

#include "base/error.hpp"
#include "convert/half.hpp"
#include "convert/npy_header.hpp"
#include "convert/tensor_list.hpp"
#include "io/zip.hpp"

namespace vitrail {

namespace {

constexpr std::string_view kEnding = ".npy";

class NpzSource final : public TensorSource {
 public:
  explicit NpzSource(const std::filesystem::path& path) : zip_(path), list_(path.string(), read_headers(path)) {}

  [[nodiscard]] std::span<const TensorInfo> tensors() const override { return list_.tensors(); }

  void read(const std::string& name, std::int64_t first, Tensor to) override {
    const std::size_t entry = list_.expect_stretch(name, first, to);
    const NpyHeader& header = headers_[entry];
    const std::int64_t size = header.half ? 2 : size_of(header.dtype);
    const std::int64_t count = to.elements();
    auto* place = static_cast<std::byte*>(to.data) + (header.half ? 2 * count : 0);
    zip_.read(entry, header.bytes + first * size, place, count * size);
    if (header.half) widen_halves(to.data, count);
  }

 private:
  std::vector<TensorInfo> read_headers(const std::filesystem::path& path) {
    std::vector<TensorInfo> tensors;
    for (std::size_t i = 0; i < zip_.entries().size(); ++i) {
      const ZipEntry& entry = zip_.entries()[i];
      const bool is_array = entry.name.ends_with(kEnding);
      VITRAIL_EXPECT(is_array, ExitCode::checkpoint,
                     text("entry '", entry.name, "' of '", path.string(), "' is no array"),
                     "arrays of a .npz file are called NAME.npy", "Is this a .npz file?");
      const std::string name = entry.name.substr(0, entry.name.size() - kEnding.size());
      const NpyBytes read = [&](std::int64_t offset, void* to, std::int64_t count) { zip_.read(i, offset, to, count); };
      headers_.push_back(read_npy_header(read, entry.bytes, text("tensor '", name, "' of '", path.string(), "'")));
      tensors.push_back({name, headers_.back().shape, headers_.back().dtype});
    }
    return tensors;
  }

  ZipReader zip_;
  std::vector<NpyHeader> headers_;  ///< of the zip's entries
  TensorList list_;                 ///< made from both: stands behind them
};

class NpzSink final : public TensorSink {
 public:
  NpzSink(const std::filesystem::path& path, std::vector<TensorInfo> tensors)
      : list_(path.string(), std::move(tensors)), order_(list_), zip_(path, entries()) {}

  void write(ConstTensor stretch) override {
    const TensorOrder::Place place = order_.place(stretch);
    if (stretch.elements() == 0) return;
    if (place.first == 0) write_headers(place.tensor + 1);
    zip_.write(stretch.data, stretch.bytes());
  }

  void finish() override {
    order_.expect_complete();
    write_headers(list_.tensors().size());
    zip_.finish();
  }

 private:
  [[nodiscard]] std::vector<ZipWriter::Entry> entries() const {
    std::vector<ZipWriter::Entry> made;
    for (const TensorInfo& tensor : list_.tensors()) {
      const std::int64_t data = tensor.shape.elements() * size_of(tensor.dtype);
      made.push_back({tensor.name + std::string(kEnding), static_cast<std::int64_t>(npy_header(tensor).size()) + data});
    }
    return made;
  }

  /// Those of tensors without elements on the way too.
  void write_headers(std::size_t end) {
    for (; begun_ < end; ++begun_) {
      const std::string header = npy_header(list_.tensors()[begun_]);
      zip_.write(header.data(), static_cast<std::int64_t>(header.size()));
    }
  }

  TensorList list_;
  TensorOrder order_;
  ZipWriter zip_;
  std::size_t begun_ = 0;  ///< tensors whose headers are written
};

}  // namespace

std::unique_ptr<TensorSource> open_npz(const std::filesystem::path& path) { return std::make_unique<NpzSource>(path); }

std::unique_ptr<TensorSink> create_npz(const std::filesystem::path& path, std::vector<TensorInfo> tensors) {
  return std::make_unique<NpzSink>(path, std::move(tensors));
}

}  // namespace vitrail
