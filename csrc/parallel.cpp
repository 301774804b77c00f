#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#ifdef _WIN32
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

namespace tpc {
namespace {

std::atomic<int> g_num_threads{0};  // 0: as many as the machine has

struct Job {
  const std::function<void(int64_t, int64_t)>* body;
  int64_t count, grain;
  std::atomic<int64_t> next{0};
  std::once_flag failed;
  std::exception_ptr error;  // the first one; read when all have ended

  // Throws nothing: what a chunk throws is kept for the calling thread, and no further chunk begins.
  void work() noexcept {
    try {
      for (;;) {
        const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= count) return;
        (*body)(begin, std::min(begin + grain, count));
      }
    } catch (...) {
      std::call_once(failed, [&] { error = std::current_exception(); });
      next.store(count, std::memory_order_relaxed);
    }
  }
};

// Workers are detached and the pool is never destroyed: joining threads at interpreter exit, or in a forked child
// where they do not exist, is what makes other pools hang.
class Pool {
 public:
  explicit Pool(int pid) : pid_(pid) {}
  int pid() const { return pid_; }

  void run(Job& job, int workers) {
    std::unique_lock<std::mutex> only_one(busy_, std::try_to_lock);
    if (!only_one.owns_lock()) return job.work();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      spawn(workers);
      workers = std::min(workers, spawned_);
      job_ = &job;
      wanted_ = pending_ = workers;
      ++generation_;
    }
    wake_.notify_all();
    job.work();
    std::unique_lock<std::mutex> lock(mutex_);
    // Workers that have not woken yet are no longer needed: all chunks are taken.
    pending_ -= wanted_;
    wanted_ = 0;
    done_.wait(lock, [&] { return pending_ == 0; });
    job_ = nullptr;
  }

 private:
  void spawn(int workers) {
    try {
      for (; spawned_ < workers; ++spawned_) std::thread([this] { loop(); }).detach();
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
      // Fewer threads than asked for: the work is shared among those that exist.
    }
  }

  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    uint64_t seen = 0;
    for (;;) {
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (wanted_ == 0) continue;
      --wanted_;
      Job* job = job_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--pending_ == 0) done_.notify_one();
    }
  }

  const int pid_;
  std::mutex busy_, mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int spawned_ = 0, wanted_ = 0, pending_ = 0;
  uint64_t generation_ = 0;
};

// A fork copies the pool's memory but not its threads, so a child starts its own.
Pool& pool() {
  static std::atomic<Pool*> current{nullptr};
  const int pid = static_cast<int>(getpid());
  Pool* seen = current.load();
  while (seen == nullptr || seen->pid() != pid) {
    Pool* fresh = new Pool(pid);
    if (current.compare_exchange_strong(seen, fresh)) return *fresh;
    delete fresh;
  }
  return *seen;
}

thread_local bool t_inside = false, t_sharing = true;

}  // namespace

int num_threads() {
  // Asked once: it is a system call, which takes longer than a small fit.
  static const int machine = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int count = g_num_threads.load();
  return count > 0 ? count : machine;
}

void set_num_threads(int count) { g_num_threads.store(count); }

void set_sharing(bool on) { t_sharing = on; }

void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t chunks = (count + grain - 1) / grain;
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), chunks));
  if (threads <= 1 || t_inside || !t_sharing) {
    body(0, count);
    return;
  }
  const std::function<void(int64_t, int64_t)> marked = [&](int64_t begin, int64_t end) {
    struct Inside {
      const bool outer = t_inside;
      Inside() { t_inside = true; }
      ~Inside() { t_inside = outer; }
    } inside;
    body(begin, end);
  };
  Job job;
  job.body = &marked;
  job.count = count;
  job.grain = grain;
  pool().run(job, threads - 1);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace tpc
