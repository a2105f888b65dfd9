// The choice of each row's next token: the likeliest, or one drawn at random.
//
// A token's weight is its probability over the largest one: 2 to the power of its distance from the largest logit.
// Top-k and top-p come down to a least token that is still kept; it is found by a histogram over the leading bits of
// the weights, so that only tokens of nearly its weight are put in order. A draw is by the inverse of the cumulated
// weights, in the order of the tokens' numbers.

constexpr int kSampleBlock = 1024;
constexpr uint32_t kBitsOfOne = 0x3f800000u;
constexpr int kNoBucket = kBitsOfOne >> 20;   // of weight 0; before it, eight for each power of two

// The `bits` of 16 lanes, from the lowest.
INLINE Mask lanes_of(uint32_t bits) {
    const int32_t powers[16] = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
    const Mask lanes = load_as<Mask>(powers);
    FOR_PARTS(Mask, (lanes.part[i] & (int32_t)bits) != 0);
}

// Of two weights the larger is kept before the other, of equal ones that with the lower number.
struct Weighed {
    float weight;
    int32_t token;
};

INLINE bool is_before(Weighed a, Weighed b) {
    return a.weight > b.weight || (a.weight == b.weight && a.token < b.token);
}

// The foremost of a heap's `count` tokens comes out, and goes behind the rest.
INLINE void sink(Weighed* heap, int64_t at, int64_t count) {
    const Weighed moved = heap[at];
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && is_before(heap[child + 1], heap[child])) ++child;
        if (!is_before(heap[child], moved)) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

INLINE Weighed take_foremost(Weighed* heap, int64_t* count) {
    const Weighed foremost = heap[0];
    heap[0] = heap[--*count];
    sink(heap, 0, *count);
    return foremost;
}

template <class T>
class TokenRow {
   public:
    TokenRow(const T* logits, int64_t size, const uint32_t* allowed)
        : logits_(logits), allowed_(allowed), size_(size) {}

    // The first of the likeliest tokens; -1 where a logit is not finite, or nothing is allowed.
    int64_t likeliest() {
        most_ = -__builtin_inff();
        float bad = 0;
        int64_t best = -1;
        for (int64_t first = 0; first < size_; first += kSampleBlock) {
            const float most = most_of_block(first, &bad);
            if (most > most_) most_ = most, best = first;
        }
        if (bad != bad || best < 0) return -1;
        while (widen(logits_[best]) != most_ || !is_allowed(best)) ++best;
        return best;
    }

    // A draw, after `likeliest` has found a token.
    int64_t draw(const SampleSettings& settings, void* spare) {
        const float factor = 1.44269504f / settings.temperature, largest_weight = exp2(0.0f);
        factor_ = factor < 1e30f ? factor : 1e30f;
        Weighed least = {settings.min_p < largest_weight ? settings.min_p : largest_weight, INT32_MAX};
        if (settings.top_k > 0 || settings.top_p < 1.0f) {
            const Weighed cut = least_kept(settings, (Weighed*)spare);
            if (is_before(cut, least)) least = cut;
        }
        return draw_down_to(least, settings.uniform, (double*)spare);
    }

   private:
    uint32_t bits_at(int64_t i) const { return allowed_[i / 32] >> (i % 32); }
    bool is_allowed(int64_t i) const { return !allowed_ || (bits_at(i) & 1u); }

    // The largest allowed logit of a block; `bad` is no number any more once some logit is not finite.
    float most_of_block(int64_t first, float* bad) const {
        const T* logits = logits_ + first;
        const int count = block_size(first);
        Floats most = all(-__builtin_inff()), spoilt = all(0.0f);
        int i = 0;
        for (; i + 16 <= count; i += 16) {
            const Floats v = load(logits + i);
            // Infinity and NaN times 0 are NaN, and nothing added to that makes it a number again.
            spoilt = spoilt + v * 0.0f;
            most = larger(allowed_ ? select(lanes_of(bits_at(first + i)), v, most) : v, most);
        }
        float found = largest(most);
        *bad += sum(spoilt);
        for (; i < count; ++i) {
            const float v = widen(logits[i]);
            *bad += v * 0.0f;
            if (is_allowed(first + i) && v > found) found = v;
        }
        return found;
    }

    int block_size(int64_t first) const {
        return size_ - first < kSampleBlock ? (int)(size_ - first) : kSampleBlock;
    }

    // The weights of up to kSampleBlock tokens from `first`, a multiple of 32; 0 where a token is not allowed.
    int weigh_block(int64_t first, float* weights) const {
        const int count = block_size(first);
        const Floats top = all(most_);
        int i = 0;
        for (; i + 16 <= count; i += 16) {
            const Floats weight = exp2((load(logits_ + first + i) - top) * factor_);
            store(weights + i, allowed_ ? select(lanes_of(bits_at(first + i)), weight, all(0.0f)) : weight);
        }
        for (; i < count; ++i)
            weights[i] = is_allowed(first + i) ? exp2((widen(logits_[first + i]) - most_) * factor_) : 0.0f;
        return count;
    }

    // 0 for the largest weights; rounding can make one a little larger than 1.
    static int bucket_of(float weight) {
        uint32_t bits;
        __builtin_memcpy(&bits, &weight, sizeof bits);
        return bits < kBitsOfOne ? (int)((kBitsOfOne - bits) >> 20) : 0;
    }

