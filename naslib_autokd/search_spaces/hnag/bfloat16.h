/* The kernels for values in bfloat16, included by execution.c (-DBFLOAT16). Weights, statistics, coefficients, pooled
 * features and all sums are float; a value is rounded once, where it is written.
 *
 * Layout: as in execution.c, but two channels share a vector: [pair of channels][row][column][image][2]. An odd last
 * channel has a neighbour of zeros. This is what products of pairs (AVX512-BF16) and of tiles (AMX) take as it lies:
 * rows of a tile are pairs of channels, its columns 16 images.
 *
 * Convolutions and weight gradients are products of tiles, at most 16 x 32 by 32 x 16. Where the system lets this process
 * use AMX the tile unit multiplies them, elsewhere vectors of pairs do, with the same operands.
 */

#if !defined(__AVX512BF16__) || !defined(__AVX512BW__)
#error "no bfloat16 products (avx512_bf16) on this processor"
#endif
#include <immintrin.h>
#if defined(__AMX_BF16__) && defined(__linux__)
#define AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define AMX 0
#endif

#define ALL ((mask)((words){0} - 1))
#define TILE 16
#define PAIRS(channels) (((channels) + 1) / 2)
#define SLABS(channels) PAIRS(channels)
#define TILE_BYTES (TILE * BYTES)

static int amx;

/* Whether tiles are used from now on: if they are wanted and the system allows it. */
int64_t use_tiles(int64_t wanted) {
#if AMX
    amx = wanted && syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
#else
    (void)wanted;
#endif
    return amx;
}

INLINE vec even(vec v) { return (vec)((mask)v << 16); }
INLINE vec odd(vec v) { return (vec)((mask)v & (int32_t)0xffff0000); }
INLINE vec low_words(vec a, vec b) { return (vec)_mm512_mask_blend_epi16(0xaaaaaaaa, (__m512i)a, (__m512i)((mask)b << 16)); }
INLINE vec high_words(vec a, vec b) {
    return (vec)_mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32((__m512i)a, 16), (__m512i)b);
}

static const uint16_t INTERLEAVED[32] __attribute__((aligned(64))) = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                                    8,  24, 9,  25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

INLINE vec joined(vec e, vec o) {
    __m512i order = _mm512_load_si512(INTERLEAVED);
    return (vec)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)o, (__m512)e));
}

INLINE uint32_t rounded(REAL value) { /* to nearest even, as the vectors' */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* ---- products of tiles ------------------------------------------------------------------------------------------ */

static long parts_of(long n, long most) { return (n + most - 1) / most; }
static long size_of_part(long n, long most) { return (n + parts_of(n, most) - 1) / parts_of(n, most); }

/* Tiles 0 to 5 are sums of `rows` x 16 floats or less, 6 and 7 factors. */
#if AMX
#define IN_MEMORY __asm__ volatile("" : : : "memory") /* before tiles read what was written */

typedef struct __attribute__((packed)) {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_of_row[16];
    uint8_t rows[16];
} TileConfig;

static void configure(const long *rows, const long *bytes) {
    TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; ++i) config.rows[i] = (uint8_t)rows[i], config.bytes_of_row[i] = (uint16_t)bytes[i];
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}
#endif

/* How a convolution is cut: sums over `groups` (rows of the kernel) of `k` neighbouring rows of pairs, in `k_tiles`
 * tiles of `k_rows`; the last tile starts earlier, its weights for rows that others have are zero. */
typedef struct {
    long k, k_rows, k_tiles, groups, m_rows, m_tiles;
} Tiles;

static Tiles tiles_of(const Conv *c) {
    Tiles t = {.k = c->kw * PAIRS(c->in), .groups = c->kh};
    t.k_rows = size_of_part(t.k, TILE);
    t.k_tiles = parts_of(t.k, TILE);
    t.m_tiles = parts_of(c->out, TILE);
    t.m_rows = 2 * size_of_part(PAIRS(c->out), TILE / 2);
    return t;
}

INLINE long k_start(const Tiles *t, long tile) { return min_of(tile * t->k_rows, t->k - t->k_rows); }

/* [m tile][kernel row][k tile][m_rows][16 pairs of weights] */
static void pack(const REAL *weight, uint32_t *packed, const Conv *c, const Tiles *t, int adjoint) {
    long taps = c->kh * c->kw, n_from = c->in, pairs = PAIRS(c->in);
    long to_step = adjoint ? taps : c->in * taps, from_step = adjoint ? c->out * taps : taps;
    memset(packed, 0, t->m_tiles * t->groups * t->k_tiles * t->m_rows * BYTES);
    for (long to = 0; to < c->out; ++to)
        for (long r = 0; r < c->kh; ++r) {
            uint32_t *start = packed + ((to / t->m_rows * t->groups + r) * t->k_tiles * t->m_rows + to % t->m_rows) * TILE;
            for (long k = 0, tile = 0, tile_end = t->k_rows, q = 0; q < c->kw; ++q) {
                long tap = r * c->kw + q;
                const REAL *w = weight + to * to_step + (adjoint ? taps - 1 - tap : tap);
                for (long p = 0; p < pairs; ++p, ++k) {
                    if (k == tile_end) ++tile, tile_end += t->k_rows;
                    uint32_t second = 2 * p + 1 < n_from ? rounded(w[(2 * p + 1) * from_step]) : 0;
                    start[tile * t->m_rows * TILE + k - k_start(t, tile)] = second << 16 | rounded(w[2 * p * from_step]);
                }
            }
        }
}

/* sums[m][n][m_rows][16] = weights times values: `nm` tiles of outputs, `nn` of images; b[group] is where the values of
 * a kernel's row start, `unit` what lies between images' tiles, `stride` between rows of a tile, all in vectors. */
typedef struct {
    const Tiles *t;
    const uint32_t *a;
    const vec *const *b;
    long unit[4], stride;
    float *sums;
} Product;

#if AMX
INLINE void tile_product(const Product *p, const int nm) {
    const Tiles *t = p->t;
    long tile = t->m_rows * TILE, bytes = p->stride * BYTES, next_m = t->groups * t->k_tiles * tile;
    const uint32_t *a = p->a;
    IN_MEMORY;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long g = 0; g < t->groups; ++g)
        for (long k = 0; k < t->k_tiles; ++k, a += tile) {
            const vec *b = p->b[g] + k_start(t, k) * p->stride;
            _tile_loadd(4, a, BYTES);
            _tile_loadd(6, b + p->unit[0], bytes);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, b + p->unit[1], bytes);
            _tile_dpbf16ps(1, 4, 7);
            if (nm == 2) {
                _tile_loadd(5, a + next_m, BYTES);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            } else {
                _tile_loadd(6, b + p->unit[2], bytes);
                _tile_dpbf16ps(2, 4, 6);
                _tile_loadd(7, b + p->unit[3], bytes);
                _tile_dpbf16ps(3, 4, 7);
            }
        }
    long size = t->m_rows * TILE;
    _tile_stored(0, p->sums, BYTES);
    _tile_stored(1, p->sums + size, BYTES);
    _tile_stored(2, p->sums + 2 * size, BYTES);
    _tile_stored(3, p->sums + 3 * size, BYTES);
}
#endif

