// Sampling: rows that share contexts, each context run once; every row has random numbers of its own.
#pragma once
#include "training.h"

#include <atomic>
#include <list>

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
  int32_t contexts, rows, max_tokens, ends, most;  // most: rows at a time at most, all threads together
  const int32_t *context_tokens, *context_starts, *context, *end_tokens;
  const uint64_t* streams;
  float temperature;  // 0: the most likely token; log-probs at temperature 1
  int32_t *tokens, *lengths;
  float* logp;
  uint8_t* done;  // 1: ended by an end token, 2: by length; the caller may set 1 between two runs
};

// Rows first..last that one thread begins together, after running their context once.
struct Run {
  int context, first, last;
  int count() const { return last - first; }
};

// Rows of a thread at a time. A step reads the weights once, and the keys and values of every row: about as many rows as make the
// two alike, so that neither is read in vain. (2.4M parameters: 24 rows, at which 256 tokens took 0.8 of the time of 128 rows.)
inline int rows_at_a_time(const Sizes& s, int rows, int most, int threads) {
  constexpr int64_t FEWEST = 24, POSITIONS = 96;  // full blocks of products; of a completion of middling length
  int64_t block = int64_t(s.qkv() + s.query() + 3 * s.mlp) * s.hidden, weights = s.layers * block + int64_t(s.vocabulary) * s.hidden;
  int64_t alike = weights / (s.layers * 2 * s.key() * POSITIONS);
  return int(std::min<int64_t>(std::max(alike, FEWEST), std::max(1, std::min(most, rows) / threads)));
}

// What nobody has begun yet: threads take from it whenever they have room for more.
class Queue {
 public:
  Queue(const Sizes& s, const Wishes& w, int threads) : most_(rows_at_a_time(s, w.rows, w.most, threads)) {
    for (int i = 0, end; i < w.rows; i = end) {
      for (end = i; end < w.rows && w.context[end] == w.context[i];) end++;
      int parts = (end - i + most_ - 1) / most_;
      for (int p = 0, from = i; p < parts; p++) {
        int to = i + int(int64_t(end - i) * (p + 1) / parts);
        runs_.push_back({w.context[i], from, to}), from = to;
      }
    }
  }
  // The next run, if there is one and a thread that has so many rows can hold its own too.
  const Run* take(int rows) {
    size_t at = next_;
    while (at < runs_.size() && rows + runs_[at].count() <= most_)
      if (next_.compare_exchange_weak(at, at + 1)) return &runs_[at];
    return nullptr;
  }

 private:
  int most_;
  std::vector<Run> runs_;
  std::atomic<size_t> next_{0};
};

// One thread's rows: it begins some, and others when those have ended.
template <class T>
class Sampler {
 public:
  // `memory` holds the caches for the sampler's life.
  Sampler(const Model<T>& m, const Wishes& w, Queue& queue, Arena& memory) : m_(m), w_(w), queue_(queue), memory_(memory) {}

  // Make up to `steps` more tokens for every row that has not ended.
  void run(int steps, Room& room) {
    for (; steps > 0 && gather(); steps--) {
      forward(room);
      sample(room);
    }
  }

 private:
  struct Begun {
    Cache<T> prefix;
    int length, left;  // positions of the prefix; rows that go on
  };
  struct Going {
    int row;
    Begun* begun;
    Cache<T> own;
  };
  // A row of the caller's whose next token is predicted at row `at` of x_.
  struct Due {
    int row, at;
  };

  // A cache of at least so many positions: one that is free, or a new one.
  Cache<T> cache(int positions) {
    positions = round_up(positions, 32);
    for (auto& c : free_)
      if (c.positions == positions) {
        std::swap(c, free_.back());
        Cache<T> found = free_.back();
        free_.pop_back();
        return found;
      }
    return {memory_, m_.shape, m_.shape.layers, positions};
  }

