// The head: from the residual stream to the log-prob, entropy and sum of squared probabilities of each wanted token; backward.
#pragma once
#include "block.h"

namespace groupwise {

// A wanted token: what is predicted at `row`, and where its results go.
struct Target {
  int row, token, index;
};

// What is returned for each target, and the gradient that comes back for each; null: not wanted.
struct Values {
  float *logp, *entropy, *sum_p2, *hidden;
};

// The words are taken in slices, so that the matrix [rows, vocabulary] never exists as a whole.
constexpr int SLICE = 8192, ROW_BLOCK = 512;

// Of one slice of a row of logits: the largest, and sums of e, e x and e^2 for e = exp(x - largest).
struct Partial {
  float most, sum, weighted, squares;
};

// Of a whole row: log of the sum of exponentials, entropy, sum of squared probabilities.
struct Moments {
  float lse, entropy, sum_p2;
};

// Scales the logits in place.
ROW_FUNCTION inline Partial partial(float* x, int n, float scale) {
  float most = -INFINITY, sum = 0, weighted = 0, squares = 0;
  for (int i = 0; i < n; i++) most = std::max(most, x[i] = x[i] * scale);
  for (int i = 0; i < n; i++) {
    float e = exp_of(x[i] - most);
    sum += e, weighted += e * std::max(x[i], -1e30f), squares += e * e;
  }
  return {most, sum, weighted, squares};
}

ROW_FUNCTION inline Moments combine(const Partial* p, int n) {
  float most = -INFINITY, sum = 0, weighted = 0, squares = 0;
  for (int i = 0; i < n; i++) most = std::max(most, p[i].most);
  for (int i = 0; i < n; i++) {
    float factor = std::exp(p[i].most - most);
    sum += p[i].sum * factor, weighted += p[i].weighted * factor, squares += p[i].squares * factor * factor;
  }
  float lse = most + std::log(sum);
  return {lse, lse - weighted / sum, squares / (sum * sum)};
}

// d logits of the gradients of logp (without its one-hot part), entropy and sum_p2, at temperature 1.
ROW_FUNCTION inline void logits_gradient(const float* x, int n, const Moments& m, float dlogp, float dentropy, float dsum,
                                         float* dlogits) {
  for (int i = 0; i < n; i++) {
    float logp = std::max(x[i] - m.lse, -1e30f), p = exp_of(logp);
    dlogits[i] = p * (2.0f * dsum * (p - m.sum_p2) - dlogp - dentropy * (logp + m.entropy));
  }
}

template <class T>
class HeadPass {
 public:
  HeadPass(const Model<T>& model, std::vector<Target> wanted) : m_(model), targets_(std::move(wanted)) {
    std::sort(targets_.begin(), targets_.end(), [](const Target& a, const Target& b) {
      return a.row != b.row ? a.row < b.row : a.index < b.index;
    });
    for (size_t t = 0; t < targets_.size(); t++) {
      if (rows_.empty() || rows_.back() != targets_[t].row) rows_.push_back(targets_[t].row), first_.push_back(int(t));
    }
    first_.push_back(int(targets_.size()));
  }

  void forward(const float* stream, float temperature, const Values& out, Arena& kept, Room& room) {
    const Sizes& s = m_.shape;
    int n = int(rows_.size());
    x_ = kept.get<float>(size_t(n) * s.wide()), inverse_ = kept.get<float>(n), moments_ = kept.get<Moments>(n);
    for (int i = 0; i < n; i++) std::copy_n(stream + size_t(rows_[i]) * s.wide(), s.wide(), x_ + size_t(i) * s.wide());
    room.big.reset();
    normed_ = norms<T>(s, x_, m_.final_norm, n, kept, inverse_);
    int slices = (s.vocabulary + SLICE - 1) / SLICE;
    Partial* parts = room.big.get<Partial>(size_t(n) * slices);
    each(room, [&](int row, int from, int words, float* logits) {
      parts[size_t(row) * slices + from / SLICE] = partial(logits, words, 1.0f / temperature);
      each_target(row, from, words, [&](const Target& t) { out.logp[t.index] = logits[t.token - from]; });
    }, [](int, int, int, int) {});
    for (int i = 0; i < n; i++) {
      moments_[i] = combine(parts + size_t(i) * slices, slices);
      each_target(i, 0, s.vocabulary, [&](const Target& t) {
        out.logp[t.index] -= moments_[i].lse;
        if (out.entropy) out.entropy[t.index] = moments_[i].entropy;
        if (out.sum_p2) out.sum_p2[t.index] = moments_[i].sum_p2;
        if (out.hidden) fetch(normed_ + size_t(i) * s.wide(), out.hidden + size_t(t.index) * s.hidden, s.hidden);
      });
    }
  }

