"""A student as one file of C computes what the module computes, with every kind of vector, for any number of images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "search_spaces"))
from test_hnag_folding import MEAN, SPECS, STD
from test_hnag_student import randomised, spec_of

from naslib_autokd import cli, load_student
from naslib_autokd.data.prepare_picture import network_input
from naslib_autokd.search_spaces.hnag import HNAGSpace, Student
from naslib_autokd.search_spaces.hnag.execution import c_compiler
from naslib_autokd.search_spaces.hnag.folding import Op, fold
from naslib_autokd.search_spaces.hnag.generator import ErdosRenyi, Generator, WattsStrogatz
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec, fit_width
from naslib_autokd.shipping import c_file as module
from naslib_autokd.shipping.c_file import CSession, c_file
from naslib_autokd.shipping.export import export
from naslib_autokd.shipping.student_file import ExportError, kept_student

try:
    c_compiler()
except FileNotFoundError as reason:
    pytest.skip(str(reason), allow_module_level=True)

STRICT = ("-Wall", "-Wextra", "-Werror")
QUICK = ("-O1", "-march=native", "-DSTUDENT_PLAIN", *STRICT)
"""One kind of vector, the widest that is here: a quarter of the time."""
BATCHES = (1, 3, 16, 17, 33, 64)
KINDS = ("LINEAR", "WINOGRAD")


def written(
    spec: StudentSpec, path: Path, n: int = max(BATCHES), winograd: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Write a student with random weights, with ``winograd`` for all 3x3 convolutions whether or not it is worth it;
    ``n`` images and the module's logits in float64."""
    student = randomised(spec, seed=4).float().eval()
    mean, std = MEAN[: spec.in_channels], STD[: spec.in_channels]
    shape = (spec.in_channels, spec.image_size, spec.image_size)
    images = np.random.default_rng(0).random((n, *shape), dtype=np.float32)
    with patch.multiple(module, SUMS=-(10**6)) if winograd else nullcontext():
        path.write_bytes(c_file(student, shape, mean, std))
    return images, logits_of(student.double(), images)


def logits_of(student: Student, images: np.ndarray) -> np.ndarray:
    n, dtype = images.shape[1], next(student.parameters()).dtype
    mean, std = (torch.tensor(values[:n], dtype=dtype).view(-1, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        return student((torch.from_numpy(images).to(dtype) - mean) / std).numpy()


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def tolerance(name: str, images: np.ndarray, expected: np.ndarray) -> float:
    """1e-5 beyond the module in float32, which is 9e-6 off for some image of "everything 21"."""
    return 1e-5 + difference(logits_of(randomised(SPECS[name], seed=4).float().eval(), images), expected)


def demo_student(max_params: int = 6000, image_size: int = 12) -> StudentSpec:
    wiring = HNAGSpace("hnag-small").default_candidate().sample_wiring(0)
    return fit_width(wiring, max_params, in_channels=1, image_size=image_size, n_classes=10)


SOME = ("max pooling, odd size", "one node", "everything 23", "everything 26")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.slow, id=name) for name in SPECS]
)
@pytest.mark.parametrize("winograd", [False, True])
def test_the_file_computes_what_the_student_computes(name: str, winograd: bool, tmp_path: Path) -> None:
    """Both stems, merges of all kinds, all operations, poolings, empty stages, 1 to 13 channels, odd sizes."""
    images, expected = written(SPECS[name], tmp_path / "student.c", winograd=winograd)
    session = CSession(tmp_path / "student.c", QUICK)
    for batch in BATCHES:
        assert difference(session(images[:batch]), expected[:batch]) < tolerance(name, images[:batch], expected[:batch])


def ops_of(path: Path) -> list[list[str]]:
    """Kind, grid, output, its ReLU, channels, ... of what a file computes."""
    rows = re.search(r"Op OPS\[\] = {\n(.*?)};", path.read_text(), re.DOTALL)[1]
    return [row.strip("{ ,}").split(", ") for row in rows.splitlines()]


