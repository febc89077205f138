#include <cmath>
#include <cstring>

#include "tests/emulated/kernels.hpp"
#include "tests/emulated/launch_kernel.hpp"

namespace vitrail::emulated {
namespace {

class Streams : public EmulatedTest {
 protected:
  void SetUp() override {
    EmulatedTest::SetUp();
    for (cudaStream_t* stream : {&first_, &second_}) {
      ASSERT_EQ(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), cudaSuccess);
    }
    ASSERT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess);
    ASSERT_EQ(cudaMallocHost(&host_, sizeof(float)), cudaSuccess);
    *host_ = -1.0F;
  }
  void TearDown() override {
    EmulatedTest::TearDown();
    EXPECT_EQ(cudaFreeHost(host_), cudaSuccess);
    EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(first_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(second_), cudaSuccess);
  }
  cudaError_t increment(const Buffer<float>& value, float by, cudaStream_t stream) {
    return launch(&add, 1, 32, 0, stream, value.get(), by, 1);
  }
  cudaError_t fetch(const Buffer<float>& value, cudaStream_t stream) {
    return cudaMemcpyAsync(host_, value.get(), sizeof(float), cudaMemcpyDeviceToHost, stream);
  }
  const Buffer<float> value_{std::vector<float>{1.0F}};
  cudaStream_t first_ = nullptr, second_ = nullptr;
  cudaEvent_t event_ = nullptr;
  float* host_ = nullptr;
};

TEST_F(Streams, WorkIsDoneAsLateAsItMay) {
  ASSERT_EQ(increment(value_, 1.0F, first_), cudaSuccess);
  ASSERT_EQ(fetch(value_, first_), cudaSuccess);
  EXPECT_EQ(*host_, -1.0F) << "done before anybody waited";
  ASSERT_EQ(cudaStreamSynchronize(second_), cudaSuccess);
  EXPECT_EQ(*host_, -1.0F) << "done though another stream was waited for";
  ASSERT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  EXPECT_EQ(*host_, 2.0F);
}

