#pragma once
// What every communicator demands of the arguments of its verbs, checked before anything is sent. A rank that breaks
// a rule throws an Error (other) alone; run_ranks then ends the job. Nothing here reads the tensors' memory.

#include <cstdint>

#include "device/tensor.hpp"

namespace vitrail {

/// Whose memory a communicator can read and write.
enum class Reach : std::uint8_t { host, device_too };

/// Memory within reach and a rank of the communicator.
void check_broadcast(ConstTensor data, int root, int size, Reach reach = Reach::host);
/// Equal dtypes and the same kind of memory, to = size * from. `from` lies outside `to`, or is exactly part `rank` of
/// it: then true is returned.
[[nodiscard]] bool check_all_gather(ConstTensor from, ConstTensor to, int rank, int size, Reach reach = Reach::host);
/// Equal dtypes, the same kind of memory and element counts that `size` divides; the two do not overlap.
void check_all_to_all(ConstTensor from, ConstTensor to, int size, Reach reach = Reach::host);
/// A colour is 0 or more.
void check_colour(int colour);
/// At most one exchange is in flight, and only a started one can be finished.
void check_can_start(bool in_flight);
void check_can_finish(bool in_flight);

}  // namespace vitrail
