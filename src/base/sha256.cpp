#include "base/sha256.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include <openssl/evp.h>

namespace vitrail {

namespace {

void check(int result) {
  VITRAIL_EXPECT(result == 1, ExitCode::other, "OpenSSL cannot compute SHA-256", "its EVP interface reports a failure",
                 "Does this OpenSSL's configuration forbid SHA-256?");
}

struct FileTraits {
  using Handle = std::FILE*;
  static constexpr Handle null = nullptr;
  static void close(Handle handle) noexcept { std::fclose(handle); }
};

}  // namespace

void Sha256::Traits::close(Handle handle) noexcept { EVP_MD_CTX_free(handle); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  check(context_ ? 1 : 0);
  check(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr));
}

void Sha256::update(const void* bytes, std::size_t size) { check(EVP_DigestUpdate(context_.get(), bytes, size)); }

std::string Sha256::hex() {
  std::array<unsigned char, 32> digest{};
  check(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr));
  std::string digits;
  for (const unsigned char byte : digest) {
    digits += "0123456789abcdef"[byte >> 4];
    digits += "0123456789abcdef"[byte & 15];
  }
  return digits;
}

std::string sha256_of(std::string_view bytes) {
  Sha256 sum;
  sum.update(bytes);
  return sum.hex();
}

std::string sha256_of_file(const std::filesystem::path& path, ExitCode code) {
  errno = 0;
  const UniqueHandle<FileTraits> file(std::fopen(path.c_str(), "rb"));
  VITRAIL_EXPECT(static_cast<bool>(file), code, text("cannot read '", path.string(), "'"), std::strerror(errno), "");
  std::vector<unsigned char> piece(std::size_t{1} << 20);
  Sha256 sum;
  while (const std::size_t size = std::fread(piece.data(), 1, piece.size(), file.get())) sum.update(piece.data(), size);
  VITRAIL_EXPECT(std::ferror(file.get()) == 0, code, text("cannot read '", path.string(), "'"), std::strerror(errno),
                 "");
  return sum.hex();
}

}  // namespace vitrail
