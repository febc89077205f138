#pragma once
// A file of the schema "vitrail-golden-1", opened.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "apps/golden_report.hpp"
#include "base/json.hpp"
#include "device/device.hpp"
#include "io/h5.hpp"

namespace vitrail {

/// What a computation gave under a name of the schema.
struct GoldenQuantity {
  enum class Kind : std::uint8_t { output, gradient, integers };
  std::vector<double> values;
  h5::Shape shape;
  Kind kind = Kind::output;
};
using GoldenQuantities = std::map<std::string, GoldenQuantity>;

/// The values of a tensor of the device, with a shape of equal size.
GoldenQuantity golden_quantity(Device& device, ConstTensor tensor, const Shape& shape);
GoldenQuantity golden_quantity(Device& device, ConstTensor tensor);
GoldenQuantity golden_gradient(Device& device, ConstTensor tensor);
/// Scalars.
GoldenQuantity golden_quantity(double value);
GoldenQuantity golden_integer(std::int64_t value);

/// What to know about the datasets of a group before they are compared.
struct GoldenGroup {
  std::string name;
  std::vector<std::string> required = {};                        ///< without these it is no file of its kind
  std::vector<std::string> inputs = {};                          ///< not results
  std::function<double(const std::vector<double>&)> scale = {};  ///< from the expected values; none: the largest
};

class GoldenFile {
 public:
  /// Error (data) when it cannot be read or is of another schema.
  explicit GoldenFile(const std::filesystem::path& path);

  [[nodiscard]] const h5::File& h5() const noexcept { return file_; }
  [[nodiscard]] const std::string& kind() const noexcept { return kind_; }
  [[nodiscard]] const std::string& precision() const noexcept { return precision_; }
  [[nodiscard]] const Json& config() const noexcept { return config_; }

  [[nodiscard]] std::vector<double> reals(const std::string& dataset) const { return file_.read<double>(dataset); }
  /// Entry `index` of the first axis.
  [[nodiscard]] std::vector<double> reals_at(const std::string& dataset, std::int64_t index) const;
  [[nodiscard]] h5::Shape shape(const std::string& dataset) const { return file_.info(dataset).shape; }
  /// A dataset into a tensor of the device, of the same shape. Error (data) when the shapes differ.
  void read(const std::string& dataset, Device& device, Tensor to) const;
  /// Whole numbers into an i32 tensor with as many entries. Error (data) for another number of them.
  void read_integers(const std::string& dataset, Device& device, Tensor to) const;

  /// Compares every dataset of a group with the quantity of that name, integers exactly. A dataset that was not
  /// computed is UNSUPPORTED; one that is required and missing is an Error (data).
  void compare(const GoldenGroup& group, const GoldenQuantities& computed, const GoldenTolerances& tolerances,
               GoldenReport& report) const;

 private:
  h5::File file_;
  std::string kind_;
  std::string precision_;
  Json config_;
};

}  // namespace vitrail
