// The two matrix products of attention, for the layout that kernels.h draws:
//
//   scores   S[row][key]  = sum over dimensions of Q[row][d] · K[d][key]
//   mix      A[row][d]   += sum over keys       of P[row][key] · V[key][d]
//
// Both read a right side in vectors of 16 columns; they differ only in its strides. `Left` is the type in which
// an engine wants Q and P.

// Products in float32; the right side may be either type.
template <class T>
struct FloatProducts {
    typedef float Left;
    static constexpr bool kWholeBlocks = false;
    void take_rows(int) {}

    static void scores(const float* q, int rows, const T* keys, int tiles, int dim, float* out, int out_stride) {
        product(q, dim, rows, keys, kLanes * kTileSlots, kTileSlots * (int64_t)dim, dim, tiles, out, out_stride,
                false);
    }

    static void mix(const float* p, int p_stride, int rows, const T* values, int num_keys, int dim, float* sums) {
        product(p, p_stride, rows, values, kLanes * (int64_t)dim, kLanes * 16, num_keys, dim / 16, sums, dim, true);
    }

   private:
    // Places on the left that one vector of the right covers: a pair for bfloat16.
    static constexpr int kLanes = sizeof(T) == 2 ? 2 : 1;

    static void product(const float* left, int64_t left_stride, int rows, const T* right, int64_t step,
                        int64_t column_step, int depth, int columns, float* out, int64_t out_stride, bool add) {
        int row = 0;
        for (; row + 4 <= rows; row += 4)
            columns_of<4>(left + row * left_stride, left_stride, right, step, column_step, depth, columns,
                          out + row * out_stride, out_stride, add);
        for (; row < rows; ++row)
            columns_of<1>(left + row * left_stride, left_stride, right, step, column_step, depth, columns,
                          out + row * out_stride, out_stride, add);
    }

    template <int kRows>
    INLINE void columns_of(const float* left, int64_t left_stride, const T* right, int64_t step,
                           int64_t column_step, int depth, int columns, float* out, int64_t out_stride, bool add) {
        for (int column = 0; column < columns; ++column) {
            Floats sums[kRows];
            for (int r = 0; r < kRows; ++r)
                sums[r] = add ? load(out + r * out_stride + column * 16) : all(0.0f);
            const T* at = right + column * column_step;
            for (int k = 0; k < depth; k += kLanes, at += step) add_step<kRows>(left + k, left_stride, at, sums);
            for (int r = 0; r < kRows; ++r) store(out + r * out_stride + column * 16, sums[r]);
        }
    }

    template <int kRows>
    INLINE void add_step(const float* left, int64_t left_stride, const float* right, Floats* sums) {
        const Floats v = load(right);
        for (int r = 0; r < kRows; ++r) sums[r] = sums[r] + v * left[r * left_stride];
    }

    template <int kRows>
    INLINE void add_step(const float* left, int64_t left_stride, const Bf16* right, Floats* sums) {
        const Words pair = load_as<Words>((const uint32_t*)right);
        const Floats first = as_floats(pair << 16), second = as_floats(pair & 0xffff0000u);
        for (int r = 0; r < kRows; ++r) {
            sums[r] = sums[r] + first * left[r * left_stride];
            sums[r] = sums[r] + second * left[r * left_stride + 1];
        }
    }
};

#if defined(__AVX512BF16__)

// Products of bfloat16 pairs, summed in float32 (VDPBF16PS).
struct PairProducts {
    typedef Bf16 Left;
    static constexpr bool kWholeBlocks = false;
    void take_rows(int) {}

    static void scores(const Bf16* q, int rows, const Bf16* keys, int tiles, int dim, float* out, int out_stride) {
        product(q, dim, rows, keys, 2 * kTileSlots, kTileSlots * (int64_t)dim, dim / 2, tiles, out, out_stride,
                false);
    }

    static void mix(const Bf16* p, int p_stride, int rows, const Bf16* values, int num_keys, int dim,
                    float* sums) {
        product(p, p_stride, rows, values, 2 * (int64_t)dim, 32, num_keys / 2, dim / 16, sums, dim, true);
    }

   private:
    static void product(const Bf16* left, int64_t left_stride, int rows, const Bf16* right, int64_t step,
                        int64_t column_step, int pairs, int columns, float* out, int64_t out_stride, bool add) {
        for (int row = 0; row < rows;) {
            const Bf16* a = left + row * left_stride;
            float* c = out + row * out_stride;
            const int here = rows - row >= 4 ? 4 : rows - row;
            for (int column = 0; column < columns;) {
                const Bf16* b = right + column * column_step;
                float* to = c + column * 16;
                const int wide = columns - column >= 4 ? 4 : 1;
                if (here == 4 && wide == 4)
                    block<4, 4>(a, left_stride, b, step, column_step, pairs, to, out_stride, add);
                else if (here == 4)
                    block<4, 1>(a, left_stride, b, step, column_step, pairs, to, out_stride, add);
                else
                    for (int r = 0; r < here; ++r)
                        if (wide == 4)
                            block<1, 4>(a + r * left_stride, left_stride, b, step, column_step, pairs,
                                        to + r * out_stride, out_stride, add);
                        else
                            block<1, 1>(a + r * left_stride, left_stride, b, step, column_step, pairs,
                                        to + r * out_stride, out_stride, add);
                column += wide;
            }
            row += here;
        }
    }

