// Sampling: rows that share contexts, each context run once; every row has random numbers of its own.
#pragma once
#include "training.h"

namespace groupwise {

// SplitMix64's finaliser, and a number in [0, 1) for a stream and a position: as in core/keyed.py.
inline uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}
inline double uniform(uint64_t stream, uint64_t position) {
  constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15ull;
  return double(mix(mix(stream + position * GOLDEN) + GOLDEN) >> 11) * 0x1p-53;
}

// A token by the inverse of the cumulative distribution; one of probability zero is never drawn. `p` is working memory [n].
ROW_FUNCTION inline int draw(const float* logp, int n, double u, float* p) {
  constexpr int BLOCK = 512;
  std::vector<double> sums;
  double total = 0;
  for (int from = 0; from < n; from += BLOCK) {
    float sum = 0;
    for (int i = from; i < std::min(n, from + BLOCK); i++) sum += p[i] = exp_of(logp[i]);
    sums.push_back(sum), total += sum;
  }
  double target = std::min(u * total, std::nextafter(total, 0.0)), below = 0;
  int found = 0;
  for (size_t b = 0; b < sums.size() && below <= target; below += sums[b++]) {
    if (below + sums[b] <= target && b + 1 < sums.size()) continue;
    double at = below;
    for (int i = int(b) * BLOCK; i < std::min(n, int(b + 1) * BLOCK); i++) {
      if (p[i] > 0) found = i;
      if ((at += p[i]) > target) return found;
    }
  }
  return found;
}

// What is asked for, as flat arrays; rows of one context stand together. tokens and logp are [rows, max_tokens].
struct Wishes {
  int32_t contexts, rows, max_tokens, ends;
  const int32_t *context_tokens, *context_starts, *context, *end_tokens;
  const uint64_t* streams;
  float temperature;  // 0: the most likely token; log-probs at temperature 1
  int32_t *tokens, *lengths;
  float* logp;
  uint8_t* done;  // 1: ended by an end token, 2: by length; the caller may set 1 between two runs
};

// One thread's share of the rows.
template <class T>
class Sampler {
 public:
  // `memory` holds the caches for the sampler's life, in turns.
  Sampler(const Model<T>& m, const Wishes& w, int first, int last, std::vector<Arena*> memory)
      : m_(m), w_(w), first_(first), last_(last), memory_(std::move(memory)) {}

  // Make up to `steps` more tokens for every row that has not ended.
  void run(int steps, Room& room) {
    if (first_ == last_) return;
    if (own_.empty()) start(room), steps--;
    for (; steps > 0 && gather(); steps--) {
      forward(room);
      scatter(rows_.count(), [&](int i) { return alive_[i]; }, [](int i) { return i; }, room);
    }
  }

 private:
  Cache<T> cache(int positions) { return {*memory_[caches_made_++ % memory_.size()], m_.shape, m_.shape.layers, positions}; }

  // Most rows end early: their caches begin small, and double when they are full.
  void make_room(int i) {
    Cache<T>& own = own_[i - first_];
    if (w_.lengths[i] - 1 < own.positions) return;
    Cache<T> larger = cache(std::min(2 * own.positions, w_.max_tokens - 1));
    larger.copy(own);
    own = larger;
  }
  int prefix_length(int c) const { return w_.context_starts[c + 1] - w_.context_starts[c]; }

  // Run every context, and sample the first token of every row.
  void start(Room& room) {
    prefixes_.reserve(size_t(last_ - first_));  // pointers to them must stay
    prefix_.assign(last_ - first_, nullptr);
    std::vector<int> last_row(last_ - first_);
    for (int i = first_; i < last_;) {  // contexts in portions of bounded size
      rows_ = {};
      int begin = i;
      while (i < last_ && (i == begin || rows_.count() < PORTION)) {
        int c = w_.context[i], n = prefix_length(c), row = rows_.count();
        prefixes_.push_back(cache(n));
        for (int t = 0; t < n; t++) rows_.token.push_back(w_.context_tokens[w_.context_starts[c] + t]), rows_.position.push_back(t);
        rows_.families.push_back({row, n, int(rows_.spans.size()), 1, nullptr, 0, -1});
        rows_.spans.push_back({row, n, 0, &prefixes_.back()});
        const Cache<T>* prefix = &prefixes_.back();
        for (; i < last_ && w_.context[i] == c; i++) prefix_[i - first_] = prefix, last_row[i - first_] = row + n - 1;
      }
      forward(room);
      scatter(i - begin, [&](int k) { return begin + k; }, [&](int k) { return last_row[begin + k - first_]; }, room);
    }
    own_.reserve(size_t(last_ - first_));
    for (int i = first_; i < last_; i++) own_.push_back(cache(std::max(1, std::min(FIRST_POSITIONS, w_.max_tokens - 1))));
  }

