"""A student as one file of C99, with its weights inside: for devices without a runtime.

Written from the same folded operations as the ONNX file (`search_spaces.hnag.folding`); `c_file.c` has the kernels, and
says how values lie in memory. A convolution is computed together with the sum that reads it, the other convolutions of
this sum, and the ReLU after that, so that most values go to memory once. Weights are stored in the order in which they
are read.
"""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from naslib_autokd.search_spaces.hnag.folding import Op, fold

if TYPE_CHECKING:
    from naslib_autokd.search_spaces.hnag.student import Student

BLOCK = 6
"""Output channels that the kernels hold in registers, as in c_file.c."""
READABLE_WEIGHTS = 200_000
"""Up to so many numbers are written as floats. gcc 12 takes 4 s and 260 MB for a million of them, and 0.5 s and 65 MB
for a string of their bytes."""
GROUP, MOST_BYTES = 16, 2**25
"""Images that are computed together, fewer if they needed more memory than this: a vector of AVX-512. More of them were
slower, since values leave the second-level cache."""

Place = tuple["Grid", int]
"""Of a value: its grid and its first slab."""


class CFileError(ValueError):
    """The network has an operation that the C file does not know."""


@dataclass(eq=False)
class Grid:
    """Maps of one size, with ``pad`` zeros between their rows, and as many rows of zeros between them."""

    height: int
    width: int
    pad: int
    slabs: int = 0
    start: int = 0

    @property
    def pitch(self) -> int:
        return self.width + self.pad

    @property
    def slab(self) -> int:
        places = (self.height + self.pad) * self.pitch
        return places + (places > 1 and places % 16 == 0)  # caches want addresses that differ in their low bits

    @property
    def lead(self) -> int:
        return self.pad * (self.pitch + 1)

    @property
    def places(self) -> int:
        return 2 * self.lead + self.slabs * self.slab


@dataclass(eq=False)
class Part:
    """A convolution in an instruction: the value that it reads, the shifts of its taps, ``(out, in, taps)`` weights."""

    value: Any
    taps: list[tuple[int, int]]
    weight: npt.NDArray[np.float64]
    channels: tuple[int, int]
    """Of the value: from, to."""


@dataclass(eq=False)
class Instruction:
    """What the loop in c_file.c runs at a time."""

    kind: str
    shape: tuple[int, int, int]
    out: Op | Split | None = None
    positive: Op | None = None
    """The ReLU of ``out``."""
    parts: list[Part] = field(default_factory=list)
    addends: list[tuple[Any, npt.NDArray[np.float64]]] = field(default_factory=list)
    bias: npt.NDArray[np.float64] | float = 0.0
    source: Any = None
    window: tuple[int, int, int] = (1, 1, 0)

    @property
    def reads(self) -> list[Any]:
        read = [part.value for part in self.parts] + [value for value, _ in self.addends]
        return read if self.source is None else [*read, self.source]


@dataclass(eq=False)
class Split:
    """The maps of every ``stride``-th row and column of a value, those of each first row and column in turn."""

    of: Op
    stride: int


def c_file(
    student: Student,
    image_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    classes: Sequence[str] = (),
    about: str = "A trained network.",
) -> bytes:
    """A student as C99, with the normalisation of its images inside.

    ``int student_predict(const float *images, int n, float *logits)`` takes float32 ``(n, channels, height, width)`` with
    values in [0, 1] and writes ``(n, classes)``.

    Args:
        student: In eval mode, for images of this mean and standard deviation per channel.
        classes: Names, in the order of the logits.
        about: The first lines of the file.

    Raises:
        CFileError: If the student has an operation that is not known here.
    """
    return _Writer(fold(student), tuple(image_shape), mean, std).content(classes, about)


