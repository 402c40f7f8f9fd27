/* The kernels, one line each: KERNEL(result, name, (arguments)).
 *
 * This list has no include guard: it is included once for every use (a table of function pointers, its initialiser,
 * ...) and every `real` (float, double), with KERNEL and real defined by the includer.
 *
 * Conventions: outputs first, then saved statistics, inputs, sizes, constants. Sizes and strides count elements.
 * Matrices are row-major; rows are contiguous; weights are [out, in]. Gradients of parameters accumulate (+=);
 * gradients of activations are overwritten unless accumulate_dx. Outputs may not overlap inputs. Nothing is allocated.
 * A packed batch is B documents end to end in N = cu_seqlens[B] rows; document b has the rows
 * cu_seqlens[b] .. cu_seqlens[b + 1] - 1 (cu_seqlens[0] = 0).
 */

/* x[i] = wte[tokens[i]] + wpe[positions[i]]         x [N, C]; wte [V, C]; wpe [T, C]
 * Returns -1, or, before anything is written, the first row whose token or position is out of range. */
KERNEL(ptrdiff_t, embedding_forward, (real *x, const int32_t *tokens, const int32_t *positions, const real *wte, const real *wpe, ptrdiff_t N, ptrdiff_t C, ptrdiff_t V, ptrdiff_t T))
/* dwte[tokens[i]] += dx[i],  dwpe[positions[i]] += dx[i], rows ascending; returns as embedding_forward */
KERNEL(ptrdiff_t, embedding_backward, (real *dwte, real *dwpe, const real *dx, const int32_t *tokens, const int32_t *positions, ptrdiff_t N, ptrdiff_t C, ptrdiff_t V, ptrdiff_t T))

/* y = x * rstd (* gain),  rstd = (mean(x^2) + eps)^(-1/2)          y, x [N, C]; rstd [N]; gain [C] or NULL */
KERNEL(void, rmsnorm_forward, (real *y, real *rstd, const real *x, const real *gain, ptrdiff_t N, ptrdiff_t C, double eps))
/* g = dy (* gain),  dx = rstd * g - x * rstd^3 / C * sum(x * g),  dgain += sum over rows of dy * x * rstd */
KERNEL(void, rmsnorm_backward, (real *dx, real *dgain, const real *dy, const real *x, const real *gain, const real *rstd, ptrdiff_t N, ptrdiff_t C, int accumulate_dx))

/* y = x w^T                                   y [N, O]; x [N, C]; w [O, C] */
KERNEL(void, linear_forward, (real *y, const real *x, const real *w, ptrdiff_t N, ptrdiff_t C, ptrdiff_t O))
/* dx = dy w,  dw += dy^T x                    dx or dw may be NULL */
KERNEL(void, linear_backward, (real *dx, real *dw, const real *dy, const real *x, const real *w, ptrdiff_t N, ptrdiff_t C, ptrdiff_t O, int accumulate_dx))

/* s[i, j] = scale * q_i . k_j - slope_h * (i - j) for j <= i in the same document,  p = softmax(s),  o_i = sum_j p[i, j] v_j
 * lse[i, h] = log sum_j exp s[i, j]
 * q, k, v [N, H, D] with row stride ld_qkv; o [N, H, D] with row stride ld_o; lse [N, H]; slopes [H] or NULL */
KERNEL(void, attention_forward, (real *o, real *lse, const real *q, const real *k, const real *v, ptrdiff_t ld_o, ptrdiff_t ld_qkv, const int32_t *cu_seqlens, ptrdiff_t B, ptrdiff_t H, ptrdiff_t D, double scale, const real *slopes))
/* delta_i = do_i . o_i,  ds[i, j] = p[i, j] * (do_i . v_j - delta_i)
 * dq_i = scale * sum_j ds[i, j] k_j,  dk_j = scale * sum_i ds[i, j] q_i,  dv_j = sum_i p[i, j] do_i
 * dq, dk, dv as q, k, v; do as o; delta [N, H] */
