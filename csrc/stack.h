// The layers of a decoder of the Llama kind, one after the other: what a step does between the embedding and the last
// norm, without a return to the interpreter in between.

#ifndef PARROT_STACK_H
#define PARROT_STACK_H

#include <stdint.h>

#include <vector>

#include "kernels.h"
#include "plan.h"

namespace parrot {

// A product's weights, packed.
struct Weights {
    const void* packed;
    const float* scales;         // null: bfloat16
    const void* bias;            // or null
};

// One layer's weights and its part of the cache. Null where the model has none.
struct Layer {
    const void* attention_norm;
    Weights qkv;
    const void* query_norm;
    const void* key_norm;
    Weights out;
    const void* mlp_norm;
    Weights gate_up;             // gate and up in turn, tile by tile
    Weights down;
    void* keys;
    void* values;
};

struct StackShape {
    int64_t hidden_size;
    int64_t mlp_size;
    float norm_eps;
    const float* cosines;        // [positions][head_dim / 2]
    const float* sines;
    const void* embeddings;      // [tokens][hidden_size]
};

// Seconds, added to what is there.
struct StackTimes {
    double matrix_s;
    double attention_s;
};

class Stack {
   public:
    Stack(const Plan* plan, const StackShape& shape, const Layer* layers, int64_t num_layers)
        : plan_(plan), shape_(shape), layers_(layers, layers + num_layers) {}

    // The tokens' embeddings go through all layers, over the step that the plan has begun, and are in `hidden`
    // ([rows][hidden_size], bfloat16) then. Throws std::bad_alloc. `times` may be null.
    void run(int64_t num_rows, const int64_t* tokens, const int64_t* positions, void* hidden, StackTimes* times);

   private:
    size_t own_norm_bytes() const;
    unsigned char* own_norms_space();

    const Plan* plan_;
    StackShape shape_;
    std::vector<Layer> layers_;
    Buffer normed_, heads_, mixed_, gated_, own_norms_;
    uint64_t num_products_ = 0;   // that norm their inputs
};

}  // namespace parrot

#endif
