// Adafactor: four launches for all units of a slice. Where units begin and how they are factored only the device knows,
// so work is cut by the numbers of statistics and of elements, and whoever does it looks its unit up.
//   statistics   every one by a lane, or, where it is the mean of a row, by a warp
//   means        over y of over_x, at the places of their first entries
//   rows         (mean / over_y)^1/2, at the places of over_y
//   update       every element

#include <cmath>

#include "base/bf16.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/update_blocks.hpp"

namespace vitrail::cuda {

namespace {

constexpr int kThreads = 256;

struct Units {
  int count;
  const std::int64_t* begin;
  const std::int64_t* factors;
  const std::int64_t* statistics_begin;
  const double* decay;
  const double* multiplier;
  const std::uint8_t* frozen;
  StepScalars scalars;
  std::int64_t statistics;  // in all
};

/// A unit [a x b y c], or [a] that is not factored.
struct Unit {
  std::int64_t begin, over_x, over_y;  // its first element; its first statistics
  std::int64_t a, x, b, y, c;

  __device__ Unit(const Units& units, int number)
      : begin(units.begin[number]),
        over_x(units.statistics_begin[number]),
        a(units.factors[5 * number]),
        x(units.factors[5 * number + 1]),
        b(units.factors[5 * number + 2]),
        y(units.factors[5 * number + 3]),
        c(units.factors[5 * number + 4]) {
    over_y = over_x + (factored() ? a * b * y * c : a);
  }
  [[nodiscard]] __device__ bool factored() const { return x > 0; }
  [[nodiscard]] __device__ std::int64_t row() const { return y * c; }  // elements of a row: of one (a, x, b)
  [[nodiscard]] __device__ std::int64_t elements() const { return factored() ? a * x * b * row() : a; }
};

/// What a statistic is the mean of: `n` squares that lie `stride` apart.
struct Line {
  std::int64_t first = 0, stride = 0, n = 0;
  float scale = 0.0F;
  [[nodiscard]] __device__ bool is_row() const { return stride == 1 && n > 1; }
};

__device__ Line line_of(const Units& units, std::int64_t place) {
  const int number = last_begin(units.statistics_begin, units.count, place);
  const Unit unit(units, number);
  Line line;
  line.scale = units.scalars.scale(units.multiplier[number]);
  if (!unit.factored()) {
    if (place < unit.over_y) line = {unit.begin + place - unit.over_x, 0, 1, line.scale};
  } else if (place < unit.over_y) {
    const std::int64_t outer = (place - unit.over_x) / unit.row(), column = (place - unit.over_x) % unit.row();
    const std::int64_t first = (outer / unit.b * unit.x * unit.b + outer % unit.b) * unit.row() + column;
    line = {unit.begin + first, unit.b * unit.row(), unit.x, line.scale};
  } else if (place < unit.over_y + unit.a * unit.x * unit.b * unit.c) {
    const std::int64_t index = place - unit.over_y;
    line = {unit.begin + index / unit.c * unit.row() + index % unit.c, unit.c, unit.y, line.scale};
  }
  return line;
}

struct Statistics {
  const float* gradient;
  float* statistics;
  float clip, decay_rate, rest, epsilon;

