/* The kernels of `execution.py`, and the loop that runs a program of them: one call for a forward pass of a student's
 * body, one for its backward pass. Compiled at first use; the same source serves float and double (-DREAL=double).
 *
 * Layout: a value is [channel][row][column][image], the images padded to whole vectors (`nv` of them) and the channels
 * `stride` vectors apart. So every place of a map is an aligned vector whatever the number of channels or the size of
 * the map, padding at borders needs no masks, and everything per channel (batch norm, merges) runs over one slab.
 * Images that pad the last vector hold finite nonsense going forward, which statistics leave out (`lanes`), and zeros
 * going backward.
 *
 * Deterministic for any number of threads: threads share out rows, channels or blocks of channels, never a sum.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef REAL
#define REAL float
#endif
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#if defined(__AVX512F__) || defined(__aarch64__) /* 32 vector registers */
#define WIDE 4
#define WEIGHT_OUT 4
#define WEIGHT_IN 2
#else
#define WIDE 2
#define WEIGHT_OUT 3
#define WEIGHT_IN 1
#endif
#define LANES ((long)(BYTES / sizeof(REAL)))
#define BLOCK 6 /* output channels held in registers */
#define INLINE static inline __attribute__((always_inline))
/* Loads a vector once where gcc would read it from memory for every use. */
#if defined(__AVX512F__)
#define IN_REGISTER(x) __asm__("" : "+v"(x))
#elif defined(__x86_64__)
#define IN_REGISTER(x) __asm__("" : "+x"(x))
#else
#define IN_REGISTER(x)
#endif
#define UNROLL _Pragma("GCC unroll 8")

typedef REAL vec __attribute__((vector_size(BYTES)));
#define MASK_OF(a, b) ((a) > (b)) /* lanes of ones and zeros, as the vector extension has them */
typedef __typeof__(MASK_OF((vec){0}, (vec){0})) mask;

typedef struct {
    vec *arena;
    const REAL *images;
    REAL *image_gradient;
    const int64_t *image_strides; /* batch, channel, row, column, in elements */
    const REAL *const *weights;
    REAL *const *weight_gradients; /* null where none is wanted */
    const REAL *norm_weight, *norm_bias, *gates;
    REAL *running_mean, *running_var; /* of n_norm entries; written in training only if `update` */
    REAL *norm_weight_gradient, *norm_bias_gradient, *gate_gradients;
    REAL *coefficients; /* [4][n_norm]: mean, 1/std, scale, shift, from the forward pass */
    REAL *features;     /* [image][feature], and their gradient in the backward pass */
    double momentum, eps;
    int64_t n_norm, images_n, nv, batch_statistics, update, threads;
} Run;

int64_t lanes(void) { return LANES; }

#define PARALLEL _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")

INLINE vec keep(vec x, mask m) { return (vec)((mask)x & m); }

INLINE double total(vec x) {
    double sums[LANES];
    for (int i = 0; i < LANES; ++i) sums[i] = x[i];
    for (int n = LANES / 2; n > 0; n /= 2) /* not one after the other: each addition waits for the one before */
        for (int i = 0; i < n; ++i) sums[i] += sums[i + n];
    return sums[0];
}

/* The sums over the lanes of as many vectors as there are lanes. */
INLINE vec totals(const vec *x) {
    vec sums[LANES];
#if !defined(__AVX512F__) || defined(__clang__) /* clang has no shuffles by a vector, and short vectors need none */
    for (int i = 0; i < LANES; ++i) sums[0][i] = (REAL)total(x[i]);
#else
    UNROLL for (int i = 0; i < LANES; ++i) sums[i] = x[i];
    UNROLL for (int n = LANES / 2; n > 0; n /= 2) {
        mask first, second; /* lanes of two vectors: of the sum's one half and of its other, from each by turns */
        UNROLL for (int i = 0; i < LANES; ++i) {
            first[i] = i & n ? LANES + i - n : i;
            second[i] = i & n ? LANES + i : i + n;
        }
        UNROLL for (int i = 0; i < n; ++i)
            sums[i] = __builtin_shuffle(sums[i], sums[i + n], first) + __builtin_shuffle(sums[i], sums[i + n], second);
    }
#endif
    return sums[0];
}

INLINE vec spread(REAL value) { return value - (vec){0}; }

/* Of the last vector of each place, the lanes that hold images. */
static mask last_lanes(const Run *run) {
    vec lane;
    for (int i = 0; i < LANES; ++i) lane[i] = (REAL)(i + (run->nv - 1) * LANES);
    return MASK_OF(spread((REAL)run->images_n), lane);
}

/* A slab as `places` rows of `nv` vectors; without padding it is one row. */
typedef struct {
    long places, nv;
    mask last;
    int padded;
} Slab;

static Slab slab_of(const Run *run, long places) {
    int padded = run->images_n % LANES != 0;
    return (Slab){padded ? places : 1, padded ? run->nv : places * run->nv, last_lanes(run), padded};
}

INLINE long max_of(long a, long b) { return a > b ? a : b; }
INLINE long min_of(long a, long b) { return a < b ? a : b; }

typedef struct {
    long in, out, h, w, oh, ow, kh, kw, step;
    long x_stride, y_stride; /* between channels, in vectors */
    long nv;
} Conv;

typedef struct {
    long channels, h, w, oh, ow, kernel, step, pad, x_stride, y_stride;
} Pool;

enum {
    END, IMAGES, CONV, STATISTICS, LINEAR, ATTENTION, POOL, HEAD_FORWARD, MEAN,
    GATHER, RELU_BACKWARD, CONV_WEIGHT, CONV_INPUT, ATTENTION_BACKWARD, POOL_BACKWARD, HEAD_BACKWARD, MEAN_BACKWARD,
    IMAGES_BACKWARD
};

#define CHUNK 256 /* vectors whose sums are kept in the precision of the data; chunks are added in double */

