/* @ABOUT@
 *
 *     int student_predict(const float *images, int n, float *logits);
 *
 * images: n x @CHANNELS@ x @HEIGHT@ x @WIDTH@ (image, channel, row, column), values in [0, 1]; the normalisation is
 * inside. logits: n x @CLASSES@. Returns 0, or -1 if n is negative or there is no memory (@ONE_KIB@ KiB for one image, at most
 * @MANY_KIB@ KiB for many; another @KEPT_KIB@ KiB are static, and filled by the first call). Any number of threads may call it.
 * Nothing but the C library is needed, C99 is enough:
 *
 *     cc -O3 -c student.c
 *     cc -O3 -DSTUDENT_MAIN student.c -o student && ./student images.f32
 *
 * The program reads raw float32 images from a file or from standard input, and prints a line of logits for each.
 *
 * With gcc and clang the kernels are compiled for AVX-512, for AVX2 and for the processor that the compiler is told; the
 * first that the processor has is used. -DSTUDENT_PLAIN: for the latter alone; -DSTUDENT_SCALAR: without vectors;
 * -DSTUDENT_GROUP=1: one image at a time and nothing kept, which saves memory. With -std=c99 gcc wants -ffp-contract=fast to be fast. */

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

const int student_classes = @CLASSES@, student_channels = @CHANNELS@, student_height = @HEIGHT@, student_width = @WIDTH@;
const char *const student_class_names[@CLASSES@] = {@NAMES@};
int student_predict(const float *images, int n, float *logits);

/* Of n images that are computed together, a value is [channel][row][column][image]: so a convolution is a sum over
 * shifted runs of memory, and vectors are full whatever the number of channels, the size of the map and n are. Maps of
 * one size lie in a grid of slabs, one for each channel, with zeros at the end of each row and below each map, which
 * serve as the padding of the next row and map, too. */
typedef struct {
    int height, width, pitch, slab; /* places of a row and of a channel, with their zeros */
    int lead, tail;                 /* zeros before the first slab and after the last */
    int start, slabs;
} Grid;

/* out = bias + convolutions of sources + factors x addends; positive = max(out, 0); or what a kind needs of this. */
typedef struct {
    int kind, grid, out, positive, channels; /* first slabs; -1: not wanted */
    int source, n_sources, addend, n_addends, weight, kernels, pooled;
} Op;
enum {
    LINEAR,    /* all of it */
    WINOGRAD,  /* the same, where each source has the taps of a 3x3 kernel, whose sums are kept from `kernels` on; `pooled`:
                * 1 if the next op is the MAXIMUM of 2x2 places of `out`, 2 if nothing else reads that */
    DEPTHWISE, /* each channel has its own source */
    MAXIMUM,   /* of a window of another grid, as AVERAGE: WINDOWS has grid, slab, kernel, stride, padding */
    AVERAGE,
    SPLIT, /* the maps of every `stride`-th row and column: grid, slab, channels, stride */
    GATE,  /* sigmoid(first addend) x second addend */
    MEAN   /* over the map: grid, slab */
};
typedef struct {
    int slab, channels, tap, n_taps;
} Source;

@TABLES@

#ifndef STUDENT_GROUP
#define STUDENT_GROUP @GROUP@ /* images that are computed together */
#endif
#if defined(__GNUC__) && STUDENT_GROUP > 1
#define KEPT @KEPT@ /* floats that the first call makes and keeps for WINOGRAD */
#else
#define KEPT 0
#endif
static float kept[KEPT + 1];
enum { IMAGES = @IMAGES@, PLACES = @PLACES@, MOST_PLACES = @MOST_PLACES@, HALO = KEPT ? @HALO@ : 0, SCRATCH = KEPT ? @SCRATCH@ : 0 };
enum { MOST_TAPS = @MOST_TAPS@, MOST_SOURCES = @MOST_SOURCES@, MOST_ADDENDS = @MOST_ADDENDS@ };
enum {
    GRIDS_N = sizeof(GRIDS) / sizeof(Grid),
    OPS_N = sizeof(OPS) / sizeof(Op),
    SLACK = 64, /* floats after a grid that kernels may read, and throw away */
    PIECE = @PIECE@, /* floats of tiles that WINOGRAD takes at a time */
    SUMS = @SUMS@, /* half cycles that the sums of a vector of tiles take it for each channel */
    BLOCK = 6   /* output channels held in registers; the weights are stored in such blocks */
};

typedef struct {
    int n;
    float *grid[GRIDS_N], *scratch;
} Run;

/* An operation with the addresses of its operands. */
typedef struct {
    ptrdiff_t stride, step; /* between slabs, and between those of sources */
    int channels, depthwise, n_sources, n_addends;
    float *out, *positive, *pooled; /* of maps of half the size */
    const Grid *half;
    const float *addends[MOST_ADDENDS];
    struct {
        const float *x;
        int channels, n_taps;
        ptrdiff_t taps[MOST_TAPS];
    } sources[MOST_SOURCES];
} Work;

static float *slab_of(const Run *run, int grid, int slab) {
    const Grid *g = GRIDS + grid;
    return run->grid[grid] + ((ptrdiff_t)slab * g->slab + g->lead) * run->n;
}

static int blocks_of(int channels) { return (channels + BLOCK - 1) / BLOCK; }

/* An odd number of cache lines of 16 floats: multiples of it lie in different sets of a cache. */
static ptrdiff_t odd_lines(ptrdiff_t floats) { return ((floats + 15) / 16 | 1) * 16; }