  [[nodiscard]] __device__ double square(std::int64_t i, float scale) const {
    const float d = clipped(gradient[i] * scale, clip);
    return static_cast<double>(d * d);
  }
  __device__ void move(std::int64_t place, double sum, std::int64_t n) const {
    const float mean = static_cast<float>(sum) * (1.0F / static_cast<float>(n)) + epsilon;
    statistics[place] = fmaf(decay_rate, statistics[place], rest * mean);
  }
};

// A warp has 32 statistics that follow each other. Those of columns, which lie side by side, are summed by a lane
// each; then those of rows, one after another, by all lanes.
__global__ void __launch_bounds__(kThreads) move_statistics(const Statistics a, const Units units) {
  if (units.scalars.halted()) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t place = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  Line mine;
  if (place < units.statistics) mine = line_of(units, place);
  if (mine.n > 0 && !mine.is_row()) {
    double sum = 0.0;
#pragma unroll 8
    for (std::int64_t i = 0; i < mine.n; ++i) sum += a.square(mine.first + i * mine.stride, mine.scale);
    a.move(place, sum, mine.n);
  }
  unsigned rows = __ballot_sync(0xFFFFFFFFU, mine.is_row());
  while (rows != 0) {
    const int owner = __ffs(static_cast<int>(rows)) - 1;
    rows &= rows - 1;
    const std::int64_t first = __shfl_sync(0xFFFFFFFFU, static_cast<long long>(mine.first), owner);
    const std::int64_t n = __shfl_sync(0xFFFFFFFFU, static_cast<long long>(mine.n), owner);
    const float scale = __shfl_sync(0xFFFFFFFFU, mine.scale, owner);
    double sum = 0.0;
#pragma unroll 4
    for (std::int64_t i = lane; i < n; i += 32) sum += a.square(first + i, scale);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, mask);
    if (lane == owner) a.move(place, sum, n);
  }
}

// means[place of over_x (a b 0 c)] = mean over y of over_x; a warp each, though it be one column among many.
__global__ void __launch_bounds__(kThreads) mean_over_y(const float* statistics, float* means, const Units units) {
  if (units.scalars.halted()) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t place = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  std::int64_t stride = 0, n = 0;  // none
  if (place < units.statistics) {
    const Unit unit(units, last_begin(units.statistics_begin, units.count, place));
    if (unit.factored() && place < unit.over_y && (place - unit.over_x) % unit.row() < unit.c) {
      stride = unit.c;
      n = unit.y;
    }
  }
  unsigned wanted = __ballot_sync(0xFFFFFFFFU, n > 0);
  while (wanted != 0) {
    const int owner = __ffs(static_cast<int>(wanted)) - 1;
    wanted &= wanted - 1;
    const std::int64_t first = place - lane + owner;
    const std::int64_t step = __shfl_sync(0xFFFFFFFFU, static_cast<long long>(stride), owner);
    const std::int64_t count = __shfl_sync(0xFFFFFFFFU, static_cast<long long>(n), owner);
    double sum = 0.0;
#pragma unroll 4
    for (std::int64_t i = lane; i < count; i += 32) sum += static_cast<double>(statistics[first + i * step]);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, mask);
    if (lane == owner) means[place] = static_cast<float>(sum) / static_cast<float>(count);
  }
}

// factors[place of over_y] = (mean / over_y)^1/2. The means are read where nothing is written: before over_y.
__global__ void __launch_bounds__(kThreads) row_factors(const float* statistics, float* factors, const Units units) {
  if (units.scalars.halted()) return;
  const std::int64_t place = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (place >= units.statistics) return;
  const Unit unit(units, last_begin(units.statistics_begin, units.count, place));
  const std::int64_t index = place - unit.over_y;
  if (!unit.factored() || index < 0 || index >= unit.a * unit.x * unit.b * unit.c) return;
  const std::int64_t ib = index / unit.c % unit.b, ia = index / unit.c / unit.b / unit.x, ic = index % unit.c;
  const float mean = factors[unit.over_x + (ia * unit.b + ib) * unit.row() + ic];
  factors[place] = sqrtf(mean / statistics[place]);
}

struct Update {
  const float* gradient;
  const float* statistics;
  const float* factors;
  float* parameter;
  float* m;  // or null
  std::int64_t n;
  Momentum momentum;
  float clip, rest, learning_rate;
};

/// Where an element stands in its unit, from element to element.
struct Place {
  std::uint32_t row, column, width;     // row: of (a, x, b)
  std::int64_t over_x = 0, over_y = 0;  // of its row

  __device__ Place(const Unit& unit, std::int64_t index)
      : width(static_cast<std::uint32_t>(unit.factored() ? unit.row() : unit.a)) {
    row = static_cast<std::uint32_t>(index) / width;
    column = static_cast<std::uint32_t>(index) % width;
    enter_row(unit);
  }
  __device__ void enter_row(const Unit& unit) {
    if (!unit.factored()) {
      over_x = unit.over_x;
      return;
    }
    const auto b = static_cast<std::uint32_t>(unit.b);
    const std::uint32_t outer = row / b / static_cast<std::uint32_t>(unit.x) * b + row % b;
    over_x = unit.over_x + std::int64_t{outer} * width;
    over_y = unit.over_y + std::int64_t{row} * unit.c;
  }
  __device__ void step(const Unit& unit) {
    if (++column < width) return;
    column = 0;
    ++row;
    enter_row(unit);
  }
};

struct UpdateShared {
  int first_unit;
};

/// u of element i, before momentum.
__device__ __forceinline__ float preconditioned(const Update& a, const Unit& unit, const Place& place, float d) {
  if (unit.factored()) {
    const auto c = static_cast<std::uint32_t>(unit.c);
    d *= a.factors[place.over_y + (c == 1 ? 0 : place.column % c)];
  }
  return d / sqrtf(a.statistics[place.over_x + place.column]);
}

