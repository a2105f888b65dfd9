// What is done row by row between the matrix products of a layer: normalisation, rotation and gating. Sums
// are in float32; results are rounded where the model in plain torch rounds them.

template <class T>
INLINE float rms_factor(const T* row, int64_t size, float eps) {
    // Several sums, for each waits for the one before it.
    Floats squares[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
    int64_t i = 0;
    for (; i + 64 <= size; i += 64)
        for (int part = 0; part < 4; ++part) {
            const Floats v = load(row + i + 16 * part);
            squares[part] = squares[part] + v * v;
        }
    for (; i + 16 <= size; i += 16) {
        const Floats v = load(row + i);
        squares[0] = squares[0] + v * v;
    }
    float total = sum(squares[0] + squares[1] + (squares[2] + squares[3]));
    for (; i < size; ++i) total += widen(row[i]) * widen(row[i]);
    return 1.0f / __builtin_sqrtf(total / (float)size + eps);
}

template <class T>
INLINE void scale_by(const T* row, const T* weight, int64_t size, float factor, T* out) {
    int64_t i = 0;
    for (; i + 16 <= size; i += 16)
        store(out + i, rounded_to(out, load(row + i) * factor) * load(weight + i));
    for (; i < size; ++i) {
        T normed;
        narrow_to(&normed, widen(row[i]) * factor);
        narrow_to(out + i, widen(normed) * widen(weight[i]));
    }
}

template <class T>
INLINE void add_to(T* row, const T* added, int64_t size) {
    int64_t i = 0;
    for (; i + 16 <= size; i += 16) store(row + i, load(row + i) + load(added + i));
    for (; i < size; ++i) narrow_to(row + i, widen(row[i]) + widen(added[i]));
}

template <class T>
void add_norm_of(const NormArgs& a) {
    for_rows(a.pool, a.num_rows, a.size, [&](int64_t r, int) {
        T* row = (T*)a.hidden + r * a.size;
        if (a.added) add_to(row, (const T*)a.added + r * a.size, a.size);
        scale_by(row, (const T*)a.weight, a.size, rms_factor(row, a.size, a.eps), (T*)a.out + r * a.size);
    });
}

// x · sigmoid(x), by a power that is at most 1.
INLINE Floats silu(Floats x) {
    const Mask below = x < 0.0f;
    const Floats power = exp2(select(below, x, x * -1.0f) * 1.44269504f);
    return x * select(below, power, all(1.0f)) / (power + 1.0f);
}

template <class T>
void silu_mul_of(const GateArgs& a) {
    for_rows(a.pool, a.num_rows, a.size, [&](int64_t r, int) {
        const T* gate = (const T*)a.gate_up + 2 * r * a.size;
        const T* up = gate + a.size;
        T* out = (T*)a.out + r * a.size;
        int64_t i = 0;
        for (; i + 16 <= a.size; i += 16)
            store(out + i, rounded_to(out, silu(load(gate + i))) * load(up + i));
        for (; i < a.size; ++i) {
            T gated;
            narrow_to(&gated, first_of(silu(all(widen(gate[i])))));
            narrow_to(out + i, widen(gated) * widen(up[i]));
        }
    });
}

// One head of one token: normalised when there is a weight, then its halves rotated against each other.
template <class T>
INLINE void rotate_head(T* head, const T* norm, float eps, const float* cosines, const float* sines, int64_t dim) {
    const int64_t half = dim / 2;
    if (norm) scale_by(head, norm, dim, rms_factor(head, dim, eps), head);
    int64_t i = 0;
    for (; i + 16 <= half; i += 16) {
        const Floats a = load(head + i), b = load(head + half + i), c = load(cosines + i), s = load(sines + i);
        store(head + i, a * c - b * s);
        store(head + half + i, b * c + a * s);
    }
    for (; i < half; ++i) {
        const float a = widen(head[i]), b = widen(head[half + i]);
        narrow_to(head + i, a * cosines[i] - b * sines[i]);
        narrow_to(head + half + i, b * cosines[i] + a * sines[i]);
    }
}

template <class T>
INLINE void rotate_row(const RotateArgs& a, int64_t r) {
    const int64_t dim = a.head_dim, num_heads = a.num_query_heads + a.num_key_heads, at = a.positions[r] * (dim / 2);
    T* row = (T*)a.heads + r * a.stride;
    for (int64_t h = 0; h < num_heads; ++h) {
        const T* norm = (const T*)(h < a.num_query_heads ? a.query_norm : a.key_norm);
        rotate_head(row + h * dim, norm, a.norm_eps, a.cosines + at, a.sines + at, dim);
    }
}

template <class T>
void rotate_of(const RotateArgs& a) {
    for_rows(a.pool, a.num_rows, (a.num_query_heads + a.num_key_heads) * a.head_dim,
             [&](int64_t r, int) { rotate_row<T>(a, r); });
}

template <class T>
void write_of(const WriteArgs& a) {
    const int64_t dim = a.shape->head_dim, num_heads = a.shape->num_kv_heads;
    const int64_t num_rotated = a.rotation ? a.rotation->num_query_heads + a.rotation->num_key_heads : 0;
    for_rows(a.pool, a.num_rows, (num_heads + num_rotated) * dim, [&](int64_t r, int) {
        if (a.rotation) rotate_row<T>(*a.rotation, r);
        const int64_t slot = a.slots[r];
        if (slot < 0) return;
        const int64_t tile = slot / kTileSlots * kTileSlots * dim, at = slot % kTileSlots;
        for (int64_t h = 0; h < num_heads; ++h) {
            const T* key = (const T*)a.new_keys + r * a.key_stride + h * dim;
            const T* value = (const T*)a.new_values + r * a.value_stride + h * dim;
            T* keys = (T*)a.keys + h * a.shape->head_stride + tile;
            T* values = (T*)a.values + h * a.shape->head_stride + tile;
            for (int64_t d = 0; d < dim; ++d) keys[Place<T>::key(at, d, dim)] = key[d];
            for (int64_t d = 0; d < dim; ++d) values[Place<T>::value(at, d, dim)] = value[d];
        }
    });
}