static ptrdiff_t kernels_size(ptrdiff_t channels, ptrdiff_t inputs) { return odd_lines(channels * (1 + inputs) + 16); }

static ptrdiff_t inputs_of(const Op *op) {
    ptrdiff_t inputs = 0;
    for (int s = 0; s < op->n_sources; ++s) inputs += SOURCES[op->source + s].channels;
    return inputs;
}

/* The zeros to the right of the rows of some slabs, which runs over many rows overwrite. */
static void clear_right(const Run *run, int grid, int slab, int channels) {
    const Grid *g = GRIDS + grid;
    ptrdiff_t n = run->n, length = (g->pitch - g->width) * n;
    float *to = slab_of(run, grid, slab) + g->width * n;
    for (int c = 0; length && c < channels; ++c, to += g->slab * n)
        for (int row = 0; row < g->height; ++row)
            if (length == 1)
                to[row * g->pitch] = 0;
            else
                memset(to + row * g->pitch * n, 0, (size_t)length * sizeof(float));
}

static void place(Run *run, float *arena, int n) {
    run->n = n;
    run->scratch = arena + (ptrdiff_t)PLACES * n + GRIDS_N * SLACK;
    for (int i = 0; i < GRIDS_N; ++i) {
        const Grid *g = GRIDS + i;
        run->grid[i] = arena + (ptrdiff_t)g->start * n + i * SLACK;
        memset(run->grid[i], 0, (size_t)g->lead * n * sizeof(float));
        clear_right(run, i, 0, g->slabs);
        for (int c = 0; c < g->slabs; ++c)
            memset(slab_of(run, i, c) + g->height * g->pitch * n, 0,
                   (size_t)(g->slab - g->height * g->pitch) * n * sizeof(float));
        memset(slab_of(run, i, g->slabs), 0, ((size_t)g->tail * n + SLACK) * sizeof(float));
    }
}

#if defined(__GNUC__) && !defined(STUDENT_SCALAR)
#define INLINE static inline __attribute__((always_inline))
#define VECTOR __attribute__((vector_size(4 * LANES)))
#define LOOSE __attribute__((vector_size(4 * LANES), aligned(4), may_alias))
#define SPREAD(x) ((float)(x) - (vec){0})
#define PREFETCH(p, write) __builtin_prefetch(p, write)
#if defined(__AVX512F__)
#define PLAIN_LANES 16
#elif defined(__AVX__)
#define PLAIN_LANES 8
#else
#define PLAIN_LANES 4
#endif
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#define SHUFFLED(a, b, m) AT(shuffled)(a, b, m)
#else
#define SHUFFLED(a, b, m) __builtin_shuffle(a, b, m)
#define UNROLL _Pragma("GCC unroll 16")
#endif
#if defined(__x86_64__) && !defined(__AVX512F__) && !defined(STUDENT_PLAIN)
#define LEVELS
#endif
#else
#define INLINE static inline
#define VECTOR
#define LOOSE
#define SPREAD(x) ((float)(x))
#define PREFETCH(p, write)
#define PLAIN_LANES 1
#define UNROLL
#endif
#if defined(__aarch64__) || defined(__AVX512F__)
#define PLAIN_WIDE 4
#else
#define PLAIN_WIDE 2
#endif

/* @KERNELS@ */
typedef float AT(vec) VECTOR;
typedef float AT(loose) LOOSE;
#define vec AT(vec)
#if LANES > 1
typedef int AT(mask) VECTOR;
#endif

INLINE vec AT(load)(const float *p) { return *(const AT(loose) *)p; }
#define load AT(load)

INLINE void AT(store)(float *to, vec value, ptrdiff_t count) {
    if (count >= LANES)
        *(AT(loose) *)to = value;
    else if (count > 0)
        memcpy(to, &value, (size_t)count * sizeof(float));
}

#if defined(__clang__) && LANES > 1 /* which sees one instruction in it where the mask is known */
INLINE vec AT(shuffled)(vec a, vec b, AT(mask) m) {
    vec y;
    UNROLL for (int k = 0; k < LANES; ++k) y[k] = m[k] < LANES ? a[m[k] % LANES] : b[m[k] % LANES];
    return y;
}
#endif

INLINE vec AT(larger)(vec a, vec b) {
#if LANES == 1
    return a > b ? a : b;
#else
    typedef int mask VECTOR;
    mask m = (mask)(a > b);
    return (vec)(((mask)a & m) | ((mask)b & ~m));
#endif
}

/* 1 / (1 + exp(-x)) to some 1e-7: exp(z) = 2^n exp(r) with |r| <= ln(2) / 2; coefficients of Cephes' expf. */
INLINE vec AT(sigmoid)(vec x) {
#if LANES == 1
    typedef int words;
#else
    typedef int words VECTOR;
#endif
    const vec zero = SPREAD(0);
    vec z = -AT(larger)(-AT(larger)(-x, zero - 87), zero - 88);
    vec shifted = z * 1.44269504088896341f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    vec r = z - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    words bits;
    vec power;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4b400000 + 127) * (1 << 23);
    memcpy(&power, &bits, sizeof power);
    return 1 / (1 + (p * r * r + r + 1) * power);
}

/* `ob` output channels from `first` on, of `count` floats from `at` on in `nb` vectors. `k`: for each of them the bias,
 * the weights [source][channel][tap] and the factors. */