KERNEL(void, attention_backward, (real *dq, real *dk, real *dv, real *delta, const real *d_o, const real *o, const real *lse, const real *q, const real *k, const real *v, ptrdiff_t ld_o, ptrdiff_t ld_qkv, const int32_t *cu_seqlens, ptrdiff_t B, ptrdiff_t H, ptrdiff_t D, double scale, const real *slopes))
/* one query for each of B streams against a cache of its lengths[b] first keys and values: o, q [B, H, D]; caches [B, T_max, H, D] */
KERNEL(void, attention_decode, (real *o, const real *q, const real *k_cache, const real *v_cache, const int32_t *lengths, ptrdiff_t B, ptrdiff_t T_max, ptrdiff_t H, ptrdiff_t D, double scale, const real *slopes))

/* The pairs (x_i, x_(i + D/2)) of every head's row turned by the angle positions[n] * base^(-2i / D); the gradient is turned
 * back by it.         y, x, dx, dy [N, H, D]; D even */
KERNEL(void, rope_forward, (real *y, const real *x, const int32_t *positions, ptrdiff_t N, ptrdiff_t H, ptrdiff_t D, double base))
KERNEL(void, rope_backward, (real *dx, const real *dy, const int32_t *positions, ptrdiff_t N, ptrdiff_t H, ptrdiff_t D, double base))

/* h = x w1^T,  a = f(h),  y = a w2^T          y, x [N, C]; h [N, F]; w1 [F, C]; w2 [C, F]; f is the activation */
KERNEL(void, mlp_forward, (real *y, real *h, const real *x, const real *w1, const real *w2, ptrdiff_t N, ptrdiff_t C, ptrdiff_t F, int activation))
/* dh = (dy w2) f'(h),  dx = dh w1,  dw1 += dh^T x,  dw2 += dy^T f(h)          dh [N, F]; of relu, f'(0) = 0 */
KERNEL(void, mlp_backward, (real *dx, real *dw1, real *dw2, real *dh, const real *dy, const real *h, const real *x, const real *w1, const real *w2, ptrdiff_t N, ptrdiff_t C, ptrdiff_t F, int activation))

/* losses_i = lse_i - logits[i, targets[i]],  lse_i = log sum_j exp logits[i, j]          logits [N, V]; losses, lse [N]
 * Returns -1, or, before anything is written, the first row whose target is out of range. */
KERNEL(ptrdiff_t, cross_entropy_forward, (real *losses, real *lse, const real *logits, const int32_t *targets, ptrdiff_t N, ptrdiff_t V))
/* dlogits[i, j] = dlosses_i * (exp(logits[i, j] - lse_i) - (j == targets[i])); returns as cross_entropy_forward */
KERNEL(ptrdiff_t, cross_entropy_backward, (real *dlogits, const real *dlosses, const real *lse, const real *logits, const int32_t *targets, ptrdiff_t N, ptrdiff_t V))

/* m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,
 * p -= lr * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay * p)          step counts from 1 */
KERNEL(void, adamw_step, (real *p, real *m, real *v, const real *g, ptrdiff_t n, double lr, double beta1, double beta2, double eps, double weight_decay, int64_t step))

/* c (+)= a b         a [M, K], b [K, N], c [M, N] with row strides ld_a, ld_b, ld_c */
KERNEL(void, gemm_nn, (real *c, const real *a, const real *b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t ld_c, ptrdiff_t ld_a, ptrdiff_t ld_b, int accumulate))
/* c (+)= a b^T       a [M, K], b [N, K] */
KERNEL(void, gemm_nt, (real *c, const real *a, const real *b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t ld_c, ptrdiff_t ld_a, ptrdiff_t ld_b, int accumulate))
/* c (+)= a^T b       a [K, M], b [K, N] */
KERNEL(void, gemm_tn, (real *c, const real *a, const real *b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t ld_c, ptrdiff_t ld_a, ptrdiff_t ld_b, int accumulate))

#ifndef MGF_MODEL
#define MGF_MODEL KERNEL
#endif
/* The whole model. Parameters, gradients and moments are flat buffers of (2 V + T + 12 L C) C elements, in order:
 * wte [V, C], wpe [T, C], lm_head [V, C], then for each layer wq, wk, wv, wo [C, C], fc1 [4C, C], fc2 [C, 4C];
 * options of the model change this: csrc/parameters.h.
 * Document i of a batch reads tokens[starts[i] .. starts[i] + lengths[i]]: each but the last is an input, each but the
 * first a target; 1 <= lengths[i] <= block_size. The loss is the mean over the documents of each document's mean. */

