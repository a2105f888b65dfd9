// The C interface: instruction sets by number, and attention plans.

#include <omp.h>
#include <stdlib.h>

#include <algorithm>
#include <new>
#include <vector>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"

using namespace parrot;

namespace {

#if defined(__x86_64__)
const Table* const kTables[] = {&kPortable, &kAvx2, &kAvx512Bf16, &kAmxBf16};
#else
const Table* const kTables[] = {&kPortable};
#endif
constexpr int kNumTables = sizeof kTables / sizeof kTables[0];

#if defined(__x86_64__)
// AMX needs the operating system's leave, once for a process: its registers are large.
bool may_use_tiles() {
#if defined(__linux__)
    unsigned a = 7, b = 0, c = 0, d = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    const bool has_tiles = (d >> 22 & 1) && (d >> 24 & 1);
    return has_tiles && syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
#else
    return false;
#endif
}

bool is_supported(int isa) {
    __builtin_cpu_init();
    if (isa == 0) return true;
    if (isa == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bf16");
    if (isa == 2) return wide;
    return isa == 3 && wide && may_use_tiles();
}
#else
bool is_supported(int isa) { return isa == 0; }
#endif

constexpr int64_t kMinSplitTokens = 64;
constexpr int64_t kSplitStep = 32;
constexpr int64_t kUnitsPerThread = 4;
constexpr int64_t kMinUnitCost = 16 * 256;     // query rows · keys
constexpr int64_t kMaxItemQueryRows = 128;
constexpr int64_t kParallelCost = 16 * 256;

// Memory that is aligned to a cache line and only grows.
class Buffer {
   public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { free(at_); }

    void* reserve(size_t bytes) {
        if (bytes > bytes_) {
            free(at_);
            bytes_ = 0;
            const size_t whole = (bytes + bytes / 2 + 63) / 64 * 64;
            at_ = aligned_alloc(64, whole);
            if (at_ == nullptr) throw std::bad_alloc();
            bytes_ = whole;
        }
        return at_;
    }

   private:
    void* at_ = nullptr;
    size_t bytes_ = 0;
};

int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace

struct ParrotPlan {
    const Table* table;
    Shape shape;
    const int64_t* slots;
    Step step;
    int64_t cost;
    std::vector<Item> items;
    std::vector<Run> runs;
    std::vector<Reader> readers;
    std::vector<int64_t> part_bounds, part_numbers;
    Buffer parts, scratch;
};

namespace {

int64_t cost_of(const ParrotPlan& plan, int64_t num_readers, int64_t tokens) {
    return rounded_up(num_readers * (plan.shape.num_heads / plan.shape.num_kv_heads), 16) * tokens;
}

// Cut a piece into items: by readers, and by tokens where that gives the threads enough to share.
void cut(ParrotPlan& plan, const Item& whole, int64_t max_readers, int64_t unit_cost) {
    for (int64_t first = 0; first < whole.num_readers; first += max_readers) {
        const int64_t count = std::min(max_readers, whole.num_readers - first);
        const int64_t tokens = plan.readers[whole.readers + first].limit;
        const int64_t wanted = cost_of(plan, count, tokens) / unit_cost;
        const int64_t splits = std::max<int64_t>(1, std::min(wanted, tokens / kMinSplitTokens));
        const int64_t width = rounded_up((tokens + splits - 1) / splits, kSplitStep);
        for (int64_t begin = 0; begin < tokens; begin += width) {
            Item item = whole;
            item.readers = whole.readers + first;
            item.num_readers = count;
            item.begin = begin;
            item.end = std::min(begin + width, tokens);
            // Readers that see nothing from here on are not in it; they are sorted, so the others come first.
            while (plan.readers[item.readers + item.num_readers - 1].limit <= begin) --item.num_readers;
            plan.items.push_back(item);
        }
    }
}

void number_parts(ParrotPlan& plan, int64_t num_rows) {
    plan.part_bounds.assign(num_rows + 1, 0);
    int64_t num_parts = 0;
    for (Item& item : plan.items) {
        item.part = num_parts;
        num_parts += item.num_readers;
        for (int64_t i = 0; i < item.num_readers; ++i) ++plan.part_bounds[plan.readers[item.readers + i].row + 1];
    }
    for (int64_t row = 0; row < num_rows; ++row) plan.part_bounds[row + 1] += plan.part_bounds[row];
    plan.part_numbers.resize(num_parts);
    std::vector<int64_t> next(plan.part_bounds.begin(), plan.part_bounds.end() - 1);
    for (const Item& item : plan.items)
        for (int64_t i = 0; i < item.num_readers; ++i)
            plan.part_numbers[next[plan.readers[item.readers + i].row]++] = item.part + i;
    plan.step.num_parts = num_parts;
}

void begin(ParrotPlan& plan, int64_t num_rows, int64_t num_pieces, const int64_t* piece_sizes, const int64_t* runs,
           const int64_t* ranges) {
    plan.items.clear();
    plan.runs.clear();
    plan.readers.clear();
    std::vector<Item> wholes;
    plan.cost = 0;
    for (int64_t p = 0; p < num_pieces; ++p) {
        Item whole = {};
        whole.runs = (int64_t)plan.runs.size();
        whole.num_runs = piece_sizes[2 * p];
        whole.readers = (int64_t)plan.readers.size();
        for (int64_t i = 0; i < whole.num_runs; ++i, runs += 2) plan.runs.push_back({runs[0], runs[1]});
        for (int64_t i = 0; i < piece_sizes[2 * p + 1]; ++i, ranges += 4)
            for (int64_t row = 0; row < ranges[1]; ++row)
                plan.readers.push_back({ranges[0] + row, ranges[2] + ranges[3] * row});
        whole.num_readers = (int64_t)plan.readers.size() - whole.readers;
        std::stable_sort(plan.readers.begin() + whole.readers, plan.readers.end(),
                         [](const Reader& a, const Reader& b) { return a.limit > b.limit; });
        wholes.push_back(whole);
        plan.cost += cost_of(plan, whole.num_readers, plan.readers[whole.readers].limit);
    }
    const int64_t group = plan.shape.num_heads / plan.shape.num_kv_heads;
    const int64_t threads = omp_get_max_threads();
    plan.cost *= plan.shape.num_kv_heads;
    const int64_t unit_cost = threads == 1 ? INT64_MAX : std::max(kMinUnitCost, plan.cost / (threads * kUnitsPerThread));
    for (const Item& whole : wholes)
        cut(plan, whole, std::max<int64_t>(1, kMaxItemQueryRows / group), unit_cost);
    std::stable_sort(plan.items.begin(), plan.items.end(), [&](const Item& a, const Item& b) {
        return cost_of(plan, a.num_readers, a.end - a.begin) > cost_of(plan, b.num_readers, b.end - b.begin);
    });
    number_parts(plan, num_rows);
    const size_t part_bytes = (plan.shape.head_dim + 2) * group * sizeof(float);
    Step& step = plan.step;
    step.num_threads = plan.cost < kParallelCost ? 1 : (int)threads;
    step.scratch_bytes = plan.table->scratch_bytes(plan.shape);
    step.scratch = (unsigned char*)plan.scratch.reserve(step.scratch_bytes * step.num_threads);
    step.parts = nullptr;
    if (step.num_parts > num_rows)
        step.parts = (float*)plan.parts.reserve(step.num_parts * plan.shape.num_kv_heads * part_bytes);
    step.num_rows = num_rows;
    step.items = plan.items.data();
    step.num_items = (int64_t)plan.items.size();
    step.runs = plan.runs.data();
    step.readers = plan.readers.data();
    step.part_bounds = plan.part_bounds.data();
    step.part_numbers = plan.part_numbers.data();
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int parrot_abi_version(void) { return 1; }

EXPORT int parrot_num_isas(void) { return kNumTables; }

EXPORT const char* parrot_isa_name(int isa) { return kTables[isa]->name; }

EXPORT int parrot_is_supported(int isa) { return isa >= 0 && isa < kNumTables && is_supported(isa); }

EXPORT ParrotPlan* parrot_plan_new(int isa, int type, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim,
                                   int64_t head_stride, float scale) {
    ParrotPlan* plan = new (std::nothrow) ParrotPlan();
    if (plan != nullptr) {
        plan->table = kTables[isa];
        plan->shape = {(Type)type, num_heads, num_kv_heads, head_dim, head_stride, scale};
    }
    return plan;
}

EXPORT void parrot_plan_free(ParrotPlan* plan) { delete plan; }

// Pieces come one after the other: `piece_sizes` has each one's numbers of runs and of ranges, `runs` pairs of
// (first slot, count), `ranges` fours of (first row, rows, limit of the first, what each next one sees more).
// `slots` ([rows]; one below 0 is written nowhere) stays the caller's until the next step.
// Returns the number of work items for each KV head, or -1 when there is no memory.
EXPORT int64_t parrot_plan_begin(ParrotPlan* plan, int64_t num_rows, int64_t num_pieces, const int64_t* piece_sizes,
                                 const int64_t* runs, const int64_t* ranges, const int64_t* slots) {
    plan->slots = slots;
    try {
        begin(*plan, num_rows, num_pieces, piece_sizes, runs, ranges);
    } catch (const std::bad_alloc&) {
        return -1;
    }
    return plan->step.num_items;
}

// One layer of the step: puts new keys and values ([rows][kv_heads][head_dim], rows that far apart) into the
// layer's cache, and lets the queries attend.
EXPORT void parrot_attend(const ParrotPlan* plan, const void* queries, int64_t query_stride, const void* new_keys,
                          int64_t key_stride, const void* new_values, int64_t value_stride, void* keys, void* values,
                          void* out) {
    plan->table->write({&plan->shape, plan->step.num_rows, plan->slots, new_keys, key_stride, new_values, value_stride,
                        keys, values});
    plan->table->attend({&plan->shape, &plan->step, queries, query_stride, keys, values, out});
}

EXPORT void parrot_rotate(int isa, int type, int64_t num_rows, int64_t num_query_heads, int64_t num_key_heads,
                          int64_t head_dim, int64_t stride, void* heads, const float* cosines, const float* sines,
                          const int64_t* positions, const void* query_norm, const void* key_norm, float norm_eps) {
    kTables[isa]->rotate({(Type)type, num_rows, num_query_heads, num_key_heads, head_dim, stride, heads, cosines, sines,
                          positions, query_norm, key_norm, norm_eps});
}

EXPORT void parrot_add_norm(int isa, int type, int64_t num_rows, int64_t size, void* hidden, const void* added,
                            const void* weight, float eps, void* out) {
    kTables[isa]->add_norm({(Type)type, num_rows, size, hidden, added, weight, eps, out});
}

EXPORT void parrot_silu_mul(int isa, int type, int64_t num_rows, int64_t size, const void* gate_up, void* out) {
    kTables[isa]->silu_mul({(Type)type, num_rows, size, gate_up, out});
}

EXPORT void parrot_argmax(int isa, int type, int64_t num_rows, int64_t size, int64_t stride, const void* logits,
                          int64_t* out) {
    kTables[isa]->argmax({(Type)type, num_rows, size, stride, logits, out});
}

EXPORT int parrot_has_linear(int isa) { return kTables[isa]->linear != nullptr; }

EXPORT void parrot_linear(int isa, int64_t num_rows, int64_t num_inputs, int64_t num_outputs, const void* inputs,
                          const void* weights, const void* bias, void* out) {
    kTables[isa]->linear({num_rows, num_inputs, num_outputs, inputs, weights, bias, out});
}

EXPORT void parrot_pack(int isa, int64_t num_inputs, int64_t num_outputs, const void* weights, void* out) {
    kTables[isa]->pack({num_inputs, num_outputs, weights, out});
}
