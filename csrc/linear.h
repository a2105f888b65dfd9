// A matrix product with fixed weights: out[row][n] = sum over k of x[row][k] · weight[n][k], plus a bias.
//
// The weights are laid out as keys are: tiles of 16 outputs, [inputs / 2][16 outputs][2] for bfloat16, so that one
// row runs through them once from end to end, and many rows find each pair of tiles in the nearest cache.

constexpr int kLinearRows = 32;
constexpr int kLinearTiles = 4;   // of outputs, done together

INLINE Floats with_bias(const float* sums, const Bf16* bias, int64_t i) {
    const Floats v = load(sums + i);
    return bias ? v + load(bias + i) : v;
}

// Rounded where a product of its own would be, and then once more.
template <bool kAdds>
INLINE void finish_row(const float* sums, const Bf16* bias, int64_t count, Bf16* out) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const Floats v = with_bias(sums, bias, i);
        store(out + i, kAdds ? load(out + i) + rounded_to(out, v) : v);
    }
    for (; i < count; ++i) {
        Bf16 v;
        narrow_to(&v, bias ? sums[i] + widen(bias[i]) : sums[i]);
        if (kAdds)
            narrow_to(out + i, widen(out[i]) + widen(v));
        else
            out[i] = v;
    }
}

// silu(gate) · up, rounded where a product of its own would be. The power's and the reciprocal's errors are below a
// thirtieth of a rounding's.
INLINE Floats gated(Floats gate, Floats up) {
    Bf16* const kind = nullptr;
    const Floats rounded = rounded_to(kind, gate);
    const Floats power = exp2_for(kind, rounded * -1.44269504f);
    const Floats share = {{(FloatLanes)_mm512_rcp14_ps((__m512)(power + 1.0f).part[0])}};
    return rounded_to(kind, rounded * share) * rounded_to(kind, up);
}

INLINE void finish_gated_row(const float* sums, const Bf16* bias, int64_t count, Bf16* out) {
    for (int64_t i = 0; i < count; i += 32)
        store(out + i / 2, gated(with_bias(sums, bias, i), with_bias(sums, bias, i + 16)));
}

template <bool kAdds>
INLINE void finish_pair(const float* sums, Bf16* out) {
    Floats low = load(sums), high = load(sums + 16);
    if (kAdds) {
        low = load(out) + rounded_to(out, low);
        high = load(out + 16) + rounded_to(out, high);
    }
    store_two(out, low, high);
}

// What becomes of some rows' sums of outputs from `first` on.
INLINE void finish(const LinearArgs& a, int64_t row, int rows, int64_t first, int64_t count, const float* sums,
                   int64_t stride) {
    const Bf16* bias = a.bias ? (const Bf16*)a.bias + first : nullptr;
    const bool is_gated = a.kind == LinearKind::kGated, is_added = a.kind == LinearKind::kAdded;
    const int64_t width = is_gated ? a.num_outputs / 2 : a.num_outputs;
    Bf16* out = (Bf16*)a.out + row * width + (is_gated ? first / 2 : first);
    for (int r = 0; r < rows; ++r, sums += stride, out += width) {
        if (is_gated)
            finish_gated_row(sums, bias, count, out);
        else if (bias || count < 32)
            is_added ? finish_row<true>(sums, bias, count, out) : finish_row<false>(sums, bias, count, out);
        else
            is_added ? finish_pair<true>(sums, out) : finish_pair<false>(sums, out);
    }
}

// The inputs as a thread is to read them. Its own pieces come one after the other, so the norm is made once.
INLINE const Bf16* inputs_for(const LinearArgs& a, int thread) {
    if (!a.norm) return (const Bf16*)a.inputs;
    InputNorm::Made* const made = (InputNorm::Made*)(a.norm->space + thread * a.norm->thread_bytes);
    Bf16* const normed = (Bf16*)(made + 1);
    if (made->job != a.norm->job) {
        made->job = a.norm->job;
        const Bf16* row = (const Bf16*)a.inputs;
        for (int64_t r = 0; r < a.num_rows; ++r, row += a.num_inputs)
            scale_by(row, (const Bf16*)a.norm->weight, a.num_inputs, rms_factor(row, a.num_inputs, a.norm->eps),
                     normed + r * a.num_inputs);
    }
    return normed;
}

// Some tiles of outputs for all rows.
INLINE void linear_tiles(const LinearArgs& a, const Bf16* all_inputs, int64_t tile, int tiles,
                         TileProducts& products) {
    float sums[kLinearRows * 32] __attribute__((aligned(64)));
    for (int64_t row = 0; row < a.num_rows; row += kLinearRows) {
        const int rows = a.num_rows - row < kLinearRows ? (int)(a.num_rows - row) : kLinearRows;
        const Bf16* inputs = all_inputs + row * a.num_inputs;
        products.take_rows(rows);
        for (int pair = 0; pair < tiles; pair += 2) {
            const int64_t first = (tile + pair) * 16, left = a.num_outputs - first;
            products.scores(inputs, rows, (const Bf16*)a.weights + first * a.num_inputs, tiles - pair > 1 ? 2 : 1,
                            (int)a.num_inputs, sums, 32);
            finish(a, row, rows, first, left < 32 ? left : 32, sums, 32);
        }
    }
}

static void linear(const LinearArgs& a) {
    const int64_t num_tiles = (a.num_outputs + 15) / 16;
    // Small enough that threads end together, and pairs, which are what a product takes at a time.
    const int64_t each = num_tiles < 32 * kLinearTiles ? 2 : kLinearTiles;
    for_pieces(a.pool, (num_tiles + each - 1) / each, [&](int64_t piece, int thread) {
        const int64_t tile = piece * each, left = num_tiles - tile;
        const int tiles = (int)(left < each ? left : each);
        TileProducts products;
        linear_tiles(a, inputs_for(a, thread), tile, tiles, products);
    });
}

// [outputs][inputs] into tiles; outputs up to a full tile are 0.
static void pack(const PackArgs& a) {
    const int64_t num_tiles = (a.num_outputs + 15) / 16;
    for_pieces(a.pool, num_tiles, [&](int64_t tile, int) {
        Bf16* to = (Bf16*)a.out + tile * 16 * a.num_inputs;
        for (int64_t n = 0; n < 16; ++n) {
            int64_t output = tile * 16 + n;
            if (a.kind == LinearKind::kGated) output = tile / 2 * 16 + n + tile % 2 * (a.num_outputs / 2);
            const Bf16* from = (const Bf16*)a.weights + output * a.num_inputs;
            for (int64_t k = 0; k < a.num_inputs; ++k)
                to[Place<Bf16>::key(n, k, a.num_inputs)] = output < a.num_outputs ? from[k] : 0;
        }
    });
}