/* Mean, 1 / std, scale and shift of channel `k`, from these statistics of `count` numbers or the running ones. */
static void coefficients_of(const Run *run, long k, double mean, double variance, double count) {
    if (!run->batch_statistics) {
        mean = run->running_mean[k];
        variance = run->running_var[k];
    } else if (run->update) {
        double unbiased = variance * count / (count - 1);
        run->running_mean[k] = (REAL)((1 - run->momentum) * run->running_mean[k] + run->momentum * mean);
        run->running_var[k] = (REAL)((1 - run->momentum) * run->running_var[k] + run->momentum * unbiased);
    }
    double inverse = 1 / sqrt(variance + run->eps), scale = inverse * run->norm_weight[k];
    run->coefficients[k] = (REAL)mean;
    run->coefficients[run->n_norm + k] = (REAL)inverse;
    run->coefficients[2 * run->n_norm + k] = (REAL)scale;
    run->coefficients[3 * run->n_norm + k] = (REAL)(run->norm_bias[k] - scale * (double)(REAL)mean);
}

/* A weight in a program: a merge's gate (0 and above), or 1 over a number (below 0). */
static double gate_of(const Run *run, int64_t gate) { return gate >= 0 ? (double)run->gates[gate] : 1.0 / -gate; }

typedef int32_t words __attribute__((vector_size(BYTES)));

INLINE vec chosen(mask m, vec a, vec b) { return (vec)(((mask)a & m) | ((mask)b & ~m)); }

/* 1 / (1 + exp(-x)): for doubles to the last digits, for floats to some 1e-7. */
INLINE vec sigmoid(vec x) {
    vec z = -x;
    if (sizeof(REAL) == 8) {
        for (int i = 0; i < LANES; ++i) z[i] = (REAL)exp((double)z[i]);
        return 1 / (1 + z);
    }
    /* exp(z) = 2^n exp(r) with |r| <= ln(2) / 2; ln(2) in two parts, coefficients of Cephes' expf */
    z = chosen(MASK_OF(z, spread(88)), spread(88), z);
    z = chosen(MASK_OF(spread(-87), z), spread(-87), z);
    vec shifted = z * (REAL)1.44269504088896341 + (REAL)0x1.8p23, n = shifted - (REAL)0x1.8p23;
    vec r = z - n * (REAL)0.693359375 + n * (REAL)2.12194440e-4;
    vec p = r * (REAL)1.9875691500e-4 + (REAL)1.3981999507e-3;
    p = p * r + (REAL)8.3334519073e-3;
    p = p * r + (REAL)4.1665795894e-2;
    p = p * r + (REAL)1.6666665459e-1;
    p = p * r + (REAL)5.0000001201e-1;
    words exponent = (((words)shifted - (words)spread((REAL)0x1.8p23)) + 127) << 23;
    return 1 / (1 + (p * r * r + r + 1) * (vec)exponent);
}

#ifdef BFLOAT16
#include "bfloat16.h"
#else
#define SLABS(channels) (channels)

/* ---- convolution ------------------------------------------------------------------------------------------------ */

static long blocks_of(long channels) { return (channels + BLOCK - 1) / BLOCK; }
static long block_start(long channels, long b) { return channels * b / blocks_of(channels); } /* of equal sizes */

/* [out][in][kh][kw] -> per block of outputs [in][kh][kw][block]. `adjoint`: of the gradient, from outputs to inputs. */
static void pack(const REAL *weight, REAL *packed, long out, long in, long taps, int adjoint) {
    long n_to = adjoint ? in : out, n_from = adjoint ? out : in;
    for (long b = 0; b < blocks_of(n_to); ++b)
        for (long from = 0; from < n_from; ++from)
            for (long t = 0; t < taps; ++t)
                for (long to = block_start(n_to, b); to < block_start(n_to, b + 1); ++to)
                    *packed++ = adjoint ? weight[(from * in + to) * taps + taps - 1 - t]
                                        : weight[(to * in + from) * taps + t];
}

/* `ob` output channels of one place, or of neighbours: `nb` vectors. */
INLINE void conv_place(const int ob, const int nb, const vec *x, const REAL *k, vec *y, const Conv *c, long rows,
                       long columns, int add) {
    vec acc[BLOCK][WIDE];
    UNROLL for (int o = 0; o < ob; ++o) UNROLL for (int n = 0; n < nb; ++n)
        acc[o][n] = add ? y[o * c->y_stride + n] : (vec){0};
    for (long i = 0; i < c->in; ++i, x += c->x_stride, k += c->kh * c->kw * ob) {
        for (long r = 0; r < rows; ++r) {
            const vec *p = x + r * c->w * c->nv;
            const REAL *f = k + r * c->kw * ob;
            for (long q = 0; q < columns; ++q, p += c->nv, f += ob) {
                vec v[WIDE];
                UNROLL for (int n = 0; n < nb; ++n) v[n] = p[n];
                UNROLL for (int o = 0; o < ob; ++o) UNROLL for (int n = 0; n < nb; ++n) acc[o][n] += f[o] * v[n];
            }
        }
    }
    UNROLL for (int o = 0; o < ob; ++o) UNROLL for (int n = 0; n < nb; ++n) y[o * c->y_stride + n] = acc[o][n];
}

#define PLACE(ob)                                                                                                  \
    static void conv_place_##ob(const vec *x, const REAL *k, vec *y, const Conv *c, long rows, long columns, int add, \
                                long length) {                                                                     \
        long n = 0;                                                                                                \
        for (; n + WIDE <= length; n += WIDE) conv_place(ob, WIDE, x + n, k, y + n, c, rows, columns, add);        \
        for (; n + 2 <= length; n += 2) conv_place(ob, 2, x + n, k, y + n, c, rows, columns, add);                 \
        for (; n < length; ++n) conv_place(ob, 1, x + n, k, y + n, c, rows, columns, add);                         \
    }