INLINE void AT(tile)(const int ob, const int nb, const Work *w, const float *k, int first, ptrdiff_t at,
                     ptrdiff_t count) {
    vec acc[BLOCK][WIDE];
    ptrdiff_t own = first * w->stride + at;
    UNROLL for (int o = 0; o < ob; ++o) UNROLL for (int n = 0; n < nb; ++n) acc[o][n] = SPREAD(k[o]);
    k += ob;
    for (int s = 0; s < w->n_sources; ++s) {
        const float *x = w->sources[s].x + (w->depthwise ? own : at);
        const ptrdiff_t *taps = w->sources[s].taps;
        int n_taps = w->sources[s].n_taps;
        if (n_taps == 1) {
            x += taps[0];
            for (int c = w->sources[s].channels; c > 0; --c, x += w->step, k += ob) {
                vec v[WIDE];
                UNROLL for (int n = 0; n < nb; ++n) v[n] = load(x + n * LANES);
                UNROLL for (int o = 0; o < ob; ++o) UNROLL for (int n = 0; n < nb; ++n) acc[o][n] += k[o] * v[n];
            }
            continue;
        }
        for (int c = 0; c < w->sources[s].channels; ++c, x += w->step)
            for (int t = 0; t < n_taps; ++t, k += ob) {
                const float *p = x + taps[t];
                vec v[WIDE];
                UNROLL for (int n = 0; n < nb; ++n) v[n] = load(p + n * LANES);
                UNROLL for (int o = 0; o < ob; ++o) UNROLL for (int n = 0; n < nb; ++n) acc[o][n] += k[o] * v[n];
            }
    }
    for (int a = 0; a < w->n_addends; ++a, k += ob) {
        const float *p = w->addends[a] + own;
        UNROLL for (int o = 0; o < ob; ++o) UNROLL for (int n = 0; n < nb; ++n)
            acc[o][n] += k[o] * load(p + o * w->stride + n * LANES);
    }
    float *to[2] = {w->out, w->positive};
    for (int i = 0; i < 2; ++i) {
        if (i) UNROLL for (int o = 0; o < ob; ++o) UNROLL for (int n = 0; n < nb; ++n)
            acc[o][n] = AT(larger)(acc[o][n], SPREAD(0));
        if (to[i] == NULL) continue;
        float *y = to[i] + own;
        if (count >= nb * LANES) {
            UNROLL for (int o = 0; o < ob; ++o) UNROLL for (int n = 0; n < nb; ++n)
                *(AT(loose) *)(y + o * w->stride + n * LANES) = acc[o][n];
        } else {
            vec row[WIDE];
            UNROLL for (int o = 0; o < ob; ++o) {
                UNROLL for (int n = 0; n < nb; ++n) row[n] = acc[o][n];
                memcpy(y + o * w->stride, row, (size_t)count * sizeof(float));
            }
        }
    }
}

#define TILE(ob, nb)                                                                                             \
    static void AT(tile_##ob##_##nb)(const Work *w, const float *k, int first, ptrdiff_t at, ptrdiff_t count) { \
        AT(tile)(ob, nb, w, k, first, at, count);                                                                \
    }
#if WIDE == 4
#define TILE_ROW(ob) TILE(ob, 1) TILE(ob, 2) TILE(ob, 3) TILE(ob, 4)
#define TILE_NAMES(ob) {AT(tile_##ob##_1), AT(tile_##ob##_2), AT(tile_##ob##_3), AT(tile_##ob##_4)}
#else
#define TILE_ROW(ob) TILE(ob, 1) TILE(ob, 2)
#define TILE_NAMES(ob) {AT(tile_##ob##_1), AT(tile_##ob##_2)}
#endif
TILE_ROW(1) TILE_ROW(2) TILE_ROW(3) TILE_ROW(4) TILE_ROW(5) TILE_ROW(6)
static void (*const AT(tiles)[BLOCK][WIDE])(const Work *, const float *, int, ptrdiff_t, ptrdiff_t) = {
    TILE_NAMES(1), TILE_NAMES(2), TILE_NAMES(3), TILE_NAMES(4), TILE_NAMES(5), TILE_NAMES(6)};

/* All output channels of `length` floats from `at` on. */
static void AT(range)(const Work *w, const float *k, ptrdiff_t per_channel, ptrdiff_t at, ptrdiff_t length) {
    int blocks = w->depthwise ? w->channels : blocks_of(w->channels);
    for (int b = 0; b < blocks; ++b) {
        int first = (int)((ptrdiff_t)w->channels * b / blocks);
        int size = (int)((ptrdiff_t)w->channels * (b + 1) / blocks) - first;
        for (ptrdiff_t j = 0; j < length;) {
            ptrdiff_t left = (length - j + LANES - 1) / LANES, tiles = (left + WIDE - 1) / WIDE;
            int nb = (int)((left + tiles - 1) / tiles);
            AT(tiles)[size - 1][nb - 1](w, k, first, at + j, length - j);
            j += nb * LANES;
        }
        k += size * per_channel;
    }
}

