// Number formats, rounding and the memory that everything lives in.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include <sys/mman.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace groupwise {

using std::size_t;

// bfloat16: the upper half of a float.
struct bf16 {
  uint16_t bits;
};

inline float widen(float x) { return x; }
inline float widen(bf16 x) { return __builtin_bit_cast(float, uint32_t(x.bits) << 16); }

inline void narrow(const float* from, float* to, size_t n) { std::memcpy(to, from, n * sizeof(float)); }

// Rounds to nearest, ties to even. `n` floats; any n.
inline void narrow(const float* from, bf16* to, size_t n) {
  size_t i = 0;
#if defined(__AVX512BF16__)
  for (; i + 16 <= n; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
#endif
  for (; i < n; i++) {
    uint32_t u = __builtin_bit_cast(uint32_t, from[i]);
    to[i].bits = uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
}

// e^x to about 1e-7, for x <= 88; what underflows is 0. Written so that compilers vectorise loops over it.
inline float exp_of(float x) {
  float n = std::rint(x * 1.44269504f);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  float scaled = p * __builtin_bit_cast(float, (int32_t(std::max(n, -126.0f)) + 127) << 23);
  return x < -87.0f ? 0.0f : scaled;
}

inline int round_up(int x, int to) { return (x + to - 1) / to * to; }

// Memory handed out in order, all of it taken back at once and kept for the next use: fresh pages are dear.
class Arena {
 public:
  // n elements, 64-byte aligned, of unknown content. Reading up to SLACK bytes past the end is safe: a product may read whole
  // blocks of rows and throw some away.
  template <class T>
  T* get(size_t n) {
    size_t bytes = (n * sizeof(T) + 63) / 64 * 64;
    if (blocks_.empty() || used_ + bytes > blocks_.back().size) {
      blocks_.emplace_back(std::max({bytes, wanted_, blocks_.empty() ? least_ : 0, BLOCK}));
      used_ = 0;
    }
    T* found = reinterpret_cast<T*>(blocks_.back().data + used_);
    used_ += bytes, wanted_ += bytes;
    return found;
  }
  template <class T>
  T* zeros(size_t n) {
    T* found = get<T>(n);
    std::memset(static_cast<void*>(found), 0, n * sizeof(T));
    return found;
  }
  // rows of `wide` elements of which `used` will be written: the others are zero.
  template <class T>
  T* padded(size_t rows, int used, int wide) {
    return used == wide ? get<T>(rows * wide) : zeros<T>(rows * wide);
  }
  void reset() noexcept {
    if (blocks_.size() > 1) blocks_.clear(), least_ = wanted_;  // next time one block that would have been enough
    used_ = wanted_ = 0;
  }

 private:
  static constexpr size_t BLOCK = size_t(1) << 16, SLACK = size_t(1) << 20;
  struct Block {  // straight from the system, so that what is given up goes back to it
    size_t size;
    char* data;
    explicit Block(size_t bytes) : size(bytes) {
      void* found = mmap(nullptr, bytes + SLACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (found == MAP_FAILED) throw std::bad_alloc();
      data = static_cast<char*>(found);
    }
    Block(Block&& other) noexcept : size(other.size), data(std::exchange(other.data, nullptr)) {}
    Block& operator=(Block&& other) noexcept {
      std::swap(size, other.size), std::swap(data, other.data);
      return *this;
    }
    ~Block() {
      if (data) munmap(data, size + SLACK);
    }
  };
  std::vector<Block> blocks_;
  size_t used_ = 0, wanted_ = 0, least_ = 0;
};

}  // namespace groupwise
