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

// log softmax of logits / temperature in place.
ROW_FUNCTION inline void log_softmax(float* x, int n, float temperature) {
  float most = -INFINITY, scale = 1.0f / temperature;
  for (int i = 0; i < n; i++) most = std::max(most, x[i] = x[i] * scale);
  float sum = 0;
  for (int i = 0; i < n; i++) sum += exp_of(x[i] - most);
  float shift = most + std::log(sum);
  for (int i = 0; i < n; i++) x[i] -= shift;
}

// Sums of -p log p and of p^2.
ROW_FUNCTION inline void moments(const float* logp, int n, float* entropy, float* sum_p2) {
  float h = 0, s = 0;
  for (int i = 0; i < n; i++) {
    float p = exp_of(logp[i]);
    h -= p * std::max(logp[i], -1e30f);
    s += p * p;
  }
  *entropy = h, *sum_p2 = s;
}

// d logits += of the gradients of logp (without its one-hot part), entropy and sum_p2, at temperature 1.
ROW_FUNCTION inline void logits_gradient(const float* logp, int n, float dlogp, float dentropy, float entropy, float dsum,
                                         float sum_p2, float* dlogits) {
  for (int i = 0; i < n; i++) {
    float p = exp_of(logp[i]);
    dlogits[i] += p * (2.0f * dsum * (p - sum_p2) - dlogp - dentropy * (std::max(logp[i], -1e30f) + entropy));
  }
}

template <class T>
struct HeadPass {
  const Model<T>& m;
  std::vector<Target> targets;  // sorted by row
  std::vector<int> rows;        // distinct rows of the targets
  float *x = nullptr, *inverse = nullptr;
  T* normed = nullptr;

  HeadPass(const Model<T>& model, std::vector<Target> wanted) : m(model), targets(std::move(wanted)) {
    std::sort(targets.begin(), targets.end(), [](const Target& a, const Target& b) {
      return a.row != b.row ? a.row < b.row : a.index < b.index;
    });
    for (auto& t : targets)
      if (rows.empty() || rows.back() != t.row) rows.push_back(t.row);
  }
  int block() const { return std::max(32, (1 << 19) / m.shape.vocabulary_wide()); }  // rows whose logits exist at a time

  // Calls f(log-probs of a row, the row's place among `rows`, first and last target of it) block by block; f may write to the
  // row. After each block g(first place, rows, the block's logits).
  template <class F, class G>
  void each(float temperature, Room& room, F f, G g) const {
    const Sizes& s = m.shape;
    int vocabulary = s.vocabulary_wide(), at = 0;
    float* logits = room.big.get<float>(size_t(std::min<int>(block(), rows.size())) * vocabulary);
    for (int first = 0; first < int(rows.size()); first += block()) {
      int count = std::min<int>(block(), rows.size() - first);
      m.head.apply(normed + size_t(first) * s.wide(), count, logits);
      for (int i = 0; i < count; i++) {
        int from = at;
        while (at < int(targets.size()) && targets[at].row == rows[first + i]) at++;
        log_softmax(logits + size_t(i) * vocabulary, s.vocabulary, temperature);
        f(logits + size_t(i) * vocabulary, first + i, from, at);
      }
      g(first, count, logits);
    }
  }

  void forward(const float* stream, float temperature, const Values& out, Arena& kept, Room& room) {
    const Sizes& s = m.shape;
    x = kept.get<float>(rows.size() * s.wide()), inverse = kept.get<float>(rows.size());
    normed = kept.padded<T>(rows.size(), s.hidden, s.wide());
    for (size_t i = 0; i < rows.size(); i++) std::copy_n(stream + size_t(rows[i]) * s.wide(), s.wide(), x + i * s.wide());
    room.big.reset();
    norms(s, x, m.final_norm, int(rows.size()), room.big, inverse, normed);
    each(temperature, room, [&](const float* logp, int place, int from, int to) {
      float entropy = 0, sum_p2 = 0;
      if (out.entropy || out.sum_p2) moments(logp, s.vocabulary, &entropy, &sum_p2);
      for (int t = from; t < to; t++) {
        const Target& target = targets[t];
        out.logp[target.index] = logp[target.token];
        if (out.entropy) out.entropy[target.index] = entropy;
        if (out.sum_p2) out.sum_p2[target.index] = sum_p2;
        if (out.hidden) fetch(normed + size_t(place) * s.wide(), out.hidden + size_t(target.index) * s.hidden, s.hidden);
      }
    }, [](int, int, float*) {});
  }

  // dstream[row] = gradient of the residual stream at the targets' rows (others are left alone).
  void backward(float temperature, const Values& slopes, float* dhead, float* dfinal_norm, float* dstream, Room& room) const {
    const Sizes& s = m.shape;
    int vocabulary = s.vocabulary_wide(), wide = s.wide();
    room.big.reset();
    int most = std::min<int>(block(), rows.size());
    std::vector<float> slope(vocabulary), scaled(vocabulary);
    T* dlogits = room.big.padded<T>(most, s.vocabulary, vocabulary);
    float* dnormed = room.big.get<float>(size_t(most) * wide);
    std::vector<int> ends(rows.size() + 1, 0);
    each(temperature, room, [&](const float* logp, int place, int from, int to) {
      ends[place + 1] = to;
      float entropy = 0, sum_p2 = 0, dlogp = 0, dentropy = 0, dsum = 0;
      if (slopes.entropy || slopes.sum_p2) moments(logp, s.vocabulary, &entropy, &sum_p2);
      std::fill(slope.begin(), slope.end(), 0.0f);
      for (int t = from; t < to; t++) {
        int i = targets[t].index;
        dlogp += slopes.logp[i];
        slope[targets[t].token] += slopes.logp[i];
        if (slopes.entropy) dentropy += slopes.entropy[i];
        if (slopes.sum_p2) dsum += slopes.sum_p2[i];
      }
      logits_gradient(logp, s.vocabulary, dlogp, dentropy, entropy, dsum, sum_p2, slope.data());
      for (int i = 0; i < s.vocabulary; i++) scaled[i] = slope[i] / temperature;
      narrow(scaled.data(), dlogits + size_t(place % block()) * vocabulary, s.vocabulary);
    }, [&](int first, int count, float*) {
      weight_gradient(dlogits, normed + size_t(first) * wide, count, m.head, dhead, room.small);
      m.head.apply_backward(dlogits, count, dnormed);
      for (int i = 0; i < count; i++) {
        float* dy = dnormed + size_t(i) * wide;
        if (slopes.hidden)
          for (int t = ends[first + i]; t < ends[first + i + 1]; t++)
            add(dy, slopes.hidden + size_t(targets[t].index) * s.hidden, s.hidden);
        float* dx = dstream + size_t(rows[first + i]) * wide;
        std::fill_n(dx, wide, 0.0f);
        norm_backward(x + size_t(first + i) * wide, m.final_norm, s.hidden, inverse[first + i], dy, dx, dfinal_norm);
      }
    });
  }
};

}  // namespace groupwise