static void AT(linear)(const Run *run, const Op *op) {
    const Grid *g = GRIDS + op->grid;
    ptrdiff_t n = run->n, per_channel = 1 + op->n_addends, inputs = 0;
    Work w;
    w.stride = w.step = g->slab * n;
    w.channels = op->channels;
    w.depthwise = op->kind == DEPTHWISE;
    w.n_sources = op->n_sources;
    w.n_addends = op->n_addends;
    w.out = op->out < 0 ? NULL : slab_of(run, op->grid, op->out);
    w.positive = op->positive < 0 ? NULL : slab_of(run, op->grid, op->positive);
    for (int s = 0; s < op->n_sources; ++s) {
        const Source *source = SOURCES + op->source + s;
        w.sources[s].x = slab_of(run, op->grid, source->slab);
        w.sources[s].channels = source->channels;
        w.sources[s].n_taps = source->n_taps;
        for (int t = 0; t < source->n_taps; ++t)
            w.sources[s].taps[t] = (TAPS[source->tap + t][0] * g->pitch + TAPS[source->tap + t][1]) * n;
        per_channel += (ptrdiff_t)source->channels * source->n_taps;
        inputs += source->channels;
    }
    for (int a = 0; a < op->n_addends; ++a) w.addends[a] = slab_of(run, op->grid, ADDENDS[op->addend + a]);
    const float *k = WEIGHTS + op->weight;
    /* a part of a row at a time, or of all rows with the zeros between them, which is less work for few images */
    ptrdiff_t row = g->width * n, whole = ((g->height - 1) * g->pitch + g->width) * n;
    int together = (whole + LANES - 1) / LANES < (row + LANES - 1) / LANES * g->height;
    ptrdiff_t most = 8192 / (inputs + 1) / (WIDE * LANES) * (WIDE * LANES);
    if (most < WIDE * LANES) most = WIDE * LANES;
    for (int r = 0; r < (together ? 1 : g->height); ++r)
        for (ptrdiff_t j = 0, end = together ? whole : row; j < end; j += most)
            AT(range)(&w, k, per_channel, r * g->pitch * n + j, end - j < most ? end - j : most);
    if (together) {
        if (op->out >= 0) clear_right(run, op->grid, op->out, op->channels);
        if (op->positive >= 0) clear_right(run, op->grid, op->positive, op->channels);
    }
}

/* Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308): of tiles of 4x4 places and what is around them, 36 sums are
 * multiplied by 36 sums of a 3x3 kernel, and the places made of the products: a quarter of the multiplications. The
 * polynomials are evaluated at 0, +-3/4, +-3/2 and infinity, which errs less than the usual 0, +-1, +-2. */

INLINE void AT(sums_of_input)(vec *v) {
    vec a = v[4] - v[2] * 2.25f, b = v[3] * 0.75f - v[1] * 1.6875f, c = v[4] - v[2] * 0.5625f;
    vec d = v[3] * 1.5f - v[1] * 0.84375f, last = v[5] - v[3] * 2.8125f + v[1] * 1.265625f;
    v[0] = v[0] * 1.265625f - v[2] * 2.8125f + v[4];
    v[1] = a + b, v[2] = a - b, v[3] = c + d, v[4] = c - d, v[5] = last;
}

INLINE void AT(sums_of_kernel)(vec k0, vec k1, vec k2, vec *to) {
    vec a = k0 * (-1 / 1.8984375f) + k2 * (-0.5625f / 1.8984375f), b = k1 * (-0.75f / 1.8984375f);
    vec c = k0 * (1 / 7.59375f) + k2 * (2.25f / 7.59375f), d = k1 * (1.5f / 7.59375f);
    to[0] = k0 * (1 / 1.265625f);
    to[1] = a + b, to[2] = a - b, to[3] = c + d, to[4] = c - d, to[5] = k2;
}

INLINE void AT(four_of_six)(const vec *m, vec *to) {
    vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    to[0] = m[0] + a + c;
    to[1] = b * 0.75f + d * 1.5f;
    to[2] = a * 0.5625f + c * 2.25f;
    to[3] = b * 0.421875f + d * 3.375f + m[5];
}

/* Columns of tiles that are beside each other have to be runs of memory. They are for as many images as a vector has
 * floats; for fewer they are made from the even and odd units of vectors, a unit being the images of one place, */
INLINE vec AT(unzipped)(vec a, vec b, const int unit, const int odd) {
#if LANES == 1
    return unit && odd ? b : a;
#else
    AT(mask) m = {0};
    UNROLL for (int k = 0; k < LANES; ++k) m[k] = (k / unit * 2 + odd) * unit + k % unit;
    return SHUFFLED(a, b, m);
#endif
}

/* and back, the low or high half of the units of both in turn. */
INLINE vec AT(zipped)(vec a, vec b, const int unit, const int high) {
#if LANES == 1
    return unit && high ? b : a;
#else
    AT(mask) m = {0};
    UNROLL for (int k = 0; k < LANES; ++k) {
        int u = k / unit + high * (LANES / unit);
        m[k] = u % 2 * LANES + u / 2 * unit + k % unit;
    }
    return SHUFFLED(a, b, m);
#endif
}

/* Where the first of `columns` columns of the tile at `at` is. */
INLINE ptrdiff_t AT(first_of)(ptrdiff_t columns, ptrdiff_t at, ptrdiff_t n) {
    return columns * at - (n <= LANES ? 0 : (columns - 1) * (at % n));
}

