#include "stack.h"

#include <string.h>

#include <chrono>

namespace parrot {

namespace {

constexpr int64_t kBytes = 2;   // of a bfloat16
constexpr int64_t kOwnNormRows = 32;

// Notes how long what it is given takes, when somebody wants to know.
class Watch {
   public:
    explicit Watch(bool is_on) : is_on_(is_on) {}

    template <class Work>
    void note(double* total_s, const Work& work) {
        if (!is_on_) {
            work();
            return;
        }
        const auto began = std::chrono::steady_clock::now();
        work();
        *total_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    }

   private:
    bool is_on_;
};

}  // namespace

size_t Stack::own_norm_bytes() const {
    return (sizeof(InputNorm::Made) + kOwnNormRows * shape_.hidden_size * kBytes + 63) / 64 * 64;
}

unsigned char* Stack::own_norms_space() {
    const size_t bytes = own_norm_bytes() * pool_num_threads(plan_->pool());
    unsigned char* const space = (unsigned char*)own_norms_.reserve(bytes);
    // Made for no product yet; products count from 1.
    if (num_products_ == 0) memset(space, 0, bytes);
    return space;
}

void Stack::run(int64_t num_rows, const int64_t* tokens, const int64_t* positions, void* hidden, StackTimes* times) {
    const Table* const table = plan_->table();
    Pool* const pool = plan_->pool();
    const Shape& attention = plan_->shape();
    const int64_t dim = attention.head_dim, num_queries = attention.num_heads, num_keys = attention.num_kv_heads;
    const int64_t head_size = (num_queries + 2 * num_keys) * dim, mixed_size = num_queries * dim;
    const int64_t hidden_size = shape_.hidden_size, mlp_size = shape_.mlp_size;
    void* const normed = normed_.reserve(num_rows * hidden_size * kBytes);
    unsigned char* const own_norms = own_norms_space();
    char* const heads = (char*)heads_.reserve(num_rows * head_size * kBytes);
    void* const mixed = mixed_.reserve(num_rows * mixed_size * kBytes);
    void* const gated = gated_.reserve(num_rows * mlp_size * kBytes);
    const char* const keys = heads + mixed_size * kBytes;
    const char* const values = keys + num_keys * dim * kBytes;
    StackTimes unwanted = {};
    StackTimes& to = times ? *times : unwanted;
    Watch watch(times != nullptr);
    const auto linear = [&](LinearKind kind, const void* from, int64_t num_inputs, const Weights& weights,
                            int64_t num_outputs, void* out, const InputNorm* norm = nullptr) {
        watch.note(&to.matrix_s, [&] {
            table->linear({pool, kind, num_rows, num_inputs, num_outputs, from, weights.packed, weights.scales,
                           weights.bias, out, norm});
        });
    };
    // A product of what is hidden, normed before: by each thread for itself, or by all together where rows are many.
    const auto normed_linear = [&](LinearKind kind, const void* norm_weight, const Weights& weights,
                                   int64_t num_outputs, void* out) {
        if (num_rows <= kOwnNormRows) {
            const InputNorm norm = {norm_weight, shape_.norm_eps, own_norms, own_norm_bytes(), ++num_products_};
            linear(kind, hidden, hidden_size, weights, num_outputs, out, &norm);
            return;
        }
        table->add_norm(
            {pool, Type::kBfloat16, num_rows, hidden_size, hidden, nullptr, norm_weight, shape_.norm_eps, normed});
        linear(kind, normed, hidden_size, weights, num_outputs, out);
    };
    const int64_t row_bytes = hidden_size * kBytes;
    for (int64_t row = 0; row < num_rows; ++row)
        memcpy((char*)hidden + row * row_bytes, (const char*)shape_.embeddings + tokens[row] * row_bytes, row_bytes);
    for (const Layer& layer : layers_) {
        normed_linear(LinearKind::kPlain, layer.attention_norm, layer.qkv, head_size, heads);
        const RotateArgs rotation = {pool, Type::kBfloat16, num_rows, num_queries, num_keys, dim, head_size, heads,
                                     shape_.cosines, shape_.sines, positions, layer.query_norm, layer.key_norm,
                                     shape_.norm_eps};
        watch.note(&to.attention_s, [&] {
            plan_->attend(heads, head_size, keys, head_size, values, head_size, layer.keys, layer.values, mixed,
                          &rotation);
        });
        linear(LinearKind::kAdded, mixed, mixed_size, layer.out, hidden_size, hidden);
        normed_linear(LinearKind::kGated, layer.mlp_norm, layer.gate_up, 2 * mlp_size, gated);
        linear(LinearKind::kAdded, gated, mlp_size, layer.down, hidden_size, hidden);
    }
}

}  // namespace parrot
