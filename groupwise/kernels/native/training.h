// Scoring batches of sequences, with or without a backward: cut into chunks, dealt to threads by a fixed rule.
#pragma once
#include <exception>
#include <memory>
#include <system_error>
#include <thread>

#include "head.h"

namespace groupwise {

// Sequences that follow shared contexts, as flat arrays. Sequence i is tokens[begin[i]] .. tokens[end[i] - 1] after context
// `context[i]`; those of one context stand together. Results are wanted for tokens that are `counted`, at the tokens' places.
struct Sequences {
  int32_t contexts, sequences;
  const int32_t *context_tokens, *context_starts, *context, *tokens, *begin, *end;
  const uint8_t* counted;
};

// Run f(0) .. f(n - 1), each in a thread of its own; the first exception is thrown here.
template <class F>
void in_threads(int n, F f) {
  std::vector<std::exception_ptr> failed(n);
  auto guarded = [&](int t) {
    try {
      begin_thread();
      f(t);
    } catch (...) {
      failed[t] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(n);
  bool all = true;
  try {
    for (int t = 1; t < n; t++) threads.emplace_back(guarded, t);
  } catch (const std::system_error&) {  // no memory for a thread: those that run must end before this leaves
    all = false;
  }
  if (all) guarded(0);
  for (auto& t : threads) t.join();
  if (!all) throw std::bad_alloc();
  for (auto& e : failed)
    if (e) std::rethrow_exception(e);
}

// Where a parameter's gradient lies in a thread's buffer: `rows` x `columns` at `offset`, in rows of `wide`.
struct Place {
  uint64_t offset;
  int32_t rows, columns, wide;
};

// A thread's gradients: one flat buffer of the caller's, and where each parameter is in it.
template <class T>
class Gradients {
 public:
  Gradients(const Model<T>& m, float* values) : values_(values), layers_(m.shape.layers), places_(OUTERS + m.shape.layers * PARTS) {
    const Sizes& s = m.shape;
    int hidden = s.hidden, wide = s.wide(), q = s.query(), kv = s.key(), mlp = s.mlp_wide();
    add(EMBEDDING, s.vocabulary_wide(), {{s.vocabulary, 0}}, hidden, wide);
    if (s.tied)
      head_at_ = places_[EMBEDDING].offset;
    else
      head_at_ = add(HEAD, s.vocabulary_wide(), {{s.vocabulary, 0}}, hidden, wide);
    add(FINAL_NORM, 1, {{1, 0}}, hidden, wide);
    for (int l = 0; l < s.layers; l++) {
      auto at = [&](Part part) { return pointer_of(l, part); };
      Offsets& o = layers_[l];
      o.qkv = add(at(WQ), round_up(s.qkv(), 32), {{q, 0}, {kv, q}, {kv, q + kv}}, hidden, wide);
      o.out = add(at(WO), wide, {{hidden, 0}}, q, s.query_wide());
      o.gate_up = add(at(GATE), 2 * mlp, {{s.mlp, 0}, {s.mlp, mlp}}, hidden, wide);
      o.down = add(at(DOWN), wide, {{hidden, 0}}, s.mlp, mlp);
      o.norm1 = add(at(NORM1), 1, {{1, 0}}, hidden, wide);
      o.norm2 = add(at(NORM2), 1, {{1, 0}}, hidden, wide);
      if (s.qkv_bias) {
        o.bias = add(at(BQ), 1, {{1, 0}}, q, q);
        add(at(BK), 1, {{1, 0}}, kv, kv), add(at(BV), 1, {{1, 0}}, kv, kv);
      }
      if (s.head_norms) {
        o.norm_q = add(at(NORM_Q), 1, {{1, 0}}, s.head_size, s.head_size);
        o.norm_k = add(at(NORM_K), 1, {{1, 0}}, s.head_size, s.head_size);
      }
    }
  }
  const std::vector<Place>& places() const { return places_; }
  size_t size() const { return size_; }
  float* embedding(int token) { return &values_[places_[EMBEDDING].offset + size_t(token) * places_[EMBEDDING].wide]; }
  float* final_norm() { return &values_[places_[FINAL_NORM].offset]; }
  float* head() { return &values_[head_at_]; }
  LayerGradient layer(int l) {
    const Offsets& o = layers_[l];
    auto at = [&](size_t offset) { return &values_[offset]; };
    return {at(o.qkv), at(o.out), at(o.gate_up), at(o.down), at(o.norm1), at(o.norm2), o.bias ? at(o.bias) : nullptr,
            at(o.norm_q), at(o.norm_k)};
  }

 private:
  struct Offsets {
    size_t qkv = 0, out = 0, gate_up = 0, down = 0, norm1 = 0, norm2 = 0, bias = 0, norm_q = 0, norm_k = 0;
  };
  // Room for `all` rows; the parameters from `first` on are `parts` {rows, first row} of them.
  size_t add(int first, int all, std::vector<std::pair<int, int>> parts, int columns, int wide) {
    for (auto [rows, from] : parts) places_[first++] = {size_ + size_t(from) * wide, rows, columns, wide};
    size_t at = size_;
    size_ += size_t(all) * wide;
    return at;
  }
  float* values_;
  std::vector<Offsets> layers_;
  std::vector<Place> places_;
  size_t head_at_ = 0, size_ = 0;
};

// A part of a batch that one thread runs at a time.
template <class T>
struct Chunk {
  struct Piece {
    int context, first, last;  // sequences first .. last - 1 of one context
  };
  std::vector<Piece> pieces;
  int size = 0;
  Arena* kept = nullptr;
  Rows<T> rows;
  std::vector<Cache<T>> caches;
  std::vector<Saved<T>> saved;
  std::unique_ptr<HeadPass<T>> head;

  // Lay out the rows: each context once, then its sequences (all tokens but the last, which nothing follows).
  void build(const Model<T>& m, const Sequences& in) {
    std::vector<Target> targets;
    size_t all = pieces.size();
    for (auto& piece : pieces) all += piece.last - piece.first;
    caches.reserve(all);  // rows point into it
    for (auto& piece : pieces) {
      int from = in.context_starts[piece.context], length = in.context_starts[piece.context + 1] - from, begin = rows.count();
      const Cache<T>* prefix = sequence(m, in.context_tokens + from, length, 0, nullptr, 0, -1);
      for (int i = piece.first; i < piece.last; i++) {
        int start = in.begin[i], n = in.end[i] - start, own = rows.count();
        if (n > 1) sequence(m, in.tokens + start, n - 1, length, prefix, length, begin);
        for (int t = 0; t < n; t++)
          if (in.counted[start + t])
            targets.push_back({t == 0 ? begin + length - 1 : own + t - 1, in.tokens[start + t], start + t});
      }
    }
    head = std::make_unique<HeadPass<T>>(m, std::move(targets));
  }

  void forward(const Model<T>& m, float temperature, const Values& out, bool keep, Room& room) {
    const Sizes& s = m.shape;
    int n = rows.count();
    float* x = kept->padded<float>(n, s.hidden, s.wide());
    for (int r = 0; r < n; r++) std::copy_n(m.embedding + size_t(rows.token[r]) * s.hidden, s.hidden, x + size_t(r) * s.wide());
    for (int l = 0; l < s.layers; l++) {
      if (keep || l == 0) saved.emplace_back(*kept, s, n);
      block_forward(m, l, rows, x, saved.back(), keep, room);
    }
    head->forward(x, temperature, out, *kept, room);
  }

  void backward(const Model<T>& m, float temperature, const Values& slopes, Gradients<T>& grad, Room& room) {
    const Sizes& s = m.shape;
    float* dx = kept->zeros<float>(size_t(rows.count()) * s.wide());
    head->backward(temperature, slopes, grad.head(), grad.final_norm(), dx, room);
    for (int l = s.layers - 1; l >= 0; l--) block_backward(m, l, rows, dx, saved[l], grad.layer(l), room);
    for (int r = 0; r < rows.count(); r++) add(grad.embedding(rows.token[r]), dx + size_t(r) * s.wide(), s.hidden);
  }

 private:
  const Cache<T>* sequence(const Model<T>& m, const int32_t* tokens, int n, int seen, const Cache<T>* prefix, int prefix_length,
                           int prefix_row) {
    caches.emplace_back(*kept, m.shape, 1, n);
    int row = rows.count();
    for (int i = 0; i < n; i++) rows.token.push_back(tokens[i]), rows.position.push_back(seen + i);
    rows.families.push_back({row, n, int(rows.spans.size()), 1, prefix, prefix_length, prefix_row});
    rows.spans.push_back({row, n, 0, &caches.back()});
    return &caches.back();
  }
};

// Cut into chunks of about `most` rows, at least one for each thread if there are enough sequences. A context is repeated where
// its sequences need several chunks, but not before they have as many rows as itself. A function of lengths and threads alone.
template <class T>
std::vector<Chunk<T>> chunks_of(const Sequences& in, int most, int threads) {
  auto cut = [&](auto limit) {
    std::vector<Chunk<T>> chunks;
    for (int i = 0; i < in.sequences; i++) {
      int c = in.context[i], length = in.context_starts[c + 1] - in.context_starts[c], own = in.end[i] - in.begin[i] - 1;
      bool fresh = chunks.empty() || chunks.back().pieces.back().context != c;
      int more = own + (fresh ? length : 0);
      if (chunks.empty() || chunks.back().size + more > limit(length)) chunks.emplace_back(), fresh = true, more = own + length;
      if (fresh) chunks.back().pieces.push_back({c, i, i});
      chunks.back().pieces.back().last = i + 1;
      chunks.back().size += more;
    }
    return chunks;
  };
  auto chunks = cut([&](int length) { return std::max(most, 2 * length); });
  if (int(chunks.size()) >= threads) return chunks;
  int own = 0;
  for (int i = 0; i < in.sequences; i++) own += in.end[i] - in.begin[i];
  return cut([&](int length) { return length + (own + threads - 1) / threads; });
}

// Which thread does which chunk: the longest first, each to the thread with the least to do.
template <class T>
std::vector<std::vector<int>> deal(const std::vector<Chunk<T>>& chunks, int threads) {
  std::vector<int> order(chunks.size()), load(threads, 0);
  for (size_t i = 0; i < order.size(); i++) order[i] = int(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return chunks[a].size > chunks[b].size; });
  std::vector<std::vector<int>> dealt(threads);
  for (int i : order) {
    int t = int(std::min_element(load.begin(), load.end()) - load.begin());
    dealt[t].push_back(i), load[t] += chunks[i].size;
  }
  return dealt;
}

}  // namespace groupwise
