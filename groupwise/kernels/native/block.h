// One transformer block (Llama, Qwen2, Qwen3), and its backward beside it.
#pragma once
#include "attention.h"

namespace groupwise {

// What a block's backward needs of its forward; what is cheap is computed again. While sampling one of these is used over and
// over.
template <class T>
struct Saved {
  float *x0, *x1;          // the residual stream before either half
  float *inverse1, *inverse2, *lse;
  T *mixed, *gate_up, *raw;  // raw: queries and keys before their norms, if they have any
  Heads<T> heads;

  Saved(Arena& arena, const Sizes& s, int rows)
      : x0(arena.get<float>(size_t(rows) * s.wide())), x1(arena.get<float>(size_t(rows) * s.wide())),
        inverse1(arena.get<float>(rows)), inverse2(arena.get<float>(rows)), lse(arena.get<float>(size_t(rows) * s.heads)),
        mixed(arena.padded<T>(rows, s.query(), s.query_wide())), gate_up(arena.get<T>(size_t(rows) * 2 * s.mlp_wide())),
        raw(s.head_norms ? arena.get<T>(size_t(rows) * s.qkv_wide()) : nullptr) {
    int d = s.head_size, wide = s.head();
    size_t query_rows = size_t(rows) * s.heads, key_rows = size_t(rows) * s.kv_heads;
    heads = {arena.padded<T>(query_rows, d, wide), arena.padded<T>(key_rows, d, wide), arena.padded<T>(key_rows, d, wide), rows,
             s.repeat(), wide};
  }
};

// Working memory of one thread: of a block, of its smaller parts, of one tile of attention, of one token being sampled.
struct Room {
  Arena big, small, tile, token;
};

// Calls f(where the head begins in a row of q, k and v; which of them it is: 0, 1, 2; key-value head; query head of it).
template <class F>
void each_head(const Sizes& s, F f) {
  for (int g = 0; g < s.kv_heads; g++) {
    for (int r = 0; r < s.repeat(); r++) f((g * s.repeat() + r) * s.head_size, 0, g, r);
    f(s.query() + g * s.head_size, 1, g, 0);
    f(s.query() + s.key() + g * s.head_size, 2, g, 0);
  }
}

template <class T>
T* slot(const Heads<T>& h, int which, int g, int row, int r) {
  return which == 0 ? h.query(g, row) + size_t(r) * h.head : which == 1 ? h.key(g, row) : h.value(g, row);
}

// From the product x W_qkv^T: bias, norms of heads, rotation.
template <class T>
void to_heads(const Model<T>& m, const Layer<T>& l, const Rows<T>& rows, float* y, const Saved<T>& saved) {
  const Sizes& s = m.shape;
  int d = s.head_size, half = d / 2, wide = s.qkv_wide();
  std::vector<float> room(d), normed(d);
  for (int row = 0; row < rows.count(); row++) {
    float* x = y + size_t(row) * wide;
    if (l.bias) add(x, l.bias, s.qkv());
    if (saved.raw) narrow(x, saved.raw + size_t(row) * wide, s.qkv());
    const float *cosine = &m.cosines[size_t(rows.position[row]) * half], *sine = &m.sines[size_t(rows.position[row]) * half];
    each_head(s, [&](int from, int which, int g, int r) {
      float* head = x + from;
      const float* weight = which == 0 ? l.norm_q : which == 1 ? l.norm_k : nullptr;
      if (weight) {
        norm(head, weight, d, s.epsilon, room.data(), normed.data());
        std::copy_n(normed.data(), d, head);
      }
      if (which < 2) rotate(head, cosine, sine, half, 1.0f);
      narrow(head, slot(saved.heads, which, g, row, r), d);
    });
  }
}

// Gradients of to_heads: dy[row, qkv] from dheads; those of bias and norms are added to.
template <class T>
void to_heads_backward(const Model<T>& m, const Layer<T>& l, const Rows<T>& rows, const Saved<T>& saved,
                       const Heads<float>& dheads, float* dbias, float* dnorm_q, float* dnorm_k, T* dy) {
  const Sizes& s = m.shape;
  int d = s.head_size, half = d / 2, wide = s.qkv_wide();
  std::vector<float> whole(s.qkv()), x(d), dx(d), room(d), out(d);
  for (int row = 0; row < rows.count(); row++) {
    const float *cosine = &m.cosines[size_t(rows.position[row]) * half], *sine = &m.sines[size_t(rows.position[row]) * half];
    each_head(s, [&](int from, int which, int g, int r) {
      float* dhead = slot(dheads, which, g, row, r);
      if (which < 2) rotate(dhead, cosine, sine, half, -1.0f);
      const float* weight = which == 0 ? l.norm_q : which == 1 ? l.norm_k : nullptr;
      if (weight) {
        fetch(saved.raw + size_t(row) * wide + from, x.data(), d);
        float inverse = norm(x.data(), weight, d, s.epsilon, room.data(), out.data());
        std::fill(dx.begin(), dx.end(), 0.0f);
        norm_backward(x.data(), weight, d, inverse, dhead, dx.data(), which == 0 ? dnorm_q : dnorm_k);
        dhead = dx.data();
      }
      std::copy_n(dhead, d, &whole[from]);
    });
    if (dbias) add(dbias, whole.data(), s.qkv());
    narrow(whole.data(), dy + size_t(row) * wide, s.qkv());
  }
}

// The norms of some rows, in the arena; with `inverse` what their backward needs.
template <class T>
T* norms(const Sizes& s, const float* x, const float* w, int rows, Arena& arena, float* inverse) {
  float* room = arena.get<float>(s.hidden);
  T* out = arena.padded<T>(rows, s.hidden, s.wide());
  for (int r = 0; r < rows; r++)
    inverse[r] = norm(x + size_t(r) * s.wide(), w, s.hidden, s.epsilon, room, out + size_t(r) * s.wide());
  return out;
}

// x += attention(norm(x)); x += mlp(norm(x)). `keep`: for a backward to come.
template <class T>
void block_forward(const Model<T>& m, int layer, const Rows<T>& rows, float* x, const Saved<T>& saved, bool keep, Room& room) {
  const Sizes& s = m.shape;
  const Layer<T>& l = m.layers[layer];
  int n = rows.count(), wide = s.wide(), mlp = s.mlp_wide();
  size_t all = size_t(n) * wide;
  room.big.reset();
  float* y = room.big.get<float>(size_t(n) * std::max({s.qkv_wide(), wide, 2 * mlp}));
  float* one = room.big.get<float>(2 * mlp);
  T* hidden = room.big.padded<T>(n, s.mlp, mlp);

  if (keep) std::copy_n(x, all, saved.x0);
  l.qkv.apply(norms<T>(s, x, l.norm1, n, room.big, saved.inverse1), n, y);
  to_heads(m, l, rows, y, saved);
  attend(s, layer, rows, saved.heads, saved.mixed, keep ? saved.lse : nullptr, room.tile);
  l.out.apply(saved.mixed, n, y);
  add(x, y, all);

  if (keep) std::copy_n(x, all, saved.x1);
  l.gate_up.apply(norms<T>(s, x, l.norm2, n, room.big, saved.inverse2), n, y);
  for (int r = 0; r < n; r++) {
    const float* gate = y + size_t(r) * 2 * mlp;
    gated(gate, gate + mlp, s.mlp, one, hidden + size_t(r) * mlp);
    if (keep) narrow(gate, saved.gate_up + size_t(r) * 2 * mlp, 2 * mlp);
  }
  l.down.apply(hidden, n, y);
  add(x, y, all);
}

// Gradients of one layer's parameters, summed by one thread; matrices have the padded sizes of `Weight`.
struct LayerGradient {
  float *qkv, *out, *gate_up, *down, *norm1, *norm2, *bias, *norm_q, *norm_k;
};

// dw[n, k] += dy^T x, summed over rows.
template <class T>
void weight_gradient(const T* dy, const T* x, int rows, const Weight<T>& w, float* dw, Arena& arena) {
  arena.reset();
  Panels<T> left = panels<T>(arena, rows, w.n), right = panels<T>(arena, rows, w.k);
  pack(dy, w.n, rows, w.n, left);
  pack(x, w.k, rows, w.k, right);
  gemm_transposed(left, w.n, right, w.k / WIDTH, round_up(rows, K_STEP<T>), dw, w.k, true);
}

inline void norms_backward(const Sizes& s, const float* x, const float* w, const float* inverse, int rows, const float* dy,
                           float* dx, float* dw) {
  for (int r = 0; r < rows; r++) {
    size_t at = size_t(r) * s.wide();
    norm_backward(x + at, w, s.hidden, inverse[r], dy + at, dx + at, dw);
  }
}

// dx, the gradient after the block, becomes that before it; the parameters' gradients are added to.
template <class T>
void block_backward(const Model<T>& m, int layer, const Rows<T>& rows, float* dx, const Saved<T>& saved,
                    const LayerGradient& grad, Room& room) {
  const Sizes& s = m.shape;
  const Layer<T>& l = m.layers[layer];
  int n = rows.count(), wide = s.wide(), mlp = s.mlp_wide();
  size_t all = size_t(n) * wide;
  room.big.reset();
  float* dy = room.big.get<float>(size_t(n) * std::max({wide, mlp, s.query_wide()}));
  float* one = room.big.get<float>(3 * mlp);
  T* narrowed = room.big.get<T>(all);
  T* dwide = room.big.padded<T>(n, 2 * s.mlp, 2 * mlp);
  T* hidden = room.big.padded<T>(n, s.mlp, mlp);

  narrow(dx, narrowed, all);
  l.down.apply_backward(narrowed, n, dy);
  for (int r = 0; r < n; r++) {
    const T* gate = saved.gate_up + size_t(r) * 2 * mlp;
    T* out = dwide + size_t(r) * 2 * mlp;
    gated_backward(gate, gate + mlp, dy + size_t(r) * mlp, s.mlp, one, out, out + mlp, hidden + size_t(r) * mlp);
  }
  weight_gradient(narrowed, hidden, n, l.down, grad.down, room.small);
  weight_gradient(dwide, norms<T>(s, saved.x1, l.norm2, n, room.big, saved.inverse2), n, l.gate_up, grad.gate_up, room.small);
  l.gate_up.apply_backward(dwide, n, dy);
  norms_backward(s, saved.x1, l.norm2, saved.inverse2, n, dy, dx, grad.norm2);

  narrow(dx, narrowed, all);
  weight_gradient(narrowed, saved.mixed, n, l.out, grad.out, room.small);
  l.out.apply_backward(narrowed, n, dy);
  const Heads<T>& h = saved.heads;
  size_t q = size_t(s.kv_heads) * n * h.repeat * h.head, kv = size_t(s.kv_heads) * n * h.head;
  Heads<float> dheads{room.big.get<float>(q), room.big.zeros<float>(kv), room.big.zeros<float>(kv), n, h.repeat, h.head};
  attend_backward(s, rows, h, saved.lse, dy, dheads, room.tile, room.small);
  T* dqkv = room.big.padded<T>(n, s.qkv(), s.qkv_wide());
  to_heads_backward(m, l, rows, saved, dheads, grad.bias, grad.norm_q, grad.norm_k, dqkv);
  weight_gradient(dqkv, norms<T>(s, saved.x0, l.norm1, n, room.big, saved.inverse1), n, l.qkv, grad.qkv, room.small);
  l.qkv.apply_backward(dqkv, n, dy);
  norms_backward(s, saved.x0, l.norm1, saved.inverse1, n, dy, dx, grad.norm1);
}

}  // namespace groupwise