@pytest.mark.parametrize(
    ("image_size", "channels", "taken", "batches"),
    [
        (24, (8, 9, 17), {8, 9}, {16, 17, 33}),  # a map of 6x6 needs more channels
        (25, (8, 11, 17), {11}, {16, 17, 33}),  # and so does one of 25x25, which tiles cover badly
        (32, (32, 33, 34), {32, 33, 34}, {1, 16, 17, 33}),
    ],
)
def test_winograd_is_taken_where_it_pays(
    image_size: int, channels: tuple[int, ...], taken: set[int], batches: set[int], tmp_path: Path
) -> None:
    """With sums of convolutions, too; not for a few small images, whose vectors it leaves empty."""
    generator = Generator(WattsStrogatz(4, 2, 0.5), ErdosRenyi(2, 0.7), WattsStrogatz(3, 2))
    spec = spec_of(generator, image_size=image_size, channels=channels)
    images, expected = written(spec, tmp_path / "student.c", 33)
    convolved = {kind: {int(row[4]) for row in ops_of(tmp_path / "student.c") if row[0] == kind} for kind in KINDS}
    assert convolved["WINOGRAD"] == taken
    assert set(channels) <= taken | convolved["LINEAR"]
    text = (tmp_path / "student.c").read_text()
    (tmp_path / "other.c").write_text(text.replace("+ v[1] * 1.265625f;", "+ v[1] * 1.5f;"))
    session, other = (CSession(tmp_path / f"{name}.c", QUICK) for name in ("student", "other"))
    for batch in (1, 3, 16, 17, 33):
        assert difference(session(images[:batch]), expected[:batch]) < 1e-5
        assert (difference(other(images[:batch]), expected[:batch]) > 1e-3) == (batch in batches)


@pytest.mark.parametrize("image_size", [16, 19])
def test_a_maximum_is_computed_with_what_it_reads(image_size: int, tmp_path: Path) -> None:
    """Whether or not something else reads that, too; where Winograd's way is not taken it is computed after it."""
    generator = Generator(WattsStrogatz(6, 4, 0.5), ErdosRenyi(2, 0.7), WattsStrogatz(1, 0), downsampling="max")
    spec = spec_of(generator, image_size=image_size, channels=(16, 16, 16))
    images, expected = written(spec, tmp_path / "student.c", 33, winograd=True)
    assert {"1", "2"} <= {row[-1] for row in ops_of(tmp_path / "student.c") if row[0] == "WINOGRAD"}
    text = (tmp_path / "student.c").read_text()
    assert "w->half->width * n - column" in text
    (tmp_path / "other.c").write_text(text.replace("w->half->width * n - column", "0 * n"))
    session, other = (CSession(tmp_path / f"{name}.c", QUICK) for name in ("student", "other"))
    for batch in BATCHES[:-1]:
        assert difference(session(images[:batch]), expected[:batch]) < 1e-5
        assert (difference(other(images[:batch]), expected[:batch]) > 1e-3) == (batch != 3)


def test_threads_that_call_it_first_wait_for_what_is_kept(tmp_path: Path) -> None:
    images, expected = written(demo_student(image_size=32), tmp_path / "student.c", 16)
    text = (tmp_path / "student.c").read_text()
    start = "run_ops(NULL);"
    assert start in text
    late = "struct timespec t = {0, 200000000}; nanosleep(&t, NULL); " + start
    (tmp_path / "student.c").write_text(
        "#define _POSIX_C_SOURCE 199309L\n#include <time.h>\n" + text.replace(start, late)
    )
    session = CSession(tmp_path / "student.c", QUICK)
    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(session, [images] * 4):
            assert difference(logits, expected) < 1e-5


def test_one_image_at_a_time_keeps_nothing(tmp_path: Path) -> None:
    images, expected = written(demo_student(image_size=32), tmp_path / "student.c", 3)
    (tmp_path / "driver.c").write_text("""
        #include "student.c"
        #include <stdio.h>
        int main(void) { return printf("%zu", sizeof kept) < 0; }
    """)
    kept = []
    for flags in ((), ("-DSTUDENT_GROUP=1",)):
        assert difference(CSession(tmp_path / "student.c", (*QUICK, *flags))(images), expected) < 1e-5
        subprocess.run([c_compiler(), *QUICK, *flags, "driver.c", "-o", "driver"], cwd=tmp_path, check=True)
        kept.append(int(subprocess.run(["./driver"], cwd=tmp_path, capture_output=True, check=True).stdout))
    assert kept[0] > 10_000
    assert kept[1] == 4


