// Drives every kernel of every instruction set that the processor has, for the sanitizers: buffers end exactly
// where the interface says, the cache is full of what is no number, and attention is compared with its definition.

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <random>
#include <vector>

struct ParrotKernels;
struct ParrotPlan;
struct ParrotStack;

extern "C" {
int parrot_num_isas(void);
const char* parrot_isa_name(int isa);
int parrot_is_supported(int isa);
ParrotKernels* parrot_kernels_new(int isa, int num_threads);
void parrot_kernels_free(ParrotKernels* kernels);
int parrot_has_linear(const ParrotKernels* kernels);
ParrotPlan* parrot_plan_new(const ParrotKernels* kernels, int type, int64_t num_heads, int64_t num_kv_heads,
                            int64_t head_dim, int64_t head_stride, float scale);
void parrot_plan_free(ParrotPlan* plan);
int parrot_plan_begin(ParrotPlan* plan, int64_t num_rows, int64_t num_pieces, const int64_t* piece_sizes,
                      const int64_t* runs, const int64_t* ranges, const int64_t* slots);
void parrot_attend(const ParrotPlan* plan, const void* queries, int64_t query_stride, const void* new_keys,
                   int64_t key_stride, const void* new_values, int64_t value_stride, void* keys, void* values,
                   void* out);
void parrot_rotate(const ParrotKernels* kernels, int type, int64_t num_rows, int64_t num_query_heads, int64_t num_key_heads,
                   int64_t head_dim, int64_t stride, void* heads, const float* cosines, const float* sines,
                   const int64_t* positions, const void* query_norm, const void* key_norm, float norm_eps);
void parrot_add_norm(const ParrotKernels* kernels, int type, int64_t num_rows, int64_t size, void* hidden, const void* added,
                     const void* weight, float eps, void* out);
void parrot_silu_mul(const ParrotKernels* kernels, int type, int64_t num_rows, int64_t size, const void* gate_up, void* out);
void parrot_sample(const ParrotKernels* kernels, int type, int64_t num_rows, int64_t size, int64_t stride, const void* logits,
                   const void* settings, const void* masks, int64_t mask_words, void* spare, int64_t* out);
void parrot_linear(const ParrotKernels* kernels, int kind, int64_t num_rows, int64_t num_inputs, int64_t num_outputs,
                   const void* inputs, const void* weights, const void* scales, const void* bias, void* out);
void parrot_pack(const ParrotKernels* kernels, int kind, int64_t num_inputs, int64_t num_outputs, const void* weights, void* out,
                 void* scales);
ParrotStack* parrot_stack_new(const ParrotPlan* plan, int64_t hidden_size, int64_t mlp_size, float norm_eps,
                              const float* cosines, const float* sines, const void* embeddings, int64_t num_layers,
                              const void* layers);
void parrot_stack_free(ParrotStack* stack);
int parrot_stack_run(ParrotStack* stack, int64_t num_rows, const int64_t* tokens, const int64_t* positions, void* hidden,
                     void* times);
}

namespace {

constexpr int kFloat32 = 0, kBfloat16 = 1;
std::mt19937 random_bits(20240711);

int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_bits);
}

// Numbers of either type, in a buffer of exactly their size.
struct Numbers {
    int type;
    std::vector<unsigned char> bytes;

    Numbers(int type_, int64_t count) : type(type_), bytes(count * (type_ == kFloat32 ? 4 : 2), 0xff) {}

    static Numbers normal(int type, int64_t count) {
        Numbers numbers(type, count);
        std::normal_distribution<float> draw;
        for (int64_t i = 0; i < count; ++i) numbers.set(i, draw(random_bits));
        return numbers;
    }

    void* data() { return bytes.data(); }

    double get(int64_t i) const {
        float value;
        uint32_t bits = 0;
        if (type == kFloat32) {
            memcpy(&value, &bytes[i * 4], 4);
            return value;
        }
        memcpy((unsigned char*)&bits + 2, &bytes[i * 2], 2);
        memcpy(&value, &bits, 4);
        return value;
    }

    void set(int64_t i, float value) {
        if (type == kFloat32) {
            memcpy(&bytes[i * 4], &value, 4);
            return;
        }
        uint32_t bits;
        memcpy(&bits, &value, 4);
        bits += 0x8000;
        memcpy(&bytes[i * 2], (unsigned char*)&bits + 2, 2);
    }
};

void expect(bool holds, const char* isa, const char* what) {
    if (holds) return;
    printf("%s: %s is wrong\n", isa, what);
    exit(1);
}

