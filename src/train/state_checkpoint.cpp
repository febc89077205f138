#include "train/state_checkpoint.hpp"

namespace vitrail {

namespace {

/// A run of elements that follow each other both in a slice and in a logical tensor.
struct Run {
  std::size_t tensor;
  std::int64_t first;     // in the logical tensor
  std::int64_t in_slice;  // in the owner's slice
  std::int64_t count;
};

std::vector<Run> runs_of(const FlatLayout& layout, const FlatSlice& slice) {
  std::vector<Run> runs;
  for (std::int64_t i = 0; i < slice.blocks; ++i) {
    const FlatBlock& block = layout.blocks()[static_cast<std::size_t>(slice.first_block + i)];
    const std::int64_t in_slice = block.begin - slice.begin;
    if (!runs.empty() && runs.back().tensor == block.tensor && runs.back().first + runs.back().count == block.first &&
        runs.back().in_slice + runs.back().count == in_slice) {
      runs.back().count += block.count;
    } else {
      runs.push_back({block.tensor, block.first, in_slice, block.count});
    }
  }
  return runs;
}

void add_pieces(const std::vector<ParameterSpec>& table, const ParameterShare& share,
                std::vector<CheckpointPiece>& pieces) {
  const FlatSlice& slice = share.adamw.slice();
  const Tensor values = share.values.slice(slice.begin, slice.count);
  for (const Run& run : runs_of(share.layout, slice)) {
    const ParameterSpec& spec = table[run.tensor];
    pieces.push_back({"parameters/" + spec.name, spec.shape, run.first, values.slice(run.in_slice, run.count)});
    pieces.push_back({"adam_m/" + spec.name, spec.shape, run.first, share.adamw.m().slice(run.in_slice, run.count)});
    pieces.push_back({"adam_v/" + spec.name, spec.shape, run.first, share.adamw.v().slice(run.in_slice, run.count)});
  }
}

void expect_shape(const ParameterSpec& spec, const std::string& name, const CheckpointReader& reader) {
  VITRAIL_EXPECT(reader.has(name), ExitCode::checkpoint, text(reader.path().string(), " has no tensor ", name),
                 "the model of this run has it", "Was the checkpoint written with another --preset or --moe?");
  VITRAIL_EXPECT(reader.shape(name) == spec.shape, ExitCode::checkpoint,
                 text(reader.path().string(), ": ", name, " is ", reader.shape(name).str()),
                 text("the model of this run needs ", spec.shape.str()),
                 "Was the checkpoint written with another --preset, --classes or --experts?");
}

void restore_moments(const std::vector<ParameterSpec>& table, const ParameterShare& share,
                     const CheckpointReader& reader) {
  for (const Run& run : runs_of(share.layout, share.adamw.slice())) {
    const ParameterSpec& spec = table[run.tensor];
    for (const auto& [kind, moment] : {std::pair{"adam_m/", share.adamw.m()}, std::pair{"adam_v/", share.adamw.v()}}) {
      expect_shape(spec, kind + spec.name, reader);
      reader.read(kind + spec.name, run.first, moment.slice(run.in_slice, run.count));
    }
  }
}

}  // namespace

std::vector<CheckpointPiece> checkpoint_pieces(const TrainState& state) {
  std::vector<CheckpointPiece> pieces;
  add_pieces(state.table, *state.dense, pieces);
  if (state.expert) add_pieces(state.table, *state.expert, pieces);
  return pieces;
}

void restore_parameters(const std::vector<ParameterSpec>& table, std::int64_t first_expert,
                        const std::vector<Tensor>& tensors, const CheckpointReader& reader) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    const std::string name = "parameters/" + table[i].name;
    expect_shape(table[i], name, reader);
    const std::int64_t each = table[i].expert ? table[i].shape.elements() / table[i].shape[0] : 0;
    reader.read(name, first_expert * each, tensors[i].view({tensors[i].elements()}));
  }
}

void restore(TrainState& state, const CheckpointReader& reader) {
  restore_parameters(state.table, state.layout.first_expert(state.config.model), state.parameters, reader);
  restore_moments(state.table, *state.dense, reader);
  if (state.expert) restore_moments(state.table, *state.expert, reader);
  state.step = reader.info().step;
}

}  // namespace vitrail
