// bf16 products on Intel's tile unit (AMX). GROUPWISE_EMULATE_TILES replaces the unit by plain code, for tests elsewhere.
#pragma once
#include "gemm.h"
// Compilers take tile numbers as literals only, hence the macros.
#if defined(GROUPWISE_EMULATE_TILES)
#include "tiles_emulated.h"
#else
#include <sys/syscall.h>
#include <unistd.h>
#define TILE_CONFIGURE(from) _tile_loadconfig(from)
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, from, stride) _tile_loadd(t, from, stride)
#define TILE_STORE(t, to, stride) _tile_stored(t, to, stride)
#define TILE_PRODUCT(c, a, b) _tile_dpbf16ps(c, a, b)
#endif

namespace groupwise {

constexpr int TILE = 16;

// Every tile has 16 rows of 64 bytes: 16 floats of C, 32 k of A, 16 pairs of k of B.
inline void configure_tiles() {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  TILE_CONFIGURE(&config);
}

// A block of 16 ROWS x 16 PANELS of C. Its A begins at a, with `row` elements between rows; C's rows past `valid` stay.
template <int ROWS, int PANELS>
inline void tile_block(const bf16* a, long row, long step, const bf16* b, long panel, int tiles, float* c, long ldc, bool add,
                       int valid) {
  alignas(64) float edge[ROWS * TILE][PANELS * TILE];
  bool whole = valid >= ROWS * TILE;
  if (add && !whole)
    for (int i = 0; i < valid; i++) std::memcpy(edge[i], c + i * ldc, sizeof(edge[i]));
  float* out = whole ? c : &edge[0][0];
  long ld = whole ? ldc : PANELS * TILE;
  auto at = [&](int i, int p) { return out + i * TILE * ld + p * TILE; };
  __asm__ volatile("" ::: "memory");  // the compiler does not know that tile loads read memory
  if (add) {
    TILE_LOAD(0, at(0, 0), ld * 4);
    if constexpr (PANELS > 1) TILE_LOAD(1, at(0, 1), ld * 4);
    if constexpr (ROWS > 1) TILE_LOAD(2, at(1, 0), ld * 4);
    if constexpr (ROWS > 1 && PANELS > 1) TILE_LOAD(3, at(1, 1), ld * 4);
  } else {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
  }
  for (int t = 0; t < tiles; t++, a += step, b += TILE * 32) {
    TILE_LOAD(4, a, row * 2);
    TILE_LOAD(6, b, 64);
    TILE_PRODUCT(0, 4, 6);
    if constexpr (PANELS > 1) {
      TILE_LOAD(7, b + panel, 64);
      TILE_PRODUCT(1, 4, 7);
    }
    if constexpr (ROWS > 1) {
      TILE_LOAD(5, a + TILE * row, row * 2);
      TILE_PRODUCT(2, 5, 6);
      if constexpr (PANELS > 1) TILE_PRODUCT(3, 5, 7);
    }
  }
  TILE_STORE(0, at(0, 0), ld * 4);
  if constexpr (PANELS > 1) TILE_STORE(1, at(0, 1), ld * 4);
  if constexpr (ROWS > 1) TILE_STORE(2, at(1, 0), ld * 4);
  if constexpr (ROWS > 1 && PANELS > 1) TILE_STORE(3, at(1, 1), ld * 4);
  if (!whole)
    for (int i = 0; i < valid; i++) std::memcpy(c + i * ldc, edge[i], sizeof(edge[i]));
}

template <int PANELS>
inline void tile_rows(int m, const bf16* a, long lda, const bf16* b, long panel, int tiles, float* c, long ldc, bool add) {
  for (; m > TILE; m -= 2 * TILE, a += 2 * TILE * lda, c += 2 * TILE * ldc)
    tile_block<2, PANELS>(a, lda, 32, b, panel, tiles, c, ldc, add, m);
  if (m > 0) tile_block<1, PANELS>(a, lda, 32, b, panel, tiles, c, ldc, add, m);
}

// As in gemm.h. Rows of A past m are read (arenas allow it) and thrown away.
template <>
inline void gemm<bf16>(const bf16* a, long lda, int m, const Panels<bf16>& b, int panels, int k, float* c, long ldc, bool add) {
  int p = 0;
  for (; p + 2 <= panels; p += 2) tile_rows<2>(m, a, lda, b.at(p), long(WIDTH) * b.k, k / 32, c + p * WIDTH, ldc, add);
  if (p < panels) tile_rows<1>(m, a, lda, b.at(p), 0, k / 32, c + p * WIDTH, ldc, add);
}

// A's panels hold pairs of k by column; a tile wants them by row: each 16 x 16 block of pairs is turned once.
template <>
inline void gemm_transposed<bf16>(const Panels<bf16>& a, int m, const Panels<bf16>& b, int panels, int k, float* c, long ldc,
                                  bool add) {
  std::vector<uint32_t> turned(size_t(WIDTH) * k / 2);
  for (int i = 0; i < m; i += WIDTH) {
    const char* from = reinterpret_cast<const char*>(a.at(i / WIDTH));
    for (int t = 0; t < k / 32; t++)
      for (int pair = 0; pair < 16; pair++)
        for (int column = 0; column < 16; column++)
          std::memcpy(&turned[t * 256 + column * 16 + pair], from + 4 * (size_t(t * 16 + pair) * 16 + column), 4);
    const bf16* left = reinterpret_cast<const bf16*>(turned.data());
    int p = 0;
    float* out = c + i * ldc;
    for (; p + 2 <= panels; p += 2)
      tile_block<1, 2>(left, 32, TILE * 32, b.at(p), long(WIDTH) * b.k, k / 32, out + p * WIDTH, ldc, add, TILE);
    if (p < panels) tile_block<1, 1>(left, 32, TILE * 32, b.at(p), 0, k / 32, out + p * WIDTH, ldc, add, TILE);
  }
}

// Linux gives the tile unit to processes that ask for it.
inline void prepare_process() {
#if !defined(GROUPWISE_EMULATE_TILES)
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0)
    throw std::runtime_error("the system does not grant the tile unit to this process");
#endif
}
inline void begin_thread() { configure_tiles(); }

}  // namespace groupwise
