// Attention of a step's rows over the pieces of the cache that they see.
//
// A work item takes some readers of a piece (the query heads that share a KV head are rows like any others) and goes
// over its part of the piece in tiles of up to 256 keys with an online softmax (FlashAttention, Dao et al. 2022).
// Each tile meets all the item's rows, 32 at a time, while it is near the processor; meanwhile the next one is
// fetched. What several items found for one row is merged by their weights. All exponentials are powers of two: the
// scale of the scores takes in log2(e).

constexpr int kBlockRows = 32;
constexpr int kTileKeys = 256;
constexpr int kMaxRows = 128;   // done together

// The buffers of one thread, one after the other.
template <class T, class Products>
struct Scratch {
    typedef typename Products::Left Left;

    Left* queries;   // [kMaxRows][head_dim]
    float* scores;   // [kBlockRows][kTileKeys]
    Left* weights;   // [kBlockRows][kTileKeys]
    float* sums;     // [kMaxRows][head_dim]
    T* keys;         // [kTileKeys][head_dim], where a tile does not lie in one piece
    T* values;

    static size_t bytes(int64_t dim) {
        return kMaxRows * dim * (sizeof(Left) + sizeof(float)) +
               kBlockRows * kTileKeys * (sizeof(float) + sizeof(Left)) + 2 * kTileKeys * dim * sizeof(T);
    }

    Scratch(unsigned char* at, int64_t dim) {
        queries = (Left*)at;
        at += kMaxRows * dim * sizeof(Left);
        scores = (float*)at;
        at += kBlockRows * kTileKeys * sizeof(float);
        weights = (Left*)at;
        at += kBlockRows * kTileKeys * sizeof(Left);
        sums = (float*)at;
        at += kMaxRows * dim * sizeof(float);
        keys = (T*)at;
        at += kTileKeys * dim * sizeof(T);
        values = (T*)at;
    }
};

// Where one token's elements lie within its tile.
template <class T>
struct Place;

template <>
struct Place<float> {
    static constexpr int kTogether = 1;
    static int64_t key(int64_t slot, int64_t d, int64_t) { return d * kTileSlots + slot; }
    static int64_t value(int64_t slot, int64_t d, int64_t dim) { return slot * dim + d; }
};

template <>
struct Place<Bf16> {
    static constexpr int kTogether = 2;   // keys whose values are interleaved
    static int64_t key(int64_t slot, int64_t d, int64_t) { return (d / 2 * kTileSlots + slot) * 2 + d % 2; }
    static int64_t value(int64_t slot, int64_t d, int64_t dim) { return (slot / 2 * dim + d) * 2 + slot % 2; }
};

// Up to kTileKeys keys and values in their layout.
template <class T>
struct Tile {
    const T* keys;
    const T* values;
    int num_keys;
    // The last keys, fewer than 32, with zeros after them: the cache holds anything there, even what is no
    // number, and 0 times that would not be 0.
    const T* last_values;
    int num_whole;
};

template <class T>
class PieceReader {
   public:
    PieceReader(const Run* runs, const T* keys, const T* values, int64_t dim)
        : runs_(runs), keys_(keys), values_(values), dim_(dim) {}

    // How many tokens from `begin` on, at most `num_keys`, are best read together: what lies in one run from the
    // beginning of the cache's tile on, or what is left of that tile. Copying tokens into tiles of their own
    // would cost more than the products with them.
    int extent(int64_t begin, int num_keys) {
        seek(begin);
        const int64_t offset = begin - before_, within = (runs_[run_].first + offset) % kTileSlots;
        const int64_t in_run = runs_[run_].count - offset, in_tile = kTileSlots - within;
        const int64_t most = within == 0 || in_run < in_tile ? in_run : in_tile;
        return most < num_keys ? (int)most : num_keys;
    }

    // The tokens [begin, begin + num_keys) of the piece; called with ascending `begin`, or from the start again.
    Tile<T> read(int64_t begin, int num_keys, T* spare_keys, T* spare_values) {
        seek(begin);
        const int64_t offset = begin - before_, slot = runs_[run_].first + offset;
        if (slot % kTileSlots == 0 && offset + num_keys <= runs_[run_].count) {
            const T* values = values_ + slot * dim_;
            const int num_whole = num_keys / 32 * 32;
            if (num_whole < num_keys)
                copy_values(values + num_whole * dim_, num_keys - num_whole, spare_values);
            return {keys_ + slot * dim_, values, num_keys, spare_values, num_whole};
        }
        gather(begin, num_keys, spare_keys, spare_values);
        return {spare_keys, spare_values, num_keys, spare_values + num_keys / 32 * 32 * dim_, num_keys / 32 * 32};
    }

