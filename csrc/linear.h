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

// Some rows' sums of up to 32 outputs, and what becomes of them. A thread would wait for sums that it has just stored,
// so these are taken up while the next ones are made, some rows at a time.
class Finish {
   public:
    explicit Finish(const LinearArgs& args) : args_(args) {}

    // The sums of the outputs from `first` on for rows from `row` on, [rows][32]; the ones before are finished.
    void start(int64_t row, int rows, int64_t first, const float* sums) {
        const bool is_gated = args_.kind == LinearKind::kGated;
        const int64_t left = args_.num_outputs - first;
        width_ = is_gated ? args_.num_outputs / 2 : args_.num_outputs;
        out_ = (Bf16*)args_.out + row * width_ + (is_gated ? first / 2 : first);
        bias_ = args_.bias ? (const Bf16*)args_.bias + first : nullptr;
        count_ = left < 32 ? left : 32;
        sums_ = sums;
        left_ = rows;
    }

    // At most so many rows.
    inline __attribute__((always_inline)) void go_on(int rows) {
        for (; rows > 0 && left_ > 0; --rows, --left_, sums_ += 32, out_ += width_) finish_row_of_any();
    }

   private:
    inline __attribute__((always_inline)) void finish_row_of_any() {
        const bool is_added = args_.kind == LinearKind::kAdded;
        if (args_.kind == LinearKind::kGated)
            finish_gated_row(sums_, bias_, count_, out_);
        else if (bias_ || count_ < 32)
            is_added ? finish_row<true>(sums_, bias_, count_, out_) : finish_row<false>(sums_, bias_, count_, out_);
        else
            is_added ? finish_pair<true>(sums_, out_) : finish_pair<false>(sums_, out_);
    }

    const LinearArgs& args_;
    int64_t width_ = 0, count_ = 0;
    Bf16* out_ = nullptr;
    const Bf16* bias_ = nullptr;
    const float* sums_ = nullptr;
    int left_ = 0;
};

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
    float sums[2][kLinearRows * 32] __attribute__((aligned(64)));
    const int steps = (int)(a.num_inputs / 32), rows_each = (kLinearRows + steps - 1) / steps;
    int turn = 0;
    Finish finish(a);
    for (int64_t row = 0; row < a.num_rows; row += kLinearRows) {
        const int rows = a.num_rows - row < kLinearRows ? (int)(a.num_rows - row) : kLinearRows;
        const Bf16* inputs = all_inputs + row * a.num_inputs;
        products.take_rows(rows);
        for (int pair = 0; pair < tiles; pair += 2, turn ^= 1) {
            const int64_t first = (tile + pair) * 16;
            products.scores_of_pair(inputs, rows, (const Bf16*)a.weights + first * a.num_inputs, tiles - pair > 1,
                                    (int)a.num_inputs, sums[turn], 32, [&] { finish.go_on(rows_each); });
            finish.go_on(kLinearRows);
            finish.start(row, rows, first, sums[turn]);
        }
    }
    finish.go_on(kLinearRows);
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