/* The 36 sums of kernels; for each block zeros, then [source][channel]. */
static void AT(sums_of_kernels)(const Op *op) {
    ptrdiff_t inputs = inputs_of(op), size = kernels_size(op->channels, inputs);
    float *to = kept + op->kernels;
    const float *k = WEIGHTS + op->weight;
    for (int b = 0, blocks = blocks_of(op->channels); b < blocks; ++b) {
        ptrdiff_t ob = op->channels * (b + 1) / blocks - op->channels * b / blocks;
        for (int i = 0; i < 36; ++i) memset(to + i * size, 0, (size_t)ob * sizeof(float));
        to += ob, k += ob;
        for (ptrdiff_t c = 0; c < inputs; ++c, to += ob, k += 9 * ob)
            for (int part = 0; part < ob; part += LANES) {
                vec rows[3][6], all[6];
                UNROLL for (int j = 0; j < 3; ++j)
                    AT(sums_of_kernel)(load(k + j * ob + part), load(k + (3 + j) * ob + part),
                                       load(k + (6 + j) * ob + part), rows[j]);
                UNROLL for (int i = 0; i < 6; ++i) {
                    AT(sums_of_kernel)(rows[0][i], rows[1][i], rows[2][i], all);
                    UNROLL for (int j = 0; j < 6; ++j) AT(store)(to + (6 * i + j) * size + part, all[j], LANES);
                }
            }
        k += ob * op->n_addends;
    }
}

/* A channel's 36 sums of input, `size` floats apart, of `count` floats of tiles from `at` on, in the rows from `row` on. */
INLINE void AT(take)(const Grid *g, ptrdiff_t n, const float *x, int row, ptrdiff_t at, ptrdiff_t count, float *columns,
                     float *to, ptrdiff_t size, const int unit) {
    ptrdiff_t step = n < LANES ? LANES : n, length = PIECE + SLACK + n;
    const float *p[6];
    for (int i = 0; i < 6; ++i) p[i] = x + ((row + i - 1 < g->height ? row + i - 1 : g->height) * g->pitch - 1) * n;
    for (ptrdiff_t j = 0; j < count + n; j += LANES) { /* with the next tile, whose first columns are needed, too */
        ptrdiff_t from = AT(first_of)(4, at + j, n);
        vec sums[4][6];
        UNROLL for (int q = 0; q < 4; ++q) {
            UNROLL for (int i = 0; i < 6; ++i) {
                sums[q][i] = load(p[i] + from + q * step);
                PREFETCH(p[i] + from + q * step + g->slab * n, 0);
            }
            AT(sums_of_input)(sums[q]);
            if (unit == LANES)
                UNROLL for (int i = 0; i < 6; ++i) AT(store)(columns + (4 * i + q) * length + j, sums[q][i], LANES);
        }
        if (unit < LANES) UNROLL for (int i = 0; i < 6; ++i) {
            vec a = sums[0][i], b = sums[1][i], c = sums[2][i], d = sums[3][i];
            vec even = AT(unzipped)(a, b, unit, 0), even2 = AT(unzipped)(c, d, unit, 0);
            vec odd = AT(unzipped)(a, b, unit, 1), odd2 = AT(unzipped)(c, d, unit, 1);
            float *y = columns + 4 * i * length + j;
            AT(store)(y, AT(unzipped)(even, even2, unit, 0), LANES);
            AT(store)(y + length, AT(unzipped)(odd, odd2, unit, 0), LANES);
            AT(store)(y + 2 * length, AT(unzipped)(even, even2, unit, 1), LANES);
            AT(store)(y + 3 * length, AT(unzipped)(odd, odd2, unit, 1), LANES);
        }
    }
    for (int column = g->width + 2; column <= (g->width + 3) / 4 * 4 + 1; ++column) { /* beyond the zeros on the right */
        ptrdiff_t j = column / 4 * n - at;
        for (int i = 0; j >= 0 && j < count + n && i < 6; ++i)
            memset(columns + (4 * i + column % 4) * length + j, 0, (size_t)n * sizeof(float));
    }
    for (int i = 0; i < 6; ++i, columns += 4 * length, to += 6 * size)
        for (ptrdiff_t j = 0; j < count; j += LANES) {
            const float *c = columns + j;
            vec v[6] = {load(c),          load(c + length), load(c + 2 * length), load(c + 3 * length),
                        load(c + n), load(c + length + n)};
            AT(sums_of_input)(v);
            UNROLL for (int q = 0; q < 6; ++q) AT(store)(to + q * size + j, v[q], LANES);
        }
}

/* Channel `o` of the products, `size` floats apart: the rows from `top` on, of which tiles take `count` floats from `at`
 * on. `k`: the bias, and `factors` floats after it the factors, `ob` floats apart. */
