#include "convert/tensor_list.hpp"

#include <utility>

#include "base/error.hpp"

namespace vitrail {

namespace {
constexpr std::int64_t kMostBytes = std::int64_t{1} << 62;
}  // namespace

std::int64_t expect_elements(std::span<const std::int64_t> lengths, Dtype dtype, const std::string& what) {
  VITRAIL_EXPECT(lengths.size() <= Shape::kMaxAxes, ExitCode::checkpoint, text(what, " has ", lengths.size(), " axes"),
                 text("at most ", Shape::kMaxAxes, " are supported"), "");
  std::int64_t most = kMostBytes / size_of(dtype);
  std::int64_t elements = 1;
  bool none = false;
  for (const std::int64_t length : lengths) {
    VITRAIL_EXPECT(length >= 0, ExitCode::checkpoint, text(what, " has an axis of length ", length),
                   "lengths are not negative", "");
    none = none || length == 0;
    if (length == 0) continue;
    VITRAIL_EXPECT(length <= most, ExitCode::checkpoint, text(what, " is too large"),
                   "its shape has more than 2^62 bytes", "");
    most /= length;
    elements *= length;
  }
  return none ? 0 : elements;
}

TensorList::TensorList(std::string file, std::vector<TensorInfo> tensors)
    : file_(std::move(file)), tensors_(std::move(tensors)) {
  std::int64_t left = kMostBytes;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const std::int64_t size = size_of(tensors_[i].dtype);
    const std::int64_t bytes = expect_elements(tensors_[i].shape.lengths(), tensors_[i].dtype, what(i)) * size;
    VITRAIL_EXPECT(bytes <= left, ExitCode::checkpoint, text("'", file_, "' is too large"),
                   "its tensors have more than 2^62 bytes", "");
    left -= bytes;
    VITRAIL_EXPECT(places_.emplace(tensors_[i].name, i).second, ExitCode::checkpoint, text(what(i), " is there twice"),
                   "a tensor is found by its name", "");
  }
}

std::string TensorList::what(std::size_t index) const {
  return text("tensor '", tensors_[index].name, "' of '", file_, "'");
}

std::size_t TensorList::expect_stretch(const std::string& name, std::int64_t first, const Tensor& to) const {
  const auto found = places_.find(name);
  if (found == places_.end()) {
    std::vector<std::string> names;
    for (const TensorInfo& tensor : tensors_) names.push_back(tensor.name);
    fail(ExitCode::checkpoint,
         {text("'", file_, "' has no tensor '", name, "'"), "it is needed", did_you_mean(name, names)});
  }
  const TensorInfo& tensor = tensors_[found->second];
  VITRAIL_EXPECT(to.dtype == tensor.dtype && to.device == DeviceKind::cpu, ExitCode::checkpoint,
                 text(what(found->second), " cannot be read as ", name_of(to.dtype)),
                 text("it has ", name_of(tensor.dtype), " and is read into host memory"), "");
  const std::int64_t elements = tensor.shape.elements();
  VITRAIL_EXPECT(first >= 0 && first <= elements && to.elements() <= elements - first, ExitCode::checkpoint,
                 text(what(found->second), " has no elements ", first, " .. ", first + to.elements()),
                 text("its shape is ", tensor.shape.str()), "");
  return found->second;
}

void TensorOrder::pass_complete() {
  const std::span<const TensorInfo> tensors = list_->tensors();
  while (tensor_ < tensors.size() && done_ == tensors[tensor_].shape.elements()) {
    ++tensor_;
    done_ = 0;
  }
}

TensorOrder::Place TensorOrder::place(const ConstTensor& stretch) {
  if (stretch.elements() == 0) return {tensor_, done_};
  pass_complete();
  VITRAIL_EXPECT(tensor_ < list_->tensors().size(), ExitCode::checkpoint,
                 text("'", list_->file(), "' is given more than it was made for"), "all its tensors are complete", "");
  const TensorInfo& tensor = list_->tensors()[tensor_];
  VITRAIL_EXPECT(stretch.dtype == tensor.dtype && stretch.device == DeviceKind::cpu, ExitCode::checkpoint,
                 text(list_->what(tensor_), " is given ", name_of(stretch.dtype)),
                 text("it was announced as ", name_of(tensor.dtype), " in host memory"), "");
  const std::int64_t left = tensor.shape.elements() - done_;
  VITRAIL_EXPECT(stretch.elements() <= left, ExitCode::checkpoint,
                 text(list_->what(tensor_), " is given ", stretch.elements(), " elements"),
                 text(left, " of its ", tensor.shape.elements(), " are missing"), "");
  const Place place{tensor_, done_};
  done_ += stretch.elements();
  return place;
}

void TensorOrder::expect_complete() {
  pass_complete();
  VITRAIL_EXPECT(tensor_ == list_->tensors().size(), ExitCode::checkpoint,
                 text(list_->what(tensor_), " is not complete"),
                 text(done_, " of ", list_->tensors()[tensor_].shape.elements(), " elements have come"), "");
}

}  // namespace vitrail
