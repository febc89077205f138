#include <thread>

#include "tests/emulated/kernels.hpp"
#include "tests/emulated/launch_kernel.hpp"

namespace vitrail::emulated {
namespace {

class Graphs : public InBothOrders {
 protected:
  void SetUp() override {
    InBothOrders::SetUp();
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&side_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaEventCreateWithFlags(&fork_, cudaEventDisableTiming), cudaSuccess);
    ASSERT_EQ(cudaEventCreateWithFlags(&join_, cudaEventDisableTiming), cudaSuccess);
  }
  void TearDown() override {
    InBothOrders::TearDown();
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(side_), cudaSuccess);
    EXPECT_EQ(cudaEventDestroy(fork_), cudaSuccess);
    EXPECT_EQ(cudaEventDestroy(join_), cudaSuccess);
  }
  cudaError_t increment(float by, cudaStream_t stream, std::size_t which = 0) {
    return launch(&add, 1, 32, 0, stream, values_.get() + which, by, 1);
  }
  void begin(cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
    ASSERT_EQ(cudaStreamBeginCapture(stream_, mode), cudaSuccess);
  }
  /// After a call that a capture does not allow.
  void expect_invalidated() {
    cudaStreamCaptureStatus status{};
    EXPECT_EQ(cudaStreamIsCapturing(stream_, &status), cudaSuccess);
    EXPECT_EQ(status, cudaStreamCaptureStatusInvalidated);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
    EXPECT_EQ(cudaStreamIsCapturing(stream_, &status), cudaSuccess);
    EXPECT_EQ(status, cudaStreamCaptureStatusNone);
  }
  const Buffer<float> values_{std::vector<float>{1.0F, 1.0F, 1.0F}};
  cudaStream_t stream_ = nullptr, side_ = nullptr;
  cudaEvent_t fork_ = nullptr, join_ = nullptr;
};

TEST_P(Graphs, ACaptureRunsNothingAndEachLaunchRunsAll) {
  begin();
  ASSERT_EQ(increment(2.0F, stream_), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(values_.get() + 1, values_.get(), sizeof(float), cudaMemcpyDeviceToDevice, stream_),
            cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  std::size_t nodes = 0;
  EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
  EXPECT_EQ(nodes, 2U);
  EXPECT_EQ(values_.values(), (std::vector<float>{1.0F, 1.0F, 1.0F}));
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(executable, stream_), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(values_.values(), (std::vector<float>{7.0F, 7.0F, 1.0F}));
}

TEST_P(Graphs, AnUpdateChangesArgumentsOfLaterLaunchesAlone) {
  const auto capture = [&](float by) {
    begin();
    EXPECT_EQ(increment(by, stream_), cudaSuccess);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    return graph;
  };
  cudaGraph_t first = capture(2.0F), second = capture(30.0F);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, first, 0), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(executable, stream_), cudaSuccess);
  cudaGraphExecUpdateResultInfo result{};
  ASSERT_EQ(cudaGraphExecUpdate(executable, second, &result), cudaSuccess);
  EXPECT_EQ(result.result, cudaGraphExecUpdateSuccess);
  ASSERT_EQ(cudaGraphLaunch(executable, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(values_.values()[0], 33.0F);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(first), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(second), cudaSuccess);
}

