#pragma once
// Named configurations of whole runs: the quickstart's, the paper's models, and those of the released checkpoints.
//
//   fmnist, fmnist-dense                      Fashion-MNIST on two cores
//   vit-SIZE, v-moe-SIZE-PLACE, v-moe-15b     the paper: JFT-300M (15b: JFT-3B), 224 px, 32 experts, 2 per token
//   v-moe-...-ilsvrc2012 | -imagenet21k       the released checkpoints: 8 experts, 2 per token
//   v-moe-...-finetune                        their fine-tuning, at a higher (CIFAR-10: lower) resolution
//
// Capacities. The paper rounds K*S*factor/E to the nearest number of slots; the released code rounds up, and then up to
// a multiple of 4. Each family has the rule that belongs to it. FLOPs count K * factor slots per token, as the paper
// does, so that neither rounding shows in them.
//
// Where a preset stands for a run that also had RandAugment, inception crops or another capacity in evaluation, those
// belong to the data and to vitrail-eval, and are no part of it.

#include <string>
#include <vector>

#include "train/run_config.hpp"

namespace vitrail {

/// Names of the presets; the first is the one that programs start with.
std::vector<std::string> preset_names();

/// The configuration of one. Error (usage) with the nearest name for an unknown one.
RunConfig preset(const std::string& name);

/// Images of one epoch of the data that a preset was made for. Error as above.
std::int64_t preset_examples(const std::string& name);

}  // namespace vitrail
