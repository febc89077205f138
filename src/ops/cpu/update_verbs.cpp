// SGD and Adafactor. Every sum of Adafactor is over one row or one column of one unit, by one thread.

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/bf16.hpp"
#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/update_kernels.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kElements = 1 << 14;  // of a piece of work

/// What the blocks or units of a call have in common.
template <class Step>
UpdateRun common_run(const Step& a, bool bf16) {
  UpdateRun run{};
  run.d.clip = a.clip_absolute > 0.0 ? static_cast<float>(a.clip_absolute) : std::numeric_limits<float>::infinity();
  run.momentum = static_cast<float>(bf16 ? round_to_bf16(a.momentum) : a.momentum);
  run.bf16 = bf16;
  run.learning_rate = static_cast<float>(a.learning_rate);
  return run;
}

/// `common` for the elements of block or unit `i` that begin at `begin` of the slice.
template <class Step>
UpdateRun run_of(const Step& a, const UpdateRun& common, const Tensor& m, std::int64_t i, std::int64_t begin) {
  UpdateRun run = common;
  run.gradient = a.gradient.template as<float>() + begin;
  run.parameter = a.parameter.template as<float>() + begin;
  run.m = m ? m.as<float>() + begin : nullptr;
  run.d.scale = static_cast<float>(a.multiplier.template as<double>()[i] * gradient_scale_of(a));
  run.decay = static_cast<float>(a.decay.template as<double>()[i]);
  run.frozen = a.frozen.template as<std::uint8_t>()[i] != 0;
  return run;
}

/// `count` of its elements, from `first`.
UpdateRun part(UpdateRun run, std::int64_t first, std::int64_t count) {
  run.gradient += first;
  run.parameter += first;
  if (run.m != nullptr) run.m += first;
  run.n = count;
  return run;
}

/// A unit of Adafactor: [a x b y c] factored over x and y, or a elements that are not factored.
struct Unit {
  std::int64_t a, x, b, y, c;
  UpdateRun run;
  StatisticRun statistic;
  float one_minus_momentum;
  float* over_x;  // [a b y c], or v [a]
  float* over_y;  // [a x b c]

  [[nodiscard]] std::int64_t elements() const { return x > 0 ? a * x * b * y * c : a; }
  [[nodiscard]] std::int64_t row() const { return y * c; }  // elements of a row: of one (a, x, b)
};

void update_each(const Unit& u, int threads) {
  for_each_piece(threads, u.a, kElements, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; i += kMostColumns) {
      const std::int64_t count = std::min(kMostColumns, end - i);
      column_statistics(u.statistic, u.run.gradient + i, 1, 0, count, u.over_x + i);
      adafactor_run(part(u.run, i, count), u.over_x + i, nullptr, 1.0F, u.one_minus_momentum);
    }
  });
}

/// over_x: means over x of every column.
void move_over_x(const Unit& u, int threads) {
  const std::int64_t pieces = (u.row() + kMostColumns - 1) / kMostColumns;
  for_each_unit(threads, u.a * u.b * pieces, [&](std::int64_t item, int) {
    const std::int64_t outer = item / pieces;  // (a, b)
    const std::int64_t begin = item % pieces * kMostColumns;
    const float* const first = u.run.gradient + (outer / u.b * u.x * u.b + outer % u.b) * u.row() + begin;
    column_statistics(u.statistic, first, u.x, u.b * u.row(), std::min(kMostColumns, u.row() - begin),
                      u.over_x + outer * u.row() + begin);
  });
}

/// over_y: means over y of every row.
void move_over_y(const Unit& u, int threads) {
  const std::int64_t together = std::max<std::int64_t>(1, kElements / u.row());
  for_each_piece(threads, u.a * u.x * u.b, together, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* const gradient = u.run.gradient + row * u.row();
      if (u.c == 1) {
        row_statistic(u.statistic, gradient, u.y, u.over_y + row);
        continue;
      }
      for (std::int64_t i = 0; i < u.c; i += kMostColumns) {
        column_statistics(u.statistic, gradient + i, u.y, u.c, std::min(kMostColumns, u.c - i),
                          u.over_y + row * u.c + i);
      }
    }
  });
}

