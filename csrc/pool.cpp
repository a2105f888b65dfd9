#include "pool.h"

#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace parrot {

namespace {

constexpr std::chrono::microseconds kLookout(150);
constexpr int kPausesBetweenLooks = 32;

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

class Pool {
   public:
    explicit Pool(int num_threads) : num_threads_(num_threads < 1 ? 1 : num_threads) {}

    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    ~Pool() {
        {
            const std::lock_guard<std::mutex> lock(asleep_);
            stopping_.store(true);
        }
        wake_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    int num_threads() const { return num_threads_; }

    void run(int64_t num_pieces, PieceWork work, const void* context) {
        const std::unique_lock<std::mutex> turn(in_use_, std::try_to_lock);
        if (num_threads_ == 1 || num_pieces <= 1 || !turn.owns_lock()) {
            for (int64_t piece = 0; piece < num_pieces; ++piece) work(context, piece, 0);
            return;
        }
        start_threads();
        work_ = work;
        context_ = context;
        num_pieces_ = num_pieces;
        next_.store(0, std::memory_order_relaxed);
        // Odd: open. A thread counts itself in and then looks whether the job is still open; the caller closes the
        // job and then looks who is in. One of the two sees the other.
        job_.fetch_add(1);
        if (num_asleep_.load() > 0) {
            { const std::lock_guard<std::mutex> lock(asleep_); }
            wake_.notify_all();
        }
        take_pieces(0);
        job_.fetch_add(1);
        for (int looks = 0; num_inside_.load() > 0; ++looks) {
            if (looks < 2000)
                pause();
            else
                sched_yield();
        }
    }

   private:
    // As many as the system gives; fewer do the same work.
    void start_threads() {
        if (started_) return;
        started_ = true;
        try {
            for (int number = 1; number < num_threads_; ++number)
                threads_.emplace_back([this, number] { serve(number); });
        } catch (const std::system_error&) {
        }
    }

    void take_pieces(int thread) {
        for (int64_t piece; (piece = next_.fetch_add(1, std::memory_order_relaxed)) < num_pieces_;)
            work_(context_, piece, thread);
    }

    void serve(int number) {
        uint64_t seen = 0;
        while (const uint64_t job = await_job(seen)) {
            num_inside_.fetch_add(1);
            if (job_.load() == job) take_pieces(number);
            num_inside_.fetch_sub(1);
            seen = job;
        }
    }

    // The number of an open job other than `seen`; 0 when there will be none.
    uint64_t await_job(uint64_t seen) {
        uint64_t job = 0;
        const auto is_new = [&] {
            job = job_.load();
            return job % 2 == 1 && job != seen;
        };
        const auto until = std::chrono::steady_clock::now() + kLookout;
        while (std::chrono::steady_clock::now() < until) {
            for (int i = 0; i < kPausesBetweenLooks; ++i) {
                if (is_new()) return job;
                pause();
            }
        }
        std::unique_lock<std::mutex> lock(asleep_);
        num_asleep_.fetch_add(1);
        wake_.wait(lock, [&] { return stopping_.load() || is_new(); });
        num_asleep_.fetch_sub(1);
        return stopping_.load() ? 0 : job;
    }

    const int num_threads_;
    bool started_ = false;
    std::vector<std::thread> threads_;
    std::mutex in_use_;

    PieceWork work_ = nullptr;
    const void* context_ = nullptr;
    int64_t num_pieces_ = 0;
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<uint64_t> job_{0};
    alignas(64) std::atomic<int> num_inside_{0};
    std::atomic<int> num_asleep_{0};
    std::atomic<bool> stopping_{false};
    std::mutex asleep_;
    std::condition_variable wake_;
};

Pool* pool_new(int num_threads) { return new Pool(num_threads); }
void pool_free(Pool* pool) { delete pool; }
int pool_num_threads(const Pool* pool) { return pool->num_threads(); }

void pool_run(Pool* pool, int64_t num_pieces, PieceWork work, const void* context) {
    pool->run(num_pieces, work, context);
}

}  // namespace parrot
