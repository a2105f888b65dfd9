// Attention of a step's rows over the pieces of the cache that they see.
//
// A work item takes some readers of a piece (the query heads that share a KV head are rows like any others) and goes
// over its part of the piece with an online softmax (FlashAttention, Dao et al. 2022): in tiles of up to 512 keys,
// which meet all the item's rows, 32 at a time, while they are near the processor, and within a tile in chunks whose
// scores stay in the nearest cache. Meanwhile the next tile is fetched. What several items found for one row is
// merged by their weights. All exponentials are powers of two: the scale of the scores takes in log2(e).

constexpr int kTileKeys = 512;
constexpr int kMaxRows = 256;   // done together

// The buffers of one thread, one after the other.
template <class T, class Products>
struct Scratch {
    typedef typename Products::Left Left;

    Left* queries;    // [kMaxRows][head_dim]
    float* sums;      // [kMaxRows][head_dim]
    float* totals;    // [kMaxRows][16]
    float* scores;    // [kBlockRows][kChunkKeys]
    Left* weights;    // [kBlockRows][kChunkKeys]
    float* partial;   // [kBlockRows][16]
    T* keys;          // [kTileKeys][head_dim], where a tile does not lie in one piece
    T* values;

    static size_t bytes(int64_t dim) {
        return kMaxRows * dim * (sizeof(Left) + sizeof(float)) + (kMaxRows + kBlockRows) * 16 * sizeof(float) +
               kBlockRows * kChunkKeys * (sizeof(float) + sizeof(Left)) + 2 * kTileKeys * dim * sizeof(T);
    }

    Scratch(unsigned char* at, int64_t dim) {
        queries = take<Left>(at, kMaxRows * dim);
        sums = take<float>(at, kMaxRows * dim);
        totals = take<float>(at, kMaxRows * 16);
        partial = take<float>(at, kBlockRows * 16);
        scores = take<float>(at, kBlockRows * kChunkKeys);
        weights = take<Left>(at, kBlockRows * kChunkKeys);
        keys = take<T>(at, kTileKeys * dim);
        values = take<T>(at, kTileKeys * dim);
    }

