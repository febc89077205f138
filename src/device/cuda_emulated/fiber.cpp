#include "fiber.hpp"

#include <cstdio>
#include <cstdlib>

#include <boost/context/detail/fcontext.hpp>
#include <sys/mman.h>

#include "sanitizer.hpp"

namespace vitrail::emulated {
namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

constexpr std::size_t kGuardBytes = 4096;
constexpr std::size_t kStackBytes = kAddressSanitizer ? 256 << 10 : 64 << 10;

}  // namespace

struct FiberStart {
  static void start(transfer_t from) {
    auto* fiber = static_cast<Fiber*>(from.data);
    fiber->scheduler_ = from.fctx;
    finish_switch(nullptr, &fiber->scheduler_stack_, &fiber->scheduler_stack_bytes_);
    fiber->run();
  }
};

Fiber::Fiber(Entry entry, void* argument) : entry_(entry), argument_(argument) {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
    std::fputs("CUDA emulation: no memory for a fiber's stack\n", stderr);
    std::abort();
  }
  stack_ = static_cast<std::byte*>(memory) + kGuardBytes;
  abandon();
}

Fiber::~Fiber() {
  unpoison(stack_, kStackBytes);
  munmap(stack_ - kGuardBytes, kGuardBytes + kStackBytes);
}

void Fiber::abandon() {
  unpoison(stack_, kStackBytes);  // frames that never returned left their red zones
  context_ = make_fcontext(stack_ + kStackBytes, kStackBytes, &FiberStart::start);
  fake_stack_ = nullptr;
  idle_ = true;
}

void Fiber::run() {
  for (;;) {
    idle_ = false;
    entry_(argument_);
    idle_ = true;
    switch_to_scheduler();
  }
}

void Fiber::switch_to_scheduler() {
  start_switch(&fake_stack_, scheduler_stack_, scheduler_stack_bytes_);
  const transfer_t from = jump_fcontext(scheduler_, nullptr);
  scheduler_ = from.fctx;
  finish_switch(fake_stack_, &scheduler_stack_, &scheduler_stack_bytes_);
}

void Fiber::suspend() { switch_to_scheduler(); }

void Fiber::resume() {
  void* mine = nullptr;
  start_switch(&mine, stack_, kStackBytes);
  const transfer_t from = jump_fcontext(context_, this);
  context_ = from.fctx;
  finish_switch(mine, nullptr, nullptr);
}

}  // namespace vitrail::emulated