INLINE void AT(put)(const Work *w, const Grid *g, ptrdiff_t n, const float *m, ptrdiff_t size, int o, int top,
                    ptrdiff_t at, ptrdiff_t count, const float *k, ptrdiff_t factors, ptrdiff_t ob, const int unit) {
    ptrdiff_t step = n < LANES ? LANES : n, pitch = g->pitch * n, width = g->width * n;
    ptrdiff_t own = o * w->stride + top * pitch;
    int rows = g->height - top < 4 ? g->height - top : 4;
    for (ptrdiff_t j = 0; j < count; j += LANES, m += LANES) {
        ptrdiff_t first = AT(first_of)(4, at + j, n);
        vec half[4][6], y[4][4];
        UNROLL for (int i = 0; i < 6; ++i) {
            vec six[6], four[4];
            UNROLL for (int q = 0; q < 6; ++q) six[q] = load(m + (6 * i + q) * size);
            AT(four_of_six)(six, four);
            UNROLL for (int q = 0; q < 4; ++q) half[q][i] = four[q];
        }
        UNROLL for (int q = 0; q < 4; ++q) AT(four_of_six)(half[q], y[q]);
        vec all[4][4];
        UNROLL for (int r = 0; r < 4; ++r) {
            vec a = y[0][r], b = y[1][r], c = y[2][r], d = y[3][r];
            vec even = AT(zipped)(a, c, unit, 0), even2 = AT(zipped)(a, c, unit, 1);
            vec odd = AT(zipped)(b, d, unit, 0), odd2 = AT(zipped)(b, d, unit, 1);
            all[r][0] = AT(zipped)(even, odd, unit, 0) + *k, all[r][1] = AT(zipped)(even, odd, unit, 1) + *k;
            all[r][2] = AT(zipped)(even2, odd2, unit, 0) + *k, all[r][3] = AT(zipped)(even2, odd2, unit, 1) + *k;
        }
        for (int a = 0; a < w->n_addends; ++a)
            UNROLL for (int r = 0; r < 4; ++r) UNROLL for (int q = 0; q < 4; ++q)
                all[r][q] += k[factors + a * ob] *
                             load(w->addends[a] + own + (r < rows ? r : 0) * pitch + first + q * step);
        for (int r = 0; w->pooled != NULL && r < 2 && top / 2 + r < w->half->height; ++r) {
            ptrdiff_t column = AT(first_of)(2, at + j, n);
            float *to = w->pooled + (o * (ptrdiff_t)w->half->slab + (top / 2 + r) * w->half->pitch) * n + column;
            UNROLL for (int q = 0; q < 2; ++q) {
                vec a = r ? AT(larger)(all[2][2 * q], all[3][2 * q]) : AT(larger)(all[0][2 * q], all[1][2 * q]);
                vec b = r ? AT(larger)(all[2][2 * q + 1], all[3][2 * q + 1]) : AT(larger)(all[0][2 * q + 1], all[1][2 * q + 1]);
                AT(store)(to + q * step, AT(larger)(AT(unzipped)(a, b, unit, 0), AT(unzipped)(a, b, unit, 1)),
                          w->half->width * n - column - q * step);
            }
        }
        float *outs[2] = {w->out, w->positive};
        for (int i = 0; i < 2; ++i) {
            if (i) UNROLL for (int r = 0; r < 4; ++r) UNROLL for (int q = 0; q < 4; ++q)
                all[r][q] = AT(larger)(all[r][q], SPREAD(0));
            if (outs[i] == NULL) continue;
            float *to = outs[i] + own + first;
            if (rows == 4 && first + 3 * step + LANES <= width)
                UNROLL for (int r = 0; r < 4; ++r) UNROLL for (int q = 0; q < 4; ++q) {
                    AT(store)(to + r * pitch + q * step, all[r][q], LANES);
                    PREFETCH(to + r * pitch + q * step + w->stride, 1);
                }
            else
                UNROLL for (int r = 0; r < 4; ++r) UNROLL for (int q = 0; q < 4; ++q)
                    if (r < rows) AT(store)(to + r * pitch + q * step, all[r][q], width - first - q * step);
        }
    }
}

INLINE void AT(winograd)(const Run *run, const Op *op, const int unit) {
    const Grid *g = GRIDS + op->grid;
    ptrdiff_t n = run->n, row = (g->width + 3) / 4 * n, inputs = inputs_of(op), step = PIECE + 16;
    Work w = {0}, products = {0};
    w.stride = g->slab * n;
    w.n_addends = op->n_addends;
    w.out = op->out < 0 || op->pooled == 2 ? NULL : slab_of(run, op->grid, op->out);
    w.positive = op->positive < 0 ? NULL : slab_of(run, op->grid, op->positive);
    if (op->pooled) {
        w.half = GRIDS + op[1].grid;
        w.pooled = slab_of(run, op[1].grid, op[1].out);
    }
    for (int a = 0; a < op->n_addends; ++a) w.addends[a] = slab_of(run, op->grid, ADDENDS[op->addend + a]);
    ptrdiff_t n_kernels = kernels_size(op->channels, inputs);
    ptrdiff_t n_sums = odd_lines(inputs * step), n_made = odd_lines(op->channels * step);
    float *x = run->scratch, *made = x + 36 * n_sums, *columns = made + 36 * n_made;
    products.stride = products.step = step;
    products.channels = op->channels;
    products.n_sources = 1;
    products.sources[0].channels = (int)inputs;
    products.sources[0].n_taps = 1;

    /* a part of a row of tiles at a time, or as many rows as fit */
    ptrdiff_t fours = (g->height + 3) / 4, together = PIECE / row < fours ? PIECE / row : fours;
    if (together < 1) together = 1;
    ptrdiff_t parts = (row + PIECE - 1) / PIECE, most = ((row + parts - 1) / parts + LANES - 1) / LANES * LANES;
    for (ptrdiff_t four = 0; four < fours; four += together)
        for (ptrdiff_t at = 0; at < row; at += most) {
            ptrdiff_t count = row - at < most ? row - at : most;
            ptrdiff_t here = fours - four < together ? fours - four : together;
            float *to = x;
            for (int s = 0; s < op->n_sources; ++s) {
                const Source *source = SOURCES + op->source + s;
                for (int c = 0; c < source->channels; ++c, to += step)
                    for (ptrdiff_t r = 0; r < here; ++r)
                        AT(take)(g, n, slab_of(run, op->grid, source->slab + c), (int)(4 * (four + r)), at, count,
                                 columns, to + r * row, n_sums, unit);
            }
            ptrdiff_t length = ((here - 1) * row + count + LANES - 1) / LANES * LANES;
            for (int i = 0; i < 36; ++i) {
                products.sources[0].x = x + i * n_sums;
                products.out = made + i * n_made;
                AT(range)(&products, kept + op->kernels + i * n_kernels, 1 + inputs, 0, length);
            }
            const float *k = WEIGHTS + op->weight;
            for (int b = 0, o = 0, blocks = blocks_of(op->channels); b < blocks; ++b) {
                ptrdiff_t ob = op->channels * (b + 1) / blocks - op->channels * b / blocks;
                for (ptrdiff_t i = 0; i < ob; ++i, ++o)
                    for (ptrdiff_t r = 0; r < here; ++r)
                        AT(put)(&w, g, n, made + o * step + r * row, n_made, o, (int)(4 * (four + r)), at, count, k + i,
                                ob * (1 + 9 * inputs), ob, unit);
                k += ob * (1 + 9 * inputs + op->n_addends);
            }
        }
}

