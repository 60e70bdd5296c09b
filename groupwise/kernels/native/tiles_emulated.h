// Intel's tile instructions in plain code, so that amx.h can be tested on processors without them.
#pragma once
#include "numbers.h"

#define TILE_CONFIGURE(from) static_cast<void>(from)
#define TILE_ZERO(t) tile_zero(t)
#define TILE_LOAD(t, from, stride) tile_load(t, from, stride)
#define TILE_STORE(t, to, stride) tile_store(t, to, stride)
#define TILE_PRODUCT(c, a, b) tile_product(c, a, b)

namespace groupwise {

inline char (*tiles())[1024] {
  static thread_local char all[8][1024];
  return all;
}
inline void tile_zero(int t) { std::memset(tiles()[t], 0, 1024); }
inline void tile_load(int t, const void* from, long stride) {
  for (int r = 0; r < 16; r++) std::memcpy(tiles()[t] + 64 * r, static_cast<const char*>(from) + r * stride, 64);
}
inline void tile_store(int t, void* to, long stride) {
  for (int r = 0; r < 16; r++) std::memcpy(static_cast<char*>(to) + r * stride, tiles()[t] + 64 * r, 64);
}
inline void tile_product(int c, int a, int b) {
  auto number = [](int t, int row, int i) {
    bf16 x;
    std::memcpy(&x, tiles()[t] + 64 * row + 2 * i, 2);
    return widen(x);
  };
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 16; n++) {
      float sum;
      std::memcpy(&sum, tiles()[c] + 64 * m + 4 * n, 4);
      for (int k = 0; k < 32; k++) sum += number(a, m, k) * number(b, k / 2, 2 * n + k % 2);
      std::memcpy(tiles()[c] + 64 * m + 4 * n, &sum, 4);
    }
}

}  // namespace groupwise