/// Columns ic .. ic+count-1 of c > 1 in rows (ia, begin .. end-1, ib).
void update_columns(const Unit& u, std::int64_t outer, std::int64_t begin, std::int64_t end, std::int64_t ic,
                    std::int64_t count) {
  double sums[kMostColumns] = {};  // over y of over_x
  float rows[kMostColumns];
  const float* const over_x = u.over_x + outer * u.row() + ic;
  for (std::int64_t iy = 0; iy < u.y; ++iy) {
    for (std::int64_t i = 0; i < count; ++i) sums[i] += static_cast<double>(over_x[iy * u.c + i]);
  }
  for (std::int64_t ix = begin; ix < end; ++ix) {
    const std::int64_t row = (outer / u.b * u.x + ix) * u.b + outer % u.b;
    for (std::int64_t i = 0; i < count; ++i) {
      const float mean = static_cast<float>(sums[i]) / static_cast<float>(u.y);
      rows[i] = std::sqrt(mean / u.over_y[row * u.c + ic + i]);
    }
    for (std::int64_t iy = 0; iy < u.y; ++iy) {
      adafactor_run(part(u.run, row * u.row() + iy * u.c + ic, count), over_x + iy * u.c, rows, 1.0F,
                    u.one_minus_momentum);
    }
  }
}

/// u = d (over_x / mean over y of over_x)^-1/2 over_y^-1/2, momentum and parameters.
void update_factored(const Unit& u, int threads) {
  move_over_x(u, threads);
  move_over_y(u, threads);
  const std::int64_t together = std::max<std::int64_t>(16, kElements / u.row());  // rows that share the mean of over_x
  const std::int64_t pieces = (u.x + together - 1) / together;
  for_each_unit(threads, u.a * u.b * pieces, [&](std::int64_t item, int) {
    const std::int64_t outer = item / pieces;  // (a, b)
    const std::int64_t begin = item % pieces * together;
    const std::int64_t end = std::min(u.x, begin + together);
    if (u.c > 1) {
      for (std::int64_t ic = 0; ic < u.c; ic += kMostColumns)
        update_columns(u, outer, begin, end, ic, std::min(kMostColumns, u.c - ic));
      return;
    }
    const float* const over_x = u.over_x + outer * u.y;
    const float mean = mean_of_run(over_x, u.y);
    for (std::int64_t ix = begin; ix < end; ++ix) {
      const std::int64_t row = (outer / u.b * u.x + ix) * u.b + outer % u.b;
      adafactor_run(part(u.run, row * u.y, u.y), over_x, nullptr, std::sqrt(mean / u.over_y[row]),
                    u.one_minus_momentum);
    }
  });
}

void update(const Unit& u, int threads) {
  if (u.elements() == 0) return;
  if (u.x > 0) {
    update_factored(u, threads);
  } else {
    update_each(u, threads);
  }
}

Unit unit_of(const AdafactorStep& a, const UpdateRun& common, std::int64_t i) {
  const std::int64_t* const f = a.factors.as<std::int64_t>() + 5 * i;
  Unit u{f[0], f[1], f[2], f[3], f[4], {}, {}, 0, nullptr, nullptr};
  u.run = run_of(a, common, a.m, i, a.unit_begin.as<std::int64_t>()[i]);
  u.statistic = {u.run.d, static_cast<float>(a.decay_rate), static_cast<float>(1.0 - a.decay_rate),
                 static_cast<float>(a.epsilon)};
  u.one_minus_momentum = static_cast<float>(1.0 - a.momentum);
  u.over_x = a.statistics.as<float>() + a.statistics_begin.as<std::int64_t>()[i];
  u.over_y = u.over_x + u.a * u.b * u.y * u.c;
  return u;
}

}  // namespace

void CpuOps::run(const SgdStep& a) {
  if (halted(a)) return;
  const std::int64_t* const begin = a.block_begin.as<std::int64_t>();
  const UpdateRun common = common_run(a, a.bf16_trace);
  for_each_unit(threads_, a.decay.elements(), [&](std::int64_t block, int) {
    UpdateRun run = run_of(a, common, a.trace, block, begin[block]);
    run.n = begin[block + 1] - begin[block];
    sgd_run(run);
  });
}

// Small units are shared out over threads, large ones one after another by all threads.
void CpuOps::run(const AdafactorStep& a) {
  if (halted(a)) return;
  const UpdateRun common = common_run(a, a.bf16_momentum);
  const std::int64_t units = a.unit_begin.elements();
  for_each_unit(threads_, units, [&](std::int64_t i, int) {
    const Unit unit = unit_of(a, common, i);
    if (unit.elements() <= kElements) update(unit, 1);
  });
  for (std::int64_t i = 0; i < units; ++i) {
    const Unit unit = unit_of(a, common, i);
    if (unit.elements() > kElements) update(unit, threads_);
  }
}

}  // namespace vitrail::cpu
