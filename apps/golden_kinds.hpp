#pragma once
// What is done for each kind of golden file. All throw Unsupported or Error (data) before or while they compare.

#include "apps/golden.hpp"
#include "apps/golden_file.hpp"

namespace vitrail {

/// One training pass with all gradients, one evaluation pass.
void run_golden_model(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report);
/// Capacities; choices of tokens or experts, slots, dispatch and combine from given gates; losses and gradients of the
/// noisy router.
void run_golden_router(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report);
/// Updates from given gradients.
void run_golden_optimizer(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report);
/// Learning rates. The same on every back end.
void run_golden_schedule(const GoldenFile& file, GoldenReport& report);
/// Images and targets mixed with given draws of the weights.
void run_golden_mixup(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report);
/// Few-shot accuracies from given features. The same on every back end.
void run_golden_fewshot(const GoldenFile& file, GoldenReport& report);
/// Position embeddings at another resolution. The same on every back end.
void run_golden_posembed(const GoldenFile& file, GoldenReport& report);
/// Files of the official software, read, written and read again. The same on every back end.
void run_golden_checkpoint(const GoldenFile& file, GoldenReport& report);
/// Whole training steps.
void run_golden_trajectory(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report);

}  // namespace vitrail