/* The same for `rows` rows of one tile of outputs and two of images. */
INLINE void vector_product(const Product *p, const int rows, long m, long n) {
    const Tiles *t = p->t;
    long tile = t->m_rows * TILE;
    vec acc[8][2];
    UNROLL for (int i = 0; i < rows; ++i) acc[i][0] = acc[i][1] = (vec){0};
    const uint32_t *a = p->a + m * TILE;
    for (long g = 0; g < t->groups; ++g)
        for (long k = 0; k < t->k_tiles; ++k, a += tile) {
            const vec *b = p->b[g] + k_start(t, k) * p->stride;
            for (long r = 0; r < t->k_rows; ++r, b += p->stride) {
                __m512bh v = (__m512bh)b[p->unit[n]], w = (__m512bh)b[p->unit[n + 1]];
                UNROLL for (int i = 0; i < rows; ++i) {
                    __m512bh f = (__m512bh)_mm512_set1_epi32((int)a[i * TILE + r]);
                    acc[i][0] = (vec)_mm512_dpbf16_ps((__m512)acc[i][0], v, f);
                    acc[i][1] = (vec)_mm512_dpbf16_ps((__m512)acc[i][1], w, f);
                }
            }
        }
    vec *sums = (vec *)p->sums + n * t->m_rows + m;
    UNROLL for (int i = 0; i < rows; ++i) sums[i] = acc[i][0], sums[t->m_rows + i] = acc[i][1];
}

static void products(const Product *product, long nm) {
#if AMX
    if (amx) {
        if (nm == 2) tile_product(product, 2);
        else tile_product(product, 1);
        return;
    }
#endif
    Product p = *product;
    const Tiles *t = p.t;
    for (long tile = 0; tile < nm; ++tile, p.a += t->groups * t->k_tiles * t->m_rows * TILE, p.sums += 2 * t->m_rows * TILE)
        for (long n = 0; n < 4 / nm; n += 2)
            for (long m = 0, left; (left = t->m_rows - m) > 0; m += min_of(8, left)) {
                if (left >= 8) vector_product(&p, 8, m, n);
                else if (left == 6) vector_product(&p, 6, m, n);
                else if (left == 4) vector_product(&p, 4, m, n);
                else vector_product(&p, 2, m, n);
            }
}

/* A row of inputs as [column][pair][nv], with the padding of the kernel around it; `grow` - 1 zeros between places. */
static void stage_row(const vec *x, vec *to, const Conv *c, long row, long width, long grow) {
    long pairs = PAIRS(c->in), nv = c->nv;
    if (row < 0 || row % grow != 0 || row / grow >= c->h) {
        memset(to, 0, width * pairs * nv * BYTES);
        return;
    }
    x += row / grow * c->w * nv;
    to += c->kw / 2 * pairs * nv;
    long columns = min_of(c->w, (width - c->kw / 2 + grow - 1) / grow);
    for (long p = 0; p < pairs; ++p, x += c->x_stride)
        for (long w = 0; w < columns; ++w) {
            const vec *from = x + w * nv;
            vec *place = to + (w * grow * pairs + p) * nv;
            for (long n = 0; n < nv; ++n) place[n] = from[n];
        }
}

/* y (+)= conv(x), padding k / 2, or its adjoint where the values of `c` are those of the gradients. */
static void convolve(const vec *x, const REAL *weight, vec *y, const Conv *c, long grow, int adjoint, int add, int threads) {
    Tiles t = tiles_of(c);
    long pairs = PAIRS(c->in), out_pairs = PAIRS(c->out), nv = c->nv;
    int direct = c->kh == 1 && c->kw == 1 && c->step == 1 && grow == 1;
    long width = (c->ow - 1) * c->step + c->kw, row_size = width * pairs * nv, per_tile = t.groups * t.k_tiles * t.m_rows * TILE;
    uint32_t *packed = aligned_alloc(BYTES, t.m_tiles * per_tile * 4);
    pack(weight, packed, c, &t, adjoint);
    PARALLEL
    for (long part = 0; part < threads; ++part) {
        long units = c->oh * c->ow * nv; /* of a direct convolution, shared out among the threads; else rows are */
        long first_row = direct ? 0 : c->oh * part / threads, end_row = direct ? 1 : c->oh * (part + 1) / threads;
        long start = direct ? units * part / threads : 0, end = direct ? units * (part + 1) / threads : c->ow * nv;
        vec *stage = direct ? NULL : aligned_alloc(BYTES, c->kh * row_size * BYTES);
        const vec **rows = malloc(c->kh * sizeof(vec *));
        float sums[4 * TILE * TILE] __attribute__((aligned(64)));
        Product product = {.t = &t, .b = rows, .stride = direct ? c->x_stride : nv, .sums = sums};
#if AMX
        long m = t.m_rows, k = t.k_rows, full = BYTES;
        if (amx) configure((long[]){m, m, m, m, m, m, k, k}, (long[]){full, full, full, full, 4 * k, 4 * k, full, full});
#endif
        if (!direct) memset(stage, 0, c->kh * row_size * BYTES);
        rows[0] = x;
        for (long row = first_row, loaded = first_row * c->step - c->kh / 2; row < end_row; ++row) {
            long top = row * c->step - c->kh / 2;
            if (!direct) {
                for (loaded = max_of(loaded, top); loaded < top + c->kh; ++loaded)
                    stage_row(x, stage + (loaded + c->kh) % c->kh * row_size, c, loaded, width, grow);
                for (long r = 0; r < c->kh; ++r) rows[r] = stage + (top + r + c->kh) % c->kh * row_size;
            }
            long next = direct ? start : 0, lane = 0, offsets[4]; /* of units, in a staged row: counted, not divided */
            for (long unit = start; unit < end; unit += 4) {
                for (long n = 0; n < 4; ++n) {
                    offsets[n] = next;
                    if (unit + n + 1 >= end) continue; /* at the end the last one again */
                    ++next;
                    if (!direct && ++lane == nv) lane = 0, next += c->step * pairs * nv - nv;
                }
                vec *unit_y = y + row * c->ow * nv + unit;
                for (long tile = 0, pair = 0, nm, nn; tile < t.m_tiles; tile += nm, pair += nm * t.m_rows / 2) {
                    nm = min_of(2, t.m_tiles - tile), nn = 4 / nm;
                    product.a = packed + tile * per_tile;
                    for (long u = 0; u < min_of(4, end - unit); u += nn) {
                        for (long n = 0; n < nn; ++n) product.unit[n] = offsets[u + n];
                        products(&product, nm);
                        long stored = min_of(nn, end - unit - u);
                        for (long m = 0; m < nm; ++m) {
                            const vec *sum = (const vec *)sums + m * nn * t.m_rows;
                            vec *to = unit_y + u + (pair + m * t.m_rows / 2) * c->y_stride;
                            long n_pairs = min_of(t.m_rows / 2, out_pairs - pair - m * t.m_rows / 2);
                            for (long p = 0; p < n_pairs; ++p, sum += 2, to += c->y_stride)
                                for (long n = 0; n < stored; ++n) {
                                    vec e = sum[n * t.m_rows], o = sum[n * t.m_rows + 1];
                                    if (add) e += even(to[n]), o += odd(to[n]);
                                    to[n] = joined(e, o);
                                }
                        }
                    }
                }
            }
        }
#if AMX
        if (amx) _tile_release();
#endif
        free(stage);
        free(rows);
    }
    free(packed);
}

