// What happens to one row at a time: norms, rotations, the gated activation, softmax; each with its gradient below it.
// None of these is inlined: sampling and training must run the very same instructions.
#pragma once
#include "model.h"

#define ROW_FUNCTION __attribute__((noinline))

namespace groupwise {

// out = w * x / rms(x); returns 1 / rms(x).
template <class T>
ROW_FUNCTION float norm(const float* x, const float* w, int n, float epsilon, float* room, T* out) {
  float sum = 0;
  for (int i = 0; i < n; i++) sum += x[i] * x[i];
  float inverse = 1.0f / std::sqrt(sum / float(n) + epsilon);
  for (int i = 0; i < n; i++) room[i] = x[i] * inverse * w[i];
  narrow(room, out, n);
  return inverse;
}

// dx += d norm / d x * dy; dw += d norm / d w * dy.
ROW_FUNCTION inline void norm_backward(const float* x, const float* w, int n, float inverse, const float* dy, float* dx, float* dw) {
  float dot = 0;
  for (int i = 0; i < n; i++) dot += dy[i] * w[i] * x[i];
  float along = dot * inverse * inverse / float(n);
  for (int i = 0; i < n; i++) {
    dx[i] += inverse * (dy[i] * w[i] - x[i] * along);
    dw[i] += dy[i] * x[i] * inverse;
  }
}

// Rotate the two halves of a head against each other; `sign` -1 undoes it.
ROW_FUNCTION inline void rotate(float* x, const float* cosine, const float* sine, int half, float sign) {
  for (int i = 0; i < half; i++) {
    float a = x[i], b = x[half + i], s = sign * sine[i];
    x[i] = a * cosine[i] - b * s;
    x[half + i] = b * cosine[i] + a * s;
  }
}

// out = silu(gate) * up; the backward makes it again.
template <class T>
ROW_FUNCTION void gated(const float* gate, const float* up, int n, float* room, T* out) {
  for (int i = 0; i < n; i++) room[i] = gate[i] / (1.0f + exp_of(std::min(-gate[i], 80.0f))) * up[i];
  narrow(room, out, n);
}

template <class T>
ROW_FUNCTION void gated_backward(const T* gate, const T* up, const float* dy, int n, float* room, T* dgate, T* dup, T* out) {
  for (int i = 0; i < n; i++) {
    float g = widen(gate[i]), s = 1.0f / (1.0f + exp_of(std::min(-g, 80.0f)));
    room[i] = dy[i] * widen(up[i]) * s * (1.0f + g * (1.0f - s));
    room[n + i] = dy[i] * g * s;
    room[2 * n + i] = g * s * widen(up[i]);
  }
  narrow(room, dgate, n);
  narrow(room + n, dup, n);
  narrow(room + 2 * n, out, n);
}

ROW_FUNCTION inline float largest(const float* x, int n, float most) {
  for (int i = 0; i < n; i++) most = std::max(most, x[i]);
  return most;
}

// x = exp(scale * x - shift); returns the sum.
ROW_FUNCTION inline float exponentials(float* x, int n, float scale, float shift) {
  float sum = 0;
  for (int i = 0; i < n; i++) sum += x[i] = exp_of(scale * x[i] - shift);
  return sum;
}

// p = narrowed x, then zeros up to `end`.
template <class T>
inline void narrow_padded(const float* x, T* p, int n, int end) {
  narrow(x, p, n);
  std::memset(static_cast<void*>(p + n), 0, size_t(end - n) * sizeof(T));
}

ROW_FUNCTION inline float dot(const float* a, const float* b, int n) {
  float sum = 0;
  for (int i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

ROW_FUNCTION inline void add(float* to, const float* x, size_t n) {
  for (size_t i = 0; i < n; i++) to[i] += x[i];
}

template <class T>
inline void fetch(const T* from, float* to, int n) {
  for (int i = 0; i < n; i++) to[i] = widen(from[i]);
}

}  // namespace groupwise