/* bytes of workspace for batches of up to B documents with up to N input tokens altogether; any content will do */
MGF_MODEL(size_t, gpt_workspace_size, (const mgf_config *config, ptrdiff_t N, ptrdiff_t B, const mgf_pool *pool))
/* losses[b] = mean cross-entropy of document b; logits [N, V] or NULL
 * Returns -1, or, before anything is written, the first document with a token or length out of range. */
MGF_MODEL(ptrdiff_t, gpt_forward, (double *losses, real *logits, const real *params, const int32_t *tokens, const int64_t *starts, const int32_t *lengths, ptrdiff_t B, const mgf_config *config, void *workspace, mgf_pool *pool))
/* gpt_forward, then grads += the gradient of the mean of losses */
MGF_MODEL(ptrdiff_t, gpt_backward, (double *losses, real *grads, const real *params, const int32_t *tokens, const int64_t *starts, const int32_t *lengths, ptrdiff_t B, const mgf_config *config, void *workspace, mgf_pool *pool))
/* k training steps; step i takes documents i * B .. (i + 1) * B - 1 of starts and lengths [k * B], learning rate lr[i]
 * and Adam's step number first_step + i (from 1), and its loss is losses[i]. Returns as gpt_forward. */
MGF_MODEL(ptrdiff_t, gpt_train_steps, (double *losses, real *params, real *m, real *v, const int32_t *tokens, const int64_t *starts, const int32_t *lengths, ptrdiff_t k, ptrdiff_t B, const double *lr, const mgf_adam *adam, int64_t first_step, const mgf_config *config, void *workspace, mgf_pool *pool))
/* bytes of the decoder's cache, and its preparation for these parameters (call again when they change) */
MGF_MODEL(size_t, gpt_decoder_size, (const mgf_config *config))
MGF_MODEL(void, gpt_decoder_init, (void *decoder, const real *params, const mgf_config *config))
/* logits [V] that follow `token` at `position`; positions must come in order from 0 */
MGF_MODEL(void, gpt_decode, (real *logits, int32_t token, ptrdiff_t position, const real *params, const mgf_config *config, void *decoder))
/* one document: from `bos`, sample until bos comes or block_size tokens are there; returns how many sample [block_size]
 * holds. Token i has the probability softmax(logits / temperature)[i]; draws are those of Python's random.choices. */
MGF_MODEL(ptrdiff_t, gpt_generate, (int32_t *sample, mgf_random *random, const real *params, int32_t bos, double temperature, const mgf_config *config, void *decoder))
#undef MGF_MODEL

/* In fast numerics alone (not in mgf_exact). */
#ifndef MGF_FAST
#define MGF_FAST KERNEL
#endif
/* adamw_step for gradients that gpt_backward has added up over `divisor` batches, clipped; then grads = 0.
 * norm = |grads| / divisor,  g = grads / divisor * (max_norm / norm where norm > max_norm > 0, else 1)
 * Returns norm; 0 where max_norm is 0. The bits do not depend on the number of threads. */
MGF_FAST(double, gpt_update, (real *params, real *m, real *v, real *grads, double lr, const mgf_adam *adam, int64_t step, double divisor, double max_norm, const mgf_config *config, mgf_pool *pool))

/* Many streams at once. Their memory is for B streams. */
MGF_FAST(size_t, gpt_streams_size, (const mgf_config *config, ptrdiff_t B))
MGF_FAST(void, gpt_streams_init, (void *streams, const real *params, ptrdiff_t B, const mgf_config *config))
/* logits [n, V] that follow tokens[i] at positions[i] of stream slots[i], n <= B different streams; positions must come in
 * order from 0. A stream's bits depend neither on the other streams nor on the number of threads. */
MGF_FAST(void, gpt_streams_decode, (real *logits, const int32_t *slots, const int32_t *tokens, const int32_t *positions, ptrdiff_t n, const real *params, ptrdiff_t B, const mgf_config *config, void *streams, mgf_pool *pool))
/* the same, and the next tokens: drawn[i] has the probability softmax(logits[i] / temperature), by a draw of Python's
 * random.choices from randoms[i]; where that is NULL nothing is drawn, and drawn[i] = -1 */
MGF_FAST(void, gpt_streams_draw, (int32_t *drawn, mgf_random **randoms, double temperature, const int32_t *slots, const int32_t *tokens, const int32_t *positions, ptrdiff_t n, const real *params, ptrdiff_t B, const mgf_config *config, void *streams, mgf_pool *pool))
#undef MGF_FAST
