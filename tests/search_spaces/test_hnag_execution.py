"""The execution plan: in every respect the readable steps, which define what a student computes."""

from __future__ import annotations

import copy
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_hnag_student import CASES, EVERYTHING, randomised, spec_of
from torch import Tensor
from torch.nn import functional as F

from naslib_autokd.distillation.costs import count_macs, train_memory
from naslib_autokd.search_spaces.hnag import execution
from naslib_autokd.search_spaces.hnag.generator import ErdosRenyi, Generator, WattsStrogatz
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec

pytestmark = pytest.mark.skipif(
    not any(execution.shutil.which(name) for name in ("cc", "gcc", "clang")), reason="no C compiler"
)

DENSE = Generator(
    WattsStrogatz(5, 4, 0.5),
    ErdosRenyi(4, 0.7),
    WattsStrogatz(5, 4, 0.5),
    channel_growth=1.3,
    downsampling="max",
    head_ratio=9.0,
)
SPECS: dict[str, StudentSpec] = {
    **CASES,
    **{
        f"everything {seed}": spec_of(
            EVERYTHING, seed, channels=(1 + seed % 8, 5, 13), image_size=9 + seed, stem=("small", "large")[seed % 2]
        )
        for seed in (20, 21, 22)
    },
    "dense": spec_of(DENSE, 3, image_size=13, channels=(7, 9, 12)),
    "maps smaller than kernels": spec_of(EVERYTHING, 20, channels=(5, 6, 7), image_size=4),
    "no head": spec_of(Generator(WattsStrogatz(3, 2), ErdosRenyi(3, 0.6), WattsStrogatz(4, 2)), 1, image_size=16),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images_of(spec: StudentSpec, n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, spec.in_channels, spec.image_size, spec.image_size, generator=rng, dtype=dtype)


def outcome(student: Student, images: Tensor, how: str, passes: int = 1) -> dict[str, Tensor]:
    """Logits, gradients of everything that wants one, and running statistics after forward and backward passes."""
    own = copy.deepcopy(student)
    own.execution = how
    images = images.detach().clone().requires_grad_(images.requires_grad)
    for _ in range(passes):
        logits = own(images)
        target = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (logits * target.to(logits.dtype)).sum().backward()
    found = {f"gradient of {name}": p.grad for name, p in own.named_parameters() if p.grad is not None}
    found |= dict(own.named_buffers()) | {"logits": logits.detach()}
    return found | ({"gradient of images": images.grad} if images.grad is not None else {})


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest error of any number, relative to the largest of its tensor (or 1e-3, for those that are zero)."""
    assert found.keys() == expected.keys()
    errors = []
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape
        errors.append(float((found[name].double() - tensor.double()).abs().max() / (tensor.abs().max() + 1e-3)))
    return max(errors)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_plan_is_the_steps_in_float64(name: str, training: bool, ran: list[str]) -> None:
    spec = SPECS[name]
    student = randomised(spec, seed=4).train(training)
    for n in (3, 16) if training else (9,):  # part of a vector, two whole ones, both
        images = images_of(spec, n).requires_grad_()
        expected = outcome(student, images, "steps")
        assert not ran
        assert error(outcome(student, images, "plan"), expected) < 1e-8
        assert ran == ["forward", "backward"]
        with torch.no_grad():
            own = copy.deepcopy(student)
            own.execution = "plan"
            torch.testing.assert_close(own(images), expected["logits"], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(own.running_var, expected["running_var"])
        ran.clear()


@pytest.mark.parametrize("name", ["everything", "dense", "max pooling, odd size"])
def test_in_float32_the_plan_is_as_exact_as_the_steps(name: str) -> None:
    spec = SPECS[name]
    exact = randomised(spec, seed=1).train()
    images = images_of(spec, 24)
    expected = outcome(exact, images, "steps")
    single = copy.deepcopy(exact).float()
    steps = error(outcome(single, images.float(), "steps"), expected)
    assert error(outcome(single, images.float(), "plan"), expected) < 4 * steps + 1e-5


def test_sums_of_large_means_are_exact() -> None:
    # The variance of values far from zero is lost where it is computed as a difference of large numbers.
    spec = spec_of(Generator(WattsStrogatz(1, 0), ErdosRenyi(1), WattsStrogatz(2, 1)), image_size=16)
    student = Student(spec).train()
    images = images_of(spec, 32, torch.float32) + 300.0
    assert (
        error(outcome(student, images, "plan"), outcome(copy.deepcopy(student).double(), images.double(), "steps"))
        < 0.01
    )


def test_batches_of_all_sizes_and_strided_images() -> None:
    spec = SPECS["everything"]
    student = randomised(spec).train()
    for n in (1, 2, 7, 8, 9, 65):
        images = images_of(spec, n).requires_grad_()
        assert error(outcome(student, images, "plan"), outcome(student, images, "steps")) < 1e-8
    images = images_of(spec, 2 * 9)[::2].transpose(2, 3)
    assert error(outcome(student, images, "plan"), outcome(student, images, "steps")) < 1e-8
    found = []
    for how in ("steps", "plan"):
        student.execution = how
        one = images_of(spec, 1).requires_grad_()
        found += torch.autograd.grad(student(one.expand(9, -1, -1, -1)).square().sum(), one)
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)
    own = copy.deepcopy(student).eval()
    many = images_of(spec, 150)  # evaluated in parts
    with torch.no_grad():
        own.execution = "steps"
        steps = own(many)
        own.execution = "plan"
        torch.testing.assert_close(own(many), steps, rtol=1e-9, atol=1e-9)


def test_of_equal_maxima_the_first_takes_the_gradient() -> None:
    # One channel, 1x1 convolutions, black images: all places of all maps are exactly equal, but the stem's padding.
    only = {"conv1x1": 1.0}
    graphs = (WattsStrogatz(3, 2), ErdosRenyi(1), WattsStrogatz(1, 0))
    spec = spec_of(Generator(*graphs, downsampling="max", operations=only), channels=(1, 1, 1))  # type: ignore[arg-type]
    student = randomised(spec).eval()
    with torch.no_grad():
        student.running_mean.zero_()
        for parameter in student.parameters():  # no ReLU is closed
            parameter.abs_()
    images = torch.zeros_like(images_of(spec, 8)).requires_grad_()
    expected = outcome(student, images, "steps")
    assert expected["gradient of images"].abs().max() > 1e-6
    assert error(outcome(student, images, "plan"), expected) < 1e-8


def test_frozen_parameters_and_accumulated_gradients() -> None:
    spec = SPECS["everything"]
    student = randomised(spec).train()
    for index, parameter in enumerate(student.parameters()):
        parameter.requires_grad_(index % 3 != 0)
    images = images_of(spec, 8)
    assert error(outcome(student, images, "plan", passes=2), outcome(student, images, "steps", passes=2)) < 1e-8
    student.requires_grad_(False)
    student.classifier_bias.requires_grad_()
    assert error(outcome(student, images, "plan"), outcome(student, images, "steps")) < 1e-8
    student.norm_weight.requires_grad_()
    assert error(outcome(student, images, "plan"), outcome(student, images, "steps")) < 1e-8


def test_two_forward_passes_before_a_backward_pass_and_the_reverse() -> None:
    spec = SPECS["dense"]
    found = []
    for how in ("steps", "plan"):
        student = randomised(spec).train()
        student.execution = how
        one, two = student(images_of(spec, 8)), student(images_of(spec, 8, seed=1))
        (one.square().sum() + 3 * two.sum()).backward(retain_graph=True)
        one.sum().backward()  # through the same pass again
        found.append({name: p.grad for name, p in student.named_parameters()} | dict(student.named_buffers()))
    assert error(found[1], found[0]) < 1e-8


def test_second_derivatives_are_those_of_the_steps() -> None:
    spec = SPECS["everything"]
    found = []
    for how in ("steps", "plan"):
        student = randomised(spec).train()
        student.execution = how
        images = images_of(spec, 4).requires_grad_()
        (slope,) = torch.autograd.grad(student(images).square().sum(), images, create_graph=True)
        slope.square().sum().backward()
        found.append({name: p.grad for name, p in student.named_parameters() if p.grad is not None})
        found[-1] |= dict(student.named_buffers())
    assert error(found[1], found[0]) < 1e-6


def test_the_same_on_two_threads_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "NUMBERS_PER_THREAD", 1)
    spec = SPECS["everything 21"]
    student = Student(spec).train()
    images = images_of(spec, 32, torch.float32)
    one = outcome(student, images, "plan")
    torch.set_num_threads(2)
    two = outcome(student, images, "plan")
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())


def test_who_looks_at_single_operations_sees_them(ran: list[str]) -> None:
    spec = SPECS["everything"]
    student = Student(spec).eval()
    images = images_of(spec, 16, torch.float32)
    seen: list[Any] = []
    with student.stage_maps[0].register_forward_hook(lambda module, inputs, output: seen.append(output)):
        student(images)
    assert seen
    assert count_macs(student, (spec.in_channels, spec.image_size, spec.image_size)) == spec.macs
    parameters = {name: p.detach() for name, p in student.named_parameters()}
    torch.func.grad(lambda p: torch.func.functional_call(student, p, (images,)).sum())(parameters)
    with torch.autocast("cpu", torch.bfloat16):
        student(images)
    student.double()(images.double().requires_grad_())
    assert ran == ["forward"]  # the last alone
    student.bfloat16()(images.bfloat16())
    assert ran == ["forward"]
    pooled: list[Any] = []
    student.float().pooled.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0]))
    logits = student(images)
    assert ran == ["forward", "forward"]
    torch.testing.assert_close(F.linear(pooled[0], student.classifier_weight, student.classifier_bias), logits)


def test_errors_are_those_of_the_steps() -> None:
    spec = SPECS["one node"]
    student = Student(spec)
    with pytest.raises(RuntimeError, match="channels"):
        student(torch.zeros(16, spec.in_channels + 1, 8, 8))
    with pytest.raises(ValueError, match="plan"):
        student.execution = "plans"
    student.execution = "plan"
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        student.train()(torch.zeros(1, spec.in_channels, 1, 1))


def test_auto_pads_a_last_vector_only_where_that_is_faster_than_the_steps(ran: list[str]) -> None:
    lanes = execution.kernels(torch.float32).lanes
    node = Generator(WattsStrogatz(1, 0), ErdosRenyi(1), WattsStrogatz(1, 0))
    small = Student(spec_of(node, image_size=12, channels=(4, 4, 4))).eval()
    wide = Student(spec_of(node, image_size=64, channels=(48, 48, 48))).eval()
    for student, n, kernels in (
        *((small, 1, True), (small, lanes + 1, True)),
        *((wide, 1, False), (wide, lanes // 2, False), (wide, lanes + 1, False), (wide, 2 * lanes, True)),
    ):
        ran.clear()
        student(images_of(student.spec, n, torch.float32))
        assert bool(ran) == kernels
        student.execution = "plan"
        student(images_of(student.spec, n, torch.float32))
        assert ran
        student.execution = "auto"


def test_a_trained_student_evaluates_copies_and_saves_as_before(tmp_path: Path) -> None:
    spec = SPECS["everything"]
    student = Student(spec).train()
    names = set(student.state_dict())
    images = images_of(spec, 16, torch.float32)
    student(images).sum().backward()
    assert student.plan.programs.spare  # serves the next step
    twin = copy.deepcopy(student)
    assert twin.plan.programs is not student.plan.programs
    assert set(student.state_dict()) == names
    torch.save(student, tmp_path / "student.pt")
    loaded = torch.load(tmp_path / "student.pt", weights_only=False)
    student.eval()
    assert not student.plan.programs.spare
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), student(images))


def test_memory_of_a_training_step_is_measured_and_at_most_0_55_of_the_steps() -> None:
    spec = spec_of(DENSE, 0, image_size=16, channels=(8, 10, 13))
    student = Student(spec)
    student(images_of(spec, 32, torch.float32)).sum().backward()  # a block is there, but not the measured copy's
    memory = {}
    for how in ("steps", "plan"):
        student.execution = how
        memory[how] = train_memory(student, (2, 16, 16), 32)
    values = sum(conv.shape[0] for conv in student.plan.convs if conv.role == "node") * 32 * 4 * 4 * 4
    assert values < memory["plan"] < 0.55 * memory["steps"]


# --- compilation ----------------------------------------------------------------------------------------------------


def test_without_a_compiler_or_switched_off_the_steps_run(
    monkeypatch: pytest.MonkeyPatch, ran: list[str], tmp_path: Path
) -> None:
    spec = SPECS["one node"]
    student, images = Student(spec), images_of(spec, 16, torch.float32)
    expected = student.eval()(images)
    assert ran == ["forward"]
    monkeypatch.setenv("NASLIB_AUTOKD_KERNELS", "0")
    torch.testing.assert_close(student(images), expected)
    monkeypatch.delenv("NASLIB_AUTOKD_KERNELS")
    execution._kernels.cache_clear()
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    torch.testing.assert_close(student(images), expected)
    execution._kernels.cache_clear()
    monkeypatch.setattr(execution.shutil, "which", lambda name: sys.executable)  # a "compiler" that fails
    torch.testing.assert_close(student(images), expected)
    assert ran == ["forward"]
    assert not list((tmp_path / "kernels").glob("*.so"))
    execution._kernels.cache_clear()


SHORTER = {
    "16 bytes": ["-march=x86-64"],
    "16 bytes, more of them": ["-march=x86-64", "-D__aarch64__"],
    "AVX2": ["-march=haswell"],
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="their names are those of x86")
@pytest.mark.parametrize("vectors", SHORTER)
def test_the_plan_is_the_steps_with_the_vectors_of_other_processors(
    vectors: str, ran: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As x86 without AVX, ARM's NEON, and x86 without AVX-512 have them."""
    if vectors == "AVX2" and not {"avx2", "fma"} <= execution._processor_flags():
        pytest.skip("this processor has no AVX2")
    monkeypatch.setattr(execution, "FLAGS", ("-O1", *SHORTER[vectors], "-shared", "-fPIC"))
    monkeypatch.setattr(execution, "cache_place", lambda name: tmp_path / name)
    execution._kernels.cache_clear()
    kernels = execution.kernels(torch.float64)
    assert kernels is not None
    assert kernels.lanes == (4 if vectors == "AVX2" else 2)
    for name in ("everything 21", "dense"):
        student = randomised(SPECS[name], seed=4).train()
        images = images_of(SPECS[name], 7).requires_grad_()
        assert error(outcome(student, images, "plan"), outcome(student, images, "steps")) < 1e-8
    assert ran == 2 * ["forward", "backward"]
    execution._kernels.cache_clear()


def test_a_compiler_that_does_not_know_this_processor_compiles_for_any(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(execution, "FLAGS", ("-O0", "-shared", "-fPIC"))
    monkeypatch.setattr(execution, "TUNED", ("-march=of-no-processor", "-mcpu=nor-this-one", "-O0"))
    assert execution.Kernels(execution.compiled(torch.float32, tmp_path / "kernels")).lanes >= 1


def test_a_damaged_library_is_compiled_again_and_never_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(execution, "FLAGS", ("-O0", "-shared", "-fPIC"))
    folder = tmp_path / "kernels"
    library = execution.compiled(torch.float32, folder)
    whole = library.read_bytes()
    assert execution.compiled(torch.float32, folder) == library
    flipped = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
    for damaged in (b"", whole[:5000], flipped):  # a truncated one, when loaded, is a bus error
        library.write_bytes(damaged)
        assert execution.compiled(torch.float32, folder) == library
        assert library.read_bytes() == whole
    assert execution.Kernels(library).lanes >= 1
    assert {path.name for path in folder.iterdir()} <= {library.name, "execution.lock"}, "nothing is left behind"


def test_what_a_killed_compilation_left_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(execution, "FLAGS", ("-O0", "-shared", "-fPIC"))
    folder = tmp_path / "kernels"
    (folder / "tmp_killed").mkdir(parents=True, mode=0o700)
    (folder / "tmp_killed" / "execution.so").write_bytes(b"half")
    (folder / "execution-0-0.so.1.tmp").write_bytes(b"half")
    library = execution.compiled(torch.float32, folder)
    assert {path.name for path in folder.iterdir()} <= {library.name, "execution.lock"}


def test_code_that_another_user_can_have_written_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(execution, "FLAGS", ("-O0", "-shared", "-fPIC"))
    folder = tmp_path / "kernels"
    library = execution.compiled(torch.float32, folder)
    content = library.read_bytes()
    library.chmod(0o666)
    assert execution.compiled(torch.float32, folder).stat().st_mode & 0o777 == 0o600, "it was compiled again"
    library.unlink()
    (tmp_path / "theirs.so").write_bytes(content)
    library.symlink_to(tmp_path / "theirs.so")
    assert not execution.compiled(torch.float32, folder).is_symlink()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(PermissionError, match="no code is loaded from it"):
        execution.compiled(torch.float32, tmp_path / "link")


def test_doctor_says_which_path_runs_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, words = execution.path_of_students()
    assert compiled == (execution.kernels(torch.float32) is not None)
    assert "images in a vector" in words or not compiled
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    execution._kernels.cache_clear()
    assert execution.path_of_students() == (
        False,
        "students run on torch's operations, which is slower: no C compiler: neither cc, gcc nor clang",
    )
    execution._kernels.cache_clear()
    monkeypatch.setenv("NASLIB_AUTOKD_KERNELS", "0")
    assert execution.path_of_students()[1].startswith("NASLIB_AUTOKD_KERNELS=0")


@pytest.mark.slow
def test_two_processes_compile_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, torch\n"
        "from naslib_autokd.search_spaces.hnag import execution\n"
        "execution.FLAGS = ('-O0', '-shared', '-fPIC')\n"
        "path = execution.compiled(torch.float32, pathlib.Path(sys.argv[1]))\n"
        "print(path, execution.Kernels(path).lanes)\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(printed) == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]
