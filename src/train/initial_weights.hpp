#pragma once
// A run that begins with the parameters of another run's checkpoint: fine-tuning on other data, at another resolution
// and with other classes, and upcycling of a dense model into a sparse one. [V-MoE]
//
// Every tensor of the new model gets its values in the first of these ways that fits:
//
//   kept      head/* when the number of classes differs or a new head is asked for; a router whose experts are tiled
//   copied    same name, same shape
//   resized   position embeddings for another number of tokens: vit_zoom (model/position_resize.hpp)
//   tiled     the experts of a block whose MLP is dense in the checkpoint: each is that MLP
//
// Kept tensors have their fresh initial values. The checkpoint's head goes with `kept`, its pre_logits are dropped when
// the new model has none, and every other tensor of it must have found a place. The optimizer begins anew.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "convert/tensors.hpp"
#include "model/params.hpp"
#include "train/checkpoint.hpp"

namespace vitrail {

struct InitialWeightsOptions {
  bool new_head = false;  ///< keep the fresh head even if the checkpoint's would fit
  bool average = false;   ///< take average/NAME, the running average of the weights, instead of parameters/NAME
};

/// Where every tensor's values come from.
class InitialWeights {
 public:
  /// Compares a table with a checkpoint; reads no values. Error (usage) that names the tensor, both shapes and what to
  /// try, for a tensor without source, one that does not fit, and one of the checkpoint that finds no place. Table and
  /// reader must outlive it.
  InitialWeights(const std::vector<ParameterSpec>& table, const CheckpointReader& reader,
                 const InitialWeightsOptions& options);
  /// The same with parameters of any source, whose names are those of the table; `where` is its name in messages.
  InitialWeights(const std::vector<ParameterSpec>& table, TensorSource& source, std::string where, bool new_head);

  /// Fills the tensors of the table, which must hold their fresh initial values and, of an expert tensor, the experts
  /// from `first_expert` on; reads no others. Floats of another width are converted.
  void load(Device& device, std::int64_t first_expert, const std::vector<Tensor>& tensors) const;
  /// The same for tensor `index` of the table alone.
  void load_one(std::size_t index, Device& device, std::int64_t first_expert, Tensor to) const;

  /// Does load_one() look at, or leave, what tensor `index` of the table holds already?
  [[nodiscard]] bool keeps_initial_values(std::size_t index) const {
    return origins_[index].way == Way::kept || origins_[index].way == Way::resized;
  }

  /// What became of the tensors, for people: one line per way that was taken.
  [[nodiscard]] std::vector<std::string> report() const;
  /// Are there tiled experts?
  [[nodiscard]] bool upcycled() const { return !names_of(Way::tiled).empty(); }

 private:
  enum class Way : std::uint8_t { kept, copied, resized, tiled };
  struct Origin {
    Way way = Way::kept;
    std::string source;  ///< a tensor of the checkpoint; none when kept
  };

  InitialWeights(const std::vector<ParameterSpec>& table, std::unique_ptr<TensorSource> owned, TensorSource* source,
                 std::string where, std::string prefix, bool new_head);
  [[nodiscard]] Origin origin_of(const ParameterSpec& spec) const;
  [[nodiscard]] Origin origin_of_positions(const ParameterSpec& spec) const;
  [[nodiscard]] bool has(const std::string& name) const { return stored_.contains(prefix_ + name); }
  [[nodiscard]] const Shape& shape(const std::string& source) const { return stored_.at(source).shape; }
  [[nodiscard]] bool is_upcycled(const std::string& name) const;
  [[nodiscard]] std::vector<double> read_doubles(const std::string& name, std::int64_t first, std::int64_t count) const;
  void read_into(const std::string& name, std::int64_t first, Device& device, Tensor to) const;
  void expect_nothing_left() const;
  [[nodiscard]] std::vector<std::string> names_of(Way way) const;

  const std::vector<ParameterSpec>& table_;
  std::unique_ptr<TensorSource> owned_;  ///< the source, when it is a checkpoint
  TensorSource& source_;
  const std::string where_;
  const std::string prefix_;  ///< "parameters/" or "average/"; of another source ""
  std::map<std::string, TensorInfo> stored_;
  bool new_head_;
  std::vector<Origin> origins_;       ///< by the table
  std::vector<std::string> dropped_;  ///< tensors of the checkpoint
};

}  // namespace vitrail
