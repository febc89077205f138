#include "train/pass_feed.hpp"

namespace vitrail {

namespace {

PassData lay_out(Arena& arena, const PassData& like) {
  const auto make = [&](const Tensor& x) { return x ? arena.allocate(x.dtype, x.shape) : Tensor(); };
  return {make(like.raw_images), make(like.labels), make(like.mix_weights)};
}

void give(const PassData& data, Activations& acts) {
  acts.raw_images = data.raw_images;
  acts.labels = data.labels;
  acts.mix_weights = data.mix_weights;
}

}  // namespace

PassFeed::PassFeed(Device& device, const Activations& acts)
    : device_(device), on_host_(device.kind() == DeviceKind::cpu) {
  const PassData first{acts.raw_images, acts.labels, acts.mix_weights};
  for (Buffer& buffer : buffers_) buffer.device = first;
  if (on_host_) return;
  Arena measured("images");
  (void)lay_out(measured, first);
  arena_ = std::make_unique<Arena>("images", device, measured.bytes());
  buffers_[1].device = lay_out(*arena_, first);
  for (Buffer& buffer : buffers_) {
    buffer.raw_images = HostTensor(device, first.raw_images.dtype, first.raw_images.shape);
    buffer.labels = HostTensor(device, first.labels.dtype, first.labels.shape);
    if (first.mix_weights) buffer.mix_weights = HostTensor(device, first.mix_weights.dtype, first.mix_weights.shape);
  }
}

PassData PassFeed::next() {
  Buffer& next = buffer(sent_);
  if (on_host_) return next.device;
  if (sent_ >= 2) device_.wait(next.uploaded);
  return {next.raw_images.view(), next.labels.view(), next.mix_weights.view()};
}

void PassFeed::send(Activations& acts) {
  Buffer& next = buffer(sent_++);
  give(next.device, acts);
  if (on_host_) return;
  if (sent_ <= 2) next.free = device_.place();
  device_.upload(next.raw_images.view(), next.device.raw_images, next.free);
  device_.upload(next.labels.view(), next.device.labels, next.free);
  if (next.device.mix_weights) device_.upload(next.mix_weights.view(), next.device.mix_weights, next.free);
  next.uploaded = device_.place();
}

void PassFeed::used() {
  if (!on_host_) buffer(sent_ - 1).free = device_.place();
}

bool PassFeed::show(std::int64_t number, Activations& acts) const {
  if (number >= sent_ || number < sent_ - (on_host_ ? 1 : 2)) return false;
  give(buffers_[static_cast<std::size_t>(number % 2)].device, acts);
  return true;
}

}  // namespace vitrail