#ifdef LEVELS /* not on processors without AVX2: it is much to compile */
enum { AT(has_winograd) = LANES > 4 };
#else
enum { AT(has_winograd) = 1 };
#endif

/* By fewer multiplications, where these outweigh the sums and reading more kernels, in cycles; returns whether it did.
 * Each number of images is compiled on its own. */
static int AT(by_winograd)(const Run *run, const Op *op) {
    const Grid *g = GRIDS + op->grid;
    ptrdiff_t n = run->n, rows = (g->height + 3) / 4, columns = (g->width + 3) / 4, inputs = inputs_of(op);
    ptrdiff_t saved = 9 * (g->height * g->width * n / LANES) - 36 * ((rows * columns * n + LANES - 1) / LANES) - 18;
    ptrdiff_t sums = SUMS * rows * ((columns * n + LANES - 1) / LANES);
    if (!AT(has_winograd) || !KEPT || op->kind != WINOGRAD || op->channels * inputs * saved <= sums * (op->channels + inputs)) return 0;
    if (n % LANES == 0)
        AT(winograd)(run, op, LANES);
    else if (n == 1)
        AT(winograd)(run, op, 1);
#if LANES == 16
    else if (n == 8)
        AT(winograd)(run, op, 8);
#endif
    else
        return 0;
    return 1;
}

/* Windows of another grid, with its zeros; maxima of values below zero must not see them (padding 0). `unit`: of the
 * images of one place, where vectors are made of every other place; 0 where they are not. */
INLINE void AT(windows)(const Run *run, const Op *op, const int kernel, const int maximum, const int unit) {
    const int *p = WINDOWS[op->source]; /* grid, slab, kernel, stride, padding */
    const Grid *g = GRIDS + op->grid, *from = GRIDS + p[0];
    const float share = 1.0f / (float)(kernel * kernel);
    int stride = p[3];
    ptrdiff_t n = run->n, wide = from->pitch * n, length = (stride == 1 || unit ? g->width : 1) * n;
    for (int c = 0; c < op->channels; ++c)
        for (int row = 0; row < g->height; ++row) {
            float *y = slab_of(run, op->grid, op->out + c) + row * g->pitch * n;
            const float *x = slab_of(run, p[0], p[1] + c) + (row * stride - p[4]) * wide - p[4] * n;
            for (ptrdiff_t at = 0; at < g->width * n; at += length, y += length, x += length * stride) {
                ptrdiff_t j = 0;
                for (; j + LANES <= length || (j < length && (unit || length >= 4)); j += LANES) {
                    vec value = SPREAD(0);
                    for (int i = 0; i < kernel * kernel; ++i) {
                        const float *q = x + i / kernel * wide;
                        vec v = unit ? AT(unzipped)(load(q + i % kernel / 2 * 2 * n + 2 * j),
                                                    load(q + i % kernel / 2 * 2 * n + 2 * j + LANES), unit + !unit,
                                                    i % kernel % 2)
                                     : load(q + i % kernel * n + j);
                        value = i == 0 ? v : maximum ? AT(larger)(v, value) : value + v;
                    }
                    AT(store)(y + j, maximum ? value : value * share, length - j);
                }
                for (; j < length; ++j) {
                    float value = x[j];
                    for (int i = 1; i < kernel * kernel; ++i) {
                        float v = x[i / kernel * wide + i % kernel * n + j];
                        value = !maximum ? value + v : v > value ? v : value;
                    }
                    y[j] = maximum ? value : value * share;
                }
            }
        }
}

static void AT(window)(const Run *run, const Op *op) {
    int kernel = WINDOWS[op->source][2], stride = WINDOWS[op->source][3];
    if (op->kind == AVERAGE)
        AT(windows)(run, op, kernel, 0, 0);
    else if (stride == 2 && run->n == 1 && kernel == 2)
        AT(windows)(run, op, 2, 1, 1);
    else if (stride == 2 && run->n == 1 && kernel == 3)
        AT(windows)(run, op, 3, 1, 1);
    else if (kernel == 2)
        AT(windows)(run, op, 2, 1, 0);
    else
        AT(windows)(run, op, kernel, 1, 0);
}

