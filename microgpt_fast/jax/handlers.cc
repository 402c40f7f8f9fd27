/* The kernels as custom calls of XLA (its foreign function interface, FFI), compiled where jaxlib's headers are.
 *
 * One handler per kernel: buffers in the kernel's order of inputs, results in its order of outputs. Shapes are checked
 * where the calls are made, in Python. An array that may be missing is given without elements. */
#include <string>

#include "microgpt_fast.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

static const mgf_api *api;

/* The kernels to call; 0 where they are another version's. */
extern "C" int mgf_jax_use(const mgf_api *used) {
    api = used;
    return api->abi_version == MGF_ABI_VERSION && api->table_size == sizeof(mgf_kernels_f32);
}

static const mgf_kernels_f32 *table(float) { return api->f32; }
static const mgf_kernels_f64 *table(double) { return api->f64; }

template <typename T> static T *elements(const Array &array) {
    return array.element_count() ? static_cast<T *>(array.untyped_data()) : nullptr;
}

template <typename T> static T *elements(Result &result) { return elements<T>(*result); }

static ptrdiff_t size(const Array &array, size_t axis) { return array.dimensions()[axis]; }

/* Call f with a value of the array's type, float or double; f returns the first row that is out of range, or -1. */
template <typename F> static ffi::Error by_dtype(const Array &array, F f) {
    ptrdiff_t bad;
    switch (array.element_type()) {
    case ffi::F32: bad = f(0.0f); break;
    case ffi::F64: bad = f(0.0); break;
    default: return ffi::Error::InvalidArgument("kernels take float32 or float64");
    }
    if (bad >= 0)
        return ffi::Error(ffi::ErrorCode::kOutOfRange,
                          "row " + std::to_string(bad) + " has a token, position or target that is out of range");
    return ffi::Error::Success();
}

#define CALL(array, ...)                                                                                                   \
    by_dtype(array, [&](auto zero) -> ptrdiff_t {                                                                          \
        using T = decltype(zero);                                                                                          \
        auto kernels = table(zero);                                                                                        \
        __VA_ARGS__                                                                                                        \
        return -1;                                                                                                         \
    })
#define AT(array) elements<T>(array)
#define IDS(array) elements<int32_t>(array)

/* What a sum of gradients is added to. */
template <typename T> static T *zeros(Result &result) {
    T *at = elements<T>(*result);
    for (size_t i = 0; i < result->element_count(); i++) at[i] = 0;
    return at;
}

static ffi::Error rmsnorm_forward(Array x, Array gain, Result y, Result rstd, double eps) {
    return CALL(x, kernels->rmsnorm_forward(AT(y), AT(rstd), AT(x), AT(gain), size(x, 0), size(x, 1), eps););
}

static ffi::Error rmsnorm_backward(Array dy, Array x, Array gain, Array rstd, Result dx, Result dgain) {
    return CALL(x, kernels->rmsnorm_backward(AT(dx), zeros<T>(dgain), AT(dy), AT(x), AT(gain), AT(rstd), size(x, 0),
                                             size(x, 1), 0););
}

static ffi::Error gemm_nn(Array a, Array b, Result c) {
    ptrdiff_t M = size(a, 0), K = size(a, 1), N = size(b, 1);
    return CALL(a, kernels->gemm_nn(AT(c), AT(a), AT(b), M, N, K, N, K, N, 0););
}

static ffi::Error gemm_nt(Array a, Array b, Result c) {
    ptrdiff_t M = size(a, 0), K = size(a, 1), N = size(b, 0);
    return CALL(a, kernels->gemm_nt(AT(c), AT(a), AT(b), M, N, K, N, K, K, 0););
}

static ffi::Error gemm_tn(Array a, Array b, Result c) {
    ptrdiff_t M = size(a, 1), K = size(a, 0), N = size(b, 1);
    return CALL(a, kernels->gemm_tn(AT(c), AT(a), AT(b), M, N, K, N, M, N, 0););
}

static ffi::Error mlp_forward(Array x, Array w1, Array w2, Result y, Result h, int32_t activation) {
    return CALL(
        x, kernels->mlp_forward(AT(y), AT(h), AT(x), AT(w1), AT(w2), size(x, 0), size(x, 1), size(w1, 0), activation););
}

static ffi::Error mlp_backward(Array dy, Array h, Array x, Array w1, Array w2, Result dx, Result dw1, Result dw2, Result dh,
                               int32_t activation) {
    return CALL(x, kernels->mlp_backward(AT(dx), zeros<T>(dw1), zeros<T>(dw2), AT(dh), AT(dy), AT(h), AT(x), AT(w1), AT(w2),
                                         size(x, 0), size(x, 1), size(w1, 0), activation););
}

static ffi::Error cross_entropy_forward(Array logits, Array targets, Result losses, Result lse) {
    return CALL(logits, return kernels->cross_entropy_forward(AT(losses), AT(lse), AT(logits), IDS(targets),
                                                              size(logits, 0), size(logits, 1)););
}