TEST_P(Graphs, AnUpdateToAnotherTopologyIsRefused) {
  cudaGraph_t one = nullptr, two = nullptr, other = nullptr;
  begin();
  ASSERT_EQ(increment(1.0F, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(stream_, &one), cudaSuccess);
  begin();
  ASSERT_EQ(increment(1.0F, stream_), cudaSuccess);
  ASSERT_EQ(increment(1.0F, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(stream_, &two), cudaSuccess);
  begin();
  ASSERT_EQ(cudaMemsetAsync(values_.get(), 0, 4, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(stream_, &other), cudaSuccess);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, one, 0), cudaSuccess);
  cudaGraphExecUpdateResultInfo result{};
  EXPECT_EQ(cudaGraphExecUpdate(executable, two, &result), cudaErrorGraphExecUpdateFailure);
  EXPECT_EQ(result.result, cudaGraphExecUpdateErrorTopologyChanged);
  EXPECT_EQ(cudaGraphExecUpdate(executable, other, &result), cudaErrorGraphExecUpdateFailure);
  EXPECT_EQ(result.result, cudaGraphExecUpdateErrorNodeTypeChanged);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  for (cudaGraph_t graph : {one, two, other}) EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_P(Graphs, ACaptureForksAndJoinsByEvents) {
  begin();
  ASSERT_EQ(increment(1.0F, stream_, 0), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(fork_, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(side_, fork_), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(values_.get() + 1, values_.get(), 4, cudaMemcpyDeviceToDevice, side_), cudaSuccess);
  ASSERT_EQ(increment(10.0F, stream_, 2), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(join_, side_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(stream_, join_), cudaSuccess);
  ASSERT_EQ(increment(100.0F, stream_, 1), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(executable, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(values_.values(), (std::vector<float>{2.0F, 102.0F, 11.0F}));
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_P(Graphs, AForkThatIsNotJoinedIsRefused) {
  begin();
  ASSERT_EQ(increment(1.0F, stream_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(fork_, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(side_, fork_), cudaSuccess);
  ASSERT_EQ(increment(1.0F, side_, 1), cudaSuccess);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(side_, &graph), cudaErrorStreamCaptureUnmatched);
  EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
  begin();
  ASSERT_EQ(increment(1.0F, stream_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(fork_, stream_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(side_, fork_), cudaSuccess);
  ASSERT_EQ(increment(1.0F, side_, 1), cudaSuccess);
  EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureUnjoined);
  EXPECT_EQ(graph, nullptr);
}

TEST_P(Graphs, WaitingEndsACapture) {
  begin();
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorStreamCaptureUnsupported);
  expect_invalidated();
  begin();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorStreamCaptureUnsupported);
  expect_invalidated();
  begin();
  EXPECT_EQ(cudaStreamQuery(stream_), cudaErrorStreamCaptureUnsupported);
  expect_invalidated();
  begin();
  ASSERT_EQ(cudaEventRecord(fork_, stream_), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(fork_), cudaErrorCapturedEvent);
  expect_invalidated();
}

TEST_P(Graphs, AllocatingEndsACaptureUnlessItIsRelaxed) {
  void* block = nullptr;
  begin();
  EXPECT_EQ(cudaMalloc(&block, 16), cudaErrorStreamCaptureUnsupported);
  expect_invalidated();
  begin();
  EXPECT_EQ(cudaMallocHost(&block, 16), cudaErrorStreamCaptureUnsupported);
  expect_invalidated();
  begin();
  EXPECT_EQ(cudaFree(values_.get()), cudaErrorStreamCaptureUnsupported);
  expect_invalidated();
  begin(cudaStreamCaptureModeRelaxed);
  EXPECT_EQ(cudaMalloc(&block, 16), cudaSuccess);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaFree(block), cudaSuccess);
}

TEST_P(Graphs, AnotherThreadMayAllocateDuringAThreadsCapture) {
  begin();
  void* block = nullptr;
  std::thread other([&] {
    EXPECT_EQ(cudaMalloc(&block, 16), cudaSuccess);
    EXPECT_EQ(cudaFree(block), cudaSuccess);
  });
  other.join();
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_P(Graphs, ACopyThatWaitsEndsACapture) {
  float host = 0.0F;
  begin();
  EXPECT_EQ(cudaMemcpy(&host, values_.get(), 4, cudaMemcpyDeviceToHost), cudaErrorStreamCaptureImplicit);
  expect_invalidated();
}

TEST_P(Graphs, ACaptureCannotWaitForWhatIsOutside) {
  ASSERT_EQ(cudaEventRecord(fork_, side_), cudaSuccess);
  begin();
  EXPECT_EQ(cudaStreamWaitEvent(stream_, fork_), cudaErrorStreamCaptureIsolation);
  expect_invalidated();
}

TEST_P(Graphs, AnEventOfAnEndedCaptureCannotBeWaitedFor) {
  begin();
  ASSERT_EQ(cudaEventRecord(fork_, stream_), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaStreamWaitEvent(side_, fork_), cudaErrorCapturedEvent);
  EXPECT_EQ(cudaEventSynchronize(fork_), cudaErrorCapturedEvent);
}

TEST_P(Graphs, TheDefaultStreamCannotBeCaptured) {
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed), cudaErrorStreamCaptureUnsupported);
}

INSTANTIATE_TEST_SUITE_P(Emulated, Graphs, both_orders(), order_name);

}  // namespace
}  // namespace vitrail::emulated