   private:
    template <class Element>
    static Element* take(unsigned char*& at, int64_t size) {
        Element* const taken = (Element*)at;
        at += size * sizeof(Element);
        return taken;
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

    // Where `read` will find what follows `begin`, as far as it lies together.
    Ahead ahead(int64_t begin, int num_keys) {
        seek(begin);
        const int64_t offset = begin - before_, left = runs_[run_].count - offset;
        const int64_t at = (runs_[run_].first + offset) * dim_, count = (left < num_keys ? left : num_keys) * dim_;
        return {(const char*)(keys_ + at), (const char*)(values_ + at), count * (int64_t)sizeof(T)};
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

template <class T, class Products>
struct Attention {
    typedef typename Products::Left Left;

    const Shape& shape;
    const Step& step;
    const AttendArgs& args;
    int64_t dim, group, head;
    Scratch<T, Products> scratch;
    Chunks<T, Products> chunks;
    Ahead after;   // what comes after the item
    float tops[kMaxRows];
    Block<Left> blocks[kMaxRows / kBlockRows];

    Attention(const AttendArgs& a, unsigned char* buffers)
        : shape(*a.shape),
          step(*a.step),
          args(a),
          dim(a.shape->head_dim),
          group(a.shape->num_heads / a.shape->num_kv_heads),
          head(0),
          scratch(buffers, a.shape->head_dim),
          chunks(scratch.scores, scratch.weights, scratch.partial, (int)dim, a.shape->scale * 1.44269504f) {}

    // `next`, if any, is what this thread will probably do next.
    void run(const Item& item, int64_t kv_head, const Item* next, int64_t next_head) {
        head = kv_head;
        PieceReader<T> piece = reader_for(item, head);
        const int64_t num_rows = item.num_readers * group;
        for (int64_t first = 0; first < num_rows; first += kMaxRows) {
            const int rows = num_rows - first < kMaxRows ? (int)(num_rows - first) : kMaxRows;
            gather_queries(item, first, rows);
            after = {};
            if (next && first + rows == num_rows) {
                const int64_t tokens = next->end - next->begin;
                after = reader_for(*next, next_head).ahead(next->begin, tokens < kTileKeys ? (int)tokens : kTileKeys);
            }
            attend(item, piece, first, rows);
            for (int r = 0; r < rows; ++r) hand_over(item, first + r, r);
        }
    }

    PieceReader<T> reader_for(const Item& item, int64_t kv_head) const {
        const int64_t offset = kv_head * shape.head_stride;
        return {step.runs + item.runs, (const T*)args.keys + offset, (const T*)args.values + offset, dim};
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
            tops[r] = -__builtin_inff();
        }
        const bool fills = Products::kWholeBlocks && rows > 16;
        const int whole = fills ? (rows + kBlockRows - 1) / kBlockRows * kBlockRows : rows;
        __builtin_memset(scratch.queries + rows * dim, 0, (whole - rows) * dim * sizeof(Left));
        __builtin_memset(scratch.sums, 0, whole * dim * sizeof(float));
        __builtin_memset(scratch.totals, 0, rows * 16 * sizeof(float));
        for (int row = 0; row < rows; row += kBlockRows) {
            const int here = rows - row < kBlockRows ? rows - row : kBlockRows;
            blocks[row / kBlockRows] = {scratch.queries + row * dim, scratch.sums + row * dim,
                                        scratch.totals + row * 16,   tops + row,
                                        here,                        fills ? kBlockRows : here};
        }
        chunks.products.take_rows(fills ? kBlockRows : rows);
    }

    void attend(const Item& item, PieceReader<T>& piece, int64_t first, int rows) {
        // Readers come in descending order of what they see.
        const int64_t seen = reader_of(item, first).limit, end = seen < item.end ? seen : item.end;
        const int num_blocks = (rows + kBlockRows - 1) / kBlockRows;
        int num_keys = 0;
        for (int64_t begin = item.begin; begin < end; begin += num_keys) {
            num_keys = piece.extent(begin, end - begin < kTileKeys ? (int)(end - begin) : kTileKeys);
            const Tile<T> tile = piece.read(begin, num_keys, scratch.keys, scratch.values);
            const int64_t next = begin + num_keys, left = end - next;
            const Ahead ahead = left > 0 ? piece.ahead(next, left < kTileKeys ? (int)left : kTileKeys) : after;
            chunks.fetcher.start(ahead, (num_keys + kChunkKeys - 1) / kChunkKeys * (rows + 2 * num_blocks));
            for (int block = 0; block < num_blocks; ++block) {
                if (reader_of(item, first + block * kBlockRows).limit <= begin) break;
                attend_tile(item, tile, begin, first + block * kBlockRows, blocks[block]);
            }
        }
    }

    // One block's rows, of which `first` is the number of the first one, and one tile.
    void attend_tile(const Item& item, const Tile<T>& tile, int64_t begin, int64_t first, Block<Left>& block) {
        const int64_t most = reader_of(item, first).limit, least = reader_of(item, first + block.rows - 1).limit;
        for (int key = 0; key < tile.num_keys && begin + key < most; key += kChunkKeys) {
            const int num_keys = tile.num_keys - key < kChunkKeys ? tile.num_keys - key : kChunkKeys;
            if (block.has_tops && num_keys == kChunkKeys && begin + key + num_keys <= least) {
                chunks.attend(block, tile.keys + key * dim, tile.values + key * dim);
                continue;
            }
            int visible[kBlockRows];
            for (int r = 0; r < block.rows; ++r) {
                const int64_t seen = reader_of(item, first + r).limit - begin - key;
                visible[r] = seen < 0 ? 0 : seen < num_keys ? (int)seen : num_keys;
            }
            attend_edge(tile, key, num_keys, visible, block);
            block.has_tops = block.has_tops || visible[block.rows - 1] > 0;
        }
    }

    // Keys that not every row sees, fewer than a chunk, or the first ones.
    void attend_edge(const Tile<T>& tile, int key, int num_keys, const int* visible, Block<Left>& block) {
        Products& products = chunks.products;
        const int padded = (num_keys + 31) / 32 * 32;
        products.scores(block.queries, block.padded_rows, tile.keys + key * dim, (num_keys + 15) / 16, (int)dim,
                        scratch.scores, kChunkKeys);
        raise_tops(block, scratch.scores, kChunkKeys, visible, dim, chunks.scale);
        for (int r = 0; r < block.rows; ++r) {
            float* total = block.totals + r * 16;
            store(total, load(total) + weigh_seen(scratch.scores + r * kChunkKeys, visible[r], padded, chunks.scale,
                                                  block.tops[r], scratch.weights + r * kChunkKeys));
            chunks.fetcher.go_on();
        }
        const int left = tile.num_whole - key, num_whole = left < 0 ? 0 : left < num_keys ? left : num_keys;
        if (num_whole)
            products.mix(scratch.weights, kChunkKeys, block.padded_rows, tile.values + key * dim, num_whole, (int)dim,
                         block.sums);
        if (num_whole < num_keys)
            products.mix(scratch.weights + num_whole, kChunkKeys, block.padded_rows, tile.last_values, 32, (int)dim,
                         block.sums);
    }

    // A row's only result goes out; one of several is kept for merging.
    void hand_over(const Item& item, int64_t query_row, int r) {
        const int64_t row = reader_of(item, query_row).row, h = query_row % group;
        const float* sums = scratch.sums + r * dim;
        const float weight = sum(load(scratch.totals + r * 16));
        if (step.part_bounds[row + 1] - step.part_bounds[row] == 1) {
            T* out = (T*)args.out + (row * shape.num_heads + head * group + h) * dim;
            for (int64_t d = 0; d < dim; d += 16) store(out + d, load(sums + d) * (1.0f / weight));
            return;
        }
        float* part = part_of(item.part + query_row / group, head, h);
        __builtin_memcpy(part, sums, dim * sizeof(float));
        part[dim] = tops[r];
        part[dim + 1] = weight;
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
    const int64_t num_units = step.num_items * num_kv_heads, num_threads = pool_num_threads(args.pool);
    for_pieces(args.pool, num_units, [&](int64_t unit, int thread) {
        Attention<T, Products> attention(args, step.scratch + step.scratch_bytes * thread);
        const int64_t next = unit + num_threads;
        attention.run(step.items[unit / num_kv_heads], unit % num_kv_heads,
                      next < num_units ? step.items + next / num_kv_heads : nullptr, next % num_kv_heads);
    });
    if (step.num_parts == step.num_rows) return;
    for_rows(args.pool, step.num_rows, num_heads * args.shape->head_dim, [&](int64_t row, int thread) {
        Attention<T, Products> attention(args, step.scratch + step.scratch_bytes * thread);
        for (int64_t head = 0; head < num_heads; ++head) attention.merge(row, head);
    });
}