// Some rows over some contexts whose blocks lie anywhere, rows that go on with a context among them.
void check_attention(const ParrotKernels* kernels, int isa, int type) {
    const int64_t dims[] = {16, 64, 80, 128}, groups[][2] = {{9, 3}, {4, 1}, {8, 8}};
    const int64_t dim = dims[between(0, 3)], *group = groups[between(0, 2)];
    const int64_t heads = group[0], kv_heads = group[1], row_size = (heads + 2 * kv_heads) * dim;
    const int64_t num_pieces = between(1, 4), num_rows = between(1, 40), block = between(0, 1) ? 16 : 4;
    std::vector<int64_t> lengths(num_pieces), blocks, sizes, runs, ranges;
    int64_t num_blocks = 0;
    for (int64_t& length : lengths) num_blocks += ((length = between(1, 400)) + block - 1) / block;
    for (int64_t i = 0; i < num_blocks; ++i) blocks.push_back(i);
    std::shuffle(blocks.begin(), blocks.end(), random_bits);
    const int64_t num_slots = (num_blocks * block + 15) / 16 * 16;
    std::vector<std::vector<int64_t>> slots(num_pieces), seen(num_rows);
    for (int64_t p = 0, at = 0; p < num_pieces; ++p) {
        const int64_t before = (int64_t)runs.size() / 2;
        for (int64_t left = lengths[p]; left > 0; left -= block, ++at) {
            const int64_t count = std::min(left, block);
            for (int64_t i = 0; i < count; ++i) slots[p].push_back(blocks[at] * block + i);
            runs.insert(runs.end(), {blocks[at] * block, count});
        }
        const int64_t first = p ? between(0, num_rows - 1) : 0, count = p ? between(1, num_rows - first) : num_rows;
        const int64_t more = lengths[p] >= count ? between(0, 1) : 0;
        const int64_t limit = between(1, lengths[p] - more * (count - 1));
        ranges.insert(ranges.end(), {first, count, limit, more});
        sizes.insert(sizes.end(), {(int64_t)runs.size() / 2 - before, 1});
        for (int64_t row = 0; row < count; ++row)
            for (int64_t i = 0; i < limit + more * row; ++i) seen[first + row].push_back(slots[p][i]);
    }
    Numbers keys(type, kv_heads * num_slots * dim), values(type, kv_heads * num_slots * dim);
    std::vector<int64_t> all;
    for (const auto& some : slots) all.insert(all.end(), some.begin(), some.end());
    Numbers written = Numbers::normal(type, (int64_t)all.size() * row_size);
    const int64_t size = type == kFloat32 ? 4 : 2, key_offset = heads * dim * size;
    const int64_t value_offset = key_offset + kv_heads * dim * size;
    ParrotPlan* plan =
        parrot_plan_new(kernels, type, heads, kv_heads, dim, num_slots * dim, 1 / sqrtf((float)dim));
    const auto attend = [&](Numbers& rows, Numbers& out) {
        unsigned char* at = rows.bytes.data();
        parrot_attend(plan, at, row_size, at + key_offset, row_size, at + value_offset, row_size, keys.data(),
                      values.data(), out.data());
    };
    const int64_t one_size[] = {1, 1}, one_run[] = {all[0], 1}, one_range[] = {0, (int64_t)all.size(), 1, 0};
    Numbers ignored(type, (int64_t)all.size() * heads * dim);
    expect(parrot_plan_begin(plan, (int64_t)all.size(), 1, one_size, one_run, one_range, all.data()) == 0,
           parrot_isa_name(isa), "a plan");
    attend(written, ignored);
    Numbers queries = Numbers::normal(type, num_rows * row_size), out(type, num_rows * heads * dim);
    std::vector<int64_t> nowhere(num_rows, -1);
    parrot_plan_begin(plan, num_rows, num_pieces, sizes.data(), runs.data(), ranges.data(), nowhere.data());
    attend(queries, out);
    parrot_plan_free(plan);
    std::vector<int64_t> place(num_slots, -1);
    for (size_t i = 0; i < all.size(); ++i) place[all[i]] = (int64_t)i;
    const int64_t row = between(0, num_rows - 1), h = between(0, heads - 1), kv = h / (heads / kv_heads);
    std::vector<double> exact(dim), scale(dim);
    double total = 0;
    for (int64_t slot : seen[row]) {
        double score = 0;
        const int64_t from = place[slot] * row_size + (heads + kv) * dim;
        for (int64_t d = 0; d < dim; ++d) score += queries.get(row * row_size + h * dim + d) * written.get(from + d);
        const double weight = exp(score / sqrt((double)dim));
        total += weight;
        for (int64_t d = 0; d < dim; ++d) {
            const double value = written.get(from + kv_heads * dim + d);
            exact[d] += weight * value;
            scale[d] += weight * fabs(value);
        }
    }
    const double share = type == kFloat32 ? 1e-5 : 1.0 / 128;
    for (int64_t d = 0; d < dim; ++d)
        expect(fabs(out.get((row * heads + h) * dim + d) - exact[d] / total) <= share * scale[d] / total + 1e-5,
               parrot_isa_name(isa), "attention");
}