    // Bring a share of what `read` will want from `begin` on nearer to the processor.
    void fetch(int64_t begin, int num_keys, int share, int num_shares) {
        if (num_keys <= 0) return;
        seek(begin);
        const int64_t offset = begin - before_, left = runs_[run_].count - offset;
        const int64_t at = (runs_[run_].first + offset) * dim_, count = (left < num_keys ? left : num_keys) * dim_;
        const int64_t line = 64 / sizeof(T), from = count * share / num_shares / line * line;
        for (int64_t i = from; i < count * (share + 1) / num_shares; i += line) {
            __builtin_prefetch(keys_ + at + i, 0, 2);
            __builtin_prefetch(values_ + at + i, 0, 2);
        }
    }

   private:
    void seek(int64_t token) {
        if (token < before_) run_ = 0, before_ = 0;
        while (token - before_ >= runs_[run_].count) before_ += runs_[run_++].count;
    }

    // Fewer than 32 keys from the beginning of a tile, and zeros up to 32.
    void copy_values(const T* from, int num_keys, T* to) {
        const int64_t whole = num_keys / Place<T>::kTogether * Place<T>::kTogether;
        __builtin_memcpy(to, from, whole * dim_ * sizeof(T));
        __builtin_memset(to + whole * dim_, 0, (32 - whole) * dim_ * sizeof(T));
        for (int64_t d = 0; whole < num_keys && d < dim_; ++d) {
            const int64_t at = (whole * dim_) + Place<T>::value(0, d, dim_);
            to[at] = from[at];
        }
    }

    void copy_token_values(const T* from, int64_t slot, T* to, int key) {
        to += key / kTileSlots * kTileSlots * dim_;
        for (int64_t d = 0; d < dim_; ++d)
            to[Place<T>::value(key % kTileSlots, d, dim_)] = from[Place<T>::value(slot, d, dim_)];
    }

    void copy_token_keys(const T* from, int64_t slot, T* to, int key) {
        to += key / kTileSlots * kTileSlots * dim_;
        for (int64_t d = 0; d < dim_; ++d)
            to[Place<T>::key(key % kTileSlots, d, dim_)] = from[Place<T>::key(slot, d, dim_)];
    }

    void gather(int64_t begin, int num_keys, T* to_keys, T* to_values) {
        const int padded = (num_keys + 31) / 32 * 32, last = num_keys / kTileSlots * kTileSlots;
        __builtin_memset(to_keys + last * dim_, 0, (padded - last) * dim_ * sizeof(T));
        __builtin_memset(to_values + last * dim_, 0, (padded - last) * dim_ * sizeof(T));
        for (int key = 0; key < num_keys;) {
            seek(begin + key);
            const int64_t offset = begin + key - before_, slot = runs_[run_].first + offset;
            const int64_t tile = slot / kTileSlots * kTileSlots * dim_;
            const bool whole = slot % kTileSlots == 0 && key % kTileSlots == 0 &&
                               offset + kTileSlots <= runs_[run_].count && key + kTileSlots <= num_keys;
            if (whole) {
                __builtin_memcpy(to_keys + key * dim_, keys_ + tile, kTileSlots * dim_ * sizeof(T));
                __builtin_memcpy(to_values + key * dim_, values_ + tile, kTileSlots * dim_ * sizeof(T));
                key += kTileSlots;
            } else {
                copy_token_keys(keys_ + tile, slot % kTileSlots, to_keys, key);
                copy_token_values(values_ + tile, slot % kTileSlots, to_values, key);
                ++key;
            }
        }
    }

    const Run* runs_;
    const T* keys_;
    const T* values_;
    int64_t dim_;
    int64_t run_ = 0;
    int64_t before_ = 0;   // tokens of the piece before run_
};

INLINE void scale_row(float* row, int64_t size, float factor) {
    for (int64_t d = 0; d < size; d += 16) store(row + d, load(row + d) * factor);
}

// The largest of one row's scores of a tile.
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

