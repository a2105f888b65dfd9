// The C interface. `type` is a parrot::Type; memory is the caller's unless said otherwise.

#include <new>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"
#include "plan.h"
#include "pool.h"
#include "stack.h"

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
    const bool is_wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                         __builtin_cpu_supports("avx512bf16");
    return is_wide && (isa == 2 || may_use_tiles());
}
#else
bool is_supported(int isa) { return isa == 0; }
#endif

}  // namespace

struct ParrotKernels {
    const Table* table;
    Pool* pool;
};

#define EXPORT extern "C" __attribute__((visibility("default")))

// Goes up when a function changes.
EXPORT int parrot_abi_version(void) { return 5; }

EXPORT int parrot_num_isas(void) { return kNumTables; }

EXPORT const char* parrot_isa_name(int isa) { return kTables[isa]->name; }

EXPORT int parrot_is_supported(int isa) { return isa >= 0 && isa < kNumTables && is_supported(isa); }

// The kernels of a supported instruction set on some threads, its caller's among them. They may be used from any
// thread; when two use them at once, one of them is left to itself. Null: no memory.
EXPORT ParrotKernels* parrot_kernels_new(int isa, int num_threads) {
    try {
        return new ParrotKernels{kTables[isa], pool_new(num_threads)};
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

EXPORT void parrot_kernels_free(ParrotKernels* kernels) {
    pool_free(kernels->pool);
    delete kernels;
}

// The kernels outlive the plan. Null: no memory.
EXPORT Plan* parrot_plan_new(const ParrotKernels* kernels, int type, int64_t num_heads, int64_t num_kv_heads,
                             int64_t head_dim, int64_t head_stride, float scale) {
    const Shape shape = {(Type)type, num_heads, num_kv_heads, head_dim, head_stride, scale};
    return new (std::nothrow) Plan(kernels->table, kernels->pool, shape);
}

EXPORT void parrot_plan_free(Plan* plan) { delete plan; }

// Pieces come one after the other: `piece_sizes` has each one's numbers of runs and of ranges, `runs` pairs of
// (first slot, count), `ranges` fours of (first row, rows, limit of the first, what each next one sees more).
// `slots` ([rows]; one below 0 is written nowhere) is read until the next step. Returns 0, or -1: no memory.
EXPORT int parrot_plan_begin(Plan* plan, int64_t num_rows, int64_t num_pieces, const int64_t* piece_sizes,
                             const int64_t* runs, const int64_t* ranges, const int64_t* slots) {
    try {
        plan->begin(num_rows, num_pieces, piece_sizes, runs, ranges, slots);
    } catch (const std::bad_alloc&) {
        return -1;
    }
    return 0;
}

// One layer of the step: puts new keys and values ([rows][kv_heads][head_dim], rows that far apart) into the
// layer's cache, and lets the queries attend.
EXPORT void parrot_attend(const Plan* plan, const void* queries, int64_t query_stride, const void* new_keys,
                          int64_t key_stride, const void* new_values, int64_t value_stride, void* keys,
                          void* values, void* out) {
    plan->attend(queries, query_stride, new_keys, key_stride, new_values, value_stride, keys, values, out, nullptr);
}

EXPORT void parrot_rotate(const ParrotKernels* kernels, int type, int64_t num_rows, int64_t num_query_heads,
                          int64_t num_key_heads, int64_t head_dim, int64_t stride, void* heads,
                          const float* cosines, const float* sines, const int64_t* positions,
                          const void* query_norm, const void* key_norm, float norm_eps) {
    kernels->table->rotate({kernels->pool, (Type)type, num_rows, num_query_heads, num_key_heads, head_dim, stride,
                            heads, cosines, sines, positions, query_norm, key_norm, norm_eps});
}

EXPORT void parrot_add_norm(const ParrotKernels* kernels, int type, int64_t num_rows, int64_t size, void* hidden,
                            const void* added, const void* weight, float eps, void* out) {
    kernels->table->add_norm({kernels->pool, (Type)type, num_rows, size, hidden, added, weight, eps, out});
}

EXPORT void parrot_silu_mul(const ParrotKernels* kernels, int type, int64_t num_rows, int64_t size,
                            const void* gate_up, void* out) {
    kernels->table->silu_mul({kernels->pool, (Type)type, num_rows, size, gate_up, out});
}

EXPORT void parrot_sample(const ParrotKernels* kernels, int type, int64_t num_rows, int64_t size, int64_t stride,
                          const void* logits, const void* settings, const void* masks, int64_t mask_words, void* spare,
                          int64_t* out) {
    kernels->table->sample({kernels->pool, (Type)type, num_rows, size, stride, logits, (const SampleSettings*)settings,
                            (const uint32_t*)masks, mask_words, spare, out});
}

EXPORT int parrot_has_linear(const ParrotKernels* kernels) { return kernels->table->linear != nullptr; }

// `kind` is a parrot::LinearKind, here and below. With `scales` (one for each output, rounded up to full tiles) the
// weights become bytes, else they stay bfloat16.
EXPORT void parrot_pack(const ParrotKernels* kernels, int kind, int64_t num_inputs, int64_t num_outputs,
                        const void* weights, void* out, void* scales) {
    kernels->table->pack({kernels->pool, (LinearKind)kind, num_inputs, num_outputs, weights, out, (float*)scales});
}

EXPORT void parrot_linear(const ParrotKernels* kernels, int kind, int64_t num_rows, int64_t num_inputs,
                          int64_t num_outputs, const void* inputs, const void* weights, const void* scales,
                          const void* bias, void* out) {
    kernels->table->linear({kernels->pool, (LinearKind)kind, num_rows, num_inputs, num_outputs, inputs, weights,
                            (const float*)scales, bias, out, nullptr});
}

// The layers of a model, over the steps of a plan that outlives them. `layers` are parrot::Layer, and what they point
// to stays the caller's. Null: no memory.
EXPORT Stack* parrot_stack_new(const Plan* plan, int64_t hidden_size, int64_t mlp_size, float norm_eps,
                               const float* cosines, const float* sines, const void* embeddings,
                               int64_t num_layers, const void* layers) {
    try {
        const StackShape shape = {hidden_size, mlp_size, norm_eps, cosines, sines, embeddings};
        return new Stack(plan, shape, (const Layer*)layers, num_layers);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

EXPORT void parrot_stack_free(Stack* stack) { delete stack; }

// Takes tokens from their embeddings through all layers; `hidden` is [rows][hidden_size], bfloat16. `times`, if any,
// are two doubles: the seconds of matrix products and of attention are added to them. Returns 0, or -1: no memory.
EXPORT int parrot_stack_run(Stack* stack, int64_t num_rows, const int64_t* tokens, const int64_t* positions,
                            void* hidden, void* times) {
    try {
        stack->run(num_rows, tokens, positions, hidden, (StackTimes*)times);
    } catch (const std::bad_alloc&) {
        return -1;
    }
    return 0;
}
