#pragma once
// Communicator over MPI. Only comm/mpi includes this file.

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include <mpi.h>

#include "base/unique_handle.hpp"
#include "comm/communicator.hpp"

namespace vitrail {

/// What one MPI call may carry: its counts are int.
inline constexpr std::int64_t kMpiCallLimitBytes = std::numeric_limits<int>::max();

struct MpiCommTraits {
  using Handle = MPI_Comm;
  static inline const Handle null = MPI_COMM_NULL;
  static void close(Handle handle) noexcept { MPI_Comm_free(&handle); }
};

struct MpiTypeTraits {
  using Handle = MPI_Datatype;
  static inline const Handle null = MPI_DATATYPE_NULL;
  static void close(Handle handle) noexcept { MPI_Type_free(&handle); }
};

/// The MPI communicators of a session. MPI_Comm_free is collective, and a destructor must not wait for other ranks,
/// which may be failing or destroy their objects in another order. So the handles live here and not in the
/// MpiCommunicators, and all of them are freed when the session ends, last made first: the ranks made those that they
/// share in the same order. One thread makes communicators.
class OpenCommunicators {
 public:
  OpenCommunicators() = default;
  OpenCommunicators(const OpenCommunicators&) = delete;
  OpenCommunicators& operator=(const OpenCommunicators&) = delete;
  ~OpenCommunicators() {
    while (!handles_.empty()) handles_.pop_back();
  }
  /// Takes the handle over and sets MPI_ERRORS_RETURN on it.
  MPI_Comm adopt(MPI_Comm handle);
  /// Forgets all handles without freeing them: other ranks may not be there to take part.
  void abandon() noexcept;

 private:
  std::vector<UniqueHandle<MpiCommTraits>> handles_;
};

class MpiCommunicator final : public Communicator {
 public:
  /// `open` owns `comm` and outlives this object. No MPI call carries more than `call_limit_bytes`, all ranks taken
  /// together, but at least one byte (or integer) per rank.
  MpiCommunicator(OpenCommunicators& open, MPI_Comm comm, std::int64_t call_limit_bytes = kMpiCallLimitBytes);

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int size() const noexcept override { return size_; }
  void barrier() override;
  void broadcast(Tensor data, int root) override;
  void all_gather(ConstTensor from, Tensor to) override;
  void start_all_to_all(ConstTensor from, Tensor to) override;
  void finish_all_to_all() override;
  void all_min(std::span<std::int64_t> values) override { reduce(values, MPI_MIN); }
  void all_max(std::span<std::int64_t> values) override { reduce(values, MPI_MAX); }
  void all_sum(std::span<std::int64_t> values) override { reduce(values, MPI_SUM); }
  std::unique_ptr<Communicator> split(int colour) override;
  /// The same ranks, other limits. Collective.
  std::unique_ptr<Communicator> duplicate(std::int64_t call_limit_bytes);

 private:
  template <class Transfer>
  void in_pieces(std::int64_t part_bytes, const Transfer& transfer) const;
  void reduce(std::span<std::int64_t> values, MPI_Op operation);

  OpenCommunicators& open_;
  MPI_Comm comm_;
  std::int64_t call_limit_bytes_;
  int rank_ = 0;
  int size_ = 1;
  bool in_flight_ = false;
  // No UniqueHandle: MPI forbids to free the request of a non-blocking collective, and waiting for it in a destructor
  // could last for ever. When an error leaves some behind, run_ranks ends the process.
  std::vector<MPI_Request> requests_;
};

}  // namespace vitrail
