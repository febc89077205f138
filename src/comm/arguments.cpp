#include "comm/arguments.hpp"

#include <functional>
#include <string>

#include "base/error.hpp"

namespace vitrail {

namespace {

std::string described(ConstTensor tensor) { return text(name_of(tensor.dtype), " ", tensor.shape.str()); }

void check_memory(ConstTensor tensor, Reach reach) {
  VITRAIL_EXPECT(tensor.device == DeviceKind::cpu || reach == Reach::device_too, ExitCode::other,
                 text("a tensor ", described(tensor), " of device memory was given to a communicator for host memory"),
                 "it cannot read device memory", "Copy it to the host, or use a communicator for device memory");
  VITRAIL_EXPECT(tensor.data != nullptr || tensor.bytes() == 0, ExitCode::other,
                 text("a tensor ", described(tensor), " without memory was given to a communicator"),
                 "there is nothing to read or write", "");
}

bool overlap(ConstTensor a, ConstTensor b) {
  if (a.bytes() == 0 || b.bytes() == 0) return false;
  const auto* a_first = static_cast<const std::byte*>(a.data);
  const auto* b_first = static_cast<const std::byte*>(b.data);
  const std::less<> before;  // a total order also over unrelated blocks of memory
  return before(a_first, b_first + b.bytes()) && before(b_first, a_first + a.bytes());
}

void check_pair(const char* verb, ConstTensor from, ConstTensor to, Reach reach) {
  check_memory(from, reach);
  check_memory(to, reach);
  VITRAIL_EXPECT(from.device == to.device, ExitCode::other,
                 text(verb, " from ", described(from), " to ", described(to)),
                 "one is host memory and the other a device's", "");
  VITRAIL_EXPECT(from.dtype == to.dtype, ExitCode::other, text(verb, " from ", described(from), " to ", described(to)),
                 "the dtypes differ and a communicator converts nothing", "");
}

}  // namespace

void check_broadcast(ConstTensor data, int root, int size, Reach reach) {
  check_memory(data, reach);
  VITRAIL_EXPECT(root >= 0 && root < size, ExitCode::other, text("broadcast from rank ", root),
                 text("the ranks are 0 to ", size - 1), "");
}

bool check_all_gather(ConstTensor from, ConstTensor to, int rank, int size, Reach reach) {
  check_pair("all_gather", from, to, reach);
  VITRAIL_EXPECT(to.elements() == from.elements() * size, ExitCode::other,
                 text("all_gather from ", described(from), " to ", described(to)),
                 text("the latter must have ", size, " times the elements of the former, one part per rank"), "");
  if (from.bytes() > 0 && from.data == static_cast<const std::byte*>(to.data) + rank * from.bytes()) return true;
  VITRAIL_EXPECT(!overlap(from, to), ExitCode::other, text("all_gather from inside its target ", described(to)),
                 text("it may only start from the own part, number ", rank), "");
  return false;
}

void check_all_to_all(ConstTensor from, ConstTensor to, int size, Reach reach) {
  check_pair("all_to_all", from, to, reach);
  VITRAIL_EXPECT(from.elements() == to.elements() && from.elements() % size == 0, ExitCode::other,
                 text("all_to_all from ", described(from), " to ", described(to)),
                 text("both must have the same number of elements, in ", size, " equal parts"), "");
  VITRAIL_EXPECT(!overlap(from, to), ExitCode::other, text("all_to_all in place on ", described(from)),
                 "source and target must not overlap", "");
}

void check_colour(int colour) {
  VITRAIL_EXPECT(colour >= 0, ExitCode::other, text("a split with colour ", colour), "colours are 0 or more", "");
}

void check_can_start(bool in_flight) {
  VITRAIL_EXPECT(!in_flight, ExitCode::other, "an all_to_all was started while another is in flight",
                 "a communicator carries at most one", "Finish the first, or split off a communicator for the second");
}

void check_can_finish(bool in_flight) {
  VITRAIL_EXPECT(in_flight, ExitCode::other, "an all_to_all was finished that was never started", "this is a bug", "");
}

}  // namespace vitrail