void check_rows(const ParrotKernels* kernels, int isa, int type) {
    const char* name = parrot_isa_name(isa);
    const int64_t rows = between(1, 40), size = between(1, 700);
    Numbers hidden = Numbers::normal(type, rows * size), added = Numbers::normal(type, rows * size);
    Numbers weight = Numbers::normal(type, size), out(type, rows * size);
    parrot_add_norm(kernels, type, rows, size, hidden.data(), added.data(), weight.data(), 1e-6f, out.data());
    double squares = 0;
    for (int64_t i = 0; i < size; ++i) squares += hidden.get(i) * hidden.get(i);
    const double expected = hidden.get(0) / sqrt(squares / (double)size + 1e-6) * weight.get(0);
    expect(fabs(out.get(0) - expected) <= fabs(expected) / 32 + 1e-6, name, "a norm");
    Numbers gate_up = Numbers::normal(type, rows * 2 * size);
    parrot_silu_mul(kernels, type, rows, size, gate_up.data(), out.data());
    const double gate = gate_up.get(0), gated = gate / (1 + exp(-gate)) * gate_up.get(size);
    expect(fabs(out.get(0) - gated) <= fabs(gated) / 32 + 1e-6, name, "a gate");
    const int64_t dim = 16 * between(1, 8), stride = 5 * dim;
    Numbers heads = Numbers::normal(type, rows * stride), norm = Numbers::normal(type, dim);
    std::vector<float> table(4 * dim / 2, 0.6f);
    std::vector<int64_t> positions(rows);
    for (int64_t& position : positions) position = between(0, 3);
    parrot_rotate(kernels, type, rows, 3, 1, dim, stride, heads.data(), table.data(), table.data(), positions.data(),
                  norm.data(), norm.data(), 1e-6f);
    expect(heads.get(0) == heads.get(0), name, "a rotation");
}

struct Sampling {
    float temperature, top_p, min_p, uniform;
    int64_t top_k, mask;
};

void check_sampling(const ParrotKernels* kernels, int isa, int type) {
    const char* name = parrot_isa_name(isa);
    const int64_t rows = between(1, 20), size = between(1, 3000), words = (size + 31) / 32;
    Numbers logits = Numbers::normal(type, rows * size);
    std::vector<uint32_t> masks(2 * words);
    for (uint32_t& word : masks) word = (uint32_t)random_bits() | 1u;
    std::vector<Sampling> settings(rows);
    for (Sampling& one : settings)
        one = {(float)between(0, 2), between(0, 1) ? 1.0f : 0.7f, between(0, 1) ? 0.0f : 0.1f,
               (float)between(0, 99) / 100, between(0, 1) * between(1, 2 * size), between(-1, 1)};
    std::vector<double> spare(3 * size);
    std::vector<int64_t> out(rows);
    parrot_sample(kernels, type, rows, size, size, logits.data(), settings.data(), masks.data(), words, spare.data(),
                  out.data());
    for (int64_t r = 0; r < rows; ++r) {
        expect(out[r] >= 0 && out[r] < size, name, "a token");
        const uint32_t* mask = settings[r].mask < 0 ? nullptr : masks.data() + settings[r].mask * words;
        const auto allowed = [&](int64_t i) { return !mask || (mask[i / 32] >> (i % 32) & 1u); };
        expect(allowed(out[r]), name, "a mask");
        for (int64_t i = 0; settings[r].temperature == 0 && i < size; ++i)
            expect(!allowed(i) || logits.get(r * size + out[r]) >= logits.get(r * size + i), name, "the likeliest");
    }
}

void check_linear(const ParrotKernels* kernels, int isa) {
    if (!parrot_has_linear(kernels)) return;
    const int64_t rows = between(1, 70), inputs = 32 * between(1, 9), outputs = between(1, 130);
    Numbers weight = Numbers::normal(kBfloat16, outputs * inputs), x = Numbers::normal(kBfloat16, rows * inputs);
    Numbers bias = Numbers::normal(kBfloat16, outputs), packed(kBfloat16, (outputs + 15) / 16 * 16 * inputs);
    Numbers out(kBfloat16, rows * outputs);
    parrot_pack(kernels, 0, inputs, outputs, weight.data(), packed.data(), nullptr);
    parrot_linear(kernels, 0, rows, inputs, outputs, x.data(), packed.data(), nullptr, bias.data(), out.data());
    const int64_t row = between(0, rows - 1), n = between(0, outputs - 1);
    double exact = bias.get(n), most = 0;
    for (int64_t k = 0; k < inputs; ++k) {
        exact += x.get(row * inputs + k) * weight.get(n * inputs + k);
        most = fmax(most, fabs(weight.get(n * inputs + k)));
    }
    expect(fabs(out.get(row * outputs + n) - exact) <= fabs(exact) / 128 + 1e-3, parrot_isa_name(isa), "a linear");
    std::vector<int8_t> bytes((outputs + 15) / 16 * 16 * inputs);
    std::vector<float> scales((outputs + 15) / 16 * 16);
    parrot_pack(kernels, 0, inputs, outputs, weight.data(), bytes.data(), scales.data());
    parrot_linear(kernels, 0, rows, inputs, outputs, x.data(), bytes.data(), scales.data(), bias.data(), out.data());
    double slack = fabs(exact) / 128 + 1e-3;
    for (int64_t k = 0; k < inputs; ++k) slack += fabs(x.get(row * inputs + k)) * most / 127 * 0.51;
    expect(fabs(out.get(row * outputs + n) - exact) <= slack, parrot_isa_name(isa), "a linear of bytes");
}

