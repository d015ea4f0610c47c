/* @ABOUT@
 *
 *     int student_predict(const float *images, int n, float *logits);
 *
 * images: n x @CHANNELS@ x @HEIGHT@ x @WIDTH@ (image, channel, row, column), values in [0, 1]; the normalisation is
 * inside. logits: n x @CLASSES@. Returns 0, or -1 if n is negative or there is no memory (@ONE_KIB@ KiB for one image, at most
 * @MANY_KIB@ KiB for many). Any number of threads may call it. Nothing but the C library is needed, C99 is enough:
 *
 *     cc -O3 -c student.c
 *     cc -O3 -DSTUDENT_MAIN student.c -o student && ./student images.f32
 *
 * The program reads raw float32 images from a file or from standard input, and prints a line of logits for each.
 *
 * With gcc and clang the kernels are compiled for AVX-512, for AVX2 and for the processor that the compiler is told; the
 * first that the processor has is used. -DSTUDENT_PLAIN: for the latter alone; -DSTUDENT_SCALAR: without vectors;
 * -DSTUDENT_GROUP=1: one image at a time, which saves memory. With -std=c99 gcc wants -ffp-contract=fast to be fast. */

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
    int source, n_sources, addend, n_addends, weight;
} Op;
enum {
    LINEAR,    /* all of it */
    WINOGRAD,  /* the same, where each source has the taps of a 3x3 kernel */
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
enum { IMAGES = @IMAGES@, PLACES = @PLACES@, MOST_PLACES = @MOST_PLACES@, HALO = @HALO@, SCRATCH = @SCRATCH@ };
enum { MOST_TAPS = @MOST_TAPS@, MOST_SOURCES = @MOST_SOURCES@, MOST_ADDENDS = @MOST_ADDENDS@ };
enum {
    GRIDS_N = sizeof(GRIDS) / sizeof(Grid),
    OPS_N = sizeof(OPS) / sizeof(Op),
    SLACK = 64, /* floats after a grid that kernels may read, and throw away */
    PIECE = @PIECE@, /* floats of each of four rows that WINOGRAD takes at a time */
    LEAST_ROW = @LEAST_ROW@, /* floats of a row from which on it is worth it */
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
    float *out, *positive;
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
#if defined(__AVX512F__)
#define PLAIN_LANES 16
#elif defined(__AVX__)
#define PLAIN_LANES 8
#else
#define PLAIN_LANES 4
#endif
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#if defined(__x86_64__) && !defined(__AVX512F__) && !defined(STUDENT_PLAIN)
#define LEVELS
#endif
#else
#define INLINE static inline
#define VECTOR
#define LOOSE
#define SPREAD(x) ((float)(x))
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

INLINE vec AT(load)(const float *p) { return *(const AT(loose) *)p; }
#define load AT(load)

INLINE void AT(store)(float *to, vec value, ptrdiff_t count) {
    if (count >= LANES)
        *(AT(loose) *)to = value;
    else if (count > 0)
        memcpy(to, &value, (size_t)count * sizeof(float));
}

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

/* Winograd's F(4, 3) along the columns (Lavin and Gray, arXiv 1509.09308): six sums of six rows each are convolved with
 * six 1x3 filters, and four rows made of the results, by half the multiplications. All of it is done to runs of memory,
 * so that vectors are full whatever n and the size of the map are. */

/* The six filters, `size` floats apart; for each block the bias, then [source][channel][column]. They are made anew
 * each time, which is cheap: in the file they would be twice the weights, which single images need, too. */
static void AT(filters)(const Op *op, ptrdiff_t inputs, float *to, ptrdiff_t size) {
    const float *k = WEIGHTS + op->weight;
    for (int b = 0, blocks = blocks_of(op->channels); b < blocks; ++b) {
        ptrdiff_t ob = op->channels * (b + 1) / blocks - op->channels * b / blocks;
        for (ptrdiff_t o = 0; o < ob; ++o, ++to, ++k)
            for (int i = 0; i < 6; ++i) to[i * size] = i == 1 ? *k : 0; /* which is added to all four rows */
        for (ptrdiff_t c = 0; c < inputs; ++c, to += 3 * ob, k += 9 * ob)
            for (ptrdiff_t j = 0; j < 3 * ob; j += LANES) {
                vec k0 = load(k + j), k1 = load(k + j + 3 * ob), k2 = load(k + j + 6 * ob);
                vec a = (k0 + k2) * (-1 / 6.0f), b1 = k1 * (1 / 6.0f), c1 = k0 * (1 / 24.0f) + k2 * (1 / 6.0f);
                vec six[6] = {k0 * 0.25f, a - b1, a + b1, c1 + k1 * (1 / 12.0f), c1 - k1 * (1 / 12.0f), k2};
                UNROLL for (int i = 0; i < 6; ++i) *(AT(loose) *)(to + i * size + j) = six[i];
            }
        k += ob * op->n_addends;
    }
}

/* The sums of the six rows around the four from `row` on, `size` floats apart; rows below the map are zeros. */
static void AT(six_rows)(const Grid *g, const float *x, int row, ptrdiff_t pitch, ptrdiff_t count, float *to,
                         ptrdiff_t size) {
    const float *p[6];
    for (int i = 0; i < 6; ++i) p[i] = x + (row + i - 1 < g->height ? row + i - 1 : g->height) * pitch;
    for (ptrdiff_t j = 0; j < count; j += LANES, to += LANES) {
        vec r1 = load(p[1] + j), r2 = load(p[2] + j), r3 = load(p[3] + j), r4 = load(p[4] + j);
        vec a = r4 - r2 * 4.0f, b = r3 - r1 * 4.0f, c = r4 - r2, d = (r3 - r1) * 2.0f;
        *(AT(loose) *)to = load(p[0] + j) * 4.0f - r2 * 5.0f + r4;
        *(AT(loose) *)(to + size) = a + b;
        *(AT(loose) *)(to + 2 * size) = a - b;
        *(AT(loose) *)(to + 3 * size) = c + d;
        *(AT(loose) *)(to + 4 * size) = c - d;
        *(AT(loose) *)(to + 5 * size) = r1 * 4.0f - r3 * 5.0f + load(p[5] + j);
    }
}

/* Four rows in the place of six. */
static void AT(four_rows)(vec (*m)[BLOCK * WIDE], int count) {
    for (int j = 0; j < count; ++j) {
        vec a = m[1][j] + m[2][j], b = m[1][j] - m[2][j], c = m[3][j] + m[4][j], d = m[3][j] - m[4][j];
        m[0][j] += a + c;
        m[1][j] = b + d * 2.0f;
        m[2][j] = a + c * 4.0f;
        m[3][j] = b + d * 8.0f + m[5][j];
    }
}

/* `ob` channels of some rows, `stride` floats apart, to `count` floats from `at` on. */
INLINE void AT(put)(const Work *w, const float *made, int ob, int rows, ptrdiff_t stride, const float *factors,
                    ptrdiff_t at, ptrdiff_t pitch, ptrdiff_t count) {
    float *to[2] = {w->out, w->positive};
    for (int o = 0; o < ob; ++o, at += w->stride)
        for (int row = 0; row < rows; ++row) {
            const float *m = made + row * BLOCK * WIDE * LANES + o * stride;
            ptrdiff_t own = at + row * pitch;
            vec y[WIDE];
            for (int n = 0; n * LANES < count; ++n) y[n] = load(m + n * LANES);
            for (int a = 0; a < w->n_addends; ++a)
                for (int n = 0; n * LANES < count; ++n)
                    y[n] += factors[a * ob + o] * load(w->addends[a] + own + n * LANES);
            for (int i = 0; i < 2; ++i) {
                if (i)
                    for (int n = 0; n * LANES < count; ++n) y[n] = AT(larger)(y[n], SPREAD(0));
                if (to[i] == NULL) continue;
                for (int n = 0; n * LANES < count; ++n) AT(store)(to[i] + own + n * LANES, y[n], count - n * LANES);
            }
        }
}

static void AT(winograd)(const Run *run, const Op *op) {
    const Grid *g = GRIDS + op->grid;
    ptrdiff_t n = run->n, pitch = g->pitch * n, row = g->width * n, inputs = 0;
    Work w = {0}, sums = {0};
    w.stride = g->slab * n;
    w.n_addends = op->n_addends;
    w.out = op->out < 0 ? NULL : slab_of(run, op->grid, op->out);
    w.positive = op->positive < 0 ? NULL : slab_of(run, op->grid, op->positive);
    for (int a = 0; a < op->n_addends; ++a) w.addends[a] = slab_of(run, op->grid, ADDENDS[op->addend + a]);
    for (int s = 0; s < op->n_sources; ++s) inputs += SOURCES[op->source + s].channels;
    ptrdiff_t n_filters = op->channels * (1 + 3 * inputs) / 16 * 16 + 32;
    float *filters = run->scratch, *x = filters + 6 * n_filters;
    AT(filters)(op, inputs, filters, n_filters);
    sums.step = PIECE + 2 * n + SLACK;
    sums.n_sources = 1;
    sums.sources[0].channels = (int)inputs;
    sums.sources[0].n_taps = 3;
    for (int t = 0; t < 3; ++t) sums.sources[0].taps[t] = (t - 1) * n;
    vec made[7][BLOCK * WIDE]; /* six, and what is read after them and thrown away */

    /* a part of four rows at a time, or as many fours as fit, with the zeros between them, where it is less work */
    ptrdiff_t fours = (g->height + 3) / 4, together = PIECE / pitch < fours ? PIECE / pitch : fours;
    if (together < 1 || ((together - 1) * pitch + row + LANES - 1) / LANES >= (row + LANES - 1) / LANES * together)
        together = 1;
    ptrdiff_t parts = (row + PIECE - 1) / PIECE, most = ((row + parts - 1) / parts + LANES - 1) / LANES * LANES;
    for (ptrdiff_t four = 0; four < fours; four += together)
        for (ptrdiff_t at = 0; at < row; at += most) {
            ptrdiff_t length = row - at < most ? row - at : most;
            ptrdiff_t here = fours - four < together ? fours - four : together;
            ptrdiff_t end = (here - 1) * pitch + length, c = 0;
            for (int s = 0; s < op->n_sources; ++s) {
                const Source *source = SOURCES + op->source + s;
                for (int i = 0; i < source->channels; ++i, ++c)
                    for (ptrdiff_t r = 0; r < here; ++r) /* with a column on each side, and until vectors are full */
                        AT(six_rows)(g, slab_of(run, op->grid, source->slab + i) + at - n, (int)(4 * (four + r)), pitch,
                                     length + 2 * n + LANES - 1, x + c * sums.step + r * pitch, inputs * sums.step);
            }
            const float *f = filters, *factors = WEIGHTS + op->weight;
            for (int b = 0, blocks = blocks_of(op->channels); b < blocks; ++b) {
                int first = op->channels * b / blocks, ob = op->channels * (b + 1) / blocks - first;
                factors += ob * (1 + 9 * inputs);
                for (ptrdiff_t j = 0; j < end;) {
                    ptrdiff_t left = (end - j + LANES - 1) / LANES, tiles = (left + WIDE - 1) / WIDE;
                    ptrdiff_t nb = (left + tiles - 1) / tiles;
                    sums.stride = nb * LANES;
                    for (int i = 0; i < 6; ++i) {
                        sums.sources[0].x = x + i * inputs * sums.step + n + j;
                        sums.out = (float *)made[i];
                        AT(tiles)[ob - 1][nb - 1](&sums, f + i * n_filters, 0, 0, nb * LANES);
                    }
                    AT(four_rows)(made, ob * (int)nb);
                    for (ptrdiff_t r = 0; r < here; ++r) {
                        ptrdiff_t low = r * pitch > j ? r * pitch : j;
                        ptrdiff_t high = r * pitch + length < j + nb * LANES ? r * pitch + length : j + nb * LANES;
                        int top = (int)(4 * (four + r)), rows = g->height - top < 4 ? g->height - top : 4;
                        ptrdiff_t to = first * w.stride + (top - r) * pitch + at + low;
                        const float *m = (const float *)made + low - j;
                        if (high - low == WIDE * LANES) /* known to the compiler, that is */
                            AT(put)(&w, m, ob, rows, nb * LANES, factors, to, pitch, WIDE * LANES);
                        else if (high > low)
                            AT(put)(&w, m, ob, rows, nb * LANES, factors, to, pitch, high - low);
                    }
                    j += nb * LANES;
                }
                f += ob * (1 + 3 * inputs);
                factors += ob * op->n_addends;
            }
        }
}

/* Windows of another grid, with its zeros; maxima of values below zero must not see them (padding 0). */
INLINE void AT(windows)(const Run *run, const Op *op, const int kernel, const int maximum) {
    const int *p = WINDOWS[op->source]; /* grid, slab, kernel, stride, padding */
    const Grid *g = GRIDS + op->grid, *from = GRIDS + p[0];
    const float share = 1.0f / (float)(kernel * kernel);
    int stride = p[3];
    ptrdiff_t n = run->n, wide = from->pitch * n, length = (stride == 1 ? g->width : 1) * n;
    for (int c = 0; c < op->channels; ++c)
        for (int row = 0; row < g->height; ++row) {
            float *y = slab_of(run, op->grid, op->out + c) + row * g->pitch * n;
            const float *x = slab_of(run, p[0], p[1] + c) + (row * stride - p[4]) * wide - p[4] * n;
            for (ptrdiff_t at = 0; at < g->width * n; at += length, y += length, x += length * stride) {
                ptrdiff_t j = 0;
                for (; j + LANES <= length || (j < length && length >= 4); j += LANES) {
                    vec value = load(x + j);
                    for (int i = 1; i < kernel * kernel; ++i) {
                        vec v = load(x + i / kernel * wide + i % kernel * n + j);
                        value = maximum ? AT(larger)(v, value) : value + v;
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
    int kernel = WINDOWS[op->source][2];
    if (op->kind == AVERAGE)
        AT(windows)(run, op, kernel, 0);
    else if (kernel == 2)
        AT(windows)(run, op, 2, 1);
    else
        AT(windows)(run, op, kernel, 1);
}

static void AT(run_ops)(const Run *run) {
    for (const Op *op = OPS; op < OPS + OPS_N; ++op) {
        const Grid *g = GRIDS + op->grid;
        ptrdiff_t n = run->n;
        float *y = slab_of(run, op->grid, op->out < 0 ? 0 : op->out);
        if (op->kind == WINOGRAD && n * g->width >= LEAST_ROW) {
            AT(winograd)(run, op);
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
