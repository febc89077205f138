#include "convert/positioned_file.hpp"

#include <span>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.hpp"

namespace vitrail {

PositionedFile::PositionedFile(std::filesystem::path path, int descriptor)
    : path_(std::move(path)), descriptor_(descriptor) {}

PositionedFile PositionedFile::open(std::filesystem::path path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_with_errno(ExitCode::checkpoint, "read", path);
  return {std::move(path), descriptor};
}

PositionedFile PositionedFile::create(std::filesystem::path path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) fail_with_errno(ExitCode::checkpoint, "create", path);
  return {std::move(path), descriptor};
}

std::int64_t PositionedFile::size() const {
  struct stat status {};
  if (::fstat(descriptor_.get(), &status) != 0) fail_with_errno(ExitCode::checkpoint, "read", path_);
  return status.st_size;
}

void PositionedFile::read(std::int64_t offset, std::int64_t bytes, void* to) const {
  const std::span<std::byte> all(static_cast<std::byte*>(to), static_cast<std::size_t>(bytes));
  const auto got = static_cast<std::int64_t>(read_at(descriptor_.get(), offset, all, ExitCode::checkpoint, path_));
  VITRAIL_EXPECT(got == bytes, ExitCode::checkpoint, text("'", path_.string(), "' ends at byte ", offset + got),
                 text(bytes - got, " bytes more should follow"), "Was it changed while it was read?");
}

void PositionedFile::write(std::int64_t offset, std::string_view content) {
  write_at(descriptor_.get(), offset, content, ExitCode::checkpoint, path_);
}

void PositionedFile::close() {
  if (!descriptor_) return;
  if (::fsync(descriptor_.get()) != 0) fail_with_errno(ExitCode::checkpoint, "write", path_);
  if (::close(descriptor_.release()) != 0) fail_with_errno(ExitCode::checkpoint, "write", path_);
}

MappedFile::MappedFile(const PositionedFile& file) {
  struct stat status {};
  if (::fstat(file.descriptor_.get(), &status) != 0) fail_with_errno(ExitCode::checkpoint, "read", file.path());
  VITRAIL_EXPECT(S_ISREG(status.st_mode), ExitCode::checkpoint, text("'", file.path().string(), "' is no file"),
                 "a folder or a device cannot be read as one", "");
  if (status.st_size == 0) return;  // nothing can be mapped
  const auto size = static_cast<std::size_t>(status.st_size);
  address_ = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.descriptor_.get(), 0);
  if (address_ == MAP_FAILED) {
    address_ = nullptr;
    fail_with_errno(ExitCode::checkpoint, "map", file.path());
  }
  ::madvise(address_, size, MADV_RANDOM);  // headers are far apart: reading ahead would read the payloads
  bytes_ = {static_cast<const char*>(address_), size};
}

MappedFile::~MappedFile() {
  if (address_ != nullptr) ::munmap(address_, bytes_.size());
}

void MappedFile::forget() const noexcept {
  if (address_ != nullptr) ::madvise(address_, bytes_.size(), MADV_DONTNEED);
}

}  // namespace vitrail
