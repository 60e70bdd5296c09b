// The functions that library.py calls. A call that fails returns null or -1 and leaves its reason for gw_error.
#include "sampling.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

namespace groupwise {

static thread_local std::string error;

struct Engine {
  virtual ~Engine() = default;
  virtual void load(const float* const* parameters) = 0;
  virtual void* score(const Sequences& in, float temperature, const Values& out, bool keep) = 0;
  virtual size_t places(Place* to) = 0;
  virtual void backward(void* ticket, const Values& slopes, float* sums) = 0;
  virtual void drop(void* ticket) = 0;
  virtual void collect(float* sums) = 0;
  virtual void rest() = 0;
  virtual int rows_at_a_time(int rows, int most) = 0;
  virtual void* sampler(const Wishes& w) = 0;
  virtual void sample(void* sampler, int steps) = 0;
  virtual void end(void* sampler) = 0;
};

template <class T>
class EngineOf : public Engine {
 public:
  EngineOf(const Shape& shape, const float* frequencies, float scale, int threads, int chunk_rows)
      : model_(shape, frequencies, scale), threads_(threads), chunk_rows_(chunk_rows), rooms_(threads) {}

  void load(const float* const* parameters) override {
    std::atomic<int> next{0};
    in_threads(threads_, [&](int t) {
      for (int i; (i = next++) < model_.items();) model_.load(i, parameters, rooms_[t].big);
    });
  }

  void* score(const Sequences& in, float temperature, const Values& out, bool keep) override {
    int longest = 0;
    for (int i = 0; i < in.sequences; i++) {
      int c = in.context[i];
      longest = std::max(longest, in.context_starts[c + 1] - in.context_starts[c] + in.end[i] - in.begin[i]);
    }
    model_.reach(longest);
    auto ticket = std::make_unique<Ticket>();
    ticket->temperature = temperature;
    ticket->chunks = chunks_of<T>(in, chunk_rows_, threads_);
    ticket->dealt = deal(ticket->chunks, threads_);
    try {
      for (auto& chunk : ticket->chunks) chunk.kept = borrow();
      in_threads(threads_, [&](int t) {
        for (int c : ticket->dealt[t]) {
          ticket->chunks[c].build(model_, in);
          ticket->chunks[c].forward(model_, temperature, out, keep, rooms_[t]);
        }
      });
    } catch (...) {
      drop(ticket.release());
      throw;
    }
    if (keep) return ticket.release();
    drop(ticket.release());
    return this;
  }

  size_t places(Place* to) override {
    Gradients<T> layout(model_, nullptr);
    if (to) std::copy(layout.places().begin(), layout.places().end(), to);
    return layout.size();
  }

  void backward(void* given, const Values& slopes, float* sums) override {
    Ticket& ticket = *static_cast<Ticket*>(given);
    size_t size = places(nullptr);
    in_threads(threads_, [&](int t) {
      Gradients<T> own(model_, sums + t * size);
      for (int c : ticket.dealt[t]) ticket.chunks[c].backward(model_, ticket.temperature, slopes, own, rooms_[t]);
    });
  }

  void drop(void* given) override {
    std::unique_ptr<Ticket> ticket(static_cast<Ticket*>(given));
    for (size_t i = ticket->chunks.size(); i-- > 0;)
      if (ticket->chunks[i].kept) give_back(ticket->chunks[i].kept);
  }

  // The first thread's sums += those of the others, in their order; theirs begin anew.
  void collect(float* sums) override {
    size_t size = places(nullptr);
    in_threads(threads_, [&](int part) {
      size_t from = size * part / threads_, to = size * (part + 1) / threads_;
      for (int t = 1; t < threads_; t++) {
        add(sums + from, sums + t * size + from, to - from);
        std::fill_n(sums + t * size + from, to - from, 0.0f);
      }
    });
  }

  // Working memory goes back to the system; what is lent out stays.
  void rest() override {
    for (Arena* arena : spare_) *arena = Arena();
    for (Room& room : rooms_) room = Room();
  }

  int rows_at_a_time(int rows, int most) override { return threads_ * groupwise::rows_at_a_time(model_.shape, rows, most, threads_); }

  void* sampler(const Wishes& w) override {
    int longest = 0;
    for (int c = 0; c < w.contexts; c++) longest = std::max(longest, w.context_starts[c + 1] - w.context_starts[c]);
    model_.reach(longest + w.max_tokens);
    auto found = std::make_unique<Shares>(model_.shape, w, threads_);
    try {
      for (int t = 0; t < threads_; t++) {
        found->memory.push_back(borrow());
        found->samplers.push_back(std::make_unique<Sampler<T>>(model_, w, found->queue, *found->memory.back()));
      }
    } catch (...) {
      end(found.release());
      throw;
    }
    return found.release();
  }

  void sample(void* sampler, int steps) override {
    Shares& shares = *static_cast<Shares*>(sampler);
    in_threads(threads_, [&](int t) { shares.samplers[t]->run(steps, rooms_[t]); });
  }