static void AT(run_ops)(const Run *run) {
    if (run == NULL) {
        for (const Op *op = OPS; op < OPS + OPS_N; ++op)
            if (op->kind == WINOGRAD) AT(sums_of_kernels)(op);
        return;
    }
    for (const Op *op = OPS; op < OPS + OPS_N; ++op) {
        const Grid *g = GRIDS + op->grid;
        ptrdiff_t n = run->n;
        float *y = slab_of(run, op->grid, op->out < 0 ? 0 : op->out);
        if (op->kind == WINOGRAD && AT(by_winograd)(run, op)) {
            op += op->pooled > 0;
        } else if (op->kind == LINEAR || op->kind == WINOGRAD || op->kind == DEPTHWISE) {
            AT(linear)(run, op);
        } else if (op->kind == MAXIMUM || op->kind == AVERAGE) {
            AT(window)(run, op);
        } else if (op->kind == GATE) {
            const float *a = slab_of(run, op->grid, ADDENDS[op->addend]);
            const float *b = slab_of(run, op->grid, ADDENDS[op->addend + 1]);
            ptrdiff_t length = op->channels * (ptrdiff_t)g->slab * n;
            for (ptrdiff_t j = 0; j < length; j += LANES)
                AT(store)(y + j, AT(sigmoid)(load(a + j)) * load(b + j), length - j);
        } else if (op->kind == SPLIT) {
            const int *p = WINDOWS[op->source]; /* grid, slab, channels, stride */
            const Grid *from = GRIDS + p[0];
            int channels = p[2], stride = p[3];
            for (int c = 0; c < op->channels; ++c, y += g->slab * n) {
                int phase = c / channels;
                const float *x = slab_of(run, p[0], p[1] + c % channels) +
                                 (phase / stride * from->pitch + phase % stride) * n;
                for (int row = 0; row < g->height; ++row)
                    for (int column = 0; column < g->width; ++column)
                        memcpy(y + (row * g->pitch + column) * n, x + (row * from->pitch + column) * stride * n,
                               (size_t)n * sizeof(float));
            }
        } else { /* MEAN */
            const int *p = WINDOWS[op->source]; /* grid, slab */
            const Grid *from = GRIDS + p[0];
            for (int c = 0; c < op->channels; ++c, y += g->slab * n) {
                const float *x = slab_of(run, p[0], p[1] + c);
                for (ptrdiff_t j = 0; j < n; j += LANES) {
                    vec sum = SPREAD(0);
                    for (int row = 0; row < from->height; ++row)
                        for (int column = 0; column < from->width; ++column)
                            sum += load(x + (row * from->pitch + column) * n + j);
                    AT(store)(y + j, sum * (1.0f / (from->height * from->width)), n - j);
                }
            }
        }
    }
}
#undef vec
#undef load
#undef TILE
#undef TILE_ROW
#undef TILE_NAMES
/* @END@ */

int student_predict(const float *images, int n, float *logits) {
    void (*run_ops)(const Run *) = run_ops_plain;
#ifdef LEVELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        run_ops = run_ops_avx512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        run_ops = run_ops_avx2;
#endif
    if (n < 0) return -1;
#if KEPT
    static int made; /* 1: another thread is about it */
    int none = 0;
    if (__atomic_compare_exchange_n(&made, &none, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {
        run_ops(NULL);
        __atomic_store_n(&made, 2, __ATOMIC_RELEASE);
    }
    while (__atomic_load_n(&made, __ATOMIC_ACQUIRE) != 2) continue;
#endif
    int group = STUDENT_GROUP < n ? STUDENT_GROUP : n;
    while (group > 1 && PLACES > MOST_PLACES / group) group /= 2;
    float *arena = malloc(((size_t)(PLACES + HALO) * group + (GRIDS_N + 1) * SLACK + SCRATCH) * sizeof(float));
    if (arena == NULL) return -1;
    Run run = {0};
    const ptrdiff_t pixels = (ptrdiff_t)@HEIGHT@ * @WIDTH@, size = @CHANNELS@ * pixels;
    for (int first = 0; first < n; first += run.n, images += size * run.n, logits += @CLASSES@ * run.n) {
        int m = n - first < group ? n - first : group;
        if (m != run.n) place(&run, arena + (64 - (size_t)arena % 64) / sizeof(float) % 16, m);
        for (int c = 0; c < @CHANNELS@; ++c)
            for (int row = 0; row < @HEIGHT@; ++row)
                for (int column = 0; column < @WIDTH@; ++column) {
                    float *to = slab_of(&run, 0, IMAGES + c) + (row * GRIDS[0].pitch + column) * m;
                    const float *from = images + c * pixels + row * @WIDTH@ + column;
                    for (int i = 0; i < m; ++i) to[i] = from[i * size] - MEANS[c];
                }
        run_ops(&run);
        const Op *last = OPS + OPS_N - 1;
        for (int c = 0; c < @CLASSES@; ++c)
            for (int i = 0; i < m; ++i) logits[i * @CLASSES@ + c] = slab_of(&run, last->grid, last->out + c)[i];
    }
    free(arena);
    return 0;
}

#ifdef STUDENT_MAIN
#include <stdio.h>

int main(int n_words, char **words) {
    static float image[@CHANNELS@ * @HEIGHT@ * @WIDTH@], logits[@CLASSES@];
    FILE *file = n_words > 1 ? fopen(words[1], "rb") : stdin;
    size_t got = 0, size = sizeof image / sizeof image[0];
    if (file == NULL) return perror(words[1]), 1;
    while ((got = fread(image, sizeof(float), size, file)) == size) {
        if (student_predict(image, 1, logits)) return fprintf(stderr, "no memory\n"), 1;
        for (int c = 0; c < @CLASSES@; ++c) printf("%.9g%c", (double)logits[c], c + 1 < @CLASSES@ ? ' ' : '\n');
    }
    if (got) return fprintf(stderr, "%zu floats are left: images have %zu\n", got, size), 1;
    return ferror(file) ? 1 : 0;
}
#endif
