#pragma once
// Tensors in memory, as a file would give them, and those of a whole model.

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "convert/tensors.hpp"
#include "model/params.hpp"

namespace vitrail::testing {

class MemorySource : public TensorSource {
 public:
  /// Values 1, 2, 3 ... after `begin`.
  void add(const std::string& name, const Shape& shape, float begin = 0) {
    std::vector<float>& values = values_[name];
    values.clear();
    for (std::int64_t i = 0; i < shape.elements(); ++i) values.push_back(begin + static_cast<float>(i + 1));
    tensors_.push_back({name, shape, Dtype::f32});
  }
  void add(const std::string& name, const Shape& shape, std::vector<float> values) {
    values_[name] = std::move(values);
    tensors_.push_back({name, shape, Dtype::f32});
  }
  void remove(const std::string& name) {
    std::erase_if(tensors_, [&](const TensorInfo& tensor) { return tensor.name == name; });
  }
  void rename(const std::string& from, const std::string& to) {
    for (TensorInfo& tensor : tensors_) {
      if (tensor.name == from) tensor.name = to;
    }
    values_[to] = values_.at(from);
  }
  void reshape(const std::string& name, const Shape& shape) {
    for (TensorInfo& tensor : tensors_) {
      if (tensor.name == name) tensor.shape = shape;
    }
  }
  [[nodiscard]] std::span<const TensorInfo> tensors() const override { return tensors_; }
  [[nodiscard]] std::vector<float>& values(const std::string& name) { return values_.at(name); }
  void read(const std::string& name, std::int64_t first, Tensor to) override {
    const std::vector<float>& all = values_.at(name);
    largest_read = std::max(largest_read, to.elements());
    if (first < 0 || first + to.elements() > static_cast<std::int64_t>(all.size())) throw std::out_of_range(name);
    std::copy_n(all.begin() + first, to.elements(), to.as<float>());
  }
  std::int64_t largest_read = 0;  ///< elements

 private:
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::vector<float>> values_;
};

/// A model's tensors under the names of the table; no two elements are equal.
inline void add_model(MemorySource& source, const ModelConfig& config) {
  float begin = 0;
  for (const ParameterSpec& spec : parameter_table(config)) {
    source.add(spec.name, spec.shape, begin);
    begin += static_cast<float>(spec.shape.elements());
  }
}

inline std::vector<float> read_values(TensorSource& source, const TensorInfo& tensor, std::int64_t stretch = 1 << 20) {
  std::vector<float> values(static_cast<std::size_t>(tensor.shape.elements()), -1.0F);
  for (std::int64_t first = 0; first < tensor.shape.elements(); first += stretch) {
    source.read(tensor.name, first,
                {values.data() + first, {std::min(stretch, tensor.shape.elements() - first)}, Dtype::f32});
  }
  return values;
}

/// All of a source, as a file would keep it.
inline void copy_into(MemorySource& to, TensorSource& from, const std::string& prefix = "") {
  for (const TensorInfo& tensor : from.tensors()) to.add(prefix + tensor.name, tensor.shape, read_values(from, tensor));
}

}  // namespace vitrail::testing
