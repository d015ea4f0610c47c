"""A student as one file of C99, with its weights inside: for devices without a runtime.

Written from the same folded operations as the ONNX file (`search_spaces.hnag.folding`); `c_file.c` has the kernels, and
says how values lie in memory. A convolution is computed together with the sum that reads it, the other convolutions of
this sum, and the ReLU after that, so that most values go to memory once. Weights are stored in the order in which they
are read.
"""

from __future__ import annotations

import ctypes
import math
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from naslib_autokd.distillation.runtime import Runtime
from naslib_autokd.search_spaces.hnag.execution import c_compiler
from naslib_autokd.search_spaces.hnag.folding import Op, fold
from naslib_autokd.shipping.student_file import ExportError

if TYPE_CHECKING:
    from naslib_autokd.search_spaces.hnag.student import Student

BLOCK = 6
"""Output channels that the kernels hold in registers, as in c_file.c."""
READABLE_WEIGHTS = 200_000
"""Up to so many numbers are written as floats. gcc 12 takes 4 s and 260 MB for a million of them, and 0.5 s and 65 MB
for a string of their bytes."""
GROUP, MOST_BYTES = 16, 20 * 2**20
"""Images that are computed together: a vector of AVX-512, and fewer if they needed more memory than this. 32 were
slower, since values leave the second-level cache; so were 8, whose columns have to be brought together."""
PIECE, SLACK = 64, 64
"""Floats, as in c_file.c."""
SUMS = 400
"""Half cycles, as in c_file.c: so 3x3 convolutions of maps of 32x32 are computed by Winograd's way from 16 channels on
if there is one image, of maps of 16x16 from 38 on, and of 16 images from 8 on."""
MOST_KEPT = 64 * 2**20
"""Bytes of Winograd's kernels that a file keeps in memory, of the largest maps first."""

