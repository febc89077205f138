#include "base/file.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace vitrail {

namespace {

using Descriptor = UniqueHandle<DescriptorTraits>;

Descriptor open_or_fail(const std::filesystem::path& path, int flags, ExitCode code, const char* verb) {
  Descriptor descriptor(::open(path.c_str(), flags | O_CLOEXEC, 0666));
  if (!descriptor) fail_with_errno(code, verb, path);
  return descriptor;
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.parent_path();
  return folder.empty() ? "." : folder;
}

void write_all(int descriptor, std::string_view content, ExitCode code, const std::filesystem::path& path) {
  while (!content.empty()) {
    const ssize_t written = ::write(descriptor, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_with_errno(code, "write", path);
    content.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

std::string read_file(const std::filesystem::path& path, ExitCode code) {
  const Descriptor descriptor = open_or_fail(path, O_RDONLY, code, "read");
  std::string content;
  char piece[1 << 16];
  for (;;) {
    const ssize_t size = ::read(descriptor.get(), piece, sizeof piece);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) fail_with_errno(code, "read", path);
    if (size == 0) return content;
    content.append(piece, static_cast<std::size_t>(size));
  }
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content, ExitCode code) {
  const std::filesystem::path beside = path.string() + ".tmp";
  try {
    Descriptor descriptor = open_or_fail(beside, O_WRONLY | O_CREAT | O_TRUNC, code, "create");
    write_all(descriptor.get(), content, code, path);
    if (::fsync(descriptor.get()) != 0) fail_with_errno(code, "write", path);
    if (::close(descriptor.release()) != 0) fail_with_errno(code, "write", path);
    rename_durably(beside, path, code);
  } catch (...) {
    ::unlink(beside.c_str());
    throw;
  }
}

void sync_to_disk(const std::filesystem::path& path, ExitCode code) {
  const Descriptor descriptor = open_or_fail(path, O_RDONLY, code, "open");
  // EINVAL: this file system cannot sync such an object (folders on some network file systems).
  if (::fsync(descriptor.get()) != 0 && errno != EINVAL) fail_with_errno(code, "force to disk", path);
}

void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to, ExitCode code) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_with_errno(code, "rename to", to);
  sync_to_disk(folder_of(to), code);
  if (folder_of(from) != folder_of(to)) sync_to_disk(folder_of(from), code);
}

void fail_with_errno(ExitCode code, const char* verb, const std::filesystem::path& path, std::source_location where) {
  const int number = errno;
  const bool full = number == ENOSPC || number == EDQUOT || number == EFBIG;
  fail(code, {text("cannot ", verb, " '", path.string(), "'"), std::strerror(number), full ? "Free some space" : ""},
       where);
}

std::size_t read_at(int descriptor, std::int64_t offset, std::span<std::byte> to, ExitCode code,
                    const std::filesystem::path& path) {
  std::size_t done = 0;
  while (done < to.size()) {
    const ssize_t got =
        ::pread(descriptor, to.data() + done, to.size() - done, offset + static_cast<std::int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_with_errno(code, "read", path);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

void write_at(int descriptor, std::int64_t offset, std::string_view content, ExitCode code,
              const std::filesystem::path& path) {
  while (!content.empty()) {
    const ssize_t written = ::pwrite(descriptor, content.data(), content.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_with_errno(code, "write", path);
    offset += written;
    content.remove_prefix(static_cast<std::size_t>(written));
  }
}

void DescriptorTraits::close(Handle handle) noexcept { ::close(handle); }

FileBytes::FileBytes(std::filesystem::path path, ExitCode code)
    : path_(std::move(path)), code_(code), descriptor_(open_or_fail(path_, O_RDONLY, code, "read").release()) {}

std::int64_t FileBytes::size() const {
  struct ::stat status {};
  if (::fstat(descriptor_.get(), &status) != 0) fail_with_errno(code_, "read", path_);
  return status.st_size;
}

void FileBytes::read(std::int64_t offset, std::span<std::byte> to) const {
  const std::size_t got = read_at(descriptor_.get(), offset, to, code_, path_);
  VITRAIL_EXPECT(got == to.size(), code_,
                 text("cannot read ", to.size() - got, " bytes of '", path_.string(), "' from ",
                      offset + static_cast<std::int64_t>(got)),
                 "the file ends before", "Restore the file");
}

}  // namespace vitrail
