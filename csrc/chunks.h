// What becomes of up to 32 rows and a chunk of keys: scores, weights (powers of two), sums of values times weights.
//
// A weight is relative to the row's top, the largest score of the first keys that the row saw. A later score may be
// above it, and its weight above 1; only when it is far above does the top rise. So the largest score has to be found
// for the first keys alone.

constexpr int kBlockRows = 32;
constexpr int kChunkKeys = 128;          // whose scores and weights stay in the nearest cache
constexpr float kMostWeight = 1 << 24;   // in one lane of one chunk: beyond it, differences of scores get coarse

// Up to kBlockRows rows, and what is known of them so far.
template <class Left>
struct Block {
    Left* queries;   // [padded_rows][head_dim]
    float* sums;     // [padded_rows][head_dim]: weights times values
    float* totals;   // [rows][16]: weights, in lanes
    float* tops;     // [rows]
    int rows;
    int padded_rows;   // with zeros after them
    bool has_tops = false;
};

// Keys and values that will be wanted.
struct Ahead {
    const char* keys = nullptr;
    const char* values = nullptr;
    int64_t bytes = 0;   // of each
};

// Brings them nearer to the processor, a little at a time between other work: it can wait for few at once.
class Fetcher {
   public:
    // All of it in so many turns.
    void start(const Ahead& ahead, int64_t num_turns) {
        at_ = 0;
        ahead_ = ahead;
        each_ = (ahead.bytes / kLine + num_turns - 1) / num_turns * kLine;
    }

    inline __attribute__((always_inline)) void go_on() {
        const int64_t end = at_ + each_ < ahead_.bytes ? at_ + each_ : ahead_.bytes;
        for (; at_ < end; at_ += kLine) {
            __builtin_prefetch(ahead_.keys + at_, 0, 2);
            __builtin_prefetch(ahead_.values + at_, 0, 2);
        }
    }

   private:
    static constexpr int64_t kLine = 64;

    Ahead ahead_;
    int64_t at_ = 0;
    int64_t each_ = 0;
};

INLINE void scale_row(float* row, int64_t size, float factor) {
    for (int64_t d = 0; d < size; d += 16) store(row + d, load(row + d) * factor);
}

// The largest of one row's scores of a chunk.
INLINE float largest_of(const float* scores, int visible) {
    const Floats lowest = all(-__builtin_inff());
    Floats most = lowest, more = lowest;
    int key = 0;
    for (; key + 32 <= visible; key += 32) {
        most = larger(load(scores + key), most);
        more = larger(load(scores + key + 16), more);
    }
    const int left = visible - key;
    if (left > 0) most = larger(select(first_lanes(left), load(scores + key), lowest), most);
    if (left > 16) more = larger(select(first_lanes(left - 16), load(scores + key + 16), lowest), more);
    return largest(larger(most, more));
}

// Tops become the rows' largest scores so far, in powers of two; what is relative to a lower one is scaled down.
template <class Left>
void raise_tops(const Block<Left>& block, const float* scores, int stride, const int* visible, int64_t dim,
                float scale) {
    for (int r = 0; r < block.rows; ++r) {
        const float found = largest_of(scores + r * stride, visible[r]) * scale;
        if (!(found > block.tops[r])) continue;
        if (block.tops[r] > -__builtin_inff()) {
            const float factor = exp2(block.tops[r] - found);
            scale_row(block.totals + r * 16, 16, factor);
            scale_row(block.sums + r * dim, dim, factor);
        }
        block.tops[r] = found;
    }
}

// Turns 32 scores into weights, powers of two relative to `top`; returns their sum in lanes.
template <class Left>
INLINE Floats weigh_two(const float* scores, float scale, float top, Left* weights) {
    const Left* kind = nullptr;
    const Floats weight = exp2_for(kind, load(scores) * scale - top);
    const Floats weight_too = exp2_for(kind, load(scores + 16) * scale - top);
    store_two(weights, weight, weight_too);
    return weight + weight_too;
}

// The same for one row's scores of a chunk, with 0 from `visible` to `padded`, a multiple of 32.
template <class Left>
INLINE Floats weigh_seen(const float* scores, int visible, int padded, float scale, float top, Left* weights) {
    const Floats none = all(0.0f);
    const Left* kind = nullptr;
    Floats total = none;
    int key = 0;
    for (; key + 32 <= visible; key += 32) total = total + weigh_two(scores + key, scale, top, weights + key);
    const int left = visible - key;
    if (left > 0) {
        const Floats weight = select(first_lanes(left), exp2_for(kind, load(scores + key) * scale - top), none);
        const Floats weight_too =
            left > 16 ? select(first_lanes(left - 16), exp2_for(kind, load(scores + key + 16) * scale - top), none)
                      : none;
        total = total + (weight + weight_too);
        store_two(weights + key, weight, weight_too);
        key += 32;
    }
    for (; key < padded; key += 32) store_two(weights + key, none, none);
    return total;
}

// Whole chunks of keys, one after the other.
template <class T, class Products>
class Chunks {
    typedef typename Products::Left Left;

   public:
    Products products;
    Fetcher fetcher;
    const float scale;   // of scores, to powers of two

    // Buffers as in Scratch.
    Chunks(float* scores, Left* weights, float* partial, int dim, float scale_of_scores)
        : scale(scale_of_scores), scores_(scores), weights_(weights), partial_(partial), dim_(dim) {}

    // kChunkKeys keys that all rows of the block see.
    void attend(const Block<Left>& block, const T* keys, const T* values) {
        products.scores(block.queries, block.padded_rows, keys, kChunkKeys / kTileSlots, dim_, scores_, kChunkKeys);
        fetcher.go_on();
        if (!weigh(block)) {
            int visible[kBlockRows];
            for (int r = 0; r < kBlockRows; ++r) visible[r] = kChunkKeys;
            raise_tops(block, scores_, kChunkKeys, visible, dim_, scale);
            weigh(block);
        }
        for (int r = 0; r < block.rows; ++r) {
            float* const total = block.totals + r * 16;
            store(total, load(total) + load(partial_ + r * 16));
        }
        fetcher.go_on();
        products.mix(weights_, kChunkKeys, block.padded_rows, values, kChunkKeys, dim_, block.sums);
    }

   private:
    // False: some weight is so far above 1 that tops have to rise.
    __attribute__((noinline)) bool weigh(const Block<Left>& block) {
        Floats worst = all(0.0f);
        const float* scores = scores_;
        const float* const tops = block.tops;
        const float factor = scale;
        float* const partial = partial_;
        Left* weights = weights_;
        const int rows = block.rows;
        for (int r = 0; r < rows; ++r, scores += kChunkKeys, weights += kChunkKeys) {
            const float top = tops[r];
            Floats total = weigh_two(scores, factor, top, weights);
            for (int key = 32; key < kChunkKeys; key += 32)
                total = total + weigh_two(scores + key, factor, top, weights + key);
            store(partial + r * 16, total);
            fetcher.go_on();
            worst = larger(total, worst);
        }
        return largest(worst) <= kMostWeight;
    }

    float* scores_;
    Left* weights_;
    float* partial_;
    int dim_;
};