/* Rows become columns, of 16 x 16 pairs of numbers. */
INLINE void transpose(__m512i *r) {
    __m512i t[TILE];
    UNROLL for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < 4; ++i) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    UNROLL for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    UNROLL for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* sums[a][b] += over places: `na` tiles of inputs (neighbouring taps, or other channels) times `nb` of outputs. */
typedef struct {
    const char *a, *b;
    long rows, columns, nv; /* of outputs; `nv` vectors per place */
    long a_row, a_column, a_unit, a_next, b_next;
    float *sums;
    long sum_a, sum_b, m_rows;
} WeightProduct;

#if AMX
INLINE void tile_weights(const WeightProduct *p, const int na, const int nb) {
#define SUM(a, b) (p->sums + (a) * p->sum_a + (b) * p->sum_b)
    IN_MEMORY;
    _tile_loadd(0, SUM(0, 0), BYTES);
    if (nb > 1) _tile_loadd(1, SUM(0, 1), BYTES);
    if (na > 1) _tile_loadd(2, SUM(1, 0), BYTES);
    if (na > 1 && nb > 1) _tile_loadd(3, SUM(1, 1), BYTES);
    if (na > 2) _tile_loadd(4, SUM(2, 0), BYTES);
    if (na > 2 && nb > 1) _tile_loadd(5, SUM(2, 1), BYTES);
    const char *b = p->b;
    for (long row = 0; row < p->rows; ++row)
        for (long column = 0; column < p->columns; ++column) {
            const char *a = p->a + row * p->a_row + column * p->a_column;
            for (long n = 0; n < p->nv; ++n, a += p->a_unit, b += TILE_BYTES) {
                _tile_loadd(6, b, BYTES);
                _tile_loadd(7, a, BYTES);
                _tile_dpbf16ps(0, 7, 6);
                if (na > 1) {
                    _tile_loadd(7, a + p->a_next, BYTES);
                    _tile_dpbf16ps(2, 7, 6);
                }
                if (na > 2) {
                    _tile_loadd(7, a + 2 * p->a_next, BYTES);
                    _tile_dpbf16ps(4, 7, 6);
                }
                if (nb > 1) {
                    _tile_loadd(6, b + p->b_next, BYTES);
                    if (na > 2) {
                        _tile_dpbf16ps(5, 7, 6);
                        _tile_loadd(7, a + p->a_next, BYTES);
                    }
                    if (na > 1) {
                        _tile_dpbf16ps(3, 7, 6);
                        _tile_loadd(7, a, BYTES);
                    }
                    _tile_dpbf16ps(1, 7, 6);
                }
            }
        }
    _tile_stored(0, SUM(0, 0), BYTES);
    if (nb > 1) _tile_stored(1, SUM(0, 1), BYTES);
    if (na > 1) _tile_stored(2, SUM(1, 0), BYTES);
    if (na > 1 && nb > 1) _tile_stored(3, SUM(1, 1), BYTES);
    if (na > 2) _tile_stored(4, SUM(2, 0), BYTES);
    if (na > 2 && nb > 1) _tile_stored(5, SUM(2, 1), BYTES);
#undef SUM
}
#endif

INLINE void vector_weights(const WeightProduct *p, const int rows, long i, long j, long m) {
    vec acc[8], *sums = (vec *)(p->sums + i * p->sum_a + j * p->sum_b) + m;
    UNROLL for (int r = 0; r < rows; ++r) acc[r] = sums[r];
    const vec *b = (const vec *)(p->b + j * p->b_next);
    for (long row = 0; row < p->rows; ++row)
        for (long column = 0; column < p->columns; ++column) {
            const char *from = p->a + i * p->a_next + row * p->a_row + column * p->a_column + m * BYTES;
            for (long n = 0; n < p->nv; ++n, from += p->a_unit, b += TILE) {
                const int32_t *a = (const int32_t *)from;
                for (long k = 0; k < TILE; ++k)
                    UNROLL for (int r = 0; r < rows; ++r)
                        acc[r] = (vec)_mm512_dpbf16_ps((__m512)acc[r], (__m512bh)b[k], (__m512bh)_mm512_set1_epi32(a[r * TILE + k]));
            }
        }
    UNROLL for (int r = 0; r < rows; ++r) sums[r] = acc[r];
}

static void weight_product(const WeightProduct *p, long na, long nb) {
#if AMX
    if (amx) {
        switch (2 * na + nb) {
        case 3: tile_weights(p, 1, 1); return;
        case 4: tile_weights(p, 1, 2); return;
        case 5: tile_weights(p, 2, 1); return;
        case 6: tile_weights(p, 2, 2); return;
        case 7: tile_weights(p, 3, 1); return;
        default: tile_weights(p, 3, 2); return;
        }
    }
#endif
    for (long i = 0; i < na; ++i)
        for (long j = 0; j < nb; ++j)
            for (long m = 0, left; (left = p->m_rows - m) > 0; m += min_of(8, left)) {
                if (left >= 8) vector_weights(p, 8, i, j, m);
                else if (left == 6) vector_weights(p, 6, i, j, m);
                else if (left == 4) vector_weights(p, 4, i, j, m);
                else vector_weights(p, 2, i, j, m);
            }
}

