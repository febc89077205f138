#include "train/checkpoint_source.hpp"

namespace vitrail {

CheckpointSource::CheckpointSource(const CheckpointReader& reader) : reader_(reader) {
  for (const std::string& name : reader.tensors()) tensors_.push_back({name, reader.shape(name), reader.dtype(name)});
}

}  // namespace vitrail