template <bool aligned>
__device__ void update_run(const Update& a, const Units& units, int number, const Unit& unit, std::int64_t i,
                           std::int64_t begin, std::int64_t end) {
  const float scale = units.scalars.scale(units.multiplier[number]), decay = static_cast<float>(units.decay[number]);
  Four u = load_in_run<aligned>(a.gradient, i, begin, end);
  Place place(unit, (begin > i ? begin : i) - unit.begin);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (i + j < begin || i + j >= end) continue;
    u.v[j] = preconditioned(a, unit, place, clipped(u.v[j] * scale, a.clip));
    place.step(unit);
  }
  if (a.m != nullptr) {
    Four m = load_in_run<aligned>(a.m, i, begin, end);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      u.v[j] = fmaf(a.rest, u.v[j], a.momentum.decayed(m.v[j]));
      m.v[j] = a.momentum.stored(u.v[j]);
    }
    store_in_run<aligned>(m, a.m, i, begin, end);
  }
  if (units.frozen[number] != 0) return;
  Four p = load_in_run<aligned>(a.parameter, i, begin, end);
#pragma unroll
  for (int j = 0; j < 4; ++j) p.v[j] = moved(p.v[j], u.v[j], decay, a.learning_rate);
  store_in_run<aligned>(p, a.parameter, i, begin, end);
}

// Four elements of the slice a thread, which may lie in several units or between them.
template <bool aligned>
__global__ void __launch_bounds__(kThreads) update_elements(const Update a, const Units units) {
  if (units.scalars.halted()) return;
  auto& shared = shared_memory<UpdateShared>();
  const std::int64_t first = std::int64_t{blockIdx.x} * kThreads * 4;
  if (threadIdx.x == 0) shared.first_unit = last_begin(units.begin, units.count, first);
  __syncthreads();
  const std::int64_t i = first + std::int64_t{threadIdx.x} * 4, last = i + 4 < a.n ? i + 4 : a.n;
  for (int number = shared.first_unit; number < units.count && units.begin[number] < last; ++number) {
    const std::int64_t unit_begin = units.begin[number];
    if (number + 1 < units.count && units.begin[number + 1] <= i) continue;
    const Unit unit(units, number);
    const std::int64_t unit_end = unit_begin + unit.elements();
    const std::int64_t begin = i > unit_begin ? i : unit_begin, end = last < unit_end ? last : unit_end;
    if (begin < end) update_run<aligned>(a, units, number, unit, i, begin, end);
  }
}

Units units_of(const AdafactorStep& a) {
  return {static_cast<int>(a.unit_begin.elements()),
          data_of<std::int64_t>(a.unit_begin),
          data_of<std::int64_t>(a.factors),
          data_of<std::int64_t>(a.statistics_begin),
          data_of<double>(a.decay),
          data_of<double>(a.multiplier),
          data_of<std::uint8_t>(a.frozen),
          scalars_of(a),
          a.statistics.elements()};
}

}  // namespace

void CudaOps::run(const AdafactorStep& a) {
  const std::int64_t n = a.gradient.elements();
  if (n == 0 || a.unit_begin.elements() == 0) return;
  VITRAIL_EXPECT(n < std::int64_t{1} << 32, ExitCode::usage, text("Adafactor on a slice of ", n, " elements"),
                 "the cuda back end counts those of a unit in 32 bits", "Use more ranks");
  const Units units = units_of(a);
  const Statistics statistics{
      data_of<float>(a.gradient),       data_of<float>(a.statistics),           clip_of(a.clip_absolute),
      static_cast<float>(a.decay_rate), static_cast<float>(1.0 - a.decay_rate), static_cast<float>(a.epsilon)};
  auto* const factors = workspace<float>(Scratch::a, units.statistics);
  const Launch by_statistics{.grid = static_cast<unsigned>((units.statistics + kThreads - 1) / kThreads),
                             .block = kThreads,
                             .stream = stream()};
  launch(move_statistics, by_statistics, statistics, units);
  launch(mean_over_y, by_statistics, statistics.statistics, factors, units);
  launch(row_factors, by_statistics, statistics.statistics, factors, units);
  const bool bf16 = a.bf16_momentum;
  const Update update{.gradient = statistics.gradient,
                      .statistics = statistics.statistics,
                      .factors = factors,
                      .parameter = data_of<float>(a.parameter),
                      .m = data_of<float>(a.m),
                      .n = n,
                      .momentum = {static_cast<float>(bf16 ? round_to_bf16(a.momentum) : a.momentum), bf16},
                      .clip = statistics.clip,
                      .rest = static_cast<float>(1.0 - a.momentum),
                      .learning_rate = static_cast<float>(a.learning_rate)};
  dispatch_bool(aligned_to_fours(update.gradient, update.parameter, update.m), [&]<bool aligned>() {
    launch(update_elements<aligned>,
           {.grid = static_cast<unsigned>((n + kThreads * 4 - 1) / (kThreads * 4)),
            .block = kThreads,
            .shared_bytes = sizeof(UpdateShared),
            .stream = stream()},
           update, units);
  });
}

}  // namespace vitrail::cuda