#define STAGED (1 << 20) /* bytes of inputs and gradients that are laid out for tiles at once */
#define WEIGHT_UNITS 64  /* vectors of a row that a 1x1 convolution's map is cut into */

/* gradient[out][in][kh][kw] = sum over images and places of dy x. The pairs that are multiplied together are the same
 * image of two rows of the map (`step` apart in x); rows of a tile of x are its channels, columns of one of dy its. */
static void weight_gradient(const vec *x, const vec *dy, REAL *gradient, const Conv *conv, int threads) {
    Conv own = *conv, *c = &own;
    long x_length = c->h * c->w * c->nv, y_length = c->oh * c->ow * c->nv; /* of a channel pair's map */
    if (c->kh == 1 && c->kw == 1 && c->step == 1) { /* places are all alike */
        c->w = c->ow = min_of(WEIGHT_UNITS, (y_length + 1) / 2);
        c->h = c->oh = (y_length + c->w - 1) / c->w;
        c->nv = 1;
    }
    long nv = c->nv, taps = c->kh * c->kw, pad_h = c->kh / 2, pad_w = c->kw / 2, step = c->step;
    long width = (c->w + 2 * pad_w) * nv, units = c->ow * nv, row_pairs = (c->oh + 1) / 2;
    long m_rows = 2 * size_of_part(PAIRS(c->in), TILE / 2), i_tiles = parts_of(c->in, TILE), o_tiles = parts_of(c->out, TILE);
    long a_tile = m_rows * BYTES, per_row = units * o_tiles * TILE_BYTES;
    long part = max_of(1, min_of((i_tiles + threads - 1) / threads, STAGED / (c->kh * width * a_tile)));
    PARALLEL
    for (long task = 0; task < (i_tiles + part - 1) / part; ++task) {
        long first = task * part, n_tiles = min_of(part, i_tiles - first), a_row = width * a_tile;
        long at_once = max_of(1, min_of(row_pairs, (STAGED - n_tiles * c->kh * a_row) / (2 * step * n_tiles * a_row + per_row)));
        long n_rows = 2 * step * (at_once - 1) + c->kh, sum_tile = m_rows * TILE;
        long a_bytes = n_tiles * n_rows * a_row, b_bytes = at_once * per_row, sums_bytes = n_tiles * taps * o_tiles * sum_tile * 4;
        char *a = aligned_alloc(BYTES, a_bytes + b_bytes + sums_bytes), *b = a + a_bytes;
        float *sums = (float *)(b + b_bytes);
        memset(a, 0, a_bytes + b_bytes + sums_bytes);
#if AMX
        long m = m_rows, full = BYTES;
        if (amx) configure((long[]){m, m, m, m, m, m, TILE, m}, (long[]){full, full, full, full, full, full, full, full});
#endif
        for (long pair = 0; pair < row_pairs; pair += at_once) {
            long n_pairs = min_of(at_once, row_pairs - pair), top = 2 * pair * step - pad_h;
            for (long p = first * m_rows / 2; p < min_of(PAIRS(c->in), (first + n_tiles) * m_rows / 2); ++p)
                for (long r = 0; r < 2 * step * (n_pairs - 1) + c->kh; ++r) {
                    const vec *rows[2];
                    long lengths[2];
                    for (int s = 0; s < 2; ++s) {
                        long h = top + r + s * step;
                        rows[s] = x + p * c->x_stride + h * c->w * nv;
                        lengths[s] = h < 0 || h >= c->h ? 0 : min_of(c->w * nv, x_length - h * c->w * nv);
                    }
                    long tile = 2 * p / m_rows - first, m_row = 2 * p % m_rows;
                    char *to = a + (tile * n_rows + r) * a_row + pad_w * nv * a_tile + m_row * BYTES;
                    long together = min_of(lengths[0], lengths[1]), u = 0;
                    for (; u < together; ++u, to += a_tile) {
                        vec v = rows[0][u], w = rows[1][u];
                        ((vec *)to)[0] = low_words(v, w), ((vec *)to)[1] = high_words(v, w);
                    }
                    for (; u < c->w * nv; ++u, to += a_tile) {
                        vec v = u < lengths[0] ? rows[0][u] : (vec){0}, w = u < lengths[1] ? rows[1][u] : (vec){0};
                        ((vec *)to)[0] = low_words(v, w), ((vec *)to)[1] = high_words(v, w);
                    }
                }
            for (long tile = 0; tile < o_tiles; ++tile)
                for (long h = 0; h < n_pairs; ++h) {
                    long row = 2 * (pair + h), p0 = tile * TILE / 2, n = min_of(TILE / 2, PAIRS(c->out) - p0);
                    const vec *from = dy + p0 * c->y_stride + row * units;
                    long length = min_of(units, y_length - row * units), length2 = max_of(0, min_of(units, y_length - (row + 1) * units));
                    __m512i *to = (__m512i *)(b + (tile * at_once + h) * units * TILE_BYTES);
                    for (long u = 0; u < units; ++u, ++from, to += TILE) {
                        __m512i r[TILE];
                        for (long p = 0; p < n; ++p) {
                            vec v = u < length ? from[p * c->y_stride] : (vec){0};
                            vec w = u < length2 ? from[p * c->y_stride + units] : (vec){0};
                            r[2 * p] = (__m512i)low_words(v, w), r[2 * p + 1] = (__m512i)high_words(v, w);
                        }
                        for (long p = n; p < TILE / 2; ++p) r[2 * p] = r[2 * p + 1] = _mm512_setzero_si512();
                        transpose(r);
                        UNROLL for (int i = 0; i < TILE; ++i) to[i] = r[i];
                    }
                }
            int taps_together = taps > 1;
            WeightProduct product = {
                .rows = n_pairs, .columns = c->ow, .nv = nv, .a_row = 2 * step * a_row, .a_column = step * nv * a_tile, .a_unit = a_tile,
                .a_next = taps_together ? nv * a_tile : n_rows * a_row, .b_next = at_once * units * TILE_BYTES,
                .sum_a = o_tiles * sum_tile, .sum_b = sum_tile, .m_rows = m_rows};
            /* sums are [input tile][tap][output tile] */
            long n_outer = taps_together ? n_tiles * c->kh : 1, n_inner = taps_together ? c->kw : n_tiles;
            for (long outer = 0; outer < n_outer; ++outer) /* tile and row of the kernel */
                for (long inner = 0, na; inner < n_inner; inner += na) {
                    na = min_of(3, n_inner - inner);
                    for (long o = 0, nb; o < o_tiles; o += nb) {
                        nb = min_of(2, o_tiles - o);
                        product.a = a + (outer / c->kh * n_rows + outer % c->kh) * a_row + inner * product.a_next;
                        product.b = b + o * product.b_next;
                        product.sums = sums + ((outer * n_inner + inner) * o_tiles + o) * sum_tile;
                        weight_product(&product, na, nb);
                    }
                }
        }
#if AMX
        if (amx) _tile_release();
#endif
        for (long i = first * m_rows; i < min_of(c->in, (first + n_tiles) * m_rows); ++i)
            for (long t = 0; t < taps; ++t) {
                const float *from = sums + ((i / m_rows - first) * taps + t) * o_tiles * sum_tile + i % m_rows * TILE;
                for (long o = 0; o < c->out; ++o) gradient[(o * c->in + i) * taps + t] = from[o / TILE * sum_tile + o % TILE];
            }
        free(a);
    }
}

