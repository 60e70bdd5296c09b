// Attention of rows that share a prefix: the product with the prefix is one for all of them, that with what is their own is one
// for each sequence. Training and sampling use the same function; the gradient is beside it.
#pragma once
#include "rows.h"

namespace groupwise {

// Keys and values of one sequence (or prefix), for `layers` layers: all of them while sampling, one at a time in training.
template <class T>
struct Cache {
  T* room = nullptr;
  int layers = 0, heads = 0, positions = 0, head = 0;

  Cache(Arena& arena, const Sizes& s, int layers_, int positions_)
      : layers(layers_), heads(s.kv_heads), positions(positions_), head(s.head()) {
    room = arena.get<T>(layers * heads * Memory<T>::size(positions, head));
  }
  Memory<T> at(int layer, int h) const {
    return Memory<T>::in(room + (size_t(layer % layers) * heads + h) * Memory<T>::size(positions, head), positions, head);
  }
  // Take over all positions of a smaller one.
  void copy(const Cache& other) const {
    for (int layer = 0; layer < layers; layer++)
      for (int h = 0; h < heads; h++) at(layer, h).copy(other.at(layer, h), head);
  }
};

// `count` rows from `row` on that go on with one sequence, of which `seen` positions are in its cache.
template <class T>
struct Span {
  int row, count, seen;
  const Cache<T>* own;
};

// Rows that follow one prefix (or none): spans[first .. first + spans). The prefix's own rows, if they are in this batch, begin
// at prefix_row: its keys and values get gradients there.
template <class T>
struct Family {
  int row, count, first, spans;
  const Cache<T>* prefix;
  int prefix_length, prefix_row;
};

template <class T>
struct Rows {
  std::vector<int> token, position;
  std::vector<Span<T>> spans;
  std::vector<Family<T>> families;
  int count() const { return int(token.size()); }
};

// q[g, row, r, :], k[g, row, :], v[g, row, :] for key-value head g and its r-th query head.
template <class T>
struct Heads {
  T *q, *k, *v;
  int rows, repeat, head;
  T* query(int g, int row) const { return q + (size_t(g) * rows + row) * repeat * head; }
  T* key(int g, int row) const { return k + (size_t(g) * rows + row) * head; }
  T* value(int g, int row) const { return v + (size_t(g) * rows + row) * head; }
};

// A block of rows of one family: scores lie as [row and query head, prefix positions | own positions].
template <class T>
struct Tile {
  const Family<T>& family;
  std::vector<Span<T>> spans;  // cut to the block
  int row, count, prefix_wide, wide;
  static constexpr int ROWS = 64;  // of scores

  // Calls f for each block of a family.
  template <class F>
  static void each(const Rows<T>& rows, const Family<T>& family, int repeat, F f) {
    int most = std::max(1, ROWS / repeat), at = 0;
    for (int row = family.row; row < family.row + family.count; row += most) {
      int end = std::min(row + most, family.row + family.count), own = 0;
      Tile tile{family, {}, row, end - row, round_up(family.prefix_length, 32), 0};
      for (; at < family.spans; at++) {
        const Span<T>& s = rows.spans[family.first + at];
        int from = std::max(row, s.row), to = std::min(end, s.row + s.count);
        if (from < to) {
          tile.spans.push_back({from, to - from, s.seen + from - s.row, s.own});
          own = std::max(own, s.seen + to - s.row);
        }
        if (s.row + s.count > end) break;  // the next block goes on with this span
      }
      tile.wide = tile.prefix_wide + round_up(own, 32);
      f(tile);
    }
  }
  int height(int repeat) const { return count * repeat; }
  int offset(const Span<T>& s, int repeat) const { return (s.row - row) * repeat; }