    template <int kRows, int kColumns>
    INLINE void block(const Bf16* left, int64_t left_stride, const Bf16* right, int64_t step, int64_t column_step,
                      int pairs, float* out, int64_t out_stride, bool add) {
        __m512 sums[kRows][kColumns];
        for (int r = 0; r < kRows; ++r)
            for (int c = 0; c < kColumns; ++c)
                sums[r][c] = add ? _mm512_loadu_ps(out + r * out_stride + c * 16) : _mm512_setzero_ps();
        for (int k = 0; k < pairs; ++k) {
            __m512bh v[kColumns];
            for (int c = 0; c < kColumns; ++c)
                v[c] = (__m512bh)_mm512_loadu_si512(right + k * step + c * column_step);
            for (int r = 0; r < kRows; ++r) {
                int32_t pair;
                __builtin_memcpy(&pair, left + r * left_stride + 2 * k, sizeof pair);
                const __m512bh same = (__m512bh)_mm512_set1_epi32(pair);
                for (int c = 0; c < kColumns; ++c) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], same, v[c]);
            }
        }
        for (int r = 0; r < kRows; ++r)
            for (int c = 0; c < kColumns; ++c) _mm512_storeu_ps(out + r * out_stride + c * 16, sums[r][c]);
    }
};

// The same for rows that meet fixed weights, which are laid out as keys are: some rows at a time stay in registers with
// the sums of two tiles, so that a vector of weights is loaded once for all of them.
class PairRows {
   public:
    void take_rows(int) {}

    // The sums of one or two tiles; nothing is to be done between.
    template <class Between>
    INLINE void scores_of_pair(const Bf16* q, int rows, const Bf16* keys, bool two_tiles, int dim, float* out,
                               int out_stride, const Between&) {
        add_scores(q, dim, rows, keys, two_tiles, dim, out, out_stride, false);
    }

    // The same by some of the dimensions, whose keys alone are here; added to those there.
    INLINE void add_scores(const Bf16* q, int64_t q_stride, int rows, const Bf16* keys, bool two_tiles, int dims,
                           float* out, int out_stride, bool add) {
        for (int row = 0; row < rows;) {
            // In parts of about one size: a last row by itself would cost as many loads as eight.
            const int parts = (rows - row + kMostRows - 1) / kMostRows, here = (rows - row + parts - 1) / parts;
            const Part part = {q + row * q_stride, q_stride, keys, dims / 2, out + row * out_stride, out_stride, add};
            if (two_tiles)
                rows_of<2>(part, here);
            else
                rows_of<1>(part, here);
            row += here;
        }
    }

   private:
    static constexpr int kMostRows = 8;

    struct Part {
        const Bf16* left;
        int64_t left_stride;
        const Bf16* right;
        int pairs;
        float* out;
        int64_t out_stride;
        bool add;
    };

    template <int kTiles, int kRows = kMostRows>
    static void rows_of(const Part& part, int rows) {
        if constexpr (kRows > 1)
            if (rows < kRows) return rows_of<kTiles, kRows - 1>(part, rows);
        sums_of<kRows, kTiles>(part);
    }

    // A row's sum is made in one order, however many rows there are: a request's numbers do not depend on its batch.
    template <int kRows, int kTiles>
    static void sums_of(const Part& part) {
        const int64_t tile_step = kTileSlots * 2 * (int64_t)part.pairs;
        __m512 sums[kRows][kTiles];
        for (int r = 0; r < kRows; ++r)
            for (int t = 0; t < kTiles; ++t)
                sums[r][t] = part.add ? _mm512_loadu_ps(part.out + r * part.out_stride + t * 16) : _mm512_setzero_ps();
        for (int k = 0; k < part.pairs; ++k) {
            __m512bh v[kTiles];
            for (int t = 0; t < kTiles; ++t)
                v[t] = (__m512bh)_mm512_loadu_si512(part.right + k * 2 * kTileSlots + t * tile_step);
            for (int r = 0; r < kRows; ++r) {
                int32_t pair;
                __builtin_memcpy(&pair, part.left + r * part.left_stride + 2 * k, sizeof pair);
                const __m512bh same = (__m512bh)_mm512_set1_epi32(pair);
                for (int t = 0; t < kTiles; ++t) sums[r][t] = _mm512_dpbf16_ps(sums[r][t], same, v[t]);
            }
        }
        for (int r = 0; r < kRows; ++r)
            for (int t = 0; t < kTiles; ++t) _mm512_storeu_ps(part.out + r * part.out_stride + t * 16, sums[r][t]);
    }
};

#endif

#if defined(__AMX_BF16__)

// Products of AMX tiles, 16 rows × 32 places by 32 places × 16 columns; head_dim comes in multiples of 32. At most
// 32 rows at a time.
class TileProducts {
   public:
    typedef Bf16 Left;
    static constexpr bool kWholeBlocks = true;   // the last of several blocks of rows is filled with zeros

