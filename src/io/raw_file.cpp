#include "io/raw_file.hpp"

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.hpp"

namespace vitrail {

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
  const std::span<std::byte> all(static_cast<std::byte*>(to), static_cast<std::size_t>(count));
  const auto got = static_cast<std::int64_t>(read_at(descriptor_.get(), offset, all, code_, path_));
  VITRAIL_EXPECT(got == count, code_, text("'", path_.string(), "' is cut short"),
                 text(count - got, " bytes are missing at byte ", offset + got), "Fetch or write it again");
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
  write_at(descriptor_.get(), offset, {static_cast<const char*>(from), static_cast<std::size_t>(count)}, code_, aside_);
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