def test_what_is_kept_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest maps come first, where as many kernels save most."""
    written(demo_student(image_size=32), tmp_path / "student.c", 1)
    of_all = [row[1] for row in ops_of(tmp_path / "student.c") if row[0] == "WINOGRAD"]
    total = int(re.search(r"#define KEPT (\d+)", (tmp_path / "student.c").read_text())[1])
    monkeypatch.setattr(module, "MOST_KEPT", 4 * total // 2)
    written(demo_student(image_size=32), tmp_path / "student.c", 1)
    some = [row[1] for row in ops_of(tmp_path / "student.c") if row[0] == "WINOGRAD"]
    assert 0 < len(some) < len(of_all)
    assert some == of_all[: len(some)]


@pytest.mark.parametrize(
    "flags",
    [
        ("-O1",),  # all kinds of vectors, and the choice among them
        ("-O1", "-DSTUDENT_SCALAR", "-DSTUDENT_GROUP=5", "-std=c99", "-pedantic"),
        pytest.param(("-O3",), marks=pytest.mark.slow),
        pytest.param(("-O3", "-march=native"), marks=pytest.mark.slow),
        pytest.param(("-Os", "-DSTUDENT_PLAIN", "-DSTUDENT_GROUP=8"), marks=pytest.mark.slow),
        pytest.param(("-O3", "-mavx2", "-mfma", "-DSTUDENT_PLAIN"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_every_way_to_compile_it_gives_the_same(flags: tuple[str, ...], tmp_path: Path) -> None:
    if "-mavx2" in flags and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the processor has no AVX2")
    images, expected = written(SPECS["everything 24"], tmp_path / "student.c", winograd=True)
    session = CSession(tmp_path / "student.c", (*flags, *STRICT))
    for batch in BATCHES:
        assert difference(session(images[:batch]), expected[:batch]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "flags", "emulator"),
    [
        ("clang", ("-O3",), ()),
        ("clang", ("-O3", "-march=native", "-DSTUDENT_PLAIN"), ()),
        ("aarch64-linux-gnu-gcc", ("-O3", "-static"), ("qemu-aarch64",)),
        ("aarch64-linux-gnu-gcc", ("-O1", "-static", "-DSTUDENT_SCALAR"), ("qemu-aarch64",)),
    ],
)
def test_other_compilers_and_processors_give_the_same(
    compiler: str, flags: tuple[str, ...], emulator: tuple[str, ...], tmp_path: Path
) -> None:
    if missing := [name for name in (compiler, *emulator) if shutil.which(name) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    for name in ("everything 24", "max pooling, odd size", "one node"):
        images, expected = written(SPECS[name], tmp_path / "student.c", 17, winograd=True)
        images.tofile(tmp_path / "images.f32")
        command = [compiler, *flags, *STRICT, "-DSTUDENT_MAIN", "student.c", "-lm", "-o", "student"]
        subprocess.run(command, cwd=tmp_path, check=True)
        done = subprocess.run([*emulator, "./student", "images.f32"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert difference(np.loadtxt(done.stdout.splitlines(), ndmin=2), expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["everything", "everything 21", "max pooling, odd size"])
@pytest.mark.parametrize("vectors", ["-march=native", "-O1", "-DSTUDENT_SCALAR"])
@pytest.mark.parametrize("winograd", [False, True])
def test_it_touches_no_memory_but_its_own(name: str, vectors: str, winograd: bool, tmp_path: Path) -> None:
    images, expected = written(SPECS[name], tmp_path / "student.c", 17, winograd)
    (tmp_path / "driver.c").write_text(f"""
        #include <stdio.h>
        #include <stdlib.h>
        int student_predict(const float *, int, float *);
        int main(void) {{
            for (int n = 1; n <= 17; ++n) {{ /* as much memory as it may touch, and no more */
                float *images = malloc({images[0].nbytes}ul * n), *logits = malloc({4 * expected.shape[1]}ul * n);
                FILE *file = fopen("images.f32", "rb");
                if (fread(images, {images[0].nbytes}, n, file) != (size_t)n) return 1;
                if (student_predict(images, n, logits)) return 1;
                if (n == 17) fwrite(logits, {4 * expected.shape[1]}, n, stdout);
                fclose(file), free(images), free(logits);
            }}
        }}
    """)
    images.tofile(tmp_path / "images.f32")
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DSTUDENT_PLAIN", vectors]
    command = [c_compiler(), *flags, "driver.c", "student.c", "-o", "driver"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./driver"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    logits = np.frombuffer(done.stdout, dtype=np.float32).reshape(expected.shape)
    assert difference(logits, expected) < tolerance(name, images, expected)


def test_many_weights_are_a_string_of_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = written(demo_student(), tmp_path / "floats.c")
    monkeypatch.setattr(module, "READABLE_WEIGHTS", 0)
    written(demo_student(), tmp_path / "string.c")
    floats, string = ((tmp_path / f"{name}.c").read_text() for name in ("floats", "string"))
    assert ("STORED" in floats, "STORED" in string) == (False, True)
    one, other = (CSession(tmp_path / f"{name}.c", QUICK)(images) for name in ("floats", "string"))
    np.testing.assert_array_equal(one, other)


def test_wrong_numbers_of_images_touch_nothing(tmp_path: Path) -> None:
    written(demo_student(), tmp_path / "student.c")
    predict = CSession(tmp_path / "student.c", QUICK).predict
    assert predict(None, 0, None) == 0
    assert predict(None, -1, None) == -1


def test_an_operation_that_is_not_known_is_refused_before_anything_is_written(run, tmp_path, monkeypatch) -> None:
    def with_another(student):
        ops = fold(student)
        return [*ops, Op("tanh", [ops[-1]], ops[-1].channels)]

    monkeypatch.setattr(module, "fold", with_another)
    with pytest.raises(ExportError, match="cannot be written as C, which does not know the operation 'tanh'"):
        export(run, "c", tmp_path / "student.c")
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_nothing_is_begun(run, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert cli.main(["export", str(run), "--format", "c", "--out", str(tmp_path / "student.c")]) == 2
    assert "no C compiler: neither cc, gcc nor clang" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_refused(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "FLAGS", QUICK)
    monkeypatch.setattr(module, "_packed", lambda made, packed=module._packed: 1.1 * packed(made))
    with pytest.raises(ExportError, match="differs from the student"):
        export(run, "c", tmp_path / "student.c")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_gets_the_students_logits(run, evaluator, tmp_path, monkeypatch, capsys) -> None:
    from PIL import Image

    monkeypatch.setattr(module, "FLAGS", QUICK)
    assert cli.main(["export", str(run), "--format", "c", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(run / "export" / "student.c")
    assert told["difference"] < 1e-5
    assert len(told["latency_ms"]) == 2
    card = Path(told["card"]).read_text()
    assert "`student.c`, C99 with the weights inside" in card
    assert "compiled by cc -O3" in card
    images = evaluator.data.val_images[:2]
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy().astype(np.uint8)).save(tmp_path / f"{index}.png")
    pictures = network_input([tmp_path / "0.png", tmp_path / "1.png"], 12, 1)
    command = [c_compiler(), "-O1", "-DSTUDENT_MAIN", "-DSTUDENT_PLAIN", *STRICT, told["path"], "-o", "student"]
    subprocess.run(command, cwd=tmp_path, check=True)  # without -lm
    pictures.tofile(tmp_path / "images.f32")
    with torch.no_grad():
        expected = load_student(kept_student(run))(evaluator.data.normalise(images)).numpy()
    for words, given in ((["images.f32"], None), ([], pictures.tobytes())):
        answer = subprocess.run(
            ["./student", *words], cwd=tmp_path, input=given, capture_output=True, check=True
        ).stdout
        assert difference(np.loadtxt(answer.decode().splitlines()), expected) < 1e-5
    torn = subprocess.run(["./student"], cwd=tmp_path, input=pictures.tobytes()[:-4], capture_output=True)
    assert torn.returncode == 1
    assert b"143 floats are left: images have 144" in torn.stderr