    TileProducts() = default;
    TileProducts(const TileProducts&) = delete;
    TileProducts& operator=(const TileProducts&) = delete;
    ~TileProducts() {
        if (rows_) _tile_release();
    }

    // Set the tiles up for this many rows, so that no more are read, multiplied or written.
    void take_rows(int rows) {
        if (rows == rows_) return;
        rows_ = rows;
        const int above = rows < 16 ? rows : 16, below = rows > 16 ? rows - 16 : 16;
        struct __attribute__((packed)) {
            uint8_t palette, start_row, reserved[14];
            uint16_t column_bytes[16];
            uint8_t rows[16];
        } config = {};
        config.palette = 1;
        for (int i = 0; i < 8; ++i) {
            const bool is_right = i >= 6, is_below = i == 2 || i == 3 || i == 5;
            config.column_bytes[i] = 64;
            config.rows[i] = (uint8_t)(is_right ? 16 : is_below ? below : above);
        }
        _tile_loadconfig(&config);
    }

    static void scores(const Bf16* q, int rows, const Bf16* keys, int tiles, int dim, float* out, int out_stride) {
        for (int tile = 0; tile < tiles; tile += 2)
            product(q, dim, rows > 16, keys + tile * (int64_t)dim * kTileSlots, 64, kTileSlots * (int64_t)dim,
                    tiles - tile > 1, dim / 32, 16 * 2 * kTileSlots, out + tile * 16, out_stride, false, [] {});
    }

    // The scores of at most two tiles, with `between` called after each 32 places.
    template <class Between>
    INLINE void scores_of_pair(const Bf16* q, int rows, const Bf16* keys, bool two_tiles, int dim, float* out,
                               int out_stride, const Between& between) {
        product(q, dim, rows > 16, keys, 64, kTileSlots * (int64_t)dim, two_tiles, dim / 32, 16 * 2 * kTileSlots, out,
                out_stride, false, between);
    }

    // The scores of one or two tiles by some of the dimensions, whose keys alone are here; added to those there.
    INLINE void add_scores(const Bf16* q, int64_t q_stride, int rows, const Bf16* keys, bool two_tiles, int dims,
                           float* out, int out_stride, bool add) {
        product(q, q_stride, rows > 16, keys, 64, kTileSlots * (int64_t)dims, two_tiles, dims / 32, 16 * 2 * kTileSlots,
                out, out_stride, add, [] {});
    }

    static void mix(const Bf16* p, int p_stride, int rows, const Bf16* values, int num_keys, int dim,
                    float* sums) {
        for (int column = 0; column < dim; column += 32)
            product(p, p_stride, rows > 16, values + column * 2, 4 * dim, 32, true, num_keys / 32,
                    32 * (int64_t)dim, sums + column, dim, true, [] {});
    }

   private:
    INLINE void zero() {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }

    INLINE void load_sums(const float* sums, int64_t stride, bool two_rows, bool two_columns) {
        const float* below = sums + 16 * stride;
        _tile_loadd(0, sums, stride * 4);
        if (two_columns) _tile_loadd(1, sums + 16, stride * 4);
        if (two_rows) _tile_loadd(2, below, stride * 4);
        if (two_rows && two_columns) _tile_loadd(3, below + 16, stride * 4);
    }

    INLINE void store_sums(float* sums, int64_t stride, bool two_rows, bool two_columns) {
        float* below = sums + 16 * stride;
        _tile_stored(0, sums, stride * 4);
        if (two_columns) _tile_stored(1, sums + 16, stride * 4);
        if (two_rows) _tile_stored(2, below, stride * 4);
        if (two_rows && two_columns) _tile_stored(3, below + 16, stride * 4);
    }

    // 32 places; `right_row` is in bytes, other strides in elements.
    INLINE void add_product(const Bf16* left, int64_t left_stride, bool two_rows, const Bf16* right,
                            int64_t right_row, int64_t column_step, bool two_columns) {
        _tile_loadd(4, left, left_stride * 2);
        _tile_loadd(6, right, right_row);
        _tile_dpbf16ps(0, 4, 6);
        if (two_columns) {
            _tile_loadd(7, right + column_step, right_row);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (two_rows) {
            _tile_loadd(5, left + 16 * left_stride, left_stride * 2);
            _tile_dpbf16ps(2, 5, 6);
            if (two_columns) _tile_dpbf16ps(3, 5, 7);
        }
    }

    // Up to 2 × 2 tiles of the result.
    template <class Between>
    INLINE void product(const Bf16* left, int64_t left_stride, bool two_rows, const Bf16* right, int64_t right_row,
                        int64_t column_step, bool two_columns, int steps, int64_t step, float* out,
                        int64_t out_stride, bool add, const Between& between) {
        if (add)
            load_sums(out, out_stride, two_rows, two_columns);
        else
            zero();
        for (int k = 0; k < steps; ++k) {
            add_product(left + 32 * k, left_stride, two_rows, right + k * step, right_row, column_step, two_columns);
            between();
        }
        store_sums(out, out_stride, two_rows, two_columns);
    }

    int rows_ = 0;
};

#endif