// Turns one row's scores of a tile into weights, powers of two relative to `top`, 0 from `visible` to `padded`, a
// multiple of 32. Returns their sum.
template <class Left>
INLINE float weigh(const float* scores, int visible, int padded, float scale, float top, Left* weights) {
    const Floats none = all(0.0f);
    Floats total = none, total_too = none;
    const Left* kind = nullptr;
    int key = 0;
    for (; key + 32 <= visible; key += 32) {
        const Floats weight = exp2_for(kind, load(scores + key) * scale - top);
        const Floats weight_too = exp2_for(kind, load(scores + key + 16) * scale - top);
        total = total + weight;
        total_too = total_too + weight_too;
        store_two(weights + key, weight, weight_too);
    }
    const int left = visible - key;
    if (left > 0) {
        const Floats weight = select(first_lanes(left), exp2_for(kind, load(scores + key) * scale - top), none);
        const Floats weight_too =
            left > 16 ? select(first_lanes(left - 16), exp2_for(kind, load(scores + key + 16) * scale - top), none)
                      : none;
        total = total + weight;
        total_too = total_too + weight_too;
        store_two(weights + key, weight, weight_too);
        key += 32;
    }
    for (; key < padded; key += 32) store_two(weights + key, none, none);
    return sum(total + total_too);
}

template <class T, class Products>
struct Attention {
    typedef typename Products::Left Left;

    const Shape& shape;
    const Step& step;
    const AttendArgs& args;
    int64_t dim, group, head;
    Scratch<T, Products> scratch;
    Products products;
    float top[kMaxRows], weight[kMaxRows];

    Attention(const AttendArgs& a, unsigned char* buffers)
        : shape(*a.shape),
          step(*a.step),
          args(a),
          dim(a.shape->head_dim),
          group(a.shape->num_heads / a.shape->num_kv_heads),
          head(0),
          scratch(buffers, a.shape->head_dim) {}

    void run(const Item& item, int64_t kv_head) {
        head = kv_head;
        const int64_t offset = head * shape.head_stride;
        PieceReader<T> piece(step.runs + item.runs, (const T*)args.keys + offset, (const T*)args.values + offset,
                             dim);
        const int64_t num_rows = item.num_readers * group;
        for (int64_t first = 0; first < num_rows; first += kMaxRows) {
            const int rows = num_rows - first < kMaxRows ? (int)(num_rows - first) : kMaxRows;
            gather_queries(item, first, rows);
            attend(item, piece, first, rows);
            for (int r = 0; r < rows; ++r) hand_over(item, first + r, r);
        }
    }

    const Reader& reader_of(const Item& item, int64_t query_row) {
        return step.readers[item.readers + query_row / group];
    }

    void gather_queries(const Item& item, int64_t first, int rows) {
        for (int r = 0; r < rows; ++r) {
            const int64_t row = reader_of(item, first + r).row, h = head * group + (first + r) % group;
            const T* from = (const T*)args.queries + row * args.query_stride + h * dim;
            Left* to = scratch.queries + r * dim;
            for (int64_t d = 0; d < dim; d += 16) store(to + d, load(from + d));
            top[r] = -__builtin_inff();
            weight[r] = 0;
        }
        __builtin_memset(scratch.sums, 0, rows * dim * sizeof(float));
    }

    void attend(const Item& item, PieceReader<T>& piece, int64_t first, int rows) {
        // Readers come in descending order of what they see.
        const int64_t seen = reader_of(item, first).limit, end = seen < item.end ? seen : item.end;
        int num_keys = 0;
        for (int64_t begin = item.begin; begin < end; begin += num_keys) {
            num_keys = piece.extent(begin, end - begin < kTileKeys ? (int)(end - begin) : kTileKeys);
            const Tile<T> tile = piece.read(begin, num_keys, scratch.keys, scratch.values);
            const int64_t next = begin + num_keys, left = end - next;
            const int num_next = left < 0 ? 0 : left < kTileKeys ? (int)left : kTileKeys;
            for (int block = 0; block < rows; block += kBlockRows) {
                if (reader_of(item, first + block).limit <= begin) break;
                attend_block(item, tile, begin, first, block, rows);
                piece.fetch(next, num_next, block / kBlockRows, (rows + kBlockRows - 1) / kBlockRows);
            }
        }
    }

    // Up to kBlockRows rows and one tile.
    void attend_block(const Item& item, const Tile<T>& tile, int64_t begin, int64_t first, int block, int rows) {
        const int here = rows - block < kBlockRows ? rows - block : kBlockRows;
        const int num_keys = tile.num_keys, padded = (num_keys + 31) / 32 * 32;
        const float scale = shape.scale * 1.44269504f;
        products.take_rows(here);
        products.scores(scratch.queries + block * dim, here, tile.keys, (num_keys + 15) / 16, (int)dim,
                        scratch.scores, kTileKeys);
        int visible[kBlockRows];
        for (int r = 0; r < here; ++r) {
            const int64_t seen = reader_of(item, first + block + r).limit - begin;
            visible[r] = seen < 0 ? 0 : seen < num_keys ? (int)seen : num_keys;
        }
        raise_tops(block, here, visible, scale);
        for (int r = 0; r < here; ++r)
            weight[block + r] += weigh(scratch.scores + r * kTileKeys, visible[r], padded, scale, top[block + r],
                                       scratch.weights + r * kTileKeys);
        mix(tile, block, here);
    }

