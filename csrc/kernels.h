// What the kernels of one instruction set offer, and the values that they take.
//
// The KV cache of one layer, for one KV head, is a row of tiles of 16 slots. Within a tile of head_dim D:
//
//   float32    keys   [D][16 keys]            values [16 keys][D]
//   bfloat16   keys   [D / 2][16 keys][2]     values [8][D][2 keys]
//
// so that one load gives a vector whose lanes are 16 keys (keys) or 16 dimensions (values), a product needs no
// sum across lanes, and the bfloat16 forms are what VDPBF16PS and AMX tiles read. The number of slots of a
// tile does not depend on how many tokens a block of the pool has.

#ifndef PARROT_KERNELS_H
#define PARROT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "pool.h"

namespace parrot {

constexpr int kTileSlots = 16;

enum class Type : int { kFloat32 = 0, kBfloat16 = 1 };

// Consecutive slots.
struct Run {
    int64_t first;
    int64_t count;
};

// One row of a step, and how many of a piece's tokens it sees.
struct Reader {
    int64_t row;
    int64_t limit;
};

// Attention of some readers of a piece over its tokens [begin, end): the unit of work for each KV head.
struct Item {
    int64_t runs;         // the piece's first run
    int64_t readers;      // the first reader
    int64_t num_readers;
    int64_t begin;
    int64_t end;
    int64_t part;         // number of the first reader's partial result
};

struct Shape {
    Type type;
    int64_t num_heads;
    int64_t num_kv_heads;
    int64_t head_dim;      // a multiple of 16
    int64_t head_stride;   // elements from one KV head's tiles to the next one's
    float scale;           // of scores
};

// A step's attention, the same for all layers; made by a Plan.
struct Step {
    const Item* items;
    int64_t num_items;
    const Run* runs;
    const Reader* readers;
    const int64_t* part_bounds;   // of row r: part_numbers[part_bounds[r]] … [part_bounds[r + 1])
    const int64_t* part_numbers;
    int64_t num_rows;
    int64_t num_parts;
    float* parts;                 // [kv_heads][parts][heads / kv_heads][head_dim + 2]: sums, maximum, weight
    unsigned char* scratch;       // scratch_bytes for each thread of the pool
    size_t scratch_bytes;
};

struct AttendArgs {
    Pool* pool;
    const Shape* shape;
    const Step* step;
    const void* queries;      // [rows][query_stride]: heads in order, then whatever
    int64_t query_stride;
    const void* keys;         // one layer
    const void* values;
    void* out;                // [rows][heads][head_dim]
};

struct RotateArgs {
    Pool* pool;
    Type type;
    int64_t num_rows;
    int64_t num_query_heads;
    int64_t num_key_heads;
    int64_t head_dim;
    int64_t stride;           // elements from one row to the next
    void* heads;              // [rows][query heads, key heads, whatever], rotated in place
    const float* cosines;     // [positions][head_dim / 2]
    const float* sines;
    const int64_t* positions; // [rows]
    const void* query_norm;   // [head_dim], or null
    const void* key_norm;
    float norm_eps;
};

struct WriteArgs {
    Pool* pool;
    const Shape* shape;
    int64_t num_rows;
    const int64_t* slots;     // [rows]; below 0: written nowhere
    const void* new_keys;     // [rows][kv_heads][head_dim], rows key_stride elements apart
    int64_t key_stride;
    const void* new_values;
    int64_t value_stride;
    void* keys;               // one layer
    void* values;
    const RotateArgs* rotation;   // of heads that the new keys are among, done first; or null
};

struct NormArgs {
    Pool* pool;
    Type type;
    int64_t num_rows;
    int64_t size;
    void* hidden;             // [rows][size]; becomes hidden + added
    const void* added;        // or null
    const void* weight;
    float eps;
    void* out;
};

struct GateArgs {
    Pool* pool;
    Type type;
    int64_t num_rows;
    int64_t size;
    const void* gate_up;      // [rows][2 * size]
    void* out;                // [rows][size]
};

// How one row's token is chosen. The temperature is 0 for the likeliest; top_k 0, top_p 1 and min_p 0 leave all.
struct SampleSettings {
    float temperature;
    float top_p;
    float min_p;
    float uniform;            // in [0, 1): which token is drawn
    int64_t top_k;
    int64_t mask;             // number of the row's mask; below 0: every token is allowed
};

struct SampleArgs {
    Pool* pool;
    Type type;
    int64_t num_rows;
    int64_t size;             // tokens
    int64_t stride;           // elements from one row's logits to the next one's
    const void* logits;
    const SampleSettings* settings;
    const uint32_t* masks;    // one bit for each allowed token
    int64_t mask_words;       // of one mask; at least size bits
    void* spare;              // [threads][size] doubles
    int64_t* out;             // the token; -1 where a logit is not finite or nothing is allowed
};

// What becomes of a product: it is the result; it is added to what is there; or its outputs are, sixteen by sixteen,
// gates and what they are for in turn, and the result is silu(gate) · up, half as wide.
enum class LinearKind : int { kPlain = 0, kAdded = 1, kGated = 2 };

// A norm of a product's inputs that each thread makes for itself: for few rows that is quicker than to share the
// work and then to fetch what the others have made.
struct InputNorm {
    const void* weight;       // [inputs]
    float eps;
    unsigned char* space;     // for each thread of the pool `thread_bytes`, which begin with `Made`
    size_t thread_bytes;
    uint64_t job;             // another one in each product

    struct Made {
        alignas(64) uint64_t job;   // the product that the rows behind this were made for
    };
};

struct LinearArgs {
    Pool* pool;
    LinearKind kind;
    int64_t num_rows;
    int64_t num_inputs;       // a multiple of 32
    int64_t num_outputs;      // of the product; a multiple of 32 where they are gated
    const void* inputs;       // [rows][inputs], bfloat16
    const void* weights;      // packed
    const float* scales;      // of each output, as packed; null: the weights are bfloat16, not bytes
    const void* bias;         // [outputs] in the order of the weights, or null
    void* out;                // [rows][outputs, or half as many]
    const InputNorm* norm;    // null: the inputs are taken as they are
};

struct PackArgs {
    Pool* pool;
    LinearKind kind;          // gated: the first half of the weights are gates, the second what they are for
    int64_t num_inputs;
    int64_t num_outputs;
    const void* weights;      // [outputs][inputs], bfloat16
    void* out;                // outputs rounded up to full tiles; bfloat16, or with scales int8
    float* scales;            // made for each output, rounded up to full tiles; or null
};

// The kernels of one instruction set.
struct Table {
    const char* name;
    size_t (*scratch_bytes)(const Shape&);
    void (*attend)(const AttendArgs&);
    void (*write)(const WriteArgs&);
    void (*rotate)(const RotateArgs&);
    void (*add_norm)(const NormArgs&);
    void (*silu_mul)(const GateArgs&);
    void (*sample)(const SampleArgs&);
    void (*linear)(const LinearArgs&);   // null where the matrix products of torch are as good
    void (*pack)(const PackArgs&);       // null as well
};

// One of each instruction set's translation units; null where the compiler's target has none.
extern const Table kPortable;
#if defined(__x86_64__)
extern const Table kAvx2;
extern const Table kAvx512Bf16;
extern const Table kAmxBf16;
#endif

}  // namespace parrot

#endif
