#include "io/raw_file.hpp"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.hpp"

namespace vitrail {

namespace {

/// Fails with the reason in errno.
[[noreturn]] void fail_with_errno(ExitCode code, const char* verb, const std::filesystem::path& path,
                                  std::source_location where = std::source_location::current()) {
  const int number = errno;
  const bool full = number == ENOSPC || number == EDQUOT || number == EFBIG;
  fail(code, {text("cannot ", verb, " '", path.string(), "'"), std::strerror(number), full ? "Free some space" : ""},
       where);
}

}  // namespace

RawReader::RawReader(std::filesystem::path path, ExitCode code) : path_(std::move(path)), code_(code) {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  descriptor_ = UniqueHandle<DescriptorTraits>(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!descriptor_) fail_with_errno(code_, "read", path_);
  struct stat status {};
  if (::fstat(descriptor_.get(), &status) != 0) fail_with_errno(code_, "read", path_);
  VITRAIL_EXPECT(S_ISREG(status.st_mode), code_, text("cannot read '", path_.string(), "'"), "it is not a file",
                 "Is the path right?");
  bytes_ = status.st_size;
}

void RawReader::read(std::int64_t offset, void* to, std::int64_t count) const {
  auto* next = static_cast<std::byte*>(to);
  while (count > 0) {
    const ssize_t got = ::pread(descriptor_.get(), next, static_cast<std::size_t>(count), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_with_errno(code_, "read", path_);
    VITRAIL_EXPECT(got > 0, code_, text("'", path_.string(), "' is cut short"),
                   text(count, " bytes are missing at byte ", offset), "Fetch or write it again");
    next += got;
    offset += got;
    count -= got;
  }
}

RawWriter::RawWriter(std::filesystem::path path, ExitCode code)
    : path_(std::move(path)), aside_(path_.string() + ".tmp"), code_(code) {
  descriptor_ = UniqueHandle<DescriptorTraits>(::open(aside_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!descriptor_) fail_with_errno(code_, "create", aside_);
}

RawWriter::RawWriter(RawWriter&& other) noexcept
    : path_(std::move(other.path_)),
      aside_(std::exchange(other.aside_, {})),
      code_(other.code_),
      descriptor_(std::move(other.descriptor_)) {}

RawWriter::~RawWriter() {
  if (!aside_.empty()) ::unlink(aside_.c_str());
}

void RawWriter::write(std::int64_t offset, const void* from, std::int64_t count) {
  const auto* next = static_cast<const std::byte*>(from);
  while (count > 0) {
    const ssize_t written = ::pwrite(descriptor_.get(), next, static_cast<std::size_t>(count), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_with_errno(code_, "write", aside_);
    next += written;
    offset += written;
    count -= written;
  }
}

void RawWriter::seal() {
  if (::fsync(descriptor_.get()) != 0) fail_with_errno(code_, "write", aside_);
  if (::close(descriptor_.release()) != 0) fail_with_errno(code_, "write", aside_);
}

void RawWriter::publish() {
  rename_durably(aside_, path_, code_);
  aside_.clear();
}

}  // namespace vitrail