Row = tuple[Any, ...]
FLAGS = ("-O3",)
SIZES = ("classes", "channels", "height", "width")


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
    kernels: int = 0
    """Where the sums of WINOGRAD's kernels are kept."""
    pooled: int = 0
    """Of WINOGRAD, as in c_file.c."""

    @property
    def reads(self) -> list[Any]:
        read = [part.value for part in self.parts] + [value for value, _ in self.addends]
        return read if self.source is None else [*read, self.source]

    @property
    def inputs(self) -> int:
        """Channels that its convolutions read."""
        return sum(high - low for low, high in (part.channels for part in self.parts))


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

    ``int student_predict(const float *images, int n, float *logits)`` takes float32 ``(n, channels, height, width)``
    with values in [0, 1] and writes ``(n, classes)``.

    Args:
        student: In eval mode, for images of this mean and standard deviation per channel.
        classes: Names, in the order of the logits.
        about: The first lines of the file.

    Raises:
        ExportError: If the student has an operation that is not known here.
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
        self.halo = self.scratch = self.kept = 0  # floats of WINOGRAD for each image, besides, and of all calls
        self._choose_winograd()
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
            made.kind, made.source, made.window = (
                {"max": "MAXIMUM", "average": "AVERAGE"}[kind],
                op.inputs[0],
                op.detail,
            )
            if kind == "max" and op.detail[2] and op.inputs[0].kind != "relu":
                raise _unknown("a maximum over a padded map of values that may be below zero")
        elif kind == "product" and op.inputs[0].kind == "sigmoid":
            made.kind = "GATE"
            made.addends = [(value, np.ones(0)) for value in (op.inputs[0].inputs[0], op.inputs[1])]
        elif kind == "mean":
            made.kind, made.source = "MEAN", op.inputs[0]
        else:
            raise _unknown(f"the operation {kind!r}")
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
            raise _unknown("a convolution with a stride that is depthwise, or not padded by half its kernel")
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

    def _choose_winograd(self) -> None:
        """Of the largest maps first; a maximum of 2x2 places is brought behind what it reads, and computed with it."""
        for made in sorted(filter(_winograd, self.instructions), key=lambda made: -made.shape[1] * made.shape[2]):
            out, inputs = made.shape[0], made.inputs
            kernels = 36 * _odd_lines(out * (1 + inputs) + 16)
            if 4 * (self.kept + kernels) > MOST_KEPT:
                continue
            made.kind, made.kernels = "WINOGRAD", self.kept
            self.kept += kernels
            sums = 36 * (_odd_lines(inputs * (PIECE + 16)) + _odd_lines(out * (PIECE + 16)))
            self.scratch = max(self.scratch, sums + 24 * (PIECE + SLACK))
            self.halo = 24
            readers = [other for other in self.instructions if any(value is made.out for value in other.reads)]
            pools = [other for other in readers if (other.kind, other.window) == ("MAXIMUM", (2, 2, 0))]
            if made.out is not None and pools:
                made.pooled = 2 if len(readers) == 1 else 1
                self.instructions.remove(pools[0])
                self.instructions.insert(self.instructions.index(made) + 1, pools[0])

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
        grids = list(self.grids.values())
        ops, sources, windows, addends, taps = (
            list[Row](),
            list[Row](),
            list[Row](),
            list[int](),
            list[tuple[int, int]](),
        )
        first_tap: dict[tuple[tuple[int, int], ...], int] = {}
        numbers: list[npt.NDArray[np.float64]] = []
        for made in self.instructions:
            first, n_numbers = len(sources), sum(map(len, numbers))
            if made.source is not None:
                first = len(windows)
                detail = made.window if made.kind != "SPLIT" else (self.shapes[made.source][0], *made.window[1:])
                windows.append((grids.index(self._grid(made.source)), self.slabs[made.source], *detail))
            outs = [-1 if value is None else self.slabs[value] for value in (made.out, made.positive)]
            grid = grids.index(self.grids[made.shape[1:]])
            operands = (first, len(made.parts), len(addends), len(made.addends), n_numbers, made.kernels, made.pooled)
            ops.append((made.kind, grid, *outs, made.shape[0], *operands))
            for part in made.parts:
                shifts, (low, high) = tuple(part.taps), part.channels
                if shifts not in first_tap:
                    first_tap[shifts] = len(taps)
                    taps += shifts
                channels = 1 if made.kind == "DEPTHWISE" else high - low
                sources.append((self.slabs[part.value] + low, channels, first_tap[shifts], len(shifts)))
            addends += [self.slabs[value] for value, _ in made.addends]
            if made.kind in ("LINEAR", "WINOGRAD", "DEPTHWISE"):
                numbers.append(_packed(made))
        slack = 4 * (SLACK * (len(grids) + 1) + self.scratch)
        group = next(n for n in (GROUP, 8, 4, 2, 1) if 4 * n * self.places <= MOST_BYTES or n == 1)
        tables = [
            _table(
                "Grid GRIDS", [(g.height, g.width, g.pitch, g.slab, g.lead, g.lead, g.start, g.slabs) for g in grids]
            ),
            _table("Op OPS", ops),
            _table("Source SOURCES", sources),
            _table("int WINDOWS", windows, "[5]"),
            _table("signed char TAPS", taps, "[2]"),
            f"static const int ADDENDS[] = {{{', '.join(map(str, addends or [0]))}}};",
            f"static const float MEANS[] = {{{', '.join(_literal(np.float32(mean)) for mean in self.mean)}}};",
            _weights(np.concatenate([*numbers, np.zeros(16)]).astype("<f4")),  # a vector may reach past the last
        ]
        n_classes = self.ops[-1].channels
        values: dict[str, Any] = {
            "ABOUT": about.replace("*/", "* /").replace("/*", "/ *").replace("\n", "\n * "),
            "CLASSES": n_classes,
            "CHANNELS": self.image_shape[0],
            "HEIGHT": self.image_shape[1],
            "WIDTH": self.image_shape[2],
            "NAMES": ", ".join(map(_string, classes or map(str, range(n_classes)))),
            "ONE_KIB": math.ceil((4 * (self.places + self.halo) + slack) / 2**10),
            "MANY_KIB": math.ceil((4 * (self.places + self.halo) * group + slack) / 2**10),
            "TABLES": "\n".join(tables),
            "GROUP": GROUP,
            "IMAGES": self.slabs[self.ops[0]],
            "PLACES": self.places,
            "HALO": self.halo,
            "SCRATCH": self.scratch,
            "KEPT": self.kept,
            "KEPT_KIB": math.ceil(4 * self.kept / 2**10),
            "PIECE": PIECE,
            "SUMS": SUMS,
            "MOST_PLACES": MOST_BYTES // 4,
            "MOST_TAPS": max(3, *(len(part.taps) for made in self.instructions for part in made.parts)),
            "MOST_SOURCES": max(len(made.parts) for made in self.instructions),
            "MOST_ADDENDS": max(1, *(len(made.addends) for made in self.instructions)),
        }
        template = Path(__file__).with_suffix(".c").read_text(encoding="utf-8")
        before, kernels, after = re.split(r"/\* @(?:KERNELS|END)@ \*/\n", template)
        text = before + "".join(level.replace("@KERNELS@", kernels) for level in LEVELS) + after
        return re.sub("@([A-Z_]+)@", lambda match: str(values[match[1]]), text).encode()


