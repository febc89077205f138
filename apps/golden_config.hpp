#pragma once
// The `config` of golden files (keyword arguments of the original implementation) as our own settings. Every key is
// known or refused: a setting that is not understood may change results.

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "model/config.hpp"
#include "model/vit_moe.hpp"
#include "train/optimizer.hpp"
#include "train/schedule.hpp"

namespace vitrail {

/// What a file needs and this build has not. Thrown by everything below.
class Unsupported : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The members of a JSON object, taken one by one; done() refuses those that nobody asked for.
class ConfigKeys {
 public:
  /// `path` names the object in messages.
  ConfigKeys(const Json& object, std::string path);

  /// The value of a key; nullptr when it is missing or null.
  const Json* find(const std::string& key);
  /// Unsupported when it is missing or null.
  const Json& at(const std::string& key);
  /// The value, or `otherwise` when it is missing or null.
  double real(const std::string& key, double otherwise);
  std::int64_t integer(const std::string& key, std::int64_t otherwise);
  bool boolean(const std::string& key, bool otherwise);
  std::string string(const std::string& key, const std::string& otherwise);
  /// Is the key there, null or not?
  [[nodiscard]] bool has(const std::string& key) const { return object_.has(key); }
  /// Known, and without influence on what is compared.
  void ignore(const std::string& key) { known_.push_back(key); }
  /// Unsupported unless the condition holds.
  void expect(bool condition, const std::string& key, const std::string& value) const;
  [[nodiscard]] std::string path_to(const std::string& key) const { return path_ + "/" + key; }
  /// Unsupported for a key that was not asked for.
  void done() const;

 private:
  const Json& object_;
  std::string path_;
  std::vector<std::string> known_;
};

/// What kind=model and kind=trajectory say about the model.
struct GoldenModel {
  ModelConfig training;
  ModelConfig evaluation;
  Loss loss = Loss::softmax;
  std::int64_t batch = 0;
  std::int64_t tokens = 0;  ///< what the file says
};

/// Takes the keys of the model; the caller takes the rest and calls done().
GoldenModel golden_model(ConfigKeys& config);

/// The capacity_* keys of a dispatcher or of a case of kind=router.
Capacity golden_capacity(ConfigKeys& dispatcher);

/// A number or an object with the name of a schedule.
Schedule golden_schedule(const Json& schedule, const std::string& path, std::int64_t total_steps);

struct GoldenOptimizer {
  OptimizerConfig optimizer;
  Schedule schedule;
};
GoldenOptimizer golden_optimizer(const Json& optimizer, const std::string& path, std::int64_t total_steps);

}  // namespace vitrail