TEST_F(Streams, ArgumentsAreCopiedAtTheLaunch) {
  volatile float by = 1.0F;
  ASSERT_EQ(launch(&add, 1, 32, 0, first_, value_.get(), static_cast<const volatile float&>(by), 1), cudaSuccess);
  by = 100.0F;
  ASSERT_EQ(fetch(value_, first_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  EXPECT_EQ(*host_, 2.0F);
}

TEST_F(Streams, WithoutAnEventStreamsKnowNoOrder) {
  ASSERT_EQ(increment(value_, 1.0F, first_), cudaSuccess);
  ASSERT_EQ(fetch(value_, second_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(second_), cudaSuccess);
  EXPECT_EQ(*host_, 1.0F);
}

TEST_F(Streams, AnEventMakesAStreamWaitForWhatStoodBeforeIt) {
  ASSERT_EQ(increment(value_, 1.0F, first_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  ASSERT_EQ(increment(value_, 10.0F, first_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second_, event_), cudaSuccess);
  ASSERT_EQ(fetch(value_, second_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(second_), cudaSuccess);
  EXPECT_EQ(*host_, 2.0F);
}

TEST_F(Streams, AWaitHoldsForTheRecordThatItSaw) {
  ASSERT_EQ(increment(value_, 1.0F, first_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second_, event_), cudaSuccess);
  ASSERT_EQ(increment(value_, 10.0F, first_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  ASSERT_EQ(fetch(value_, second_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(second_), cudaSuccess);
  EXPECT_EQ(*host_, 2.0F);
}

TEST_F(Streams, AnEventIsReadyWhenItsStreamHasComeThere) {
  EXPECT_EQ(cudaEventQuery(event_), cudaSuccess) << "never recorded";
  ASSERT_EQ(increment(value_, 1.0F, first_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event_), cudaErrorNotReady);
  EXPECT_EQ(cudaEventSynchronize(event_), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event_, first_), cudaSuccess);
  while (cudaEventQuery(event_) == cudaErrorNotReady) {
  }
}

TEST_F(Streams, PollingAStreamComesToAnEnd) {
  ASSERT_EQ(increment(value_, 1.0F, first_), cudaSuccess);
  ASSERT_EQ(fetch(value_, first_), cudaSuccess);
  int questions = 0;
  while (cudaStreamQuery(first_) == cudaErrorNotReady) ++questions;
  EXPECT_EQ(questions, 2);
  EXPECT_EQ(*host_, 2.0F);
}

TEST_F(Streams, TimedEventsMeasure) {
  cudaEvent_t start = nullptr, end = nullptr;
  ASSERT_EQ(cudaEventCreate(&start), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&end), cudaSuccess);
  float milliseconds = -1.0F;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorInvalidResourceHandle) << "not recorded";
  ASSERT_EQ(cudaEventRecord(start, first_), cudaSuccess);
  ASSERT_EQ(increment(value_, 1.0F, first_), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(end, first_), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorNotReady);
  ASSERT_EQ(cudaEventSynchronize(end), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaSuccess);
  EXPECT_GT(milliseconds, 0.0F);
  EXPECT_EQ(cudaEventDestroy(start), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(end), cudaSuccess);
}

TEST_F(Streams, TheDefaultStreamAndBlockingStreamsWaitForEachOther) {
  cudaStream_t blocking = nullptr;
  ASSERT_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  ASSERT_EQ(increment(value_, 1.0F, blocking), cudaSuccess);
  ASSERT_EQ(increment(value_, 10.0F, nullptr), cudaSuccess);
  ASSERT_EQ(fetch(value_, blocking), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(blocking), cudaSuccess);
  EXPECT_EQ(*host_, 12.0F);
  ASSERT_EQ(increment(value_, 1.0F, first_), cudaSuccess);
  EXPECT_EQ(value_.values()[0], 12.0F) << "the default stream waited for one that does not block";
  EXPECT_EQ(cudaStreamDestroy(blocking), cudaSuccess);
}

TEST_F(Streams, PinnedMemoryIsReadLateAndPageableMemoryAtTheCall) {
  float pageable = 5.0F;
  *host_ = 6.0F;
  const Buffer<float> from_pageable(1), from_pinned(1);
  ASSERT_EQ(cudaMemcpyAsync(from_pageable.get(), &pageable, sizeof(float), cudaMemcpyHostToDevice, first_),
            cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(from_pinned.get(), host_, sizeof(float), cudaMemcpyHostToDevice, first_), cudaSuccess);
  pageable = *host_ = 7.0F;
  ASSERT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  EXPECT_EQ(from_pageable.values()[0], 5.0F);
  EXPECT_EQ(from_pinned.values()[0], 7.0F);
}

TEST_F(Streams, SetsBytes) {
  ASSERT_EQ(cudaMemsetAsync(value_.get(), 0x40, sizeof(float), first_), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(first_), cudaSuccess);
  float expected = 0.0F;
  std::memset(&expected, 0x40, sizeof(float));
  EXPECT_EQ(value_.values()[0], expected);
}

TEST_F(Streams, WhatWasDestroyedIsRefused) {
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&event), cudaSuccess);
  ASSERT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  ASSERT_EQ(cudaEventDestroy(event), cudaSuccess);
  EXPECT_EQ(increment(value_, 1.0F, stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaEventRecord(event, first_), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "forgotten once it was asked for";
}

TEST_F(Streams, LaunchesThatNoCardTakesAreRefused) {
  EXPECT_EQ(launch(&add, 0, 32, 0, first_, value_.get(), 1.0F, 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(&add, 1, 1025, 0, first_, value_.get(), 1.0F, 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(&add, dim3(1, 65536), 1, 0, first_, value_.get(), 1.0F, 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(&add, 1, 1, (48 << 10) + 1, first_, value_.get(), 1.0F, 1), cudaErrorInvalidValue);
  ASSERT_EQ(cudaFuncSetAttribute(&add, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10), cudaSuccess);
  EXPECT_EQ(launch(&add, 1, 1, 227 << 10, first_, value_.get(), 1.0F, 1), cudaSuccess);
  EXPECT_EQ(cudaFuncSetAttribute(&add, cudaFuncAttributeMaxDynamicSharedMemorySize, (227 << 10) + 1),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(&add, cudaFuncAttributeMaxDynamicSharedMemorySize, 0), cudaSuccess);
}

}  // namespace
}  // namespace vitrail::emulated
