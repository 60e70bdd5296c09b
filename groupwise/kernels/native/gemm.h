// Matrix products C (+)= A B, where B lies in panels. Every element of C is summed over k in one fixed order, whatever the
// number of rows: a row's result does not depend on what it is batched with.
#pragma once
#include "numbers.h"

namespace groupwise {

// A matrix B[k, n] cut into panels of 16 columns. Within a panel, GROUP consecutive k of one column lie together (the pairs
// that bf16 dot products take): element (k, c) of a panel is at (k / GROUP) * 16 * GROUP + c * GROUP + k % GROUP.
constexpr int WIDTH = 16;
template <class T>
constexpr int GROUP = sizeof(T) == 2 ? 2 : 1;

template <class T>
struct Panels {
  T* data = nullptr;
  int k = 0;  // allocated k, a multiple of 32
  T* at(int panel) const { return data + size_t(panel) * WIDTH * k; }
  T& operator()(int row, int column) const {
    return at(column / WIDTH)[(row / GROUP<T>)*WIDTH * GROUP<T> + (column % WIDTH) * GROUP<T> + row % GROUP<T>];
  }
};

// How far the sum over k of a product must be rounded up (and both sides filled with zeros).
#if defined(GROUPWISE_AMX)
template <class T>
constexpr int K_STEP = sizeof(T) == 2 ? 32 : 1;
#else
template <class T>
constexpr int K_STEP = GROUP<T>;
#endif

typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));

inline Lanes multiply_add(Lanes sum, const float* a, const float* b) { return sum + *a * *reinterpret_cast<const Lanes*>(b); }
#if defined(__AVX512BF16__)
inline Lanes multiply_add(Lanes sum, const bf16* a, const bf16* b) {
  int pair;
  std::memcpy(&pair, a, 4);
  return (Lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_loadu_si512(b));
}
#else
inline Lanes multiply_add(Lanes sum, const bf16* a, const bf16* b) {
  Lanes low, high;
  for (int c = 0; c < WIDTH; c++) low[c] = widen(b[2 * c]), high[c] = widen(b[2 * c + 1]);
  return sum + widen(a[0]) * low + widen(a[1]) * high;
}
#endif

// Registers decide how many rows and panels a block of C has.
#if defined(__AVX512F__)
constexpr int BLOCK_ROWS = 12, BLOCK_PANELS = 2;
#elif defined(__AVX2__)
constexpr int BLOCK_ROWS = 6, BLOCK_PANELS = 1;
#else
constexpr int BLOCK_ROWS = 4, BLOCK_PANELS = 1;
#endif

// A few rows take more panels at once: a sum waits for its last term, so enough of them must go on side by side.
constexpr int FEW_ROWS = 3, FEW_PANELS = 2 * BLOCK_PANELS;

// ROWS x (16 PANELS) of C. A(i, group) lies at a + i * row + group * step.
template <class T, int ROWS, int PANELS>
inline void block(const T* a, long row, long step, const T* b, long panel, int groups, float* c, long ldc, bool add) {
  Lanes sum[ROWS][PANELS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; p++) sum[i][p] = Lanes{};
  for (int g = 0; g < groups; g++) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; p++)
        sum[i][p] = multiply_add(sum[i][p], a + i * row + g * step, b + p * panel + size_t(g) * WIDTH * GROUP<T>);
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; p++) {
      Lanes& out = *reinterpret_cast<Lanes*>(c + i * ldc + p * WIDTH);
      out = add ? out + sum[i][p] : sum[i][p];
    }
}

template <class T, int PANELS, int ROWS = BLOCK_ROWS>
inline void rows(int m, const T* a, long row, long step, const T* b, long panel, int groups, float* c, long ldc, bool add) {
  for (; m >= ROWS; m -= ROWS, a += ROWS * row, c += ROWS * ldc) block<T, ROWS, PANELS>(a, row, step, b, panel, groups, c, ldc, add);
  if constexpr (ROWS > 1)
    if (m > 0) rows<T, PANELS, (ROWS + 1) / 2>(m, a, row, step, b, panel, groups, c, ldc, add);
}

// So many k at a time that the panels in use stay in the first cache.
template <class T>
constexpr int K_BLOCK = 32768 / (BLOCK_PANELS * WIDTH * sizeof(T));

// C[m, 16 panels] (+)= A[m, k] B. A row-major, zero where B's rows are padding; k a multiple of K_STEP.
template <class T>
void gemm(const T* a, long lda, int m, const Panels<T>& b, int panels, int k, float* c, long ldc, bool add) {
  for (int k0 = 0; k0 < k; k0 += K_BLOCK<T>) {
    int groups = std::min(K_BLOCK<T>, k - k0) / GROUP<T>;
    bool more = add || k0 > 0;
    int p = 0;
    if (m <= FEW_ROWS)
      for (; p + FEW_PANELS <= panels; p += FEW_PANELS)
        rows<T, FEW_PANELS, FEW_ROWS>(m, a + k0, lda, GROUP<T>, b.at(p) + size_t(k0) * WIDTH, long(WIDTH) * b.k, groups,
                                      c + p * WIDTH, ldc, more);
    if constexpr (BLOCK_PANELS == 2)
      for (; p + 2 <= panels; p += 2)
        rows<T, 2>(m, a + k0, lda, GROUP<T>, b.at(p) + size_t(k0) * WIDTH, long(WIDTH) * b.k, groups, c + p * WIDTH, ldc, more);
    for (; p < panels; p++)
      rows<T, 1>(m, a + k0, lda, GROUP<T>, b.at(p) + size_t(k0) * WIDTH, 0, groups, c + p * WIDTH, ldc, more);
  }
}

// C[m, 16 panels] (+)= A^T B for A[k, m] in panels too: gradients of weights, sums over tokens. Writes round_up(m, 16) rows.
template <class T>
void gemm_transposed(const Panels<T>& a, int m, const Panels<T>& b, int panels, int k, float* c, long ldc, bool add) {
  constexpr long STEP = WIDTH * GROUP<T>;
  for (int k0 = 0; k0 < k; k0 += K_BLOCK<T>) {
    int groups = std::min(K_BLOCK<T>, k - k0) / GROUP<T>;
    bool more = add || k0 > 0;
    for (int p = 0; p < panels; p += BLOCK_PANELS)
      for (int i = 0; i < m; i += WIDTH) {
        const T *left = a.at(i / WIDTH) + size_t(k0) * WIDTH, *right = b.at(p) + size_t(k0) * WIDTH;
        float* out = c + i * ldc + p * WIDTH;
        if (p + BLOCK_PANELS <= panels)
          rows<T, BLOCK_PANELS, 8>(WIDTH, left, GROUP<T>, STEP, right, long(WIDTH) * b.k, groups, out, ldc, more);
        else
          rows<T, 1, 8>(WIDTH, left, GROUP<T>, STEP, right, 0, groups, out, ldc, more);
      }
  }
}

}  // namespace groupwise

#if defined(GROUPWISE_AMX)
#include "amx.h"
#else
namespace groupwise {
inline void prepare_process() {}
inline void begin_thread() {}
}  // namespace groupwise
#endif
