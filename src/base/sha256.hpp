#pragma once
// SHA-256 (FIPS 180-4), by OpenSSL: checksums of files and of results that must be the same bits.

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/error.hpp"
#include "base/unique_handle.hpp"

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace vitrail {

class Sha256 {
 public:
  Sha256();
  void update(const void* bytes, std::size_t size);
  void update(std::string_view bytes) { update(bytes.data(), bytes.size()); }
  /// The digest of everything so far as 64 lower-case hexadecimal digits. Ends the sum: call it once, last.
  [[nodiscard]] std::string hex();

 private:
  struct Traits {
    using Handle = evp_md_ctx_st*;
    static constexpr Handle null = nullptr;
    static void close(Handle handle) noexcept;
  };
  UniqueHandle<Traits> context_;
};

std::string sha256_of(std::string_view bytes);

/// Reads the file in pieces. Error(code) if it cannot be read.
std::string sha256_of_file(const std::filesystem::path& path, ExitCode code);

}  // namespace vitrail
