#include "comm/mpi/mpi_communicator.hpp"

#include <algorithm>
#include <cstddef>

#include "base/error.hpp"
#include "comm/arguments.hpp"
#include "comm/mpi/check.hpp"
#include "comm/mpi/cut.hpp"
#include "comm/mpi/mpi.hpp"

namespace vitrail {

namespace {

// `bytes` bytes, of which the next lies `stride` bytes after the first.
UniqueHandle<MpiTypeTraits> strided_bytes(std::int64_t bytes, std::int64_t stride) {
  MPI_Datatype made = MPI_DATATYPE_NULL;
  check(MPI_Type_contiguous(static_cast<int>(bytes), MPI_BYTE, &made));
  const UniqueHandle<MpiTypeTraits> dense(made);
  check(MPI_Type_create_resized(dense.get(), 0, static_cast<MPI_Aint>(stride), &made));
  UniqueHandle<MpiTypeTraits> strided(made);
  check(MPI_Type_commit(&made));
  return strided;
}

const std::byte* bytes_of(ConstTensor tensor) { return static_cast<const std::byte*>(tensor.data); }
std::byte* bytes_of(Tensor tensor) { return static_cast<std::byte*>(tensor.data); }

}  // namespace

MPI_Comm OpenCommunicators::adopt(MPI_Comm handle) {
  handles_.emplace_back(handle);
  check(MPI_Comm_set_errhandler(handle, MPI_ERRORS_RETURN));
  return handle;
}

void OpenCommunicators::abandon() noexcept {
  for (auto& handle : handles_) static_cast<void>(handle.release());
  handles_.clear();
}

MpiCommunicator::MpiCommunicator(OpenCommunicators& open, MPI_Comm comm, std::int64_t call_limit_bytes)
    : open_(open), comm_(comm), call_limit_bytes_(std::clamp<std::int64_t>(call_limit_bytes, 1, kMpiCallLimitBytes)) {
  check(MPI_Comm_rank(comm_, &rank_));
  check(MPI_Comm_size(comm_, &size_));
}

// Calls transfer(offset, count, type) for pieces of all parts: `count` elements of `type`, `offset` bytes into every
// part, where the parts lie `part_bytes` apart. Normally that is one call with offset 0 and MPI_BYTE.
template <class Transfer>
void MpiCommunicator::in_pieces(std::int64_t part_bytes, const Transfer& transfer) const {
  const Cut cut(part_bytes, std::max<std::int64_t>(1, call_limit_bytes_ / size_));
  if (cut.pieces() == 1) {
    transfer(0, static_cast<int>(part_bytes), MPI_BYTE);
    return;
  }
  for (std::int64_t i = 0; i < cut.pieces(); ++i) {
    const Cut::Piece piece = cut.piece(i);
    const UniqueHandle<MpiTypeTraits> type = strided_bytes(piece.count, part_bytes);
    transfer(piece.first, 1, type.get());  // MPI keeps a freed type until the transfers that use it are done
  }
}

void MpiCommunicator::barrier() { check(MPI_Barrier(comm_)); }

void MpiCommunicator::broadcast(Tensor data, int root) {
  check_broadcast(data, root, size_);
  const Cut cut(data.bytes(), call_limit_bytes_);
  for (std::int64_t i = 0; i < cut.pieces(); ++i) {
    const Cut::Piece piece = cut.piece(i);
    check(MPI_Bcast(bytes_of(data) + piece.first, static_cast<int>(piece.count), MPI_BYTE, root, comm_));
  }
}

void MpiCommunicator::all_gather(ConstTensor from, Tensor to) {
  const bool in_place = check_all_gather(from, to, rank_, size_);
  in_pieces(from.bytes(), [&](std::int64_t offset, int count, MPI_Datatype type) {
    const void* source = in_place ? MPI_IN_PLACE : bytes_of(from) + offset;
    check(MPI_Allgather(source, count, type, bytes_of(to) + offset, count, type, comm_));
  });
}

void MpiCommunicator::start_all_to_all(ConstTensor from, Tensor to) {
  check_can_start(in_flight_);
  check_all_to_all(from, to, size_);
  in_flight_ = true;
  in_pieces(from.bytes() / size_, [&](std::int64_t offset, int count, MPI_Datatype type) {
    requests_.push_back(MPI_REQUEST_NULL);
    check(MPI_Ialltoall(bytes_of(from) + offset, count, type, bytes_of(to) + offset, count, type, comm_,
                        &requests_.back()));
  });
}

void MpiCommunicator::finish_all_to_all() {
  check_can_finish(in_flight_);
  for (MPI_Request& request : requests_) check(MPI_Wait(&request, MPI_STATUS_IGNORE));
  requests_.clear();
  in_flight_ = false;
}

void MpiCommunicator::reduce(std::span<std::int64_t> values, MPI_Op operation) {
  constexpr auto width = static_cast<std::int64_t>(sizeof(std::int64_t));
  const Cut cut(static_cast<std::int64_t>(values.size()), std::max<std::int64_t>(1, call_limit_bytes_ / width));
  for (std::int64_t i = 0; i < cut.pieces(); ++i) {
    const Cut::Piece piece = cut.piece(i);
    check(MPI_Allreduce(MPI_IN_PLACE, values.data() + piece.first, static_cast<int>(piece.count), MPI_INT64_T,
                        operation, comm_));
  }
}

std::unique_ptr<Communicator> MpiCommunicator::split(int colour) {
  check_colour(colour);
  MPI_Comm part = MPI_COMM_NULL;
  check(MPI_Comm_split(comm_, colour, rank_, &part));
  return std::make_unique<MpiCommunicator>(open_, open_.adopt(part), call_limit_bytes_);
}

std::unique_ptr<Communicator> MpiCommunicator::duplicate(std::int64_t call_limit_bytes) {
  MPI_Comm twin = MPI_COMM_NULL;
  check(MPI_Comm_dup(comm_, &twin));
  return std::make_unique<MpiCommunicator>(open_, open_.adopt(twin), call_limit_bytes);
}

std::unique_ptr<Communicator> duplicate_with_call_limit(Communicator& mpi, std::int64_t call_limit_bytes) {
  auto* original = dynamic_cast<MpiCommunicator*>(&mpi);
  VITRAIL_EXPECT(original != nullptr, ExitCode::other, "this communicator has no limit per MPI call", "it is not MPI's",
                 "");
  return original->duplicate(call_limit_bytes);
}

}  // namespace vitrail
