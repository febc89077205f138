#include "train/state_checkpoint.hpp"

namespace vitrail {

namespace {

void add_pieces(const TrainState& state, const ParameterShare& share, std::int64_t owner,
                std::vector<CheckpointPiece>& pieces) {
  for (const FlatRun& run : share.layout.runs(owner)) {
    const ParameterSpec& spec = state.table[run.tensor];
    pieces.push_back(
        {"parameters/" + spec.name, spec.shape, run.first, share.mine().slice(run.in_slice, run.count), &state.device});
  }
  for (const StatePiece& piece : share.optimizer.state()) {
    pieces.push_back({piece.name, piece.shape, piece.first, piece.data, &state.device});
  }
}

void expect_shape(const std::string& name, const Shape& shape, const CheckpointReader& reader) {
  VITRAIL_EXPECT(reader.has(name), ExitCode::checkpoint, text(reader.path().string(), " has no tensor ", name),
                 "the model of this run has it", "Was the checkpoint written with another --preset or --moe?");
  VITRAIL_EXPECT(reader.shape(name) == shape, ExitCode::checkpoint,
                 text(reader.path().string(), ": ", name, " is ", reader.shape(name).str()),
                 text("the model of this run needs ", shape.str()),
                 "Was the checkpoint written with another --preset, --classes or --experts?");
}

/// "adam_m, adam_v": the kinds of state that a checkpoint holds beside its parameters.
std::string kinds_of_state(const CheckpointReader& reader) {
  std::string kinds, last = "parameters";
  for (const std::string& name : reader.tensors()) {
    const std::string kind = name.substr(0, name.find('/'));
    if (kind == last || kind == "parameters") continue;
    kinds += (kinds.empty() ? "" : ", ") + kind;
    last = kind;
  }
  return kinds.empty() ? "no state of an optimizer" : kinds;
}

void expect_state(const ParameterShare& share, const CheckpointReader& reader) {
  for (const StatePiece& piece : share.optimizer.state()) {
    VITRAIL_EXPECT(reader.has(piece.name), ExitCode::checkpoint,
                   text(reader.path().string(), " has no tensor ", piece.name),
                   text("the optimizer of this run needs it; the checkpoint holds ", kinds_of_state(reader)),
                   "Was it written with another --optimizer, --momentum, --factored-above or --average-decay?");
    expect_shape(piece.name, piece.shape, reader);
  }
}

void restore_state(Device& device, const ParameterShare& share, const CheckpointReader& reader) {
  for (const StatePiece& piece : share.optimizer.state()) reader.read(piece.name, piece.first, device, piece.data);
}

}  // namespace

std::vector<CheckpointPiece> checkpoint_pieces(const TrainState& state) {
  std::vector<CheckpointPiece> pieces;
  add_pieces(state, *state.dense, state.layout.rank, pieces);
  if (state.expert) add_pieces(state, *state.expert, state.layout.replica(), pieces);
  return pieces;
}

void restore_parameters(Device& device, const std::vector<ParameterSpec>& table, std::int64_t first_expert,
                        const std::vector<Tensor>& tensors, const CheckpointReader& reader, const std::string& kind) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    const std::string name = kind + "/" + table[i].name;
    expect_shape(name, table[i].shape, reader);
    const std::int64_t each = table[i].expert ? table[i].shape.elements() / table[i].shape[0] : 0;
    reader.read(name, first_expert * each, device, tensors[i].view({tensors[i].elements()}));
  }
}

void expect_tensors(const TrainState& state, const CheckpointReader& reader) {
  for (const ParameterSpec& spec : state.table) expect_shape("parameters/" + spec.name, spec.shape, reader);
  expect_state(*state.dense, reader);
  if (state.expert) expect_state(*state.expert, reader);
}

void restore(TrainState& state, const CheckpointReader& reader) {
  expect_tensors(state, reader);
  restore_parameters(state.device, state.table, state.layout.first_expert(state.config.model), state.parameters,
                     reader);
  restore_state(state.device, *state.dense, reader);
  if (state.expert) restore_state(state.device, *state.expert, reader);
  state.step = reader.info().step;
}

}  // namespace vitrail