class _Writer:
    def __init__(
        self, ops: Sequence[Op], image_shape: tuple[int, ...], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.image_shape, self.mean, self.std = image_shape, mean, np.array(std).reshape(1, -1, 1)
        self.ops = ops
        self.readers: dict[Op, list[Op]] = {op: [] for op in ops}
        self.shapes: dict[Any, tuple[int, int, int]] = {}
        for op in ops:
            for source in op.inputs:
                self.readers[source].append(op)
            self.shapes[op] = self._shape(op)
        self.splits: dict[tuple[Op, int], Split] = {}
        self.made: dict[Op, Instruction] = {}
        self.instructions: list[Instruction] = []
        for op in ops:
            self._write(op)
        self.grids: dict[tuple[int, int], Grid] = {}
        self._pad()
        self.places = self._place()

    # --- what is computed ---

    def _shape(self, op: Op) -> tuple[int, int, int]:
        if op.kind == "images":
            return (op.channels, *self.image_shape[1:])  # type: ignore[return-value]
        _, height, width = self.shapes[op.inputs[0]]
        if op.kind in ("mean", "linear"):
            return op.channels, 1, 1
        if op.kind == "conv":
            assert op.weight is not None
            stride, (high, wide), _ = op.detail
            kernel = op.weight.shape[2:]
            height, width = (
                (size + 2 * pad - k) // stride + 1
                for size, pad, k in zip((height, width), (high, wide), kernel, strict=True)
            )
        elif op.kind in ("max", "average"):
            k, stride, pad = op.detail
            height, width = ((size + 2 * pad - k) // stride + 1 for size in (height, width))
        return op.channels, height, width

    def _inside(self, op: Op) -> bool:
        """Whether an operation is computed as a part of the sum that reads it."""
        if len(self.readers[op]) != 1 or self.readers[op][0].kind != "sum":
            return False
        return op.kind == "sum" or (op.kind == "conv" and (not _depthwise(op) or _scales(op)))

    def _write(self, op: Op) -> None:
        kind = op.kind
        if kind in ("images", "sigmoid") or self._inside(op):
            return  # the images are there, a sigmoid is computed with the product that reads it
        made = Instruction("LINEAR", self.shapes[op], op)
        if kind in ("conv", "sum", "linear"):
            if kind == "conv" and _depthwise(op) and not _scales(op):
                made.kind = "DEPTHWISE"
            self._add(made, op)
            readers = self.readers[op]
            positive = next((reader for reader in readers if reader.kind == "relu"), None)
            if positive is not None:
                made.positive, self.made[positive] = positive, made
                if len(readers) == 1:
                    made.out = None
        elif kind == "relu":
            if op in self.made:
                return
            made.out, made.positive = None, op
            made.addends.append((op.inputs[0], np.ones(op.channels)))
        elif kind in ("max", "average"):
            made.kind, made.source, made.window = {"max": "MAXIMUM", "average": "AVERAGE"}[kind], op.inputs[0], op.detail
            if kind == "max" and op.detail[2] and op.inputs[0].kind != "relu":
                raise CFileError("a maximum over a padded map of values that may be below zero is not known")
        elif kind == "product" and op.inputs[0].kind == "sigmoid":
            made.kind = "GATE"
            made.addends = [(value, np.ones(0)) for value in (op.inputs[0].inputs[0], op.inputs[1])]
        elif kind == "mean":
            made.kind, made.source = "MEAN", op.inputs[0]
        else:
            raise CFileError(f"the operation {kind!r} is not known")
        self.made[op] = made
        self.instructions.append(made)

    def _add(self, made: Instruction, op: Op) -> None:
        """Add the value of an operation to that of an instruction."""
        if op.kind == "sum":
            for source in op.inputs:
                if self._inside(source):
                    self._add(made, source)
                else:
                    made.addends.append((source, np.ones(op.channels)))
            return
        assert op.weight is not None
        assert op.bias is not None
        made.bias = made.bias + op.bias
        (source,) = op.inputs
        stride, (high, wide), _ = (1, (0, 0), 1) if op.kind == "linear" else op.detail
        weight = op.weight.reshape(*op.weight.shape[:2], -1)
        if source.kind == "images":
            weight = weight / self.std
        if _scales(op) and source.kind != "images":
            made.addends.append((source, weight[:, 0, 0]))
            return
        kernel = op.weight.shape[2:] or (1, 1)
        taps = [(row - high, column - wide) for row in range(kernel[0]) for column in range(kernel[1])]
        if stride == 1:
            made.parts.append(Part(source, taps, weight, (0, source.channels)))
            return
        if made.kind == "DEPTHWISE" or self.shapes[op][1:] != tuple(-(-n // stride) for n in self.shapes[source][1:]):
            raise CFileError("a convolution with a stride that is depthwise, or not padded by half its kernel")
        split, channels = self._split(source, stride), source.channels
        for phase in range(stride**2):
            own = [i for i, tap in enumerate(taps) if (tap[0] % stride, tap[1] % stride) == divmod(phase, stride)]
            shifts = [(taps[i][0] // stride, taps[i][1] // stride) for i in own]
            if own:
                made.parts.append(Part(split, shifts, weight[:, :, own], (phase * channels, (phase + 1) * channels)))

    def _split(self, value: Op, stride: int) -> Split:
        if (value, stride) not in self.splits:
            channels, height, width = self.shapes[value]
            shape = (channels * stride**2, -(-height // stride), -(-width // stride))
            split = self.splits[value, stride] = Split(value, stride)
            self.shapes[split] = shape
            self.instructions.append(Instruction("SPLIT", shape, split, source=value, window=(1, stride, 0)))
        return self.splits[value, stride]

    # --- where values lie ---

    def _grid(self, value: Any) -> Grid:
        size = self.shapes[value][1:]
        return self.grids.setdefault(size, Grid(*size, pad=int(math.prod(size) > 1)))

    def _pad(self) -> None:
        """Find the zeros that each size of maps needs; taps that read nothing else are left out."""
        self._grid(self.ops[0])  # the first
        for made in self.instructions:
            for part in made.parts:
                grid = self._grid(part.value)
                kept = [i for i, (r, q) in enumerate(part.taps) if abs(r) < grid.height and abs(q) < grid.width]
                part.taps, part.weight = [part.taps[i] for i in kept], part.weight[:, :, kept]
                grid.pad = max(grid.pad, *(abs(shift) for tap in part.taps for shift in tap))
            if made.source is not None:
                grid = self._grid(made.source)
                grid.pad = max(grid.pad, made.window[2], made.window[1] - 1 if made.kind == "SPLIT" else 0)

    def _place(self) -> int:
        """Give each value slabs from the first time it is written to the last time it is read; returns all places."""
        last = {value: i for i, made in enumerate(self.instructions) for value in made.reads}
        last[self.ops[-1]] = len(self.instructions)
        self.slabs: dict[Any, int] = {}
        living: list[Any] = []

        def settle(value: Any) -> None:
            grid, channels = self._grid(value), self.shapes[value][0]
            taken = sorted((self.slabs[v], self.slabs[v] + self.shapes[v][0]) for v in living if self._grid(v) is grid)
            start = 0
            for low, high in taken:
                if start + channels <= low:
                    break
                start = max(start, high)
            self.slabs[value] = start
            grid.slabs = max(grid.slabs, start + channels)
            living.append(value)

        settle(self.ops[0])
        for index, made in enumerate(self.instructions):
            living[:] = [value for value in living if last[value] >= index]
            for value in (made.out, made.positive):
                if value is not None:
                    settle(value)
        places = 0
        for grid in self.grids.values():
            grid.start = places
            places += grid.places
        return places

    # --- the file ---

    def content(self, classes: Sequence[str], about: str) -> bytes:
        n_classes = self.ops[-1].channels
        grids = list(self.grids.values())
        ops, sources, addends, windows, taps = [], [], [], [], dict[tuple[int, int], int]()
        tap_rows: list[tuple[int, int]] = []
        tap_start: dict[tuple[tuple[int, int], ...], int] = {}
        del taps
        numbers: list[npt.NDArray[np.float64]] = []
        n_numbers = 0
        for made in self.instructions:
            value = made.out if made.out is not None else made.positive
            first = len(windows) if made.source is not None else len(sources)
            if made.source is not None:
                extra = made.window if made.kind != "SPLIT" else (self.shapes[made.source][0], made.window[1], 0)
                windows.append((grids.index(self._grid(made.source)), self.slabs[made.source], *extra))
            fields = [
                made.kind,
                grids.index(self._grid(value)),
                -1 if made.out is None else self.slabs[made.out],
                -1 if made.positive is None else self.slabs[made.positive],
                made.shape[0],
                first,
                len(made.parts),
                len(addends),
                len(made.addends),
                n_numbers,
            ]
            ops.append(fields)
            for part in made.parts:
                key = tuple(part.taps)
                if key not in tap_start:
                    tap_start[key] = len(tap_rows)
                    tap_rows += part.taps
                low, high = part.channels
                sources.append((self.slabs[part.value] + low, high - low if made.kind == "LINEAR" else 1,
                                tap_start[key], len(key)))  # fmt: skip
            addends += [self.slabs[value] for value, _ in made.addends]
            if made.kind in ("LINEAR", "DEPTHWISE"):
                numbers.append(_packed(made))
                n_numbers += numbers[-1].size
        weights = np.concatenate(numbers).astype("<f4")
        slack = 4 * 64 * (len(grids) + 1)
        group = next(n for n in (GROUP, 8, 4, 2, 1) if 4 * n * self.places <= MOST_BYTES or n == 1)
        grid_rows = [
            (g.height, g.width, g.pitch, g.slab, g.lead, g.lead, g.start, g.slabs) for g in grids
        ]
        tables = [
            _table("Grid GRIDS", grid_rows),
            _table("Op OPS", ops),
            _table("Source SOURCES", sources),
            _table("int WINDOWS", windows or [(0,) * 5], "[5]"),
            _table("signed char TAPS", tap_rows, "[2]"),
            f"static const int ADDENDS[] = {{{', '.join(map(str, addends or [0]))}}};",
            f"static const float MEANS[] = {{{', '.join(map(_literal, np.float32(self.mean)))}}};",
            _weights(weights),
            f"enum {{ IMAGES = {self.slabs[self.ops[0]]}, PLACES = {self.places}, MOST_PLACES = {MOST_BYTES // 4} }};",
        ]
        names = list(classes) or [str(i) for i in range(n_classes)]
        template = Path(__file__).with_suffix(".c").read_text(encoding="utf-8")
        before, rest = template.split("/* @KERNELS@ */\n")
        kernels, after = rest.split("/* @END@ */\n")
        text = before + _levels(kernels) + after
        for name, value in {
            "ABOUT": about.replace("*/", "* /").replace("\n", "\n * "),
            "CLASSES": n_classes,
            "CHANNELS": self.image_shape[0],
            "HEIGHT": self.image_shape[1],
            "WIDTH": self.image_shape[2],
            "ARENA": math.ceil((4 * self.places + slack) / 2**10),
            "MOST": math.ceil((4 * group * self.places + slack) / 2**10),
            "GROUP": GROUP,
            "NAMES": ", ".join(_string(name) for name in names),
            "TABLES": "\n".join(tables),
            "MOST_TAPS": max(len(part.taps) for made in self.instructions for part in made.parts),
            "MOST_SOURCES": max(len(made.parts) for made in self.instructions),
            "MOST_ADDENDS": max(1, *(len(made.addends) for made in self.instructions)),
        }.items():
            text = text.replace(f"@{name}@", str(value))
        return text.encode()


def _depthwise(op: Op) -> bool:
    return op.kind == "conv" and op.detail[2] > 1


def _scales(op: Op) -> bool:
    """Whether a convolution gives each channel a factor and nothing more."""
    if op.kind != "conv" or op.weight is None:
        return False
    return op.weight.shape[1:] == (1, 1, 1) and op.detail[2] == op.channels and op.detail[0] == 1


def _packed(made: Instruction) -> npt.NDArray[np.float64]:
    """Bias, weights and factors, for one block of output channels after the other."""
    out = made.shape[0]
    columns = [np.broadcast_to(np.asarray(made.bias, dtype=np.float64), (out,))[:, None]]
    columns += [part.weight.reshape(out, -1) for part in made.parts]
    columns += [factors[:, None] for _, factors in made.addends]
    rows = np.concatenate(columns, axis=1)
    n = out if made.kind == "DEPTHWISE" else -(-out // BLOCK)
    blocks = [rows[out * b // n : out * (b + 1) // n] for b in range(n)]
    return np.concatenate([block.T.reshape(-1) for block in blocks])


LEVELS = (("avx512", "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma", 16, 4), ("avx2", "avx2,fma", 8, 2))
"""Of x86: name, features, floats in a vector, vectors at a time (as many as there are registers for)."""


def _levels(kernels: str) -> str:
    """The kernels for each kind of vector."""
    parts = [
        "#define INLINE static inline\n#define UNROLL\n"
        "#if defined(__clang__)\n#undef INLINE\n#undef UNROLL\n"
        "#define INLINE static inline __attribute__((always_inline))\n#define UNROLL _Pragma(\"unroll\")\n"
        "#elif defined(__GNUC__)\n#undef INLINE\n#undef UNROLL\n"
        "#define INLINE static inline __attribute__((always_inline))\n#define UNROLL _Pragma(\"GCC unroll 8\")\n#endif\n"
        "#if defined(__GNUC__) && !defined(STUDENT_SCALAR)\n"
        "#define VECTOR __attribute__((vector_size(4 * LANES)))\n"
        "#define LOOSE __attribute__((vector_size(4 * LANES), aligned(4), may_alias))\n"
        "#define SPREAD(x) ((float)(x) - (vec){0})\n"
        "#else\n#define VECTOR\n#define LOOSE\n#define SPREAD(x) ((float)(x))\n#endif\n"
    ]  # fmt: skip
    parts.append("\n#if defined(__GNUC__) && defined(__x86_64__) && !defined(STUDENT_SCALAR)\n#define LEVELS\n")
    for name, features, lanes, wide in LEVELS:
        parts.append(
            f"#define AT(name) name##_{name}\n#define LANES {lanes}\n#define WIDE {wide}\n"
            f"#if defined(__clang__)\n"
            f'#pragma clang attribute push(__attribute__((target("{features}"))), apply_to = function)\n'
            f'#else\n#pragma GCC push_options\n#pragma GCC target("{features}")\n#endif\n'
            f"{kernels}"
            f"#if defined(__clang__)\n#pragma clang attribute pop\n#else\n#pragma GCC pop_options\n#endif\n"
            f"#undef AT\n#undef LANES\n#undef WIDE\n\n"
        )
    parts.append(
        "#endif\n\n#define AT(name) name##_plain\n"
        "#if !defined(__GNUC__) || defined(STUDENT_SCALAR)\n#define LANES 1\n#define WIDE 2\n"
        "#elif defined(__aarch64__)\n#define LANES 4\n#define WIDE 4\n#else\n#define LANES 4\n#define WIDE 2\n#endif\n"
        f"{kernels}"
    )
    return "".join(parts)


def _table(declaration: str, rows: Iterable[Sequence[Any]], suffix: str = "") -> str:
    lines = ",\n".join(f"    {{{', '.join(map(str, row))}}}" for row in rows)
    return f"static const {declaration}[]{suffix} = {{\n{lines}}};"


def _string(text: str) -> str:
    """A string literal, in ASCII."""
    plain = (chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'


def _literal(value: np.float32) -> str:
    """A float32 to its last bit."""
    mantissa, exponent = float(value).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{int(exponent)}f" if value else "0"


def _weights(weights: npt.NDArray[np.float32]) -> str:
    if len(weights) <= READABLE_WEIGHTS:
        lines = [", ".join(map(_literal, weights[i : i + 8])) for i in range(0, len(weights), 8)]
        return "static const float WEIGHTS[] = {\n" + ",\n".join(lines) + "};"
    content = weights.tobytes()
    table = [_string(chr(byte))[1:-1] if byte < 128 else f"\\{byte:03o}" for byte in range(256)]
    lines = ['"' + "".join(table[byte] for byte in content[i : i + 32]) + '"' for i in range(0, len(content), 32)]
    return (
        "#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__\n"
        '#error "the weights are little-endian"\n#endif\n'
        "/* float32, as a string, which compilers read ten times as fast */\n"
        f"static const union {{\n    unsigned char bytes[{len(content) + 1}];\n    float values[{len(weights)}];\n}} STORED = {{\n"
        + "\n".join(lines)
        + "};\n#define WEIGHTS STORED.values"
    )