  // dstream[row] = gradient of the residual stream at the targets' rows (others are left alone).
  void backward(float temperature, const Values& slopes, float* dhead, float* dfinal_norm, float* dstream, Room& room) const {
    const Sizes& s = m_.shape;
    int n = int(rows_.size()), wide = s.wide(), most = std::min(n, ROW_BLOCK), width = std::min(s.vocabulary_wide(), SLICE);
    room.big.reset();
    float* dnormed = room.big.get<float>(size_t(n) * wide);
    float* slope = room.big.get<float>(width);
    T* dlogits = room.big.zeros<T>(size_t(most) * width);
    float scale = 1.0f / temperature;
    each(room, [&](int row, int from, int words, float* logits) {
      float dlogp = 0, dentropy = 0, dsum = 0;
      each_target(row, 0, s.vocabulary, [&](const Target& t) {
        dlogp += slopes.logp[t.index];
        if (slopes.entropy) dentropy += slopes.entropy[t.index];
        if (slopes.sum_p2) dsum += slopes.sum_p2[t.index];
      });
      for (int i = 0; i < words; i++) logits[i] *= scale;
      logits_gradient(logits, words, moments_[row], dlogp, dentropy, dsum, slope);
      each_target(row, from, words, [&](const Target& t) { slope[t.token - from] += slopes.logp[t.index]; });
      for (int i = 0; i < words; i++) slope[i] *= scale;
      narrow(slope, dlogits + size_t(row % ROW_BLOCK) * width, words);
    }, [&](int first, int count, int from, int words) {
      int k = round_up(words, 32);
      if (words < k)  // of a slice before it
        for (int i = 0; i < count; i++) std::memset(static_cast<void*>(dlogits + size_t(i) * width + words), 0, (k - words) * sizeof(T));
      gemm(dlogits, width, count, rows_from(m_.head.backward, from), wide / WIDTH, k, dnormed + size_t(first) * wide, wide, from > 0);
      room.small.reset();
      Panels<T> left = panels<T>(room.small, count, k), right = panels<T>(room.small, count, wide);
      pack(dlogits, width, count, k, left);
      pack(normed_ + size_t(first) * wide, wide, count, wide, right);
      gemm_transposed(left, k, right, wide / WIDTH, round_up(count, K_STEP<T>), dhead + size_t(from) * wide, wide, true);
    });
    for (int i = 0; i < n; i++) {
      float *dy = dnormed + size_t(i) * wide, *dx = dstream + size_t(rows_[i]) * wide;
      if (slopes.hidden)
        each_target(i, 0, s.vocabulary, [&](const Target& t) { add(dy, slopes.hidden + size_t(t.index) * s.hidden, s.hidden); });
      std::fill_n(dx, wide, 0.0f);
      norm_backward(x_ + size_t(i) * wide, m_.final_norm, s.hidden, inverse_[i], dy, dx, dfinal_norm);
    }
  }

 private:
  // The rows of B from `k` on.
  static Panels<T> rows_from(const Panels<T>& b, int k) { return {b.data + size_t(k) * WIDTH, b.k}; }

  template <class F>
  void each_target(int row, int from, int words, F f) const {
    for (int t = first_[row]; t < first_[row + 1]; t++)
      if (targets_[t].token >= from && targets_[t].token < from + words) f(targets_[t]);
  }

  // Logits slice by slice: f(row, first word, words, logits) for each row, then g(first row, rows, first word, words).
  template <class F, class G>
  void each(Room& room, F f, G g) const {
    const Sizes& s = m_.shape;
    int n = int(rows_.size()), width = std::min(s.vocabulary_wide(), SLICE);
    float* logits = room.big.get<float>(size_t(std::min(n, ROW_BLOCK)) * width);
    for (int first = 0; first < n; first += ROW_BLOCK)
      for (int from = 0; from < s.vocabulary; from += SLICE) {
        int count = std::min(ROW_BLOCK, n - first), words = std::min(SLICE, s.vocabulary - from);
        Panels<T> slice{m_.head.forward.at(from / WIDTH), m_.head.forward.k};
        gemm(normed_ + size_t(first) * s.wide(), s.wide(), count, slice, round_up(words, 32) / WIDTH, s.wide(), logits, width, false);
        for (int i = 0; i < count; i++) f(first + i, from, words, logits + size_t(i) * width);
        g(first, count, from, words);
      }
  }

  const Model<T>& m_;
  std::vector<Target> targets_;    // sorted by row
  std::vector<int> rows_, first_;  // distinct rows of the targets, and the first target of each
  float *x_ = nullptr, *inverse_ = nullptr;
  Moments* moments_ = nullptr;
  T* normed_ = nullptr;
};

}  // namespace groupwise