    // The rows' largest scores so far, in powers of two; what is relative to a lower one is scaled down.
    void raise_tops(int block, int rows, const int* visible, float scale) {
        float found[kBlockRows];
        for (int r = 0; r < rows; ++r) found[r] = largest_of(scratch.scores + r * kTileKeys, visible[r]) * scale;
        for (int r = 0; r < rows; ++r) {
            const int row = block + r;
            if (!(found[r] > top[row])) continue;
            if (weight[row] != 0) {
                const float factor = exp2(top[row] - found[r]);
                weight[row] *= factor;
                scale_row(scratch.sums + row * dim, dim, factor);
            }
            top[row] = found[r];
        }
    }

    void mix(const Tile<T>& tile, int block, int rows) {
        float* sums = scratch.sums + block * dim;
        if (tile.num_whole)
            products.mix(scratch.weights, kTileKeys, rows, tile.values, tile.num_whole, (int)dim, sums);
        if (tile.num_whole < tile.num_keys)
            products.mix(scratch.weights + tile.num_whole, kTileKeys, rows, tile.last_values, 32, (int)dim, sums);
    }

    // A row's only result goes out; one of several is kept for merging.
    void hand_over(const Item& item, int64_t query_row, int r) {
        const int64_t row = reader_of(item, query_row).row, h = query_row % group;
        const float* sums = scratch.sums + r * dim;
        if (step.part_bounds[row + 1] - step.part_bounds[row] == 1) {
            T* out = (T*)args.out + (row * shape.num_heads + head * group + h) * dim;
            for (int64_t d = 0; d < dim; d += 16) store(out + d, load(sums + d) * (1.0f / weight[r]));
            return;
        }
        float* part = part_of(item.part + query_row / group, head, h);
        __builtin_memcpy(part, sums, dim * sizeof(float));
        part[dim] = top[r];
        part[dim + 1] = weight[r];
    }

    float* part_of(int64_t part, int64_t kv_head, int64_t h) const {
        return step.parts + ((kv_head * step.num_parts + part) * group + h) * (dim + 2);
    }

    // The parts of one row and one head, weighted by the powers that their sums were taken relative to.
    void merge(int64_t row, int64_t h) {
        const int64_t first = step.part_bounds[row], end = step.part_bounds[row + 1];
        if (end - first == 1) return;
        float most = -__builtin_inff(), total = 0;
        for (int64_t i = first; i < end; ++i) {
            const float* part = part_of(step.part_numbers[i], h / group, h % group);
            if (part[dim] > most) most = part[dim];
        }
        float* sums = scratch.sums;
        __builtin_memset(sums, 0, dim * sizeof(float));
        for (int64_t i = first; i < end; ++i) {
            const float* part = part_of(step.part_numbers[i], h / group, h % group);
            if (part[dim + 1] == 0) continue;
            const float factor = exp2(part[dim] - most);
            total += part[dim + 1] * factor;
            for (int64_t d = 0; d < dim; d += 16) store(sums + d, load(sums + d) + load(part + d) * factor);
        }
        T* out = (T*)args.out + (row * shape.num_heads + h) * dim;
        for (int64_t d = 0; d < dim; d += 16) store(out + d, load(sums + d) * (1.0f / total));
    }
};

template <class T, class Products>
void attend_with(const AttendArgs& args) {
    const Step& step = *args.step;
    const int64_t num_kv_heads = args.shape->num_kv_heads, num_heads = args.shape->num_heads;
    for_pieces(args.pool, step.num_items * num_kv_heads, [&](int64_t unit, int thread) {
        Attention<T, Products> attention(args, step.scratch + step.scratch_bytes * thread);
        attention.run(step.items[unit / num_kv_heads], unit % num_kv_heads);
    });
    if (step.num_parts == step.num_rows) return;
    for_rows(args.pool, step.num_rows, num_heads * args.shape->head_dim, [&](int64_t row, int thread) {
        Attention<T, Products> attention(args, step.scratch + step.scratch_bytes * thread);
        for (int64_t head = 0; head < num_heads; ++head) attention.merge(row, head);
    });
}
