// Sixteen numbers at a time, in the compiler's vector extension: one register of AVX512, two of AVX2, four of
// SSE or NEON. Included by each instruction set's translation unit inside its own namespace, and free of the C++
// library, so that no code compiled for one processor is linked into another's path.

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kParts = 16 / kWidth;

#define INLINE static inline __attribute__((always_inline))

typedef uint16_t Bf16;
typedef float FloatLanes __attribute__((vector_size(kWidth * 4)));
typedef int32_t IntLanes __attribute__((vector_size(kWidth * 4)));
typedef uint32_t WordLanes __attribute__((vector_size(kWidth * 4)));
typedef uint16_t HalfLanes __attribute__((vector_size(kWidth * 2)));

template <class Lanes>
struct Sixteen {
    Lanes part[kParts];
};

typedef Sixteen<FloatLanes> Floats;
typedef Sixteen<IntLanes> Mask;   // all bits of a lane are set, or none
typedef Sixteen<WordLanes> Words;
typedef Sixteen<HalfLanes> Halves;

// Register by register: a copy of the whole goes through memory.
template <class To, class From>
INLINE To load_as(const From* from) {
    To v;
    constexpr int count = 16 / kParts;
    for (int i = 0; i < kParts; ++i) __builtin_memcpy(&v.part[i], from + i * count, sizeof v.part[i]);
    return v;
}

template <class Lanes, class To>
INLINE void store_as(To* to, const Sixteen<Lanes>& v) {
    constexpr int count = 16 / kParts;
    for (int i = 0; i < kParts; ++i) __builtin_memcpy(to + i * count, &v.part[i], sizeof v.part[i]);
}

INLINE Floats all(float x) {
    Floats v;
    for (int i = 0; i < kParts; ++i) v.part[i] = FloatLanes{} + x;
    return v;
}

#define FOR_PARTS(type, expression)                      \
    type v;                                              \
    for (int i = 0; i < kParts; ++i) v.part[i] = expression; \
    return v

INLINE Floats operator+(Floats a, Floats b) { FOR_PARTS(Floats, a.part[i] + b.part[i]); }
INLINE Floats operator-(Floats a, Floats b) { FOR_PARTS(Floats, a.part[i] - b.part[i]); }
INLINE Floats operator*(Floats a, Floats b) { FOR_PARTS(Floats, a.part[i] * b.part[i]); }
INLINE Floats operator/(Floats a, Floats b) { FOR_PARTS(Floats, a.part[i] / b.part[i]); }
INLINE Floats operator+(Floats a, float b) { FOR_PARTS(Floats, a.part[i] + b); }
INLINE Floats operator-(Floats a, float b) { FOR_PARTS(Floats, a.part[i] - b); }
INLINE Floats operator*(Floats a, float b) { FOR_PARTS(Floats, a.part[i] * b); }
INLINE Mask operator<(Floats a, float b) { FOR_PARTS(Mask, a.part[i] < b); }
INLINE Mask is_number(Floats a) { FOR_PARTS(Mask, a.part[i] == a.part[i]); }
INLINE Floats larger(Floats a, Floats b) { FOR_PARTS(Floats, a.part[i] > b.part[i] ? a.part[i] : b.part[i]); }
INLINE Floats select(Mask m, Floats a, Floats b) { FOR_PARTS(Floats, m.part[i] ? a.part[i] : b.part[i]); }
INLINE Words select(Mask m, Words a, Words b) { FOR_PARTS(Words, m.part[i] ? a.part[i] : b.part[i]); }
INLINE Words operator+(Words a, Words b) { FOR_PARTS(Words, a.part[i] + b.part[i]); }
INLINE Words operator-(Words a, Words b) { FOR_PARTS(Words, a.part[i] - b.part[i]); }
INLINE Words operator+(Words a, uint32_t b) { FOR_PARTS(Words, a.part[i] + b); }
INLINE Words operator&(Words a, uint32_t b) { FOR_PARTS(Words, a.part[i] & b); }
INLINE Words operator<<(Words a, int b) { FOR_PARTS(Words, a.part[i] << b); }
INLINE Words operator>>(Words a, int b) { FOR_PARTS(Words, a.part[i] >> b); }
INLINE Floats as_floats(Words a) { FOR_PARTS(Floats, (FloatLanes)a.part[i]); }
INLINE Words as_words(Floats a) { FOR_PARTS(Words, (WordLanes)a.part[i]); }
INLINE Words widen(Halves a) { FOR_PARTS(Words, __builtin_convertvector(a.part[i], WordLanes)); }

// The first `count` lanes.
INLINE Mask first_lanes(int count) {
    const int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const Mask lanes = load_as<Mask>(numbers);
    FOR_PARTS(Mask, lanes.part[i] < count);
}