// Layers that add nothing, for their last products are 0: the embeddings come out as they went in.
void check_stack(const ParrotKernels* kernels, int isa) {
    if (!parrot_has_linear(kernels)) return;
    const char* name = parrot_isa_name(isa);
    const int64_t dim = 32, heads = 4, kv_heads = 2, hidden = 96, mlp = 64, rows = between(1, 40), slots = 48;
    const int64_t head_size = (heads + 2 * kv_heads) * dim;
    const auto packed = [&](int kind, int64_t inputs, int64_t outputs, float scale) {
        Numbers weight = Numbers::normal(kBfloat16, outputs * inputs), to(kBfloat16, (outputs + 15) / 16 * 16 * inputs);
        for (int64_t i = 0; i < outputs * inputs; ++i) weight.set(i, (float)weight.get(i) * scale);
        parrot_pack(kernels, kind, inputs, outputs, weight.data(), to.data(), nullptr);
        return to;
    };
    Numbers norm = Numbers::normal(kBfloat16, hidden), qkv = packed(0, hidden, head_size, 1);
    Numbers out = packed(0, heads * dim, hidden, 0), gate_up = packed(2, hidden, 2 * mlp, 1), down = packed(0, mlp, hidden, 0);
    Numbers keys(kBfloat16, kv_heads * slots * dim), values(kBfloat16, kv_heads * slots * dim);
    Numbers embeddings = Numbers::normal(kBfloat16, 10 * hidden), found(kBfloat16, rows * hidden);
    const void* layer[] = {norm.data(),    qkv.data(), nullptr,    nullptr, nullptr,     nullptr,
                           out.data(),     nullptr,    nullptr,    norm.data(), gate_up.data(), nullptr,
                           nullptr,        down.data(), nullptr,   nullptr, keys.data(), values.data()};
    std::vector<const void*> layers(layer, layer + 18);
    layers.insert(layers.end(), layer, layer + 18);
    std::vector<float> table(64 * dim / 2, 0.6f);
    std::vector<int64_t> tokens(rows), positions(rows);
    for (int64_t r = 0; r < rows; ++r) tokens[r] = between(0, 9), positions[r] = r;
    ParrotPlan* plan = parrot_plan_new(kernels, kBfloat16, heads, kv_heads, dim, slots * dim, 0.2f);
    const int64_t sizes[] = {1, 1}, run[] = {0, rows}, range[] = {0, rows, 1, 1};
    parrot_plan_begin(plan, rows, 1, sizes, run, range, positions.data());
    ParrotStack* stack =
        parrot_stack_new(plan, hidden, mlp, 1e-6f, table.data(), table.data(), embeddings.data(), 2, layers.data());
    double times[2] = {};
    expect(parrot_stack_run(stack, rows, tokens.data(), positions.data(), found.data(), times) == 0, name, "a stack");
    parrot_stack_free(stack);
    parrot_plan_free(plan);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < hidden; ++i)
            expect(found.get(r * hidden + i) == embeddings.get(tokens[r] * hidden + i), name, "a stack's sum");
    expect(times[0] > 0 && times[1] > 0, name, "a stack's times");
}

}  // namespace

int main() {
    for (int isa = 0; isa < parrot_num_isas(); ++isa) {
        if (!parrot_is_supported(isa)) {
            printf("%s: not on this processor\n", parrot_isa_name(isa));
            continue;
        }
        ParrotKernels* kernels = parrot_kernels_new(isa, 3);
        for (int round = 0; round < 20; ++round) {
            for (int type : {kFloat32, kBfloat16}) {
                check_attention(kernels, isa, type);
                check_rows(kernels, isa, type);
                check_sampling(kernels, isa, type);
            }
            check_linear(kernels, isa);
            check_stack(kernels, isa);
        }
        parrot_kernels_free(kernels);
        printf("%s: clean\n", parrot_isa_name(isa));
    }
    return 0;
}
