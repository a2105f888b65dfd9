// A matrix product with fixed weights: out[row][n] = sum over k of x[row][k] · weight[n][k], plus a bias.
//
// The weights are laid out as keys are: tiles of 16 outputs, [inputs / 2][16 outputs][2] for bfloat16, so that one
// row runs through them once from end to end, and many rows find each pair of tiles in the nearest cache.
//
// Weights may be bytes, with a scale for each output: half as much is read, which is what a step of few rows takes its
// time for. All 255 values are bfloat16 numbers, so they are widened into the nearest cache and multiplied as such.

constexpr int kLinearRows = 32;
constexpr int kLinearTiles = 4;   // of outputs, done together

constexpr int kByteRows = 512;    // for which bytes are widened once
constexpr int kSlab = 64;         // inputs for which they are widened at a time, where rows are few
constexpr int kWideSlab = 128;    // and where they are many

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

// A pair's output, of places that lie side by side.
INLINE void widen_tile(const int8_t* from, int64_t pairs, Bf16* to) {
    for (int64_t pair = 0; pair < pairs; ++pair, from += 32, to += 32) {
        if (pair % 2 == 0) _mm_prefetch((const char*)from + 1024, _MM_HINT_T0);
        const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from)));
        const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(from + 16))));
        _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

// As linear_tiles, of weights that are bytes.
INLINE void linear_tiles_of_bytes(const LinearArgs& a, const Bf16* all_inputs, int64_t first_tile, int tiles,
                                  LinearProducts& products) {
    float sums[kByteRows * 32] __attribute__((aligned(64)));
    Bf16 slab[2 * 16 * kWideSlab] __attribute__((aligned(64)));
    const int8_t* const weights = (const int8_t*)a.weights;
    Finish finish(a);
    for (int64_t row = 0; row < a.num_rows; row += kByteRows) {
        const int rows = a.num_rows - row < kByteRows ? (int)(a.num_rows - row) : kByteRows;
        const int most = rows > 2 * kLinearRows ? kWideSlab : kSlab;
        for (int64_t tile = first_tile; tile < first_tile + tiles; tile += 2) {
            const bool two = first_tile + tiles - tile > 1;
            for (int64_t k = 0, width; k < a.num_inputs; k += width) {
                width = a.num_inputs - k < most ? a.num_inputs - k : most;
                for (int t = 0; t < (two ? 2 : 1); ++t)
                    widen_tile(weights + (tile + t) * 16 * a.num_inputs + 16 * k, width / 2, slab + t * 16 * width);
                for (int r = 0; r < rows; r += kLinearRows) {
                    const int here = rows - r < kLinearRows ? rows - r : kLinearRows;
                    products.take_rows(here);
                    products.add_scores(all_inputs + (row + r) * a.num_inputs + k, a.num_inputs, here, slab, two,
                                        (int)width, sums + r * 32, 32, k > 0);
                }
            }
            const Floats low = load(a.scales + tile * 16), high = two ? load(a.scales + tile * 16 + 16) : all(0.0f);
            for (int r = 0; r < rows; ++r) {
                store(sums + r * 32, load(sums + r * 32) * low);
                if (two) store(sums + r * 32 + 16, load(sums + r * 32 + 16) * high);
            }
            finish.start(row, rows, tile * 16, sums);
            finish.go_on(rows);
        }
    }
}

// Some tiles of outputs for all rows.
INLINE void linear_tiles(const LinearArgs& a, const Bf16* all_inputs, int64_t tile, int tiles,
                         LinearProducts& products) {
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
        LinearProducts products;
        if (a.scales)
            linear_tiles_of_bytes(a, inputs_for(a, thread), tile, tiles, products);
        else
            linear_tiles(a, inputs_for(a, thread), tile, tiles, products);
    });
}

// The nearest of 255 steps between the largest weight, either way, and itself.
INLINE void quantize(const Bf16* from, int64_t count, float* scale, int8_t* to, int64_t tile_output) {
    float most = 0, spoilt = 0;
    for (int64_t k = 0; k < count; ++k) {
        const float v = widen(from[k]);
        most = __builtin_fabsf(v) > most ? __builtin_fabsf(v) : most;
        spoilt += v * 0.0f;
    }
    // What is no number makes its output none.
    *scale = most / 127 + spoilt;
    const float steps = *scale > 0 ? 127 / most : 0;
    for (int64_t k = 0; k < count; ++k)
        to[Place<Bf16>::key(tile_output, k, count)] = steps > 0 ? (int8_t)__builtin_rintf(widen(from[k]) * steps) : 0;
}

// [outputs][inputs] into tiles; outputs up to a full tile are 0.
static void pack(const PackArgs& a) {
    const int64_t num_tiles = (a.num_outputs + 15) / 16;
    for_pieces(a.pool, num_tiles, [&](int64_t tile, int) {
        const int64_t first = tile * 16 * a.num_inputs;
        for (int64_t n = 0; n < 16; ++n) {
            int64_t output = tile * 16 + n;
            if (a.kind == LinearKind::kGated) output = tile / 2 * 16 + n + tile % 2 * (a.num_outputs / 2);
            const bool is_there = output < a.num_outputs;
            const Bf16* from = (const Bf16*)a.weights + (is_there ? output : 0) * a.num_inputs;
            if (a.scales && is_there) {
                quantize(from, a.num_inputs, a.scales + tile * 16 + n, (int8_t*)a.out + first, n);
                continue;
            }
            if (a.scales) a.scales[tile * 16 + n] = 0;
            for (int64_t k = 0; k < a.num_inputs; ++k) {
                const int64_t at = first + Place<Bf16>::key(n, k, a.num_inputs);
                if (a.scales)
                    ((int8_t*)a.out)[at] = 0;
                else
                    ((Bf16*)a.out)[at] = is_there ? from[k] : 0;
            }
        }
    });
}
