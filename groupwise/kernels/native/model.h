// The model: its shape, where its parameters lie, and the packed copies that products read.
#pragma once
#include "panels.h"

namespace groupwise {

// Filled by the caller; the order is that of `Shape` in library.py.
struct Shape {
  int32_t vocabulary, hidden, layers, heads, kv_heads, head_size, mlp, qkv_bias, head_norms, tied;
  float epsilon;
};

// Sizes derived from a shape. Rows of activations have padded widths, so that every sum over them is a whole number of steps.
struct Sizes : Shape {
  explicit Sizes(const Shape& s) : Shape(s) {}
  int wide() const { return round_up(hidden, 32); }
  int head() const { return round_up(head_size, 32); }
  int query() const { return heads * head_size; }
  int key() const { return kv_heads * head_size; }
  int qkv() const { return query() + 2 * key(); }
  int qkv_wide() const { return round_up(qkv(), 32); }
  int query_wide() const { return round_up(query(), 32); }
  int mlp_wide() const { return round_up(mlp, 32); }
  int vocabulary_wide() const { return round_up(vocabulary, 32); }
  int repeat() const { return heads / kv_heads; }
};

// Parameters of one layer, in the order in which pointers are passed; absent ones are null.
enum Part { NORM1, WQ, WK, WV, BQ, BK, BV, NORM_Q, NORM_K, WO, NORM2, GATE, UP, DOWN, PARTS };
enum Outer { EMBEDDING, FINAL_NORM, HEAD, OUTERS };  // before the layers

inline int pointer_of(int layer, Part part) { return OUTERS + layer * PARTS + part; }

// A matrix W[n, k] ready for x W^T (forward) and dy W (backward).
template <class T>
struct Weight {
  Panels<T> forward, backward;
  int n = 0, k = 0;  // padded

  Weight() = default;
  Weight(Arena& arena, int out, int in) : n(round_up(out, 32)), k(round_up(in, 32)) {
    forward = {arena.zeros<T>(size_t(n) * k), k};
    backward = {arena.zeros<T>(size_t(n) * k), n};
  }
  // From rows of float matrices put one under the other: `from[i]` has `out[i]` rows of `in` numbers; padded from `pad[i]` rows.
  void fill(std::vector<const float*> from, std::vector<int> out, std::vector<int> pad, int in, Arena& scratch) {
    T* all = scratch.zeros<T>(size_t(n) * k);
    int row = 0;
    for (size_t i = 0; i < from.size(); row += pad[i++])
      for (int r = 0; r < out[i]; r++) narrow(from[i] + size_t(r) * in, all + size_t(row + r) * k, in);
    pack_transposed(all, k, n, k, forward);
    pack(all, k, n, k, backward);
  }
  // y[m, n] = x W^T and dx[m, k] = dy W.
  void apply(const T* x, int m, float* y) const { gemm(x, k, m, forward, n / WIDTH, k, y, n, false); }
  void apply_backward(const T* dy, int m, float* dx) const { gemm(dy, n, m, backward, k / WIDTH, n, dx, k, false); }
};

template <class T>
struct Layer {
  Weight<T> qkv, out, gate_up, down;
  const float *norm1, *norm2, *bias, *norm_q, *norm_k;  // bias: q, k, v one after the other, or null
};

template <class T>
struct Model {
  Sizes shape;
  std::vector<float> cosines, sines;  // [positions, head_size / 2], for rotations of halves against each other
  std::vector<Layer<T>> layers;
  Weight<T> head;
  const float* embedding = nullptr;
  const float* final_norm = nullptr;

  Model(const Shape& s, const float* frequencies, float scale)
      : shape(s), layers(s.layers), frequencies_(frequencies, frequencies + s.head_size / 2), scale_(scale) {
    for (auto& l : layers) {
      l.qkv = Weight<T>(store_, shape.qkv(), shape.hidden);
      l.out = Weight<T>(store_, shape.hidden, shape.query());
      l.gate_up = Weight<T>(store_, 2 * shape.mlp_wide(), shape.hidden);
      l.down = Weight<T>(store_, shape.hidden, shape.mlp);
      l.bias = shape.qkv_bias ? store_.zeros<float>(shape.qkv_wide()) : nullptr;
    }
    head = Weight<T>(store_, shape.vocabulary, shape.hidden);
  }

  // Rotations for positions below `positions`; not while other threads read them.
  void reach(int positions) {
    size_t half = shape.head_size / 2, begin = cosines.size() / half;
    if (size_t(positions) <= begin) return;
    cosines.resize(positions * half), sines.resize(positions * half);
    for (size_t p = begin; p < size_t(positions); p++)
      for (size_t i = 0; i < half; i++) {
        float angle = float(p) * frequencies_[i];
        cosines[p * half + i] = float(std::cos(double(angle))) * scale_;
        sines[p * half + i] = float(std::sin(double(angle))) * scale_;
      }
  }

  int items() const { return shape.layers + 1; }

  // Take over one layer's parameters (item < layers) or those outside the layers; items may be done by different threads.
  // Norms and the embedding are read in place afterwards: the pointers must stay valid.
  void load(int item, const float* const* p, Arena& scratch) {
    scratch.reset();
    if (item == shape.layers) {
      embedding = p[EMBEDDING], final_norm = p[FINAL_NORM];
      head.fill({shape.tied ? p[EMBEDDING] : p[HEAD]}, {shape.vocabulary}, {0}, shape.hidden, scratch);
      return;
    }
    auto of = [&](Part part) { return p[pointer_of(item, part)]; };
    Layer<T>& l = layers[item];
    l.norm1 = of(NORM1), l.norm2 = of(NORM2), l.norm_q = of(NORM_Q), l.norm_k = of(NORM_K);
    int q = shape.query(), kv = shape.key(), wide = shape.mlp_wide();
    l.qkv.fill({of(WQ), of(WK), of(WV)}, {q, kv, kv}, {q, kv, kv}, shape.hidden, scratch);
    l.out.fill({of(WO)}, {shape.hidden}, {0}, q, scratch);
    l.gate_up.fill({of(GATE), of(UP)}, {shape.mlp, shape.mlp}, {wide, wide}, shape.hidden, scratch);
    l.down.fill({of(DOWN)}, {shape.hidden}, {0}, shape.mlp, scratch);
    if (l.bias) {
      float* b = const_cast<float*>(l.bias);
      std::copy_n(of(BQ), q, b), std::copy_n(of(BK), kv, b + q), std::copy_n(of(BV), kv, b + q + kv);
    }
  }

 private:
  std::vector<float> frequencies_;
  float scale_;
  Arena store_;
};

}  // namespace groupwise
