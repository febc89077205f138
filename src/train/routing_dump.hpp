#pragma once
// What the routers decided, image by image, as an HDF5 file for analyses and pictures: which expert likes which class,
// which patches are dropped.
//
//   /labels        i32 [images] or [images labels]     -1 = none
//   /predictions   i32 [images]
//   /encoderblock_B/, for every MoE block B:
//     gates        real [images T E]   softmax of the logits without noise
//     selected     i32  [images T K]   experts; experts-choice: K = E, every expert
//     gate         real [images T K]   weights of these choices
//     slot         i32  [images T K]   place in the expert's buffer of the group; -1 = not taken; from C on: dropped
//     kept         u8   [images T K]   1 where 0 <= slot < C
//     priority     real [images T]     largest gate of the choices: what Batch Prioritized Routing sorts by
//     drop_rate_by_rank    f64 [K]     of the first choices, of the second choices ...
//     assigned_by_expert   i64 [E]     choices of an expert ...
//     kept_by_expert       i64 [E]     ... and those of them that found a slot
//     drop_rate_by_expert  f64 [E]
//     experts_by_class     i64 [E V]   choices of the tokens of a class's images, dropped ones too
//     attributes drop_rate, mean_gate_entropy (nats; mean over tokens of the entropy of `gates`)
//   attributes: format, checkpoint, step, data, images, tokens (T), experts (E), choices (K), slots (C), group_tokens
//   (S), classes (V), settings (JSON: all options of the evaluation)
//
// real is the back end's type. Token 0 is the class token where there is one; patch (row, column) follows in row-major
// order. Groups are undone: tokens of all groups lie in the order of the images. Images are those of the data set, in
// its order; the routing is that of the whole evaluation, so images that are not in the file took slots, too.

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "model/activations.hpp"
#include "model/layout.hpp"

namespace vitrail {

struct RoutingDumpPlan {
  std::filesystem::path path;
  std::int64_t images = 0;  ///< the first so many of the data set
  std::string checkpoint;
  std::int64_t step = 0;
  std::string data;
  std::string settings;
  std::int64_t piece_bytes = std::int64_t{16} << 20;  ///< see RoutingDump
};

/// Rank 0 writes PATH.tmp, which gets its name when it is complete. Whatever the size of the file, a rank holds no more
/// than one piece (or one image of one block) at a time. Sums are made by rank 0 in the order of the images:
/// the same bits for every layout.
class RoutingDump {
 public:
  /// `real`: dtype of the back end. Error (other) when the file cannot be made; (usage) for a router without choices.
  RoutingDump(const RoutingDumpPlan& plan, const ModelConfig& config, const Layout& layout, Communicator& world,
              Device& device, Dtype real);
  RoutingDump(const RoutingDump&) = delete;
  RoutingDump& operator=(const RoutingDump&) = delete;
  ~RoutingDump();

  /// After a pass with PassShape::keep_routing, as AfterPass (train/evaluate.hpp). Collective.
  void add_pass(std::int64_t pass_begin, const Activations& acts);
  /// After the last pass: sums, and the file's name.
  void finish();

 private:
  class Writer;  // of rank 0
  void add_images(int root, std::int64_t first, std::int64_t count, const Activations& acts);
  void add_routing(int root, std::int64_t first, std::int64_t from, std::int64_t count, const Activations& acts);
  void append_images(ConstTensor from, std::int64_t first, std::int64_t count);
  void send_to_writer(int root);

  const RoutingDumpPlan plan_;
  const ModelConfig config_;
  const Layout layout_;
  Communicator& world_;
  Device& device_;
  std::unique_ptr<Writer> writer_;
  std::vector<std::byte> piece_;
};

}  // namespace vitrail