  // scores = a b^T for rows `a` of this block, with keys of the prefix and of each span's own.
  template <class Prefix, class Own>
  void products(const T* a, int head, int repeat, float* scores, Prefix prefix, Own own) const {
    if (prefix_wide)
      gemm(a, head, height(repeat), prefix(), round_up(family.prefix_length, WIDTH) / WIDTH, head, scores, wide, false);
    for (const auto& s : spans)
      gemm(a + size_t(offset(s, repeat)) * head, head, s.count * repeat, own(s), round_up(s.seen + s.count, WIDTH) / WIDTH, head,
           scores + size_t(offset(s, repeat)) * wide + prefix_wide, wide, false);
  }
  // out = weights b, summed over prefix and own positions.
  template <class Prefix, class Own>
  void sums(const T* weights, int head, int repeat, float* out, Prefix prefix, Own own) const {
    if (prefix_wide)
      gemm(weights, wide, height(repeat), prefix(), head / WIDTH, round_up(family.prefix_length, K_STEP<T>), out, head, false);
    for (const auto& s : spans)
      gemm(weights + size_t(offset(s, repeat)) * wide + prefix_wide, wide, s.count * repeat, own(s), head / WIDTH,
           round_up(s.seen + s.count, K_STEP<T>), out + size_t(offset(s, repeat)) * head, head, prefix_wide > 0);
  }
  // Calls f(index among the block's scores, row, query head, visible own positions, end of the span's positions).
  template <class F>
  void each_row(int repeat, F f) const {
    for (const auto& s : spans)
      for (int i = 0; i < s.count; i++)
        for (int r = 0; r < repeat; r++)
          f(offset(s, repeat) + i * repeat + r, s.row + i, r, s.seen + i + 1, round_up(s.seen + s.count, K_STEP<T>));
  }
};

// mixed[row, heads * head_size] = softmax(q k^T / sqrt(head_size)) v; lse[row, head] is kept for the backward.
template <class T>
void attend(const Sizes& shape, int layer, const Rows<T>& rows, const Heads<T>& h, T* mixed, float* lse, Arena& room) {
  int head = h.head, repeat = h.repeat, d = shape.head_size;
  float scale = 1.0f / std::sqrt(float(d));
  for (int g = 0; g < shape.kv_heads; g++)
    for (const auto& s : rows.spans) s.own->at(layer, g).append(h.key(g, s.row), h.value(g, s.row), s.seen, s.count, head);
  for (const auto& family : rows.families)
    Tile<T>::each(rows, family, repeat, [&](const Tile<T>& t) {
      for (int g = 0; g < shape.kv_heads; g++) {
        room.reset();
        float* scores = room.get<float>(size_t(t.height(repeat)) * t.wide);
        T* weights = room.get<T>(size_t(t.height(repeat)) * t.wide);
        float* out = room.get<float>(size_t(t.height(repeat)) * head);
        float* inverse = room.get<float>(t.height(repeat));
        auto prefix = [&] { return family.prefix->at(layer, g); };
        t.products(h.query(g, t.row), head, repeat, scores, [&] { return prefix().keys; },
                   [&](const Span<T>& s) { return s.own->at(layer, g).keys; });
        t.each_row(repeat, [&](int i, int row, int r, int visible, int end) {
          float *before = scores + size_t(i) * t.wide, *own = before + t.prefix_wide;
          T* p = weights + size_t(i) * t.wide;
          float most = scale * largest(own, visible, largest(before, family.prefix_length, -INFINITY));
          float sum = exponentials(before, family.prefix_length, scale, most);
          sum += exponentials(own, visible, scale, most);
          narrow_padded(before, p, family.prefix_length, t.prefix_wide);
          narrow_padded(own, p + t.prefix_wide, visible, end);
          inverse[i] = 1.0f / sum;
          if (lse) lse[size_t(row) * shape.heads + g * repeat + r] = most + std::log(sum);
        });
        t.sums(weights, head, repeat, out, [&] { return prefix().values; },
               [&](const Span<T>& s) { return s.own->at(layer, g).values; });
        t.each_row(repeat, [&](int i, int row, int r, int, int) {
          float* o = out + size_t(i) * head;
          for (int j = 0; j < d; j++) o[j] *= inverse[i];
          narrow(o, mixed + size_t(row) * shape.query_wide() + (g * repeat + r) * d, d);
        });
      }
    });
}

// Gradients of attend from dmixed: dheads has h's layout; its keys and values must be zero on entry. Every sequence of the batch is whole.
template <class T>
void attend_backward(const Sizes& shape, const Rows<T>& rows, const Heads<T>& h, const float* lse, const float* dmixed,
                     const Heads<float>& dheads, Arena& room, Arena& kept) {
  int head = h.head, repeat = h.repeat, d = shape.head_size;
  float scale = 1.0f / std::sqrt(float(d));
  for (const auto& family : rows.families)
    for (int g = 0; g < shape.kv_heads; g++) {
      kept.reset();
      const Span<T>& span = rows.spans[family.first];  // in training a family is one sequence, or a prefix
      int before = family.prefix_length, own = span.count;
      auto packed = [&](const T* x, int n) {
        Panels<T> columns = panels<T>(kept, head, n);
        pack_transposed(x, head, n, head, columns);
        return columns;
      };
      auto stacked = [&](const T* x, int n) {
        Panels<T> all = panels<T>(kept, n, head);
        pack(x, head, n, head, all);
        return all;
      };
      Panels<T> k0, v0, k0_rows, k1 = packed(h.key(g, span.row), own), v1 = packed(h.value(g, span.row), own),
                                 k1_rows = stacked(h.key(g, span.row), own);
      if (before) {
        k0 = packed(h.key(g, family.prefix_row), before), v0 = packed(h.value(g, family.prefix_row), before);
        k0_rows = stacked(h.key(g, family.prefix_row), before);
      }
      int all = round_up(before, 32) + round_up(own, 32);
      float *dk = kept.zeros<float>(size_t(all) * head), *dv = kept.zeros<float>(size_t(all) * head);
      Tile<T>::each(rows, family, repeat, [&](const Tile<T>& t) {
        room.reset();
        int m = t.height(repeat);
        float* p = room.get<float>(size_t(m) * t.wide);
        float* ds = room.get<float>(size_t(m) * t.wide);
        T *p_narrow = room.zeros<T>(size_t(m) * t.wide), *ds_narrow = room.zeros<T>(size_t(m) * t.wide);
        T* dout = room.zeros<T>(size_t(m) * head);
        t.each_row(repeat, [&](int i, int row, int r, int, int) {
          narrow(dmixed + size_t(row) * shape.query_wide() + (g * repeat + r) * d, dout + size_t(i) * head, d);
        });
        t.products(h.query(g, t.row), head, repeat, p, [&] { return k0; }, [&](const Span<T>&) { return k1; });
        t.products(dout, head, repeat, ds, [&] { return v0; }, [&](const Span<T>&) { return v1; });
        t.each_row(repeat, [&](int i, int row, int r, int visible, int) {
          size_t at = size_t(i) * t.wide, mine = at + t.prefix_wide;
          float shift = lse[size_t(row) * shape.heads + g * repeat + r];
          exponentials(p + at, before, scale, shift);
          exponentials(p + mine, visible, scale, shift);
          float mean = dot(p + at, ds + at, before) + dot(p + mine, ds + mine, visible);
          for (int j = 0; j < before; j++) ds[at + j] = p[at + j] * (ds[at + j] - mean) * scale;
          for (int j = 0; j < visible; j++) ds[mine + j] = p[mine + j] * (ds[mine + j] - mean) * scale;
          narrow(p + at, p_narrow + at, before), narrow(p + mine, p_narrow + mine, visible);
          narrow(ds + at, ds_narrow + at, before), narrow(ds + mine, ds_narrow + mine, visible);
        });
        t.sums(ds_narrow, head, repeat, dheads.query(g, t.row), [&] { return k0_rows; }, [&](const Span<T>&) { return k1_rows; });
        auto onto = [&](const T* weights, const T* x, float* to) {  // to[positions, head] += weights^T x
          Panels<T> left = panels<T>(room, m, t.wide), right = panels<T>(room, m, head);
          pack(weights, t.wide, m, t.wide, left);
          pack(x, head, m, head, right);
          gemm_transposed(left, t.wide, right, head / WIDTH, round_up(m, K_STEP<T>), to, head, true);
        };
        onto(ds_narrow, h.query(g, t.row), dk);
        onto(p_narrow, dout, dv);
      });
      size_t mine = size_t(round_up(before, 32)) * head;
      add(dheads.key(g, span.row), dk + mine, size_t(own) * head), add(dheads.value(g, span.row), dv + mine, size_t(own) * head);
      if (before) {
        add(dheads.key(g, family.prefix_row), dk, size_t(before) * head);
        add(dheads.value(g, family.prefix_row), dv, size_t(before) * head);
      }
    }
}

}  // namespace groupwise