  void end(void* sampler) override {
    std::unique_ptr<Shares> shares(static_cast<Shares*>(sampler));
    for (size_t i = shares->memory.size(); i-- > 0;) give_back(shares->memory[i]);
  }

 private:
  struct Ticket {
    float temperature;
    std::vector<Chunk<T>> chunks;
    std::vector<std::vector<int>> dealt;
  };
  struct Shares {
    Shares(const Sizes& s, const Wishes& w, int threads) : queue(s, w, threads) {}
    Queue queue;
    std::vector<std::unique_ptr<Sampler<T>>> samplers;
    std::vector<Arena*> memory;
  };

  // Arenas are a stack: the same ones serve the same purpose again and again, and are as large as that needs.
  void give_back(Arena* arena) {
    arena->reset();
    spare_.push_back(arena);
  }
  Arena* borrow() {
    if (spare_.empty()) {
      arenas_.push_back(std::make_unique<Arena>());
      return arenas_.back().get();
    }
    Arena* found = spare_.back();
    spare_.pop_back();
    return found;
  }

  Model<T> model_;
  int threads_, chunk_rows_;
  std::vector<Room> rooms_;
  std::vector<std::unique_ptr<Arena>> arenas_;
  std::vector<Arena*> spare_;
};

template <class T>
double peak(int m, int n, int k, int repeats, int threads) {
  k = round_up(k, 32), n = round_up(n, 32);
  std::vector<double> seconds(threads);
  in_threads(threads, [&](int t) {
    Arena arena;
    T* a = arena.zeros<T>(size_t(m) * k);
    float* c = arena.get<float>(size_t(m) * n);
    Panels<T> b = panels<T>(arena, k, n);
    pack(a, k, std::min(m, k), std::min(n, k), b);
    auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; i++) gemm(a, k, m, b, n / WIDTH, k, c, n, false);
    seconds[t] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  });
  return 2.0 * m * n * k * repeats * threads / *std::max_element(seconds.begin(), seconds.end());
}

template <class F>
void* guarded(F f) {
  try {
    return f();
  } catch (const std::exception& e) {
    error = e.what();
  } catch (...) {
    error = "unknown failure";
  }
  return nullptr;
}

template <class F>
int checked(F f) {
  return guarded([&]() -> void* {
           f();
           return &error;
         })
             ? 0
             : -1;
}

}  // namespace groupwise

using namespace groupwise;

extern "C" {

const char* gw_error() { return error.c_str(); }

// Whether this process may use what the library was built for: 0, or -1 and the reason.
int gw_ready() {
  return checked([] { prepare_process(); });
}
// Floating-point operations a second of products [m, k] x [k, n] that stay in the cache, all threads together; -1: failed.
double gw_peak(int narrow, int m, int n, int k, int repeats, int threads) {
  double rate = -1;
  checked([&] { rate = narrow ? peak<bf16>(m, n, k, repeats, threads) : peak<float>(m, n, k, repeats, threads); });
  return rate;
}
void* gw_create(const Shape* shape, const float* frequencies, float scale, int narrow, int threads, int chunk_rows) {
  return guarded([&]() -> void* {
    if (narrow) return static_cast<Engine*>(new EngineOf<bf16>(*shape, frequencies, scale, threads, chunk_rows));
    return static_cast<Engine*>(new EngineOf<float>(*shape, frequencies, scale, threads, chunk_rows));
  });
}
void gw_destroy(void* engine) { delete static_cast<Engine*>(engine); }
int gw_load(void* engine, const float* const* parameters) {
  return checked([&] { static_cast<Engine*>(engine)->load(parameters); });
}
void* gw_score(void* engine, const Sequences* in, float temperature, const Values* out, int keep) {
  return guarded([&] { return static_cast<Engine*>(engine)->score(*in, temperature, *out, keep != 0); });
}
// Floats of a thread's gradients; with `to`, where each parameter's lies in them.
size_t gw_places(void* engine, Place* to) { return static_cast<Engine*>(engine)->places(to); }
int gw_backward(void* engine, void* ticket, const Values* slopes, float* sums) {
  return checked([&] { static_cast<Engine*>(engine)->backward(ticket, *slopes, sums); });
}
int gw_drop(void* engine, void* ticket) {
  return checked([&] { static_cast<Engine*>(engine)->drop(ticket); });
}
int gw_collect(void* engine, float* sums) {
  return checked([&] { static_cast<Engine*>(engine)->collect(sums); });
}
int gw_rest(void* engine) {
  return checked([&] { static_cast<Engine*>(engine)->rest(); });
}
// How many of so many rows run at a time, if `most` may.
int gw_rows_at_a_time(void* engine, int rows, int most) { return static_cast<Engine*>(engine)->rows_at_a_time(rows, most); }
void* gw_sampler(void* engine, const Wishes* wishes) {
  return guarded([&] { return static_cast<Engine*>(engine)->sampler(*wishes); });
}
int gw_sample(void* engine, void* sampler, int steps) {
  return checked([&] { static_cast<Engine*>(engine)->sample(sampler, steps); });
}
int gw_sampler_end(void* engine, void* sampler) {
  return checked([&] { static_cast<Engine*>(engine)->end(sampler); });
}
}
