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

INLINE void finish_gated_row(const float* sums, const Bf16* bias, int64_t count, Bf16* out) {
    for (int64_t i = 0; i < count; i += 32) {
        const Floats gate = rounded_to(out, with_bias(sums, bias, i));
        const Floats up = rounded_to(out, with_bias(sums, bias, i + 16));
        store(out + i / 2, rounded_to(out, silu(gate)) * up);
    }
}

// Some tiles of outputs for all rows.
INLINE void linear_tiles(const LinearArgs& a, int64_t tile, int tiles, TileProducts& products) {
    float sums[kLinearRows * kLinearTiles * 16] __attribute__((aligned(64)));
    const int64_t first = tile * 16;
    const int64_t count = a.num_outputs - first < tiles * 16 ? a.num_outputs - first : tiles * 16;
    const Bf16* weights = (const Bf16*)a.weights + first * a.num_inputs;
    const Bf16* bias = a.bias ? (const Bf16*)a.bias + first : nullptr;
    for (int64_t row = 0; row < a.num_rows; row += kLinearRows) {
        const int rows = a.num_rows - row < kLinearRows ? (int)(a.num_rows - row) : kLinearRows;
        const Bf16* inputs = (const Bf16*)a.inputs + row * a.num_inputs;
        products.take_rows(rows);
        products.scores(inputs, rows, weights, tiles, (int)a.num_inputs, sums, kLinearTiles * 16);
        for (int r = 0; r < rows; ++r) {
            const float* found = sums + r * kLinearTiles * 16;
            Bf16* out = (Bf16*)a.out;
            if (a.kind == LinearKind::kGated)
                finish_gated_row(found, bias, count, out + (row + r) * (a.num_outputs / 2) + first / 2);
            else if (a.kind == LinearKind::kAdded)
                finish_row<true>(found, bias, count, out + (row + r) * a.num_outputs + first);
            else
                finish_row<false>(found, bias, count, out + (row + r) * a.num_outputs + first);
        }
    }
}

static void linear(const LinearArgs& a) {
    const int64_t num_tiles = (a.num_outputs + 15) / 16;
    // Small enough that threads end together, and pairs, which are what a product takes at a time.
    const int64_t each = num_tiles < 32 * kLinearTiles ? 2 : kLinearTiles;
    for_pieces(a.pool, (num_tiles + each - 1) / each, [&](int64_t piece, int) {
        const int64_t tile = piece * each, left = num_tiles - tile;
        TileProducts products;
        linear_tiles(a, tile, (int)(left < each ? left : each), products);
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