PLACE(1) PLACE(2) PLACE(3) PLACE(4) PLACE(5) PLACE(6)
typedef void (*place_kernel)(const vec *, const REAL *, vec *, const Conv *, long, long, int, long);
static const place_kernel PLACES[BLOCK + 1] = {0, conv_place_1, conv_place_2, conv_place_3,
                                               conv_place_4, conv_place_5, conv_place_6};

/* y (+)= conv(x), padding k / 2. Columns in tiles whose inputs stay in the second-level cache for all outputs. */
static void convolve(const vec *x, const REAL *packed, vec *y, const Conv *c, int add, int threads) {
    long tile = max_of(4, min_of(c->ow, (192 << 10) / (c->in * c->kh * c->nv * BYTES * c->step)));
    long tiles = (c->ow + tile - 1) / tile, pad_h = c->kh / 2, pad_w = c->kw / 2;
    PARALLEL
    for (long task = 0; task < c->oh * tiles; ++task) {
        long row = task / tiles, start = task % tiles * tile, end = min_of(c->ow, start + tile);
        long top = row * c->step - pad_h, r0 = max_of(0, -top), rows = min_of(c->kh, c->h - top) - r0;
        for (long b = 0; b < blocks_of(c->out); ++b) {
            long first = block_start(c->out, b), size = block_start(c->out, b + 1) - first;
            const REAL *k = packed + first * c->in * c->kh * c->kw;
            for (long column = start, next; column < end; column = next) {
                long left = column * c->step - pad_w, q0 = max_of(0, -left), columns = min_of(c->kw, c->w - left) - q0;
                next = column + 1; /* away from borders, columns are as alike as images */
                if (c->step == 1 && columns == c->kw) next = min_of(end, c->w - c->kw + pad_w + 1);
                PLACES[size](x + ((top + r0) * c->w + left + q0) * c->nv, k + (r0 * c->kw + q0) * size,
                             y + first * c->y_stride + (row * c->ow + column) * c->nv, c, rows, columns, add,
                             (next - column) * c->nv);
            }
        }
    }
}

/* Gradient of the input where the step is not 1 (stem of large images): scattered from the outputs. */
static void scatter(const vec *dy, const REAL *weight, vec *dx, const Conv *c, int add, int threads) {
    PARALLEL
    for (long i = 0; i < c->in; ++i) {
        vec *to = dx + i * c->x_stride;
        if (!add) memset(to, 0, c->h * c->w * c->nv * BYTES);
        for (long o = 0; o < c->out; ++o)
            for (long row = 0; row < c->oh; ++row)
                for (long r = 0; r < c->kh; ++r)
                    for (long column = 0; column < c->ow; ++column)
                        for (long q = 0; q < c->kw; ++q) {
                            long h = row * c->step + r - c->kh / 2, w = column * c->step + q - c->kw / 2;
                            if (h < 0 || h >= c->h || w < 0 || w >= c->w) continue;
                            REAL f = weight[((o * c->in + i) * c->kh + r) * c->kw + q];
                            const vec *from = dy + o * c->y_stride + (row * c->ow + column) * c->nv;
                            for (long n = 0; n < c->nv; ++n) to[(h * c->w + w) * c->nv + n] += f * from[n];
                        }
    }
}

/* sums[o][i][tap] (+)= dy[o] x[i][tap] over some columns of a row of outputs, or of all columns of several rows; `x` is
 * rows of inputs with their padding. */
INLINE void weight_rows(const int ob, const int ib, const int taps, const vec *x, long x_stride, long x_row,
                        const vec *dy, vec *sums, long sum_stride, const Conv *c, long columns, long rows, int add) {
    vec acc[WEIGHT_OUT][6];
    long per_input = c->kh * c->kw;
#define EACH(o, i, t) \
    UNROLL for (int o = 0; o < ob; ++o) UNROLL for (int i = 0; i < ib; ++i) UNROLL for (int t = 0; t < taps; ++t)
    EACH(o, i, t) acc[o][i * taps + t] = add ? sums[o * sum_stride + i * per_input + t] : (vec){0};
    long length = c->step == 1 ? columns * c->nv : c->nv; /* vectors that are neighbours in x, too */
    for (; rows > 0; --rows, x += x_row) {
        const vec *xs = x;
        for (const vec *end = dy + columns * c->nv; dy < end; xs += c->step * c->nv, dy += length)
            for (long j = 0; j < length; ++j) {
                vec v[6];
                UNROLL for (int i = 0; i < ib; ++i) UNROLL for (int t = 0; t < taps; ++t) {
                    v[i * taps + t] = xs[i * x_stride + t * c->nv + j];
                    IN_REGISTER(v[i * taps + t]);
                }
                UNROLL for (int o = 0; o < ob; ++o) {
                    vec g = dy[o * c->y_stride + j];
                    IN_REGISTER(g);
                    UNROLL for (int t = 0; t < ib * taps; ++t) acc[o][t] += g * v[t];
                }
            }
    }
    EACH(o, i, t) sums[o * sum_stride + i * per_input + t] = acc[o][i * taps + t];
#undef EACH
}

/* Inputs at a time: as many as registers allow. */
static long inputs_at_once(long kw) { return kw == 1 ? WEIGHT_IN * 2 : kw == 3 ? WEIGHT_IN : 1; }

#define ROW(ob, ib, taps)                                                                                   \
    static void weight_rows_##ob##_##ib##_##taps(const vec *x, long x_stride, long x_row, const vec *dy, vec *sums, \
                                                 long sum_stride, const Conv *c, long columns, long rows, int add) { \
        weight_rows(ob, ib, taps, x, x_stride, x_row, dy, sums, sum_stride, c, columns, rows, add);                 \
    }