/* Channel by channel: y (+)= conv(x); its adjoint with x and y exchanged; and the gradient of the weights. */
static void depthwise(int64_t kind, vec *x, vec *y, const REAL *weight, REAL *gradient, const Conv *c, int add, int threads) {
    long taps = c->kh * c->kw, nv = c->nv;
    PARALLEL
    for (long p = 0; p < PAIRS(c->in); ++p) {
        int single = 2 * p + 1 == c->in;
        const REAL *we = weight + 2 * p * taps, *wo = single ? we : we + taps;
        vec *from = x + p * c->x_stride, *to = y + p * c->y_stride;
        if (kind == CONV_WEIGHT) {
            for (long r = 0; r < c->kh; ++r)
                for (long q = 0; q < c->kw; ++q) {
                    double e_sum = 0, o_sum = 0;
                    for (long row = max_of(0, c->kh / 2 - r); row < min_of(c->oh, c->h + c->kh / 2 - r); ++row) {
                        vec e = {0}, o = {0};
                        for (long column = max_of(0, c->kw / 2 - q); column < min_of(c->ow, c->w + c->kw / 2 - q); ++column) {
                            const vec *v = from + ((row + r - c->kh / 2) * c->w + column + q - c->kw / 2) * nv;
                            const vec *g = to + (row * c->ow + column) * nv;
                            for (long n = 0; n < nv; ++n) e += even(v[n]) * even(g[n]), o += odd(v[n]) * odd(g[n]);
                        }
                        e_sum += total(e), o_sum += total(o);
                    }
                    gradient[2 * p * taps + r * c->kw + q] = (REAL)e_sum;
                    if (!single) gradient[(2 * p + 1) * taps + r * c->kw + q] = (REAL)o_sum;
                }
            continue;
        }
        if (kind == CONV_INPUT) { /* the same with the kernel turned round */
            vec *swap = from;
            from = to, to = swap;
        }
        for (long row = 0; row < c->oh; ++row)
            for (long column = 0; column < c->ow; ++column)
                for (long n = 0; n < nv; ++n) {
                    vec *target = to + (row * c->ow + column) * nv + n, e = {0}, o = {0};
                    if (add) e = even(*target), o = odd(*target);
                    for (long r = max_of(0, c->kh / 2 - row); r < min_of(c->kh, c->h + c->kh / 2 - row); ++r)
                        for (long q = max_of(0, c->kw / 2 - column); q < min_of(c->kw, c->w + c->kw / 2 - column); ++q) {
                            vec v = from[((row + r - c->kh / 2) * c->w + column + q - c->kw / 2) * nv + n];
                            long tap = kind == CONV_INPUT ? taps - 1 - r * c->kw - q : r * c->kw + q;
                            e += we[tap] * even(v), o += (single ? 0 : wo[tap]) * odd(v);
                        }
                    *target = joined(e, o);
                }
    }
}

/* ---- batch norm and merges -------------------------------------------------------------------------------------- */

/* Means and biased variances of a pair of channels, as `moments`. */
static void moments_of_pair(const vec *x, const Slab *s, long n_images, double *mean, double *variance) {
    double count = 0, m[2] = {0, 0}, m2[2] = {0, 0};
    long rows = s->padded ? max_of(1, CHUNK / s->nv) : 1, length = s->padded ? s->nv : CHUNK;
    for (long place = 0; place < s->places; place += rows) {
        long n_rows = min_of(rows, s->places - place);
        for (long from = 0; from < s->nv; from += length) {
            long n = min_of(length, s->nv - from);
            const vec *start = x + place * s->nv + from;
            mask last = s->padded ? s->last : ALL;
            double weight = s->padded ? (double)n_rows * n_images : (double)n * LANES, own[2] = {0, 0}, squares[2] = {0, 0};
            vec first = start[0], pivots[2] = {spread(even(first)[0]), spread(odd(first)[0])}; /* equal values: exact */
            for (int pass = 0; pass < 2; ++pass) {
                vec a = {0}, b = {0}, c = {0}, d = {0}, e0 = pivots[0], o0 = pivots[1];
                for (long r = 0; r < n_rows; ++r) {
                    const vec *p = start + r * s->nv;
                    long j = 0;
                    if (pass == 0) {
                        for (; j + 2 < n; j += 2) {
                            a += even(p[j]) - e0, b += odd(p[j]) - o0;
                            c += even(p[j + 1]) - e0, d += odd(p[j + 1]) - o0;
                        }
                        for (; j + 1 < n; ++j) a += even(p[j]) - e0, b += odd(p[j]) - o0;
                        a += keep(even(p[j]) - e0, last), b += keep(odd(p[j]) - o0, last);
                    } else {
                        for (; j + 2 < n; j += 2) {
                            vec e = even(p[j]) - e0, o = odd(p[j]) - o0, g = even(p[j + 1]) - e0, h = odd(p[j + 1]) - o0;
                            a += e * e, b += o * o, c += g * g, d += h * h;
                        }
                        for (; j < n; ++j) {
                            vec e = even(p[j]) - e0, o = odd(p[j]) - o0;
                            if (j + 1 == n) e = keep(e, last), o = keep(o, last);
                            a += e * e, b += o * o;
                        }
                    }
                }
                double sums[2] = {total(a + c), total(b + d)};
                for (int i = 0; i < 2; ++i) {
                    if (pass == 0) {
                        own[i] = (double)pivots[i][0] + sums[i] / weight;
                        pivots[i] = spread((REAL)own[i]);
                    } else {
                        double off = own[i] - (double)pivots[i][0]; /* the centre was rounded */
                        squares[i] = sums[i] - weight * off * off;
                    }
                }
            }
            for (int i = 0; i < 2; ++i) {
                double delta = own[i] - m[i];
                m2[i] += squares[i] + delta * delta * count * weight / (count + weight);
                m[i] += delta * weight / (count + weight);
            }
            count += weight;
        }
    }
    for (int i = 0; i < 2; ++i) mean[i] = m[i], variance[i] = m2[i] > 0 ? m2[i] / count : m2[i] * 0;
}