  // What runs next: the last tokens of the rows that go on, and contexts whose rows begin; false if there is nothing.
  bool gather() {
    rows_ = {}, due_.clear();
    drop_ended();
    const Begun* family = nullptr;
    for (Going& g : going_) {
      int row = rows_.count(), made = w_.lengths[g.row];
      if (g.begun != family) rows_.families.push_back({row, 0, int(rows_.spans.size()), 0, &g.begun->prefix, g.begun->length, -1});
      family = g.begun;
      rows_.families.back().count++, rows_.families.back().spans++;
      make_room(g, made);
      rows_.spans.push_back({row, 1, made - 1, &g.own});
      rows_.token.push_back(w_.tokens[size_t(g.row) * w_.max_tokens + made - 1]);
      rows_.position.push_back(g.begun->length + made - 1);
      due_.push_back({g.row, row});
    }
    begin();
    return !due_.empty();
  }

  void drop_ended() {
    going_.remove_if([&](const Going& g) {
      if (!w_.done[g.row]) return false;
      free_.push_back(g.own);
      if (--g.begun->left == 0) free_.push_back(g.begun->prefix);
      return true;
    });
    begun_.remove_if([](const Begun& b) { return b.left == 0; });
  }

  // Most rows end early: their caches begin small, and double when they are full.
  void make_room(Going& g, int made) {
    if (made - 1 < g.own.positions) return;
    Cache<T> larger = cache(2 * g.own.positions);
    larger.copy(g.own);
    free_.push_back(g.own);
    g.own = larger;
  }

  // Contexts of bounded length in all, whose rows get their first tokens in this step.
  void begin() {
    int before = rows_.count();
    while (rows_.count() - before < PORTION) {
      const Run* run = queue_.take(int(going_.size()));
      if (!run) return;
      const int32_t* tokens = w_.context_tokens + w_.context_starts[run->context];
      int row = rows_.count(), n = w_.context_starts[run->context + 1] - w_.context_starts[run->context];
      begun_.push_back({cache(n), n, run->count()});
      for (int t = 0; t < n; t++) rows_.token.push_back(tokens[t]), rows_.position.push_back(t);
      rows_.families.push_back({row, n, int(rows_.spans.size()), 1, nullptr, 0, -1});
      rows_.spans.push_back({row, n, 0, &begun_.back().prefix});
      for (int i = run->first; i < run->last; i++) {
        going_.push_back({i, &begun_.back(), cache(1)});
        due_.push_back({i, row + n - 1});
      }
    }
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

  // Sample a token for every row that is due.
  void sample(Room& room) {
    const Sizes& s = m_.shape;
    int most = std::max(32, (1 << 19) / s.vocabulary_wide());  // rows whose logits exist at a time
    std::vector<Partial> parts;
    for (size_t from = 0; from < due_.size(); from += most) {
      int count = std::min(most, int(due_.size() - from)), vocabulary = s.vocabulary_wide();
      room.big.reset();
      T* normed = room.big.padded<T>(count, s.hidden, s.wide());
      float *logits = room.big.get<float>(size_t(count) * vocabulary), *work = room.big.get<float>(std::max(s.hidden, vocabulary));
      for (int k = 0; k < count; k++)
        norm(x_ + size_t(due_[from + k].at) * s.wide(), m_.final_norm, s.hidden, s.epsilon, work, normed + size_t(k) * s.wide());
      m_.head.apply(normed, count, logits);
      for (int k = 0; k < count; k++) {
        float* logp = logits + size_t(k) * vocabulary;
        parts.clear();
        for (int w = 0; w < s.vocabulary; w += SLICE)
          parts.push_back(partial(logp + w, std::min(SLICE, s.vocabulary - w), w_.temperature > 0 ? 1.0f / w_.temperature : 1.0f));
        float lse = combine(parts.data(), int(parts.size())).lse;
        for (int w = 0; w < s.vocabulary; w++) logp[w] -= lse;
        take(due_[from + k].row, logp, work);
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

  static constexpr int PORTION = 512;  // context tokens of a step from which on no further context is begun
  const Model<T>& m_;
  const Wishes w_;
  Queue& queue_;
  Arena& memory_;
  std::vector<Cache<T>> free_;
  std::list<Begun> begun_;  // lists, as pointers to what they hold must stay
  std::list<Going> going_;  // rows of one context stand together
  std::vector<Due> due_;
  Rows<T> rows_;
  float* x_ = nullptr;
};

}  // namespace groupwise