  // The rows that go on, with their last tokens; false if there are none.
  bool gather() {
    rows_ = {};
    alive_.clear();
    int family = -1;
    for (int i = first_; i < last_; i++) {
      if (w_.done[i]) continue;
      int c = w_.context[i], row = rows_.count(), made = w_.lengths[i];
      if (c != family) rows_.families.push_back({row, 0, row, 0, prefix_[i - first_], prefix_length(c), -1});
      family = c;
      rows_.families.back().count++, rows_.families.back().spans++;
      make_room(i);
      rows_.spans.push_back({row, 1, made - 1, &own_[i - first_]});
      rows_.token.push_back(w_.tokens[size_t(i) * w_.max_tokens + made - 1]);
      rows_.position.push_back(prefix_length(c) + made - 1);
      alive_.push_back(i);
    }
    return !alive_.empty();
  }

  // The residual stream of rows_ after all layers, in x_.
  void forward(Room& room) {
    const Sizes& s = m_.shape;
    int n = rows_.count();
    room.token.reset();
    x_ = room.token.padded<float>(n, s.hidden, s.wide());
    for (int r = 0; r < n; r++) std::copy_n(m_.embedding + size_t(rows_.token[r]) * s.hidden, s.hidden, x_ + size_t(r) * s.wide());
    Saved<T> saved(room.token, s, n);
    for (int l = 0; l < s.layers; l++) block_forward(m_, l, rows_, x_, saved, false, room);
  }

  // Sample a token for `n` rows: the k-th is the caller's row which(k), predicted at row at(k) of x_.
  template <class Which, class At>
  void scatter(int n, Which which, At at, Room& room) {
    const Sizes& s = m_.shape;
    int most = std::max(32, (1 << 19) / s.vocabulary_wide());  // rows whose logits exist at a time
    std::vector<Partial> parts;
    for (int from = 0; from < n; from += most) {
      int count = std::min(most, n - from), vocabulary = s.vocabulary_wide();
      room.big.reset();
      T* normed = room.big.padded<T>(count, s.hidden, s.wide());
      float *logits = room.big.get<float>(size_t(count) * vocabulary), *work = room.big.get<float>(std::max(s.hidden, vocabulary));
      for (int k = 0; k < count; k++)
        norm(x_ + size_t(at(from + k)) * s.wide(), m_.final_norm, s.hidden, s.epsilon, work, normed + size_t(k) * s.wide());
      m_.head.apply(normed, count, logits);
      for (int k = 0; k < count; k++) {
        float* logp = logits + size_t(k) * vocabulary;
        parts.clear();
        for (int w = 0; w < s.vocabulary; w += SLICE)
          parts.push_back(partial(logp + w, std::min(SLICE, s.vocabulary - w), w_.temperature > 0 ? 1.0f / w_.temperature : 1.0f));
        float lse = combine(parts.data(), int(parts.size())).lse;
        for (int w = 0; w < s.vocabulary; w++) logp[w] -= lse;
        take(which(from + k), logp, work);
      }
    }
  }

  void take(int i, const float* logp, float* work) {
    int made = w_.lengths[i], n = m_.shape.vocabulary;
    int token = w_.temperature > 0 ? draw(logp, n, uniform(w_.streams[i], made), work) : int(std::max_element(logp, logp + n) - logp);
    w_.tokens[size_t(i) * w_.max_tokens + made] = token;
    w_.logp[size_t(i) * w_.max_tokens + made] = logp[token];
    w_.lengths[i] = made + 1;
    bool end = std::find(w_.end_tokens, w_.end_tokens + w_.ends, token) != w_.end_tokens + w_.ends;
    w_.done[i] = end ? 1 : made + 1 == w_.max_tokens ? 2 : 0;
  }

  static constexpr int PORTION = 512, FIRST_POSITIONS = 32;
  const Model<T>& m_;
  const Wishes w_;
  int first_, last_;
  std::vector<Arena*> memory_;
  size_t caches_made_ = 0;
  std::vector<Cache<T>> prefixes_, own_;  // of contexts; of each row of this share
  std::vector<const Cache<T>*> prefix_;   // of each row of this share
  std::vector<int> alive_;
  Rows<T> rows_;
  float* x_ = nullptr;
};

// Where to cut the rows for so many threads: about equal numbers, a context's rows together where there are enough contexts.
inline std::vector<int> cuts(const Wishes& w, int threads) {
  std::vector<int> at{0};
  for (int t = 1; t < threads; t++) {
    int want = int(int64_t(w.rows) * t / threads), cut = want;
    while (w.contexts >= threads && cut > at.back() && cut < w.rows && w.context[cut] == w.context[cut - 1]) cut--;
    at.push_back(std::max(at.back(), cut));
  }
  at.push_back(w.rows);
  return at;
}

}  // namespace groupwise