static void statistics(const Run *run, long norm, const vec *x, long stride, long channels, long places) {
    int threads = (int)run->threads;
    Slab s = slab_of(run, places);
    PARALLEL
    for (long p = 0; p < PAIRS(channels); ++p) {
        double mean[2] = {0, 0}, variance[2] = {0, 0};
        if (run->batch_statistics) moments_of_pair(x + p * stride, &s, run->images_n, mean, variance);
        for (long i = 0; i < min_of(2, channels - 2 * p); ++i)
            coefficients_of(run, norm + 2 * p + i, mean[i], variance[i], (double)places * run->images_n);
    }
}

/* Scale or shift of channel `c`, 0 for the neighbour of an odd last one. */
INLINE REAL coefficient(const Run *run, int row, int64_t norm, long c, long channels, REAL without) {
    if (c >= channels) return 0;
    return norm < 0 ? without : run->coefficients[row * run->n_norm + norm + c];
}

static void linear(const Run *run, vec *y, long y_stride, long channels, long places, int relu, const int64_t *terms,
                   long n_terms) {
    int threads = (int)run->threads;
    long n = places * run->nv;
    PARALLEL
    for (long p = 0; p < PAIRS(channels); ++p) {
        const vec **x = malloc(n_terms * (sizeof(vec *) + 2 * sizeof(REAL)));
        REAL *factor = (REAL *)(x + n_terms);
        double shift[2] = {0, 0};
        for (long t = 0; t < n_terms; ++t) {
            const int64_t *term = terms + 4 * t;
            double gate = gate_of(run, term[3]);
            x[t] = run->arena + term[0] + p * term[1];
            for (int i = 0; i < 2; ++i) {
                factor[2 * t + i] = (REAL)(gate * coefficient(run, 2, term[2], 2 * p + i, channels, 1));
                shift[i] += gate * coefficient(run, 3, term[2], 2 * p + i, channels, 0);
            }
        }
        vec *to = y + p * y_stride, e0 = spread((REAL)shift[0]), o0 = spread((REAL)shift[1]), zero = {0};
#define LINEAR_AT(width)                                                                                         \
    for (; j + width <= n; j += width) {                                                                         \
        vec e[width], o[width];                                                                                  \
        UNROLL for (int i = 0; i < width; ++i) e[i] = e0, o[i] = o0;                                             \
        for (long t = 0; t < n_terms; ++t) {                                                                     \
            const vec *from = x[t] + j;                                                                          \
            REAL fe = factor[2 * t], fo = factor[2 * t + 1];                                                     \
            UNROLL for (int i = 0; i < width; ++i) e[i] += fe * even(from[i]), o[i] += fo * odd(from[i]);        \
        }                                                                                                        \
        if (relu) UNROLL for (int i = 0; i < width; ++i)                                                         \
            e[i] = keep(e[i], ~MASK_OF(zero, e[i])), o[i] = keep(o[i], ~MASK_OF(zero, o[i]));                    \
        UNROLL for (int i = 0; i < width; ++i) to[j + i] = joined(e[i], o[i]);                                   \
    }
        long j = 0;
        LINEAR_AT(4)
        LINEAR_AT(1)
#undef LINEAR_AT
        free(x);
    }
}

