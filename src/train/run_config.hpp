#pragma once
// Everything that a run is told, as one plain struct: the options of vitrail-train are bound to it
// (apps/run_options.cpp), presets (train/presets.hpp) fill it, and a checkpoint remembers it.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model/layout.hpp"
#include "model/vit_moe.hpp"
#include "train/mixup.hpp"
#include "train/optimizer.hpp"
#include "train/schedule.hpp"

namespace vitrail {

struct RunConfig {
  friend bool operator==(const RunConfig&, const RunConfig&) = default;

  // numerics: another value gives another result
  ModelConfig model;
  std::string moe = "every-2";  ///< names model.moe_blocks
  std::string loss = "softmax";
  double label_smoothing = 0;        ///< a: targets (1 - a) y + a / V
  double mixup = 0;                  ///< concentration of the Dirichlet distribution; 0: off
  std::string mixup_draw = "leaf";   ///< one draw for every: step, leaf or image
  std::int64_t mixup_images = 2;     ///< so many images are mixed
  std::string precision = "f32";     ///< of products: f32, or bf16 (inputs of products are rounded, sums are f32)
  std::string optimizer = "adamw";   ///< adamw, sgd, adafactor
  double momentum = 0.9;             ///< sgd and adafactor; 0: none
  bool bf16_momentum = false;        ///< first moment or momentum kept in bfloat16
  std::int64_t factored_above = 32;  ///< adafactor: the smallest of two axes that are factored has at least so many
  std::string frozen;                ///< pattern of the parameters that keep their values; "": none
  double average_decay = 0;          ///< running average of the weights; 0: none
  std::int64_t batch = 4096;
  std::int64_t leaf_images = 8;
  std::int64_t seed = 0;
  std::int64_t threads = 1;  ///< per rank
  double epochs = 0;         ///< either epochs
  std::int64_t steps = 0;    ///< or steps; the other is 0
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  std::string weight_decay_pattern = "/kernel$";  ///< names of the parameters that decay
  double clip_norm = 1.0;                         ///< 0: off
  std::string schedule = "linear";                ///< constant, linear, cosine, polynomial, exponential, rsqrt
  double power = 1;                               ///< of polynomial
  double decay_rate = 0.1;                        ///< of exponential: factor per transition_steps
  double transition_steps = 0.1;                  ///< of exponential; like warmup
  bool staircase = false;                         ///< of exponential: in steps
  double learning_rate = 1e-3;
  double final_learning_rate = 1e-5;  ///< of exponential: a limit; 0: none
  double warmup = 0.1;                ///< below 1: share of the steps; from 1: steps
  double timescale = 10000;
  double cooldown = 0;     ///< like warmup
  std::int64_t shift = 0;  ///< random shift in pixels, each way
  bool flip = false;       ///< random horizontal flip
  std::string backend = "cpu";

  // layout: another value gives the same bits
  std::int64_t expert_parallel = 1;
  std::int64_t leaves_per_pass = 0;  ///< 0: the largest subtree that fits
  std::string recompute = "none";    ///< what blocks compute again in the backward pass: none, mlp, block

  // the rest of the run
  std::vector<std::filesystem::path> data;
  std::filesystem::path run_dir;
  std::filesystem::path init_from;  ///< a checkpoint whose parameters the run starts with (train/initial_weights.hpp)
  bool init_average = false;        ///< take that checkpoint's running average of the weights
  bool new_head = false;            ///< but not its head
  bool resume = false;
  bool early_update = false;    ///< of the layout, too: weights of MLPs are updated where their gradients are made
  std::int64_t save_every = 0;  ///< steps; 0: at the end only
  double save_minutes = 0;      ///< wall-clock minutes between saves, beside save_every; 0: none by the clock
  std::int64_t keep_last = 2;
  std::int64_t keep_every = 0;             ///< checkpoints of steps that it divides are kept, too; 0: none
  std::int64_t checkpoint_writers = 0;     ///< files of a checkpoint; 0: one per rank
  std::int64_t log_every = 1;              ///< steps between the lines of metrics.jsonl
  std::optional<std::int64_t> stop_after;  ///< steps in this job, for testing resumption
};

/// What one_hot writes into the targets of a training step, for a class that is a label and for one that is not:
/// label smoothing.
struct TargetValues {
  double on = 1;
  double off = 0;
};

/// Fills in what follows from other settings (model.moe_blocks) and checks the model.
void resolve(RunConfig& config);
/// Steps of the whole run: `steps`, or ceil(epochs * examples / batch). Error (usage) unless exactly one is given.
std::int64_t total_steps(const RunConfig& config, std::int64_t examples);
/// warmup or cooldown as steps.
std::int64_t steps_of_share(double share, std::int64_t total);

/// "constant", "linear" ...
std::vector<std::string> schedule_names();
Schedule make_schedule(const RunConfig& config, std::int64_t total);
OptimizerConfig make_optimizer(const RunConfig& config);
Loss make_loss(const RunConfig& config);
/// "none", "mlp", "block".
std::vector<std::string> recompute_names();
Recompute make_recompute(const RunConfig& config);
/// Error (usage) for a smoothing outside [0, 1).
TargetValues make_target_values(const RunConfig& config);
/// Error (usage) for a concentration below 0, an unknown draw, and more images than a leaf has.
Mixup make_mixup(const RunConfig& config);
/// The layout of a rank; fills in leaves_per_pass = 0. Checked.
Layout make_layout(const RunConfig& config, std::int64_t rank, std::int64_t ranks);

}  // namespace vitrail