static ffi::Error cross_entropy_backward(Array dlosses, Array lse, Array logits, Array targets, Result dlogits) {
    return CALL(logits, return kernels->cross_entropy_backward(AT(dlogits), AT(dlosses), AT(lse), AT(logits), IDS(targets),
                                                               size(logits, 0), size(logits, 1)););
}

static ffi::Error embedding_forward(Array tokens, Array positions, Array wte, Array wpe, Result x) {
    return CALL(wte, return kernels->embedding_forward(AT(x), IDS(tokens), IDS(positions), AT(wte), AT(wpe),
                                                       size(tokens, 0), size(wte, 1), size(wte, 0), size(wpe, 0)););
}

static ffi::Error embedding_backward(Array dx, Array tokens, Array positions, Result dwte, Result dwpe) {
    return CALL(dx, return kernels->embedding_backward(zeros<T>(dwte), zeros<T>(dwpe), AT(dx), IDS(tokens), IDS(positions),
                                                       size(dx, 0), size(dx, 1), size(*dwte, 0), size(*dwpe, 0)););
}

/* Documents that rise from row 0 to row N: what the kernel relies on. */
static bool covers(const Array &cu_seqlens, ptrdiff_t N) {
    const int32_t *at = elements<int32_t>(cu_seqlens);
    ptrdiff_t B = size(cu_seqlens, 0) - 1;
    for (ptrdiff_t b = 0; b < B; b++)
        if (at[b] > at[b + 1]) return false;
    return B >= 0 && at[0] == 0 && at[B] == N;
}

static ffi::Error attention_forward(Array q, Array k, Array v, Array cu_seqlens, Array slopes, Result o, Result lse,
                                    double scale) {
    ptrdiff_t N = size(q, 0), H = size(q, 1), D = size(q, 2), B = size(cu_seqlens, 0) - 1;
    if (!covers(cu_seqlens, N)) return ffi::Error::InvalidArgument("cu_seqlens must rise from 0 to " + std::to_string(N));
    return CALL(q, kernels->attention_forward(AT(o), AT(lse), AT(q), AT(k), AT(v), H * D, H * D, IDS(cu_seqlens), B, H, D,
                                              scale, AT(slopes)););
}

static ffi::Error attention_backward(Array d_o, Array o, Array lse, Array q, Array k, Array v, Array cu_seqlens,
                                     Array slopes, Result dq, Result dk, Result dv, Result delta, double scale) {
    ptrdiff_t N = size(q, 0), H = size(q, 1), D = size(q, 2), B = size(cu_seqlens, 0) - 1;
    if (!covers(cu_seqlens, N)) return ffi::Error::InvalidArgument("cu_seqlens must rise from 0 to " + std::to_string(N));
    return CALL(q, kernels->attention_backward(AT(dq), AT(dk), AT(dv), AT(delta), AT(d_o), AT(o), AT(lse), AT(q), AT(k),
                                               AT(v), H * D, H * D, IDS(cu_seqlens), B, H, D, scale, AT(slopes)););
}

/* HANDLER(kernel, inputs, results, its attribute): the symbol mgf_jax_<kernel> */
#define ONE_INPUT .Arg<Array>()
#define ONE_RESULT .Ret<Array>()
#define HANDLER(kernel, inputs, results, attribute)                                                                        \
    XLA_FFI_DEFINE_HANDLER_SYMBOL(mgf_jax_##kernel, kernel, ffi::Ffi::Bind() inputs results attribute)
#define TWO(part) part part
#define THREE(part) part part part
#define FOUR(part) part part part part
#define NONE

HANDLER(rmsnorm_forward, TWO(ONE_INPUT), TWO(ONE_RESULT), .Attr<double>("eps"));
HANDLER(rmsnorm_backward, FOUR(ONE_INPUT), TWO(ONE_RESULT), NONE);
HANDLER(gemm_nn, TWO(ONE_INPUT), ONE_RESULT, NONE);
HANDLER(gemm_nt, TWO(ONE_INPUT), ONE_RESULT, NONE);
HANDLER(gemm_tn, TWO(ONE_INPUT), ONE_RESULT, NONE);
HANDLER(mlp_forward, THREE(ONE_INPUT), TWO(ONE_RESULT), .Attr<int32_t>("activation"));
HANDLER(mlp_backward, FOUR(ONE_INPUT) ONE_INPUT, FOUR(ONE_RESULT), .Attr<int32_t>("activation"));
HANDLER(cross_entropy_forward, TWO(ONE_INPUT), TWO(ONE_RESULT), NONE);
HANDLER(cross_entropy_backward, FOUR(ONE_INPUT), ONE_RESULT, NONE);
HANDLER(embedding_forward, FOUR(ONE_INPUT), ONE_RESULT, NONE);
HANDLER(embedding_backward, THREE(ONE_INPUT), TWO(ONE_RESULT), NONE);
HANDLER(attention_forward, FOUR(ONE_INPUT) ONE_INPUT, TWO(ONE_RESULT), .Attr<double>("scale"));
HANDLER(attention_backward, TWO(FOUR(ONE_INPUT)), FOUR(ONE_RESULT), .Attr<double>("scale"));
