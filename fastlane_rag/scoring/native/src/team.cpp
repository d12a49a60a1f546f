#include "team.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif

namespace fastlane {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t ranges_a_thread = 4;  // documents differ, and a thread may wake late

int process() {
#if defined(_WIN32)
  return _getpid();
#else
  return static_cast<int>(getpid());
#endif
}

// One piece of work that several threads do together.
class Job {
 public:
  Job(Part part, const void* work, int64_t count, int32_t threads)
      : part_(part), work_(work), count_(count), ranges_(std::min(count, threads * ranges_a_thread)) {}

  // Takes ranges until there are none.
  void help() {
    for (int64_t i = next_.fetch_add(1); i < ranges_; i = next_.fetch_add(1)) {
      if (!part_(work_, count_ * i / ranges_, count_ * (i + 1) / ranges_)) failed_.store(true);
    }
  }

  bool failed() const { return failed_.load(); }

  int32_t wanted = 0;  // helpers that may still come; the pool's to change
  int32_t inside = 0;  // helpers at work; likewise

 private:
  Part part_;
  const void* work_;
  int64_t count_;
  int64_t ranges_;
  std::atomic<int64_t> next_{0};
  std::atomic<bool> failed_{false};
};

// Threads of our own. They sleep while there is nothing to do, and nobody waits for one that has not begun: on busy
// processors the caller does the work of a helper that comes late.
class Pool {
 public:
  explicit Pool(int owner) : owner(owner) {}

  const int owner;  // the process whose threads these are

  // Does a job with at most `helpers` threads beside this one.
  void run(Job& job, int32_t helpers) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      start(helpers);
      job.wanted = std::min(helpers, threads_.load());
      if (job.wanted) jobs_.push_back(&job);
    }
    if (helpers == 1) {
      wake_.notify_one();
    } else {
      wake_.notify_all();
    }
    job.help();
    std::unique_lock<std::mutex> lock(mutex_);
    const auto waiting = std::find(jobs_.begin(), jobs_.end(), &job);
    if (waiting != jobs_.end()) jobs_.erase(waiting);
    done_.wait(lock, [&] { return job.inside == 0; });
  }

  int32_t threads() const { return threads_.load(); }

 private:
  // Starts threads until there are so many; fewer where the system has no more.
  void start(int32_t wanted) {
    try {
      while (threads_.load() < wanted) {
        std::thread([this] { live(); }).detach();
        threads_.fetch_add(1);
      }
    } catch (const std::system_error&) {
      return;
    }
  }

  void live() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return !jobs_.empty(); });
      Job& job = *jobs_.front();
      ++job.inside;
      if (--job.wanted == 0) jobs_.pop_front();
      lock.unlock();
      job.help();
      lock.lock();
      if (--job.inside == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<Job*> jobs_;
  std::atomic<int32_t> threads_{0};
};

std::atomic<Pool*> the_pool{nullptr};

// The pool of this process. A forked child has the pool of its parent in memory but none of its threads, and maybe a
// lock that nobody will open: it is left alone, and another one made.
Pool& pool() {
  Pool* now = the_pool.load();
  while (!now || now->owner != process()) {
    Pool* fresh = new Pool(process());
    if (the_pool.compare_exchange_strong(now, fresh)) return *fresh;
    delete fresh;
  }
  return *now;
}

using Parallel = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

std::atomic<Parallel> openmp{nullptr};
std::atomic<int> openmp_process{0};  // GNU's threads do not survive a fork, and it would wait for them

// The right to use an OpenMP team, which one thread has as long as it lives.
class Right {
 public:
  Right() = default;
  Right(const Right&) = delete;
  Right& operator=(const Right&) = delete;
  ~Right() {
    if (mine_) taken_.store(false);
  }
  bool have() {
    if (!mine_ && !taken_.load(std::memory_order_relaxed)) mine_ = !taken_.exchange(true);
    return mine_;
  }

 private:
  bool mine_ = false;
  static std::atomic<bool> taken_;
};

std::atomic<bool> Right::taken_{false};
thread_local Right right;

// Until when work is not shared, for sharing it took longer than doing it alone.
std::atomic<int64_t> alone_until{0};
constexpr std::chrono::milliseconds alone_for{250};

struct Timed {
  Job* job;
  Clock::time_point done;
  std::thread::id caller;
};

void help_and_time(void* data) {
  Timed& timed = *static_cast<Timed*>(data);
  timed.job->help();
  if (std::this_thread::get_id() == timed.caller) timed.done = Clock::now();
}

}  // namespace

int32_t share(Part part, const void* work, int64_t count, int32_t threads) {
  threads = static_cast<int32_t>(std::min<int64_t>(threads, count));
  if (threads <= 1 || Clock::now().time_since_epoch().count() < alone_until.load(std::memory_order_relaxed)) {
    return count == 0 || part(work, 0, count) ? 0 : -1;
  }
  Job job(part, work, count, threads);
  const Parallel parallel = openmp.load();
  const Clock::time_point start = Clock::now();
  if (!parallel || openmp_process.load() != process() || !right.have()) {
    try {
      pool().run(job, threads - 1);
    } catch (const std::bad_alloc&) {  // before anybody began
      job.help();
    }
  } else {
    Timed timed = {&job, start, std::this_thread::get_id()};
    parallel(help_and_time, &timed, static_cast<unsigned>(threads), 0);
    // OpenMP waits for all its threads. One whose processor is busy with something else keeps everybody waiting.
    if (Clock::now() - timed.done > (timed.done - start) * (threads - 1) + std::chrono::microseconds(200)) {
      alone_until.store((Clock::now() + alone_for).time_since_epoch().count());
    }
  }
  return job.failed() ? -1 : 0;
}

void use_openmp(void* entry) {
  openmp_process.store(process());
  openmp.store(reinterpret_cast<Parallel>(entry));
}

int32_t own_threads() {
  const Pool* now = the_pool.load();
  return now && now->owner == process() ? now->threads() : 0;
}

}  // namespace fastlane