    Weighed least_kept(const SampleSettings& settings, Weighed* spare) const {
        int64_t counts[kNoBucket + 1] = {};
        double masses[kNoBucket + 1] = {}, mass = 0;
        for (int64_t first = 0; first < size_; first += kSampleBlock) {
            float weights[kSampleBlock] __attribute__((aligned(64)));
            const int count = weigh_block(first, weights);
            for (int i = 0; i < count; ++i) {
                const int bucket = bucket_of(weights[i]);
                ++counts[bucket];
                masses[bucket] += weights[i];
            }
        }
        Weighed least = {0.0f, INT32_MAX};
        if (settings.top_k > 0) {
            int64_t before = 0;
            int bucket = 0;
            for (; bucket < kNoBucket && before + counts[bucket] < settings.top_k; ++bucket) {
                before += counts[bucket];
                mass += masses[bucket];
            }
            if (bucket < kNoBucket)
                least = last_of(bucket, settings.top_k - before, __builtin_inf(), &mass, spare);
        } else {
            for (int bucket = 0; bucket < kNoBucket; ++bucket) mass += masses[bucket];
        }
        if (settings.top_p < 1.0f) {
            const double wanted = settings.top_p * mass;
            double before = 0;
            int bucket = 0;
            for (; bucket < kNoBucket && before + masses[bucket] < wanted; ++bucket) before += masses[bucket];
            if (bucket < kNoBucket) {
                const Weighed cut = last_of(bucket, INT64_MAX, wanted, &before, spare);
                if (is_before(cut, least)) least = cut;
            }
        }
        return least;
    }

    // Goes through a bucket from its foremost token on, until `most` are taken or `mass`, to which their weights are
    // added, reaches `wanted`. Returns the last one taken; at least one is, where there is one.
    Weighed last_of(int bucket, int64_t most, double wanted, double* mass, Weighed* spare) const {
        int64_t count = 0;
        for (int64_t first = 0; first < size_; first += kSampleBlock) {
            float weights[kSampleBlock] __attribute__((aligned(64)));
            const int here = weigh_block(first, weights);
            for (int i = 0; i < here; ++i)
                if (bucket_of(weights[i]) == bucket) spare[count++] = {weights[i], (int32_t)(first + i)};
        }
        for (int64_t at = count / 2 - 1; at >= 0; --at) sink(spare, at, count);
        Weighed last = {0.0f, INT32_MAX};
        for (int64_t taken = 0; count > 0 && (taken == 0 || (taken < most && *mass < wanted)); ++taken) {
            last = take_foremost(spare, &count);
            *mass += last.weight;
        }
        return last;
    }

    int64_t draw_down_to(Weighed least, float uniform, double* masses) const {
        float weights[kSampleBlock] __attribute__((aligned(64)));
        double total = 0, before = 0;
        for (int64_t first = 0; first < size_; first += kSampleBlock)
            total += masses[first / kSampleBlock] = weigh_kept(first, least, weights);
        const double target = uniform * total;
        int64_t first = 0, last = -1;
        for (; first + kSampleBlock < size_ && before + masses[first / kSampleBlock] <= target; first += kSampleBlock)
            before += masses[first / kSampleBlock];
        weigh_kept(first, least, weights);
        const int count = block_size(first);
        for (int i = 0; i < count; ++i) {
            if (weights[i] == 0) continue;
            last = first + i;
            before += weights[i];
            if (before > target) break;
        }
        // Rounding alone can take the loop past its end: the block was summed in another order.
        return last;
    }

    // As weigh_block, and 0 for tokens that are not kept. Returns the sum.
    double weigh_kept(int64_t first, Weighed least, float* weights) const {
        const int count = weigh_block(first, weights);
        const Floats none = all(0.0f);
        Floats sums = none;
        int i = 0;
        for (; i + 16 <= count; i += 16) {
            const Floats weight = load(weights + i);
            const Mask is_less = weight < least.weight, is_more = weight * -1.0f < -least.weight;
            const int64_t left = least.token - (first + i) + 1;
            const Mask is_early = first_lanes(left < 16 ? (left < 0 ? 0 : (int)left) : 16);
            const Floats kept = select(is_less, none, select(is_more, weight, select(is_early, weight, none)));
            store(weights + i, kept);
            sums = sums + kept;
        }
        double mass = sum(sums);
        for (; i < count; ++i) {
            if (is_before(least, {weights[i], (int32_t)(first + i)})) weights[i] = 0;
            mass += weights[i];
        }
        return mass;
    }

    const T* logits_;
    const uint32_t* allowed_;
    int64_t size_;
    float most_ = 0;
    float factor_ = 0;
};

template <class T>
void sample_of(const SampleArgs& a) {
    for_rows(a.pool, a.num_rows, a.size, [&](int64_t r, int thread) {
        const SampleSettings& settings = a.settings[r];
        const uint32_t* allowed = settings.mask < 0 ? nullptr : a.masks + settings.mask * a.mask_words;
        TokenRow<T> row((const T*)a.logits + r * a.stride, a.size, allowed);
        a.out[r] = row.likeliest();
        if (a.out[r] >= 0 && settings.temperature > 0)
            a.out[r] = row.draw(settings, (double*)a.spare + thread * a.size);
    });
}