class CSession:
    """A C file, compiled by the system's compiler; call it with float32 images ``(batch, channels, height, width)``.

    Args:
        path: Of a file of ours: its code is run.
        flags: Of the compiler (default: `FLAGS`).

    Raises:
        OSError: If there is no compiler, or its result cannot be loaded.
        ExportError: If the compiler fails.
    """

    def __init__(self, path: Path, flags: Sequence[str] | None = None) -> None:
        self.runtime = Runtime()
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "student.so"
            command = [
                c_compiler(),
                *(FLAGS if flags is None else flags),
                "-shared",
                "-fPIC",
                str(path),
                "-o",
                str(library),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise ExportError(f"{' '.join(command)}: {done.stderr[-500:]}")
            loaded = ctypes.CDLL(str(library))
        self.predict = loaded.student_predict
        self.predict.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        self._sizes = [ctypes.c_int.in_dll(loaded, f"student_{name}").value for name in SIZES]

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(batch, classes)``."""
        images = np.ascontiguousarray(images, dtype=np.float32)
        n_classes, *shape = self._sizes
        assert list(images.shape[1:]) == shape
        logits = np.empty((len(images), n_classes), dtype=np.float32)
        if self.predict(images.ctypes.data, len(images), logits.ctypes.data):
            raise MemoryError(f"student_predict of {len(images)} images")
        return logits


def _unknown(what: str) -> ExportError:
    return ExportError(f"the student cannot be written as C, which does not know {what} here: export it as onnx")


def _depthwise(op: Op) -> bool:
    return op.kind == "conv" and op.detail[2] > 1


def _scales(op: Op) -> bool:
    """Whether a convolution gives each channel a factor and nothing more."""
    if op.kind != "conv" or op.weight is None:
        return False
    return op.weight.shape[1:] == (1, 1, 1) and op.detail[2] == op.channels and op.detail[0] == 1


def _winograd(made: Instruction) -> bool:
    """Whether Winograd's way pays for many images: 3x3 kernels alone, maps that tiles of 4x4 cover without many more
    places, and enough channels."""
    full = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    if made.kind != "LINEAR" or not made.parts or any(part.taps != full for part in made.parts):
        return False
    out, height, width = made.shape
    saved = 9 * height * width - 36 * -(-height // 4) * -(-width // 4)
    sums = SUMS * -(-height // 4) * -(-width // 4)
    return out * made.inputs * saved > sums * (out + made.inputs)


def _odd_lines(floats: int) -> int:
    return (-(-floats // 16) | 1) * 16


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


_X86_LEVEL = """\
#define AT(name) name##_{name}
#define LANES {lanes}
#define WIDE {wide}
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("{features}"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("{features}")
#endif
@KERNELS@#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef AT
#undef LANES
#undef WIDE
"""
LEVELS = (
    "\n#ifdef LEVELS\n",
    _X86_LEVEL.format(name="avx512", features="avx512f,avx512dq,avx512bw,avx512vl,avx2,fma", lanes=16, wide=4),
    _X86_LEVEL.format(name="avx2", features="avx2,fma", lanes=8, wide=2),
    "#endif\n\n#define AT(name) name##_plain\n#define LANES PLAIN_LANES\n#define WIDE PLAIN_WIDE\n@KERNELS@",
)
"""The kernels for each kind of vector: ``LANES`` floats, ``WIDE`` vectors at a time, for which there are registers."""


def _table(declaration: str, rows: Iterable[Sequence[Any]], suffix: str = "") -> str:
    lines = ",\n".join(f"    {{{', '.join(map(str, row))}}}" for row in rows)
    return f"static const {declaration}[]{suffix} = {{\n{lines}}};"


def _string(text: str) -> str:
    """A string literal, in ASCII."""
    plain = (chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'


def _literal(value: np.float32) -> str:
    """A float32 to its last bit; hexadecimal, which gcc reads in 0.7 of the time."""
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
        "/* float32, as a string, which compilers read ten times as fast */\nstatic const union {\n"
        f"    unsigned char bytes[{len(content) + 1}];\n    float values[{len(weights)}];\n}} STORED = {{\n"
        + "\n".join(lines)
        + "};\n#define WEIGHTS STORED.values"
    )