static void gather(const Run *run, const vec *x, vec *out, long stride, long channels, long places, int64_t norm,
                   int add, const int64_t *readers, long n_readers) {
    int threads = (int)run->threads;
    Slab s = slab_of(run, places);
    long n = places * run->nv;
    double count = (double)places * run->images_n;
    int gated = 0;
    for (long r = 0; r < n_readers; ++r) gated |= readers[3 * r + 2] >= 0;
    double *gate_sums = calloc(n_readers * (channels + 1), sizeof(double));
    PARALLEL
    for (long p = 0; p < PAIRS(channels); ++p) {
        const vec **d = malloc(n_readers * (sizeof(vec *) + 2 * sizeof(REAL)));
        REAL *factor = (REAL *)(d + n_readers);
        const vec *own = x + p * stride;
        vec *to = out + p * stride;
        REAL mean[2], inverse[2], scale[2];
        double sum[2] = {0, 0}, product[2] = {0, 0};
        for (int i = 0; i < 2; ++i) {
            mean[i] = coefficient(run, 0, norm, 2 * p + i, channels, 0);
            inverse[i] = coefficient(run, 1, norm, 2 * p + i, channels, 0);
            scale[i] = coefficient(run, 2, norm, 2 * p + i, channels, 1);
        }
        for (long r = 0; r < n_readers; ++r) {
            const int64_t *reader = readers + 3 * r;
            double gate = gate_of(run, reader[2]), one[2] = {0, 0}, two[2] = {0, 0};
            d[r] = run->arena + reader[0] + p * reader[1];
            factor[2 * r] = factor[2 * r + 1] = (REAL)gate;
            if (norm < 0 && reader[2] < 0) continue;
            for (long from = 0; from < n; from += CHUNK) {
                long end = min_of(n, from + CHUNK);
                vec a = {0}, b = {0}, e = {0}, f = {0};
                for (long j = from; j < end; ++j) {
                    vec g = d[r][j], v = own[j], ge = even(g), go = odd(g);
                    a += ge, b += go;
                    e += ge * (even(v) - mean[0]), f += go * (odd(v) - mean[1]);
                }
                one[0] += total(a), one[1] += total(b), two[0] += total(e), two[1] += total(f);
            }
            for (int i = 0; i < 2 && 2 * p + i < channels; ++i) {
                sum[i] += gate * one[i], product[i] += gate * two[i];
                if (reader[2] >= 0)
                    gate_sums[r * channels + 2 * p + i] = norm < 0 ? two[i] : scale[i] * two[i] + run->norm_bias[norm + 2 * p + i] * one[i];
            }
        }
        int batch = norm >= 0 && run->batch_statistics;
        REAL slope[2] = {0, 0}, level[2] = {0, 0};
        for (int i = 0; i < 2 && 2 * p + i < channels; ++i) {
            long k = norm + 2 * p + i;
            if (norm >= 0 && run->norm_weight_gradient) run->norm_weight_gradient[k] = (REAL)(inverse[i] * product[i]);
            if (norm >= 0 && run->norm_bias_gradient) run->norm_bias_gradient[k] = (REAL)sum[i];
            if (!batch) continue;
            slope[i] = (REAL)(-scale[i] * (double)inverse[i] * inverse[i] * product[i] / count);
            level[i] = (REAL)(-scale[i] * sum[i] / count - (double)slope[i] * mean[i]);
        }
        for (long r = 0; r < n_readers; ++r) factor[2 * r] *= scale[0], factor[2 * r + 1] *= scale[1];
#define GATHER_AT(width)                                                                                        \
    for (; j + width <= end; j += width) {                                                                      \
        vec e[width], o[width];                                                                                 \
        UNROLL for (int i = 0; i < width; ++i) e[i] = o[i] = (vec){0};                                          \
        if (batch) UNROLL for (int i = 0; i < width; ++i)                                                       \
            e[i] = slope[0] * even(own[j + i]) + level[0], o[i] = slope[1] * odd(own[j + i]) + level[1];         \
        if (s.padded && j + width == end) e[width - 1] = keep(e[width - 1], s.last), o[width - 1] = keep(o[width - 1], s.last); \
        if (add) UNROLL for (int i = 0; i < width; ++i) e[i] += even(to[j + i]), o[i] += odd(to[j + i]);         \
        for (long r = 0; r < n_readers; ++r) {                                                                  \
            const vec *from = d[r] + j;                                                                         \
            REAL fe = factor[2 * r], fo = factor[2 * r + 1];                                                    \
            UNROLL for (int i = 0; i < width; ++i) e[i] += fe * even(from[i]), o[i] += fo * odd(from[i]);       \
        }                                                                                                       \
        UNROLL for (int i = 0; i < width; ++i) to[j + i] = joined(e[i], o[i]);                                  \
    }
        for (long place = 0; place < s.places; ++place) {
            long j = place * s.nv, end = j + s.nv;
            GATHER_AT(4)
            GATHER_AT(1)
        }
#undef GATHER_AT
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
    for (long p = 0; p < PAIRS(channels); ++p)
        for (long j = p * stride; j < p * stride + places * run->nv; ++j) {
            __mmask32 open = _mm512_cmpgt_epi16_mask((__m512i)z[j], _mm512_setzero_si512()); /* as of floats */
            d[j] = (vec)_mm512_maskz_mov_epi16(open, (__m512i)d[j]);
        }
}

static void attention(const Run *run, vec *y, vec *side, long stride, long channels, long places, int backward,
                      const int64_t *terms, long n_terms) {
    int threads = (int)run->threads;
    double *sums = calloc(PAIRS(channels), sizeof(double));
    REAL gate = run->gates[terms[3]];
    PARALLEL
    for (long p = 0; p < PAIRS(channels); ++p) {
        vec *to = y + p * stride, *to_side = side + p * stride;
        int single = 2 * p + 1 == channels;
        const vec **from_term = malloc(n_terms * (sizeof(vec *) + 4 * sizeof(REAL)));
        REAL(*factor)[4] = (REAL(*)[4])(from_term + n_terms); /* and shift, for each of the pair */
        for (long t = 0; t < n_terms; ++t) {
            const int64_t *term = terms + 4 * t;
            REAL weight = t > 0 ? run->gates[term[3]] : 1;
            from_term[t] = run->arena + term[0] + p * term[1];
            for (int i = 0; i < 2; ++i) {
                factor[t][i] = weight * coefficient(run, 2, term[2], 2 * p + i, channels, 1);
                factor[t][2 + i] = weight * coefficient(run, 3, term[2], 2 * p + i, channels, 0);
            }
        }
        for (long from = 0; from < places * run->nv; from += CHUNK) {
            vec sum = {0};
            for (long j = from; j < min_of(places * run->nv, from + CHUNK); ++j) {
                vec v = from_term[0][j], weighted[2] = {{0}, {0}};
                vec x[2] = {even(v) * factor[0][0] + factor[0][2], odd(v) * factor[0][1] + factor[0][3]};
                for (long t = 1; t < n_terms; ++t) {
                    v = from_term[t][j];
                    weighted[0] += even(v) * factor[t][0] + factor[t][2];
                    weighted[1] += odd(v) * factor[t][1] + factor[t][3];
                }
                vec m[2] = {sigmoid(x[0]), sigmoid(x[1])};
                if (!backward) {
                    to[j] = joined((gate + m[0]) * weighted[0], (gate + m[1]) * weighted[1]);
                    continue;
                }
                vec g[2] = {even(to[j]), odd(to[j])}, h[2] = {g[0] * weighted[0], g[1] * weighted[1]};
                sum += h[0];
                if (!single) sum += h[1];
                to_side[j] = joined(h[0] * m[0] * (1 - m[0]), h[1] * m[1] * (1 - m[1]));
                to[j] = joined(g[0] * (gate + m[0]), g[1] * (gate + m[1]));
            }
            sums[p] += total(sum);
        }
        free(from_term);
    }
    if (backward && run->gate_gradients) {
        double sum = 0;
        for (long p = 0; p < PAIRS(channels); ++p) sum += sums[p];
        run->gate_gradients[terms[3]] = (REAL)sum;
    }
    free(sums);
}

/* ---- poolings --------------------------------------------------------------------------------------------------- */

/* As in execution.c; gradients of a pair of channels are added up in floats and rounded once. */
static void pool(const Run *run, const vec *x, vec *y, const vec *dy, vec *dx, const Pool *p, int maximum) {
    int threads = (int)run->threads;
    long nv = run->nv, size = p->h * p->w * nv;
    REAL share = (REAL)(1.0 / (p->kernel * p->kernel));
    PARALLEL
    for (long c = 0; c < PAIRS(p->channels); ++c) {
        vec *to = dx + c * p->x_stride, *sums = dy == NULL ? NULL : aligned_alloc(BYTES, 2 * size * BYTES);
        for (long j = 0; dy != NULL && j < size; ++j) sums[2 * j] = even(to[j]), sums[2 * j + 1] = odd(to[j]);
        for (long row = 0; row < p->oh; ++row)
            for (long column = 0; column < p->ow; ++column) {
                long r0 = max_of(0, row * p->step - p->pad), r1 = min_of(p->h, row * p->step - p->pad + p->kernel);
                long q0 = max_of(0, column * p->step - p->pad), q1 = min_of(p->w, column * p->step - p->pad + p->kernel);
                for (long n = 0; n < nv; ++n) {
                    long at = c * p->y_stride + (row * p->ow + column) * nv + n;
                    const vec *from = x + c * p->x_stride + n;
                    vec g[2] = {{0}, {0}};
                    if (dy != NULL) g[0] = even(dy[at]), g[1] = odd(dy[at]);
                    vec start = maximum ? from[(r0 * p->w + q0) * nv] : (vec){0}, value[2] = {even(start), odd(start)};
                    vec largest[2] = {value[0], value[1]};
                    if (maximum && dy != NULL) largest[0] = even(y[at]), largest[1] = odd(y[at]);
                    mask open[2];
                    open[0] = open[1] = ALL;
                    for (long r = r0; r < r1; ++r)
                        for (long q = q0; q < q1; ++q) {
                            long place = (r * p->w + q) * nv;
                            vec both[2] = {{0}, {0}};
                            if (maximum || dy == NULL) both[0] = even(from[place]), both[1] = odd(from[place]);
                            for (int i = 0; i < 2; ++i) {
                                if (dy == NULL) {
                                    mask larger = MASK_OF(both[i], value[i]) | (both[i] != both[i]);
                                    value[i] = maximum ? (vec)(((mask)both[i] & larger) | ((mask)value[i] & ~larger)) : value[i] + both[i];
                                } else if (maximum) {
                                    mask here = (both[i] == largest[i]) & open[i];
                                    open[i] &= ~here;
                                    sums[2 * (place + n) + i] += keep(g[i], here);
                                } else {
                                    sums[2 * (place + n) + i] += g[i] * share;
                                }
                            }
                        }
                    if (dy == NULL) y[at] = maximum ? joined(value[0], value[1]) : joined(value[0] * share, value[1] * share);
                }
            }
        for (long j = 0; dy != NULL && j < size; ++j) to[j] = joined(sums[2 * j], sums[2 * j + 1]);
        free(sums);
    }
}

/* ---- head ------------------------------------------------------------------------------------------------------- */

static void mean_of_map(const Run *run, vec *map, long stride, long channels, long first, long n_features, long places,
                        int backward, int relu_of) {
    for (long p = 0; p < PAIRS(channels); ++p)
        for (long n = 0; n < run->nv; ++n) {
            vec *from = map + p * stride + n, sum[2] = {{0}, {0}};
            long n_images = min_of(LANES, run->images_n - n * LANES), n_own = min_of(2, channels - 2 * p);
            if (!backward) {
                for (long j = 0; j < places; ++j) sum[0] += even(from[j * run->nv]), sum[1] += odd(from[j * run->nv]);
            }
            for (long c = 0; c < n_own; ++c)
                for (long i = 0; i < n_images; ++i) {
                    REAL *feature = run->features + (n * LANES + i) * n_features + first + 2 * p + c;
                    if (backward) sum[c][i] = *feature / places;
                    else *feature = sum[c][i] / places;
                }
            if (!backward) continue;
            __m512i spread_out = (__m512i)joined(sum[0], sum[1]), zero = _mm512_setzero_si512();
            for (long j = 0; j < places; ++j) {
                __mmask32 open = relu_of ? _mm512_cmpgt_epi16_mask((__m512i)from[j * run->nv], zero) : 0xffffffff;
                from[j * run->nv] = (vec)_mm512_maskz_mov_epi16(open, spread_out);
            }
        }
}

static void head(const Run *run, const vec *z, vec *dz, vec *work, long stride, long in, long hidden, long places,
                 long norm, long part, const REAL *weight, REAL *gradient, int backward) {
    int threads = (int)run->threads;
    for (long first = 0; first < hidden; first += part) {
        long size = min_of(part, hidden - first);
        vec *y = work + PAIRS(part) * stride;
        Conv conv = {in, size, 1, places, 1, places, 1, 1, 1, stride, stride, run->nv};
        convolve(z, weight + first * in, work, &conv, 1, 0, 0, threads);
        if (!backward) statistics(run, norm + first, work, stride, size, places);
        int64_t term[4] = {work - run->arena, stride, norm + first, -1};
        linear(run, y, stride, size, places, 1, term, 1);
        mean_of_map(run, y, stride, size, first, hidden, places, backward, 1);
        if (!backward) continue;
        int64_t reader[3] = {y - run->arena, stride, -1};
        gather(run, work, work, stride, size, places, norm + first, 0, reader, 1);
        if (gradient != NULL) weight_gradient(z, work, gradient + first * in, &conv, threads);
        Conv adjoint = {size, in, 1, places, 1, places, 1, 1, 1, stride, stride, run->nv};
        convolve(work, weight + first * in, dz, &adjoint, 1, 1, first > 0, threads);
    }
}

/* ---- images ----------------------------------------------------------------------------------------------------- */

static void copy_images(const Run *run, vec *map, long stride, long channels, long h, long w, int backward) {
    const int64_t *strides = run->image_strides;
    for (long p = 0; p < PAIRS(channels); ++p)
        for (long row = 0; row < h; ++row)
            for (long column = 0; column < w; ++column)
                for (long n = 0; n < run->nv; ++n) {
                    vec *to = map + p * stride + (row * w + column) * run->nv + n, both[2] = {{0}, {0}};
                    long n_images = min_of(LANES, run->images_n - n * LANES);
                    if (backward) both[0] = even(*to), both[1] = odd(*to);
                    for (long c = 0; c < min_of(2, channels - 2 * p); ++c) {
                        long at = n * LANES * strides[0] + (2 * p + c) * strides[1] + row * strides[2] + column * strides[3];
                        for (long i = 0; i < n_images; ++i, at += strides[0]) {
                            if (backward) run->image_gradient[at] = both[c][i];
                            else both[c][i] = run->images[at];
                        }
                    }
                    if (!backward) *to = joined(both[0], both[1]);
                }
}

static void conv_instruction(const Run *run, int64_t kind, const int64_t *p) {
    const REAL *weight = run->weights[p[0]];
    REAL *gradient = run->weight_gradients ? run->weight_gradients[p[0]] : NULL;
    vec *x = run->arena + p[1], *y = run->arena + p[2];
    int add = (int)p[15], threads = (int)run->threads;
    Conv c = {p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[3], p[4], run->nv};
    if (kind == CONV_WEIGHT && gradient == NULL) return;
    if (p[14]) {
        depthwise(kind, x, y, weight, gradient, &c, add, threads);
        return;
    }
    if (c.kh == 1 && c.kw == 1 && c.step == 1) { /* places of a 1x1 convolution are all alike */
        c.w *= c.h, c.ow *= c.oh;
        c.h = c.oh = 1;
    }
    if (kind == CONV) {
        convolve(x, weight, y, &c, 1, 0, 0, threads);
    } else if (kind == CONV_WEIGHT) {
        weight_gradient(x, y, gradient, &c, threads);
    } else {
        Conv adjoint = {c.out, c.in, c.oh, c.ow, c.h, c.w, c.kh, c.kw, 1, c.y_stride, c.x_stride, c.nv};
        convolve(y, weight, x, &adjoint, c.step, 1, add, threads);
    }
}
