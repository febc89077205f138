#pragma once
// How fast a GPU takes exponentials: a ceiling for attention, beside matrix products and memory.

#include "device/device.hpp"

namespace vitrail {

/// exp2_approx per second on all of a GPU, measured in some milliseconds. Error (other) for a device that is no GPU.
double exponentials_per_second(Device& gpu);

}  // namespace vitrail
