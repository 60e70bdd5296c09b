// Filling panels: from rows, from transposed rows, and one position at a time (the caches of attention).
#pragma once
#include "gemm.h"

namespace groupwise {

template <class T>
size_t panels_size(int k, int n) {
  return size_t(round_up(k, 32)) * round_up(n, 2 * WIDTH);
}

template <class T>
Panels<T> panels(Arena& arena, int k, int n) {
  return {arena.get<T>(panels_size<T>(k, n)), round_up(k, 32)};
}

// B[k, n] = S[k, n]; rows of S beyond `rows` count as zero up to round_up(rows, 32); n a multiple of 16.
template <class T>
void pack(const T* s, long lds, int rows, int n, Panels<T> to) {
  static const T nothing[WIDTH] = {};
  for (int p = 0; p < n / WIDTH; p++) {
    T* out = to.at(p);
    for (int r = 0; r < round_up(rows, 32); r += GROUP<T>, out += WIDTH * GROUP<T>) {
      const T* first = r < rows ? s + r * lds + p * WIDTH : nothing;
      const T* second = r + 1 < rows ? s + (r + 1) * lds + p * WIDTH : nothing;
      if constexpr (GROUP<T> == 1)
        std::memcpy(out, first, WIDTH * sizeof(T));
      else
        for (int c = 0; c < WIDTH; c++) {
          uint32_t pair = uint32_t(first[c].bits) | uint32_t(second[c].bits) << 16;
          std::memcpy(out + 2 * c, &pair, 4);
        }
    }
  }
}

// B[k, n] = S[n, k]; columns of B beyond `rows` are zero up to round_up(rows, 32); k a multiple of 32.
template <class T>
void pack_transposed(const T* s, long lds, int rows, int k, Panels<T> to) {
  for (int n = 0; n < round_up(rows, 2 * WIDTH); n++) {
    char* out = reinterpret_cast<char*>(to.at(n / WIDTH) + (n % WIDTH) * GROUP<T>);
    const char* in = reinterpret_cast<const char*>(s + n * lds);
    for (int g = 0; g < k / GROUP<T>; g++) {  // four bytes at a time in either format
      uint32_t unit = 0;
      if (n < rows) std::memcpy(&unit, in + 4 * g, 4);
      std::memcpy(out + size_t(g) * 4 * WIDTH, &unit, 4);
    }
  }
}

// Keys and values of a growing sequence for one head: K^T as B[size, positions], V as B[positions, size].
template <class T>
struct Memory {
  Panels<T> keys, values;

  static size_t size(int positions, int head) { return 2 * size_t(head) * round_up(positions, 32); }
  static Memory in(T* room, int positions, int head) {
    return {{room, head}, {room + size_t(head) * round_up(positions, 32), round_up(positions, 32)}};
  }
  // `count` rows of k and v, each of `head` numbers, as the positions from `seen` on.
  void append(const T* k, const T* v, int seen, int count, int head) const {
    if (seen == 0) {
      pack_transposed(k, head, count, head, keys);
      pack(v, head, count, head, values);
    } else {
      for (int i = 0; i < count; i++) append_one(k + size_t(i) * head, v + size_t(i) * head, seen + i, head);
    }
  }

  // Everything that a smaller one holds.
  void copy(const Memory& other, int head) const {
    int positions = other.values.k;
    std::memcpy(static_cast<void*>(keys.data), other.keys.data, size_t(head) * positions * sizeof(T));
    for (int p = 0; p < head / WIDTH; p++)
      std::memcpy(static_cast<void*>(values.at(p)), other.values.at(p), size_t(WIDTH) * positions * sizeof(T));
  }

 private:
  void append_one(const T* k, const T* v, int position, int head) const {
    if (position % 32 == 0)  // products run to a multiple of 32 positions: what is not there yet must be zero
      for (int p = 0; p < head / WIDTH; p++) std::memset(&values(position, p * WIDTH), 0, 32 * WIDTH * sizeof(T));
    char* column = reinterpret_cast<char*>(&keys(0, position));
    for (int g = 0; g < head / GROUP<T>; g++)
      std::memcpy(column + size_t(g) * 4 * WIDTH, reinterpret_cast<const char*>(k) + 4 * g, 4);
    for (int p = 0; p < head / WIDTH; p++) {
      T* row = &values(position, p * WIDTH);
      for (int c = 0; c < WIDTH; c++) row[c * GROUP<T>] = v[p * WIDTH + c];
    }
  }
};

}  // namespace groupwise