#if WIDE == 4
#define ROWS(ob) ROW(ob, 1, 1) ROW(ob, 2, 1) ROW(ob, 3, 1) ROW(ob, 4, 1) ROW(ob, 1, 3) ROW(ob, 2, 3) ROW(ob, 1, 5)
#define ROW_ENTRY(ob)                                                                                          \
    {{weight_rows_##ob##_1_1, weight_rows_##ob##_2_1, weight_rows_##ob##_3_1, weight_rows_##ob##_4_1},             \
     {weight_rows_##ob##_1_3, weight_rows_##ob##_2_3},                                                           \
     {weight_rows_##ob##_1_5}}
#else
#define ROWS(ob) ROW(ob, 1, 1) ROW(ob, 2, 1) ROW(ob, 1, 3) ROW(ob, 1, 5)
#define ROW_ENTRY(ob) \
    {{weight_rows_##ob##_1_1, weight_rows_##ob##_2_1}, {weight_rows_##ob##_1_3}, {weight_rows_##ob##_1_5}}
#endif
typedef void (*row_kernel)(const vec *, long, long, const vec *, vec *, long, const Conv *, long, long, int);
#if WIDE == 4
ROWS(1) ROWS(2) ROWS(3) ROWS(4)
static const row_kernel ROW_KERNELS[WEIGHT_OUT][3][4] = {ROW_ENTRY(1), ROW_ENTRY(2), ROW_ENTRY(3), ROW_ENTRY(4)};
#else
ROWS(1) ROWS(2) ROWS(3)
static const row_kernel ROW_KERNELS[WEIGHT_OUT][3][4] = {ROW_ENTRY(1), ROW_ENTRY(2), ROW_ENTRY(3)};
#endif

#define ROW_TILE 64 /* vectors of dy per output channel that are multiplied with everything while in first-level cache */

/* gradient[out][in][kh][kw] = sum over images and places of dy x, for some inputs at a time. Lanes are added up by
 * themselves, and together at the end. Rows of these inputs are kept as copies with zeros beside them, so that left and
 * right borders are no special case: the last kh, or of narrow maps, of which a tile has several rows, all; as many
 * inputs at a time as fit into the second-level cache. */
static void weight_gradient(const vec *x, const vec *dy, REAL *gradient, const Conv *c, int threads) {
    long pad_h = c->kh / 2, pad_w = c->kw / 2, taps = c->kh * c->kw, width = (c->w + 2 * pad_w) * c->nv;
    long tile = max_of(1, ROW_TILE / c->nv), at_once = inputs_at_once(c->kw), rows_at_once = max_of(1, tile / c->ow);
    long blocks = (c->out + WEIGHT_OUT - 1) / WEIGHT_OUT, n_kept = rows_at_once > 1 ? c->h : c->kh;
    long part = min_of((256 << 10) / (n_kept * width * BYTES), (2 << 20) / (c->out * taps * BYTES));
    part = max_of(1, min_of(part, (c->in + threads - 1) / threads));
    part = min_of(c->in, (part + at_once - 1) / at_once * at_once);
    PARALLEL
    for (long task = 0; task < (c->in + part - 1) / part; ++task) {
        long first_in = task * part, n_in = min_of(part, c->in - first_in), loaded = 0;
        long n_sums = c->out * n_in * taps, n_rows = taps > 1 ? n_in * n_kept * width : 0;
        vec *sums = aligned_alloc(BYTES, (n_sums + LANES + n_rows) * BYTES), *kept = sums + n_sums + LANES;
        if (c->h <= pad_h || (c->oh - 1) * c->step < pad_h) memset(sums, 0, n_sums * BYTES); /* of taps outside maps */
        for (long row = 0; row < c->oh; row += rows_at_once) {
            long last = min_of(c->oh, row + rows_at_once);
            for (; n_rows && loaded < min_of(c->h, (last - 1) * c->step - pad_h + c->kh); ++loaded)
                for (long i = 0; i < n_in; ++i) {
                    vec *to = kept + (i * n_kept + loaded % n_kept) * width;
                    for (long j = 0; j < pad_w * c->nv; ++j) to[j] = to[width - 1 - j] = (vec){0};
                    memcpy(to + pad_w * c->nv, x + (first_in + i) * c->x_stride + loaded * c->w * c->nv,
                           c->w * c->nv * BYTES);
                }
            for (long b = 0; b < blocks; ++b) {
                long first = c->out * b / blocks, size = c->out * (b + 1) / blocks - first;
                const row_kernel *kernels = ROW_KERNELS[size - 1][c->kw / 2];
                for (long column = 0; column < c->ow; column += tile)
                    for (long i = 0; i < n_in; i += at_once)
                        for (long r = 0; r < c->kh; ++r) { /* of this tap, rows of outputs whose input is in the map */
                            long top = max_of(0, (pad_h - r + c->step - 1) / c->step), from = max_of(row, top);
                            long h = from * c->step + r - pad_h;
                            long end = min_of(last, (c->h - 1 + pad_h - r) / c->step + 1);
                            const vec *at = n_rows ? kept + (i * n_kept + h % n_kept) * width
                                                   : x + (first_in + i) * c->x_stride + h * c->w * c->nv;
                            if (from < end)
                                kernels[min_of(at_once, n_in - i) - 1](
                                    at + column * c->step * c->nv, n_rows ? n_kept * width : c->x_stride,
                                    c->step * (n_rows ? width : c->w * c->nv),
                                    dy + first * c->y_stride + (from * c->ow + column) * c->nv,
                                    sums + first * n_in * taps + (i * c->kh + r) * c->kw, n_in * taps, c,
                                    min_of(tile, c->ow - column), end - from, from > top || column > 0);
                        }
            }
        }
        for (long o = 0; o < c->out; ++o)
            for (long i = 0, next; i < n_in * taps; i = next) {
                vec sum = totals(sums + o * n_in * taps + i); /* behind the last ones, of memory that is there */
                next = min_of(n_in * taps, i + LANES);
                memcpy(gradient + (o * c->in + first_in) * taps + i, &sum, (next - i) * sizeof(REAL));
            }
        free(sums);
    }
}

/* ---- batch norm and merges -------------------------------------------------------------------------------------- */

/* Mean and biased variance of a slab: two passes over each chunk while it is in cache, combined after Chan et al. */
static void moments(const vec *x, const Slab *s, long n_images, double *mean, double *variance) {
    double count = 0, m = 0, m2 = 0;
    long rows = s->padded ? max_of(1, CHUNK / s->nv) : 1, length = s->padded ? s->nv : CHUNK;
    for (long place = 0; place < s->places; place += rows) {
        long n_rows = min_of(rows, s->places - place);
        for (long from = 0; from < s->nv; from += length) {
            long n = min_of(length, s->nv - from);
            const vec *start = x + place * s->nv + from;
            mask last = s->padded ? s->last : (mask)(MASK_OF((vec){0} + 1, (vec){0}));
            double weight = s->padded ? (double)n_rows * n_images : (double)n * LANES;
            /* from the first value, so that the mean of equal values is exact: batch norm makes any error 300 times larger */
            REAL first = start[0][0];
            vec pivot = spread(first), a = {0}, b = {0}, c = {0}, d = {0};
            for (long r = 0; r < n_rows; ++r) {
                const vec *p = start + r * s->nv;
                long j = 0;
                for (; j + 4 < n; j += 4) a += p[j] - pivot, b += p[j + 1] - pivot, c += p[j + 2] - pivot, d += p[j + 3] - pivot;
                for (; j + 1 < n; ++j) a += p[j] - pivot;
                b += keep(p[n - 1] - pivot, last);
            }
            double own = first + total((a + b) + (c + d)) / weight;
            vec centre = spread((REAL)own);
            a = b = c = d = (vec){0};
            for (long r = 0; r < n_rows; ++r) {
                const vec *p = start + r * s->nv;
                long j = 0;
                for (; j + 4 < n; j += 4) {
                    vec e = p[j] - centre, f = p[j + 1] - centre, g = p[j + 2] - centre, h = p[j + 3] - centre;
                    a += e * e, b += f * f, c += g * g, d += h * h;
                }
                for (; j + 1 < n; ++j) a += (p[j] - centre) * (p[j] - centre);
                vec e = keep(p[n - 1] - centre, last);
                b += e * e;
            }
            double off = own - (double)(REAL)own; /* the centre was rounded */
            double squares = total((a + b) + (c + d)) - weight * off * off, delta = own - m;
            m2 += squares + delta * delta * count * weight / (count + weight);
            count += weight;
            m += delta * weight / count;
        }
    }
    *mean = m;
    *variance = m2 > 0 ? m2 / count : m2 * 0;
}

static void statistics(const Run *run, long norm, const vec *x, long stride, long channels, long places) {
    int threads = (int)run->threads;
    Slab s = slab_of(run, places);
    PARALLEL
    for (long c = 0; c < channels; ++c) {
        double mean = 0, variance = 0;
        if (run->batch_statistics) moments(x + c * stride, &s, run->images_n, &mean, &variance);
        coefficients_of(run, norm + c, mean, variance, (double)places * run->images_n);
    }
}

/* y = sum of gate (scale x + shift), optionally ReLU'd; a term is (value, channel stride, first norm or -1, gate). */
static void linear(const Run *run, vec *y, long y_stride, long channels, long places, int relu, const int64_t *terms,
                   long n_terms) {
    int threads = (int)run->threads;
    long n = places * run->nv;
    PARALLEL
    for (long c = 0; c < channels; ++c) {
        const vec **x = malloc(n_terms * (sizeof(vec *) + sizeof(REAL)));
        REAL *factor = (REAL *)(x + n_terms);
        double shift = 0;
        for (long t = 0; t < n_terms; ++t) {
            const int64_t *term = terms + 4 * t;
            double gate = gate_of(run, term[3]);
            x[t] = run->arena + term[0] + c * term[1];
            factor[t] = (REAL)(gate * (term[2] < 0 ? 1 : run->coefficients[2 * run->n_norm + term[2] + c]));
            shift += gate * (term[2] < 0 ? 0 : run->coefficients[3 * run->n_norm + term[2] + c]);
        }
        vec *to = y + c * y_stride, start = spread((REAL)shift);
        long j = 0;
        for (; j + 4 <= n; j += 4) {
            vec a = start, b = start, d = start, e = start;
            for (long t = 0; t < n_terms; ++t) {
                const vec *p = x[t] + j;
                REAL f = factor[t];
                a += f * p[0], b += f * p[1], d += f * p[2], e += f * p[3];
            }
            if (relu) {
                a = keep(a, ~MASK_OF((vec){0}, a)), b = keep(b, ~MASK_OF((vec){0}, b));
                d = keep(d, ~MASK_OF((vec){0}, d)), e = keep(e, ~MASK_OF((vec){0}, e));
            }
            to[j] = a, to[j + 1] = b, to[j + 2] = d, to[j + 3] = e;
        }
        for (; j < n; ++j) {
            vec a = start;
            for (long t = 0; t < n_terms; ++t) a += factor[t] * x[t][j];
            to[j] = relu ? keep(a, ~MASK_OF((vec){0}, a)) : a;
        }
        free(x);
    }
}

/* out (+)= the gradient of x that its readers' gradients give: directly, or through the batch norm from `norm` on.
 * A reader is (its gradient, channel stride, gate). Also the gradients of the gates and of the batch norm.
 * Channel by channel, so that both passes but the first find their data in cache. `x` may be `out`. */
static void gather(const Run *run, const vec *x, vec *out, long stride, long channels, long places, int64_t norm,
                   int add, const int64_t *readers, long n_readers) {
    int threads = (int)run->threads;
    Slab s = slab_of(run, places);
    long n = places * run->nv;
    double count = (double)places * run->images_n;
    int gated = 0;
    for (long r = 0; r < n_readers; ++r) gated |= readers[3 * r + 2] >= 0;
    double *gate_sums = calloc(n_readers * channels, sizeof(double));
    PARALLEL
    for (long c = 0; c < channels; ++c) {
        const vec **d = malloc(n_readers * (sizeof(vec *) + sizeof(REAL)));
        REAL *factor = (REAL *)(d + n_readers);
        const vec *own = x + c * stride;
        vec *to = out + c * stride;
        long k = norm + c;
        REAL mean = norm < 0 ? 0 : run->coefficients[k], inverse = norm < 0 ? 0 : run->coefficients[run->n_norm + k];
        REAL scale = norm < 0 ? 1 : run->coefficients[2 * run->n_norm + k];
        double sum = 0, product = 0; /* over all readers: of the gradient, and of the gradient times the centred x */
        for (long r = 0; r < n_readers; ++r) {
            const int64_t *reader = readers + 3 * r;
            double gate = gate_of(run, reader[2]), one = 0, two = 0;
            d[r] = run->arena + reader[0] + c * reader[1];
            factor[r] = (REAL)gate;
            if (norm < 0 && reader[2] < 0) continue;
            for (long from = 0; from < n; from += CHUNK) {
                long to_ = min_of(n, from + CHUNK), j = from;
                vec a = {0}, b = {0}, e = {0}, f = {0};
                for (; j + 2 <= to_; j += 2) {
                    a += d[r][j], b += d[r][j] * (own[j] - mean);
                    e += d[r][j + 1], f += d[r][j + 1] * (own[j + 1] - mean);
                }
                if (j < to_) a += d[r][j], b += d[r][j] * (own[j] - mean);
                one += total(a + e), two += total(b + f);
            }
            sum += gate * one, product += gate * two;
            if (reader[2] >= 0)
                gate_sums[r * channels + c] = norm < 0 ? two : scale * two + run->norm_bias[k] * one;
        }
        if (norm >= 0) {
            if (run->norm_weight_gradient) run->norm_weight_gradient[k] = (REAL)(inverse * product);
            if (run->norm_bias_gradient) run->norm_bias_gradient[k] = (REAL)sum;
        }
        /* gradient of x: scale (g - mean of g - normalised x times mean of their product); padding stays 0 */
        int batch = norm >= 0 && run->batch_statistics;
        REAL slope = batch ? (REAL)(-scale * (double)inverse * inverse * product / count) : 0;
        REAL level = batch ? (REAL)(-scale * sum / count - (double)slope * mean) : 0;
        for (long r = 0; r < n_readers; ++r) factor[r] *= scale;
        for (long place = 0; place < s.places; ++place) {
            long j = place * s.nv, end = j + s.nv;
            for (; j + 4 <= end; j += 4) {
                vec a = {0}, b = {0}, e = {0}, f = {0};
                if (batch) {
                    a = slope * own[j] + level, b = slope * own[j + 1] + level;
                    e = slope * own[j + 2] + level, f = slope * own[j + 3] + level;
                }
                if (s.padded && j + 4 == end) f = keep(f, s.last);
                if (add) a += to[j], b += to[j + 1], e += to[j + 2], f += to[j + 3];
                for (long r = 0; r < n_readers; ++r) {
                    const vec *p = d[r] + j;
                    REAL w = factor[r];
                    a += w * p[0], b += w * p[1], e += w * p[2], f += w * p[3];
                }
                to[j] = a, to[j + 1] = b, to[j + 2] = e, to[j + 3] = f;
            }
            for (; j < end; ++j) {
                vec a = {0};
                if (batch) a = slope * own[j] + level;
                if (s.padded && j + 1 == end) a = keep(a, s.last);
                if (add) a += to[j];
                for (long r = 0; r < n_readers; ++r) a += factor[r] * d[r][j];
                to[j] = a;
            }
        }
        free(d);
    }
    if (gated && run->gate_gradients)
        for (long r = 0; r < n_readers; ++r)
            if (readers[3 * r + 2] >= 0) {
                double sum = 0;
                for (long c = 0; c < channels; ++c) sum += gate_sums[r * channels + c];
                run->gate_gradients[readers[3 * r + 2]] = (REAL)sum;
            }
    free(gate_sums);
}

static void relu_backward(const Run *run, const vec *z, vec *d, long stride, long channels, long places) {
    int threads = (int)run->threads;
    PARALLEL
    for (long c = 0; c < channels; ++c)
        for (long j = 0; j < places * run->nv; ++j)
            d[c * stride + j] = keep(d[c * stride + j], MASK_OF(z[c * stride + j], (vec){0}));
}

/* Attention: y = (gate_0 + sigmoid(x_0)) sum of gate_i x_i. Backward: `d` becomes the gradient of the sum, `side` that
 * of x_0. */
static void attention(const Run *run, vec *y, vec *side, long stride, long channels, long places, int backward,
                      const int64_t *terms, long n_terms) {
    int threads = (int)run->threads;
    double *sums = calloc(channels, sizeof(double));
    REAL gate = run->gates[terms[3]];
    PARALLEL
    for (long c = 0; c < channels; ++c) {
        vec *to = y + c * stride, *to_side = side + c * stride;
        const vec **x = malloc(n_terms * (sizeof(vec *) + 2 * sizeof(REAL)));
        REAL *factor = (REAL *)(x + n_terms), *shift = factor + n_terms;
        for (long t = 0; t < n_terms; ++t) {
            const int64_t *term = terms + 4 * t;
            REAL weight = t > 0 ? run->gates[term[3]] : 1;
            x[t] = run->arena + term[0] + c * term[1];
            factor[t] = weight * (term[2] < 0 ? 1 : run->coefficients[2 * run->n_norm + term[2] + c]);
            shift[t] = term[2] < 0 ? 0 : weight * run->coefficients[3 * run->n_norm + term[2] + c];
        }
        for (long from = 0; from < places * run->nv; from += CHUNK) {
            vec sum = {0};
            for (long j = from; j < min_of(places * run->nv, from + CHUNK); ++j) {
                vec m = sigmoid(x[0][j] * factor[0] + shift[0]), weighted = {0};
                for (long t = 1; t < n_terms; ++t) weighted += x[t][j] * factor[t] + shift[t];
                if (!backward) {
                    to[j] = (gate + m) * weighted;
                    continue;
                }
                vec g = to[j], h = g * weighted;
                sum += h;
                to_side[j] = h * m * (1 - m);
                to[j] = g * (gate + m);
            }
            sums[c] += total(sum);
        }
        free(x);
    }
    if (backward && run->gate_gradients) {
        double sum = 0;
        for (long c = 0; c < channels; ++c) sum += sums[c];
        run->gate_gradients[terms[3]] = (REAL)sum;
    }
    free(sums);
}

/* ---- poolings --------------------------------------------------------------------------------------------------- */

/* Forward with `dy` null; else dx += the gradient. Padding counts as zeros in averages and not in maxima; of equal
 * maxima the first takes the gradient, as in torch. */
static void pool(const Run *run, const vec *x, vec *y, const vec *dy, vec *dx, const Pool *p, int maximum) {
    int threads = (int)run->threads;
    long nv = run->nv;
    REAL share = (REAL)(1.0 / (p->kernel * p->kernel));
    PARALLEL
    for (long c = 0; c < p->channels; ++c)
        for (long row = 0; row < p->oh; ++row)
            for (long column = 0; column < p->ow; ++column) {
                long r0 = max_of(0, row * p->step - p->pad), r1 = min_of(p->h, row * p->step - p->pad + p->kernel);
                long q0 = max_of(0, column * p->step - p->pad), q1 = min_of(p->w, column * p->step - p->pad + p->kernel);
                for (long n = 0; n < nv; ++n) {
                    long at = c * p->y_stride + (row * p->ow + column) * nv + n;
                    const vec *from = x + c * p->x_stride + n;
                    if (dy == NULL) {
                        vec value = maximum ? from[(r0 * p->w + q0) * nv] : (vec){0};
                        for (long r = r0; r < r1; ++r)
                            for (long q = q0; q < q1; ++q) {
                                vec v = from[(r * p->w + q) * nv];
                                mask larger = MASK_OF(v, value) | (v != v);
                                value = maximum ? (vec)(((mask)v & larger) | ((mask)value & ~larger)) : value + v;
                            }
                        y[at] = maximum ? value : value * share;
                        continue;
                    }
                    vec *to = dx + c * p->x_stride + n, g = dy[at];
                    mask open = (mask)(MASK_OF((vec){0} + 1, (vec){0}));
                    for (long r = r0; r < r1; ++r)
                        for (long q = q0; q < q1; ++q) {
                            if (maximum) {
                                mask here = (from[(r * p->w + q) * nv] == y[at]) & open;
                                open &= ~here;
                                to[(r * p->w + q) * nv] += keep(g, here);
                            } else {
                                to[(r * p->w + q) * nv] += g * share;
                            }
                        }
                }
            }
}

/* ---- head ------------------------------------------------------------------------------------------------------- */

/* features[image][channel] = mean over places; backward spreads their gradient. */
static void mean_of_map(const Run *run, vec *map, long stride, long channels, long first, long n_features, long places,
                        int backward, int relu_of) {
    for (long c = 0; c < channels; ++c)
        for (long n = 0; n < run->nv; ++n) {
            vec *p = map + c * stride + n, sum = {0};
            REAL *features = run->features + first + c;
            if (!backward) {
                for (long j = 0; j < places; ++j) sum += p[j * run->nv];
                for (long i = 0; i < LANES && n * LANES + i < run->images_n; ++i)
                    features[(n * LANES + i) * n_features] = sum[i] / places;
            } else {
                for (long i = 0; i < LANES && n * LANES + i < run->images_n; ++i)
                    sum[i] = features[(n * LANES + i) * n_features] / places;
                for (long j = 0; j < places; ++j)
                    p[j * run->nv] = relu_of ? keep(sum, MASK_OF(p[j * run->nv], (vec){0})) : sum;
            }
        }
}

/* 1x1 convolution, batch norm, ReLU and pooling, a few channels at a time, recomputed in the backward pass. `work`
 * holds two maps of `part` channels. */
static void head(const Run *run, const vec *z, vec *dz, vec *work, long stride, long in, long hidden, long places,
                 long norm, long part, const REAL *weight, REAL *gradient, int backward) {
    int threads = (int)run->threads;
    REAL *packed = malloc(part * in * sizeof(REAL));
    for (long first = 0; first < hidden; first += part) {
        long size = min_of(part, hidden - first);
        Conv conv = {in, size, 1, places, 1, places, 1, 1, 1, stride, stride, run->nv};
        pack(weight + first * in, packed, size, in, 1, 0);
        convolve(z, packed, work, &conv, 0, threads);
        if (!backward) statistics(run, norm + first, work, stride, size, places);
        int64_t term[4] = {work - run->arena, stride, norm + first, -1};
        vec *y = work + part * stride;
        linear(run, y, stride, size, places, 1, term, 1);
        mean_of_map(run, y, stride, size, first, hidden, places, backward, 1);
        if (!backward) continue;
        int64_t reader[3] = {y - run->arena, stride, -1};
        gather(run, work, work, stride, size, places, norm + first, 0, reader, 1);
        if (gradient != NULL) weight_gradient(z, work, gradient + first * in, &conv, threads);
        Conv adjoint = {size, in, 1, places, 1, places, 1, 1, 1, stride, stride, run->nv};
        pack(weight + first * in, packed, size, in, 1, 1);
        convolve(work, packed, dz, &adjoint, first > 0, threads);
    }
    free(packed);
}

/* ---- images ----------------------------------------------------------------------------------------------------- */

static void copy_images(const Run *run, vec *map, long stride, long channels, long h, long w, int backward) {
    const int64_t *strides = run->image_strides;
    for (long c = 0; c < channels; ++c)
        for (long row = 0; row < h; ++row)
            for (long column = 0; column < w; ++column) {
                REAL *lane = (REAL *)(map + c * stride + (row * w + column) * run->nv);
                long at = c * strides[1] + row * strides[2] + column * strides[3];
                if (backward) {
                    for (long i = 0; i < run->images_n; ++i) run->image_gradient[i * strides[0] + at] = lane[i];
                } else {
                    for (long i = 0; i < run->images_n; ++i) lane[i] = run->images[i * strides[0] + at];
                    for (long i = run->images_n; i < run->nv * LANES; ++i) lane[i] = 0;
                }
            }
}

/* Addresses and channel strides come in vectors. Of a convolution: (weight, x, y, x stride, y stride, in, out, h, w,
 * oh, ow, kh, kw, step, depthwise, add); a depthwise one runs channel by channel. */
static void conv_instruction(const Run *run, int64_t kind, const int64_t *p) {
    const REAL *weight = run->weights[p[0]];
    REAL *gradient = run->weight_gradients ? run->weight_gradients[p[0]] : NULL;
    vec *x = run->arena + p[1], *y = run->arena + p[2];
    int depthwise = (int)p[14], add = (int)p[15], threads = (int)run->threads;
    long n = depthwise ? p[6] : 1, taps = p[11] * p[12];
    Conv c = {depthwise ? 1 : p[5], depthwise ? 1 : p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[3], p[4], run->nv};
    if (kind == CONV_WEIGHT && gradient == NULL) return;
    if (c.kh == 1 && c.kw == 1 && c.step == 1) { /* places of a 1x1 convolution are all alike */
        c.w *= c.h, c.ow *= c.oh;
        c.h = c.oh = 1;
    }
    REAL *packed = malloc(c.in * c.out * taps * sizeof(REAL));
    for (long i = 0; i < n; ++i, x += p[3], y += p[4], weight += taps, gradient += taps) {
        if (kind == CONV) {
            pack(weight, packed, c.out, c.in, taps, 0);
            convolve(x, packed, y, &c, 0, threads);
        } else if (kind == CONV_WEIGHT) {
            weight_gradient(x, y, gradient, &c, threads);
        } else if (c.step == 1) {
            Conv adjoint = {c.out, c.in, c.oh, c.ow, c.h, c.w, c.kh, c.kw, 1, c.y_stride, c.x_stride, c.nv};
            pack(weight, packed, c.out, c.in, taps, 1);
            convolve(y, packed, x, &adjoint, add, threads);
        } else {
            scatter(y, weight, x, &c, add, threads);
        }
    }
    free(packed);
}

#endif

/* ---- the program ------------------------------------------------------------------------------------------------ */

/* Instructions are (kind, length, operands), up to END. */
void run_program(const Run *run, const int64_t *code) {
    vec *arena = run->arena;
    for (; code[0] != END; code += code[1]) {
        const int64_t *p = code + 2;
        switch (code[0]) {
        case IMAGES:
        case IMAGES_BACKWARD:
            copy_images(run, arena + p[0], p[1], p[2], p[3], p[4], code[0] == IMAGES_BACKWARD);
            break;
        case CONV:
        case CONV_WEIGHT:
        case CONV_INPUT:
            conv_instruction(run, code[0], p);
            break;
        case STATISTICS: /* first norm, x, stride, channels, places */
            statistics(run, p[0], arena + p[1], p[2], p[3], p[4]);
            break;
        case LINEAR: /* y, stride, channels, places, relu, number of terms, terms */
            linear(run, arena + p[0], p[1], p[2], p[3], (int)p[4], p + 6, p[5]);
            break;
        case ATTENTION: /* y, its side, stride, channels, places, number of terms, terms */
        case ATTENTION_BACKWARD:
            attention(run, arena + p[0], arena + p[1], p[2], p[3], p[4], code[0] == ATTENTION_BACKWARD, p + 6, p[5]);
            break;
        case POOL:
        case POOL_BACKWARD: { /* x, y, dy, dx, maximum, add, shape */
            Pool shape = {p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15]};
            if (code[0] == POOL) {
                pool(run, arena + p[0], arena + p[1], NULL, NULL, &shape, (int)p[4]);
                break;
            }
            for (long c = 0; !p[5] && c < SLABS(shape.channels); ++c)
                memset(arena + p[3] + c * shape.x_stride, 0, shape.h * shape.w * run->nv * BYTES);
            pool(run, arena + p[0], arena + p[1], arena + p[2], arena + p[3], &shape, (int)p[4]);
            break;
        }
        case HEAD_FORWARD: /* weight, z, dz, work, stride, in, hidden, places, first norm, part */
        case HEAD_BACKWARD:
            head(run, arena + p[1], arena + p[2], arena + p[3], p[4], p[5], p[6], p[7], p[8], p[9], run->weights[p[0]],
                 run->weight_gradients ? run->weight_gradients[p[0]] : NULL, code[0] == HEAD_BACKWARD);
            break;
        case MEAN: /* map, stride, channels, places */
        case MEAN_BACKWARD:
            mean_of_map(run, arena + p[0], p[1], p[2], 0, p[2], p[3], code[0] == MEAN_BACKWARD, 0);
            break;
        case GATHER: /* x, out, stride, channels, places, first norm, add, number of readers, readers */
            gather(run, arena + p[0], arena + p[1], p[2], p[3], p[4], p[5], (int)p[6], p + 8, p[7]);
            break;
        case RELU_BACKWARD: /* z, d, stride, channels, places */
            relu_backward(run, arena + p[0], arena + p[1], p[2], p[3], p[4]);
            break;
        }
    }
}