INLINE float widen(Bf16 x) {
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE float widen(float x) { return x; }

// To the nearest, ties to even; a NaN stays one.
INLINE Halves narrow(Floats v) {
#if defined(__AVX512BF16__)
    return {{(HalfLanes)_mm512_cvtneps_pbh((__m512)v.part[0])}};
#else
    const Words bits = as_words(v);
    const Words rounded = (bits + (((bits >> 16) & 1u) + 0x7fffu)) >> 16;
    const Words kept = select(is_number(v), rounded, (bits & 0u) + 0x7fc0u);
    Halves halves;
    for (int i = 0; i < kParts; ++i) halves.part[i] = __builtin_convertvector(kept.part[i], HalfLanes);
    return halves;
#endif
}

INLINE void narrow_to(float* to, float x) { *to = x; }

INLINE void narrow_to(Bf16* to, float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    *to = x == x ? (Bf16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16) : (Bf16)0x7fc0;
}

INLINE Floats load(const float* from) { return load_as<Floats>(from); }
INLINE Floats load(const Bf16* from) { return as_floats(widen(load_as<Halves>(from)) << 16); }
INLINE void store(float* to, Floats v) { store_as(to, v); }
INLINE void store(Bf16* to, Floats v) { store_as(to, narrow(v)); }

INLINE void store_two(float* to, Floats a, Floats b) {
    store(to, a);
    store(to + 16, b);
}

INLINE void store_two(Bf16* to, Floats a, Floats b) {
#if defined(__AVX512BF16__)
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)b.part[0], (__m512)a.part[0]);
    _mm512_storeu_si512(to, both);
#else
    store(to, a);
    store(to + 16, b);
#endif
}

// What reading back a stored value would give.
INLINE Floats rounded_to(const float*, Floats v) { return v; }
INLINE Floats rounded_to(const Bf16*, Floats v) { return as_floats(widen(narrow(v)) << 16); }

INLINE float first_of(Floats v) { return v.part[0][0]; }

INLINE float sum(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v.part[0]);
#else
    FloatLanes lanes = v.part[0];
    for (int i = 1; i < kParts; ++i) lanes += v.part[i];
    float total = 0;
    for (int i = 0; i < kWidth; ++i) total += lanes[i];
    return total;
#endif
}

INLINE float largest(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v.part[0]);
#else
    FloatLanes lanes = v.part[0];
    for (int i = 1; i < kParts; ++i) lanes = lanes > v.part[i] ? lanes : v.part[i];
    float top = lanes[0];
    for (int i = 1; i < kWidth; ++i) top = lanes[i] > top ? lanes[i] : top;
    return top;
#endif
}

// What is left of x after the largest whole number that is not above it.
INLINE Floats fraction(Floats x, Floats* whole) {
#if defined(__AVX512DQ__)
    *whole = x;   // VSCALEFPS rounds down itself
    return {{(FloatLanes)_mm512_reduce_ps((__m512)x.part[0], _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}};
#else
    const float magic = 12582912.0f;   // 1.5 · 2^23: adding it rounds to whole numbers
    const Floats shifted = x + magic;
    *whole = shifted;
    return x - (shifted - magic);
#endif
}

INLINE Floats times_power(Floats x, Floats whole) {
#if defined(__AVX512DQ__)
    return {{(FloatLanes)_mm512_scalef_ps((__m512)x.part[0], (__m512)whole.part[0])}};
#else
    return as_floats(as_words(x) + ((as_words(whole) - as_words(all(12582912.0f))) << 23));
#endif
}

// 2 to the power of x; 0 below -126, at least 2^126 from 126 on, NaN for NaN. Relative error below 3e-7.
INLINE Floats exp2(Floats x) {
    const Floats above = select(x < -126.0f, all(-126.0f), x);
    const Floats inside = select(above < 126.0f, above, all(126.0f));
    Floats whole;
    const Floats part = fraction(inside, &whole);
#if defined(__AVX512DQ__)
    Floats power = all(1.8775767e-3f);   // on 0 … 1
    power = power * part + 8.9893397e-3f;
    power = power * part + 5.5826318e-2f;
    power = power * part + 2.4015361e-1f;
    power = power * part + 6.9315308e-1f;
    power = power * part + 9.9999994e-1f;
#else
    Floats power = all(1.5403530e-4f);   // on -1/2 … 1/2
    power = power * part + 1.3333558e-3f;
    power = power * part + 9.6181291e-3f;
    power = power * part + 5.5504109e-2f;
    power = power * part + 2.4022651e-1f;
    power = power * part + 6.9314718e-1f;
    power = power * part + 1.0f;
#endif
    return select(is_number(x), select(x < -126.0f, all(0.0f), times_power(power, whole)), x);
}

INLINE float exp2(float x) { return first_of(exp2(all(x))); }

// The same for numbers that are rounded to `Left` afterwards.
INLINE Floats exp2_for(const float*, Floats x) { return exp2(x); }

INLINE Floats exp2_for(const Bf16*, Floats x) {
#if defined(__AVX512DQ__)
    Floats whole;
    const Floats part = fraction(x, &whole);
    Floats power = all(7.8024520e-2f);   // relative error below 8e-5, a fiftieth of the rounding's
    power = power * part + 2.2606716e-1f;
    power = power * part + 6.9583354e-1f;
    power = power * part + 9.9992522e-1f;
    return times_power(power, whole);
#else
    return exp2(x);
#endif
}
