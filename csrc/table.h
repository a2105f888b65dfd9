// The kernels of one instruction set as a table. The including file has set the compiler's target, the
// namespace PARROT_ISA, the products for bfloat16, and the table's names.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace parrot {
namespace PARROT_ISA {

#include "vectors.h"
#include "share.h"
#include "products.h"
#include "chunks.h"
#include "attention.h"
#include "rows.h"
#include "sample.h"
#if defined(__AMX_BF16__)
typedef TileProducts LinearProducts;
#elif defined(__AVX512BF16__)
typedef PairRows LinearProducts;
#endif

#if defined(__AVX512BF16__)
#include "linear.h"
typedef PairProducts HalfProducts;
#else
typedef FloatProducts<Bf16> HalfProducts;
#endif

static size_t scratch_bytes(const Shape& shape) {
    size_t bytes = 0;
    if (shape.type == Type::kFloat32)
        bytes = Scratch<float, FloatProducts<float>>::bytes(shape.head_dim);
    else
        bytes = Scratch<Bf16, HalfProducts>::bytes(shape.head_dim);
    return (bytes + 63) / 64 * 64;
}

static void attend(const AttendArgs& args) {
    if (args.shape->type == Type::kFloat32)
        attend_with<float, FloatProducts<float>>(args);
#if defined(__AMX_BF16__)
    else if (args.shape->head_dim % 32 == 0)
        attend_with<Bf16, TileProducts>(args);
#endif
    else
        attend_with<Bf16, HalfProducts>(args);
}

static void write(const WriteArgs& args) {
    if (args.shape->type == Type::kFloat32)
        write_of<float>(args);
    else
        write_of<Bf16>(args);
}

static void rotate(const RotateArgs& args) {
    if (args.type == Type::kFloat32)
        rotate_of<float>(args);
    else
        rotate_of<Bf16>(args);
}

static void add_norm(const NormArgs& args) {
    if (args.type == Type::kFloat32)
        add_norm_of<float>(args);
    else
        add_norm_of<Bf16>(args);
}

static void silu_mul(const GateArgs& args) {
    if (args.type == Type::kFloat32)
        silu_mul_of<float>(args);
    else
        silu_mul_of<Bf16>(args);
}

static void sample(const SampleArgs& args) {
    if (args.type == Type::kFloat32)
        sample_of<float>(args);
    else
        sample_of<Bf16>(args);
}

}  // namespace PARROT_ISA

extern const Table PARROT_TABLE = {
    PARROT_NAME,
    PARROT_ISA::scratch_bytes,
    PARROT_ISA::attend,
    PARROT_ISA::write,
    PARROT_ISA::rotate,
    PARROT_ISA::add_norm,
    PARROT_ISA::silu_mul,
    PARROT_ISA::sample,
#if defined(__AVX512BF16__)
    PARROT_ISA::linear,
    PARROT_ISA::pack,
#else
    nullptr,
    nullptr,
#endif
};

}  // namespace parrot
