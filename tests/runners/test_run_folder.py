"""One owner of a run folder; what it says is checked when it is read; final students are kept one by one."""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import naslib_autokd
from naslib_autokd.cli import main
from naslib_autokd.evaluators.results import FinalResult, same_bytes
from naslib_autokd.records import StoreLockedError, content_digest
from naslib_autokd.runners import finals, run_folder
from naslib_autokd.runners.finals import FinalsError, FinalsFileError, read_finals, train_family, train_finals
from naslib_autokd.runners.limits import Outcome
from naslib_autokd.runners.run_folder import RunFolder, RunFolderError, check_run, open_run
from naslib_autokd.runners.session import SearchInterrupted, read_status
from naslib_autokd.shipping.student_file import ExportError, kept_student
from naslib_autokd.tasks import get_task

TASK = get_task("cluttered-digits")
PACKAGE = Path(naslib_autokd.__file__).parent


class Trainer:
    """Trains nothing: a final student is its seed; what `evaluators.kd.KDEvaluator` gives the final protocol."""

    task = TASK

    def __init__(self) -> None:
        self.trained: list[int] = []

    def train_final(
        self, build: Callable[[], Any], kd: Any, seed: int, name: str = "", what: str = ""
    ) -> tuple[int, FinalResult]:
        self.trained.append(seed)
        accuracy = 0.5 + (seed * 37 % 100) / 250
        return seed, FinalResult(name, seed, "success", "", 9.0, accuracy, 0.9, 100, 1000, 10_000, 1.5)

    def judge(self, model: int, result: FinalResult) -> FinalResult:
        return replace(result, test_accuracy=0.8, test_agreement=0.75)

    def student_file(self, model: int, result: FinalResult) -> bytes:
        from safetensors.numpy import save

        metadata = {"result": result.to_dict(), "record": content_digest(result.to_dict())}
        return same_bytes(save({"w": np.full(4, model)}, {key: json.dumps(value) for key, value in metadata.items()}))

    def student_spec(self, candidate: Any, seed: int) -> None: ...


def train(out: Any, n: int = 4, trainer: Trainer | None = None, **options: Any) -> list[int]:
    """The seeds (0 to n - 1) that were trained."""
    trainer = trainer or Trainer()
    train_finals(trainer, [(int, seed) for seed in range(n)], kd=None, label="task/family", out=out, **options)  # type: ignore[arg-type]
    return trainer.trained


def contents(folder: Path) -> dict[str, bytes]:
    """The final students' files, and their lines by index."""
    files = {path.name: path.read_bytes() for path in (folder / "students").iterdir()}
    return files | {str(record.index): record.line().encode() for record in read_finals(folder)}


# --- one owner ------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_has_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with RunFolder.own(out) as folder:
        assert train(folder) == [0, 1, 2, 3], "whoever holds the folder passes it on"
        before = contents(out)
        for use in (lambda: train(out, 5), lambda: open_run(out, TASK, {"seed": 1}), lambda: check_run(out, TASK, {})):
            with pytest.raises(StoreLockedError) as told:
                use()
            assert f"process {os.getpid()} on " in str(told.value)
            assert "\n" not in str(told.value)
    assert contents(out) == before
    assert train(out, 5) == [4], "and it is free again"


def test_the_folder_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from naslib_autokd.runners.run_folder import RunFolder\n"
        "with RunFolder.own(sys.argv[1]) as folder:\n"
        "    (folder.path / f'run.yaml.{os.getpid()}.tmp').touch()\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(StoreLockedError, match=f"process {process.pid} on"):
        train(out)
    process.kill()
    process.communicate()
    assert train(out, 1) == [0]
    assert not list(out.glob("*.tmp")), "what the killed process left is gone"


def test_leftovers_of_other_living_processes_stay(tmp_path: Path) -> None:
    (tmp_path / "export" / "student.onnx.999999999.tmp").mkdir(parents=True)
    for name in ("status.json.tmp", f"report.html.{os.getppid()}.tmp", f"task.yaml.{os.getpid()}.tmp"):
        (tmp_path / name).touch()
    with RunFolder.own(tmp_path):
        left = [path.name for path in tmp_path.rglob("*.tmp")]
    assert left == [f"report.html.{os.getppid()}.tmp"]


def test_a_new_folder_in_which_nothing_was_done_goes_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), RunFolder.own(tmp_path / "new" / "run"):
        raise ValueError("refused")
    assert not (tmp_path / "new").exists()


NAMES = {value for name, value in vars(run_folder).items() if name.isupper() and isinstance(value, str)}


def test_only_the_run_folder_names_the_files_of_a_run() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.value}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and node.value in NAMES - {"students", "export"}
        and path.name != "run_folder.py"
    ]
    assert wrong == []
    assert {"run.yaml", "finals.jsonl", "run.lock"} <= NAMES


# --- what it says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "run.yaml is empty .*the same command writes it anew"),
        (b"optimizer: !!python/object:os.system [x]\n", "run.yaml, line 1: tags .* are not read"),
        (b"seed: 1\x00\n", "not valid YAML"),
        (b"\xff\xfe", "no UTF-8 text"),
        (b"[1, 2]", "holds no mapping"),
        (b"seed: yes\n", "seed cannot be 'True'"),
        (b"n_trials: many\n", "n_trials cannot be 'many'"),
        (b"wall_s: .nan\n", "wall_s cannot be 'nan'"),
        (b"target_cost: -5\n", "target_cost cannot be '-5'"),
        (b"a: " + b"[" * 3000, "nested deeper than"),
    ],
)
def test_a_damaged_run_yaml_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(RunFolderError, match=message) as told:
        check_run(tmp_path, TASK, {"seed": 1})
    assert str(tmp_path) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("seed", range(30))
def test_status_json_of_any_content_never_stops_anything(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)

    def anything(depth: int = 0) -> Any:
        simple = [None, True, -1, 10**30, 0.5, float("nan"), "x", "\x00", "running"]
        if depth > 2 or rng.random() < 0.5:
            return rng.choice(simple)
        if rng.random() < 0.5:
            return [anything(depth + 1) for _ in range(rng.randint(0, 3))]
        return {str(anything(3)): anything(depth + 1) for _ in range(rng.randint(0, 3))}

    keys = ("state", "pid", "host", "budget", "in_flight", "stop_reason", "message", "elapsed_s", "finals")
    content = json.dumps({key: anything() for key in keys}) if seed else "[" * 100_000
    (tmp_path / "status.json").write_text(content)
    lines = read_status(tmp_path).lines()
    assert "0 trials" in lines[2 if len(lines) > 5 else 1] or any("0 trials" in line for line in lines)
    assert train(tmp_path, 1) == [0]


# --- final students -------------------------------------------------------------------------------------------------


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the second final student's line."""

    def damage(folder: Path) -> None:
        lines = (folder / "finals.jsonl").read_text().splitlines()
        values = json.loads(lines[1])
        change(values)
        (folder / "finals.jsonl").write_text("\n".join([lines[0], json.dumps(values), *lines[2:], ""]))

    return damage


def flip(folder: Path) -> None:
    path = folder / "students" / "student-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def swap(folder: Path) -> None:
    a, b = (folder / "students" / f"student-{index}.safetensors" for index in (1, 2))
    contents = a.read_bytes(), b.read_bytes()
    a.write_bytes(contents[1])
    b.write_bytes(contents[0])


DAMAGES: dict[str, tuple[Callable[[Path], Any], list[int]]] = {
    "file lost": (lambda folder: (folder / "students" / "student-1.safetensors").unlink(), [1]),
    "bit flipped": (flip, [1]),
    "files swapped": (swap, [1, 2]),
    "file emptied": (lambda folder: (folder / "students" / "student-1.safetensors").write_bytes(b""), [1]),
    "accuracy of 7": (edit(lambda line: line.update(val_accuracy=7)), [1]),
    "accuracy NaN": (edit(lambda line: line.update(val_accuracy=float("nan"))), [1]),
    "accuracy edited": (edit(lambda line: line.update(val_accuracy=0.9999)), [1]),
    "epochs NaN": (edit(lambda line: line.update(epochs=float("nan"))), [1]),
    "wrong type": (edit(lambda line: line.update(n_params="many")), [1]),
    "unknown field": (edit(lambda line: line.update(more=1)), [1]),
    "index of another": (edit(lambda line: line.update(index=0)), [1]),
    "no JSON": (lambda f: (f / "finals.jsonl").write_bytes(b"\x00\n" + (f / "finals.jsonl").read_bytes()), []),
    "nested": (lambda f: (f / "finals.jsonl").write_bytes(b"[" * 9999 + b"\n" + (f / "finals.jsonl").read_bytes()), []),
}


@pytest.mark.filterwarnings("ignore:.*finals.jsonl, line:RuntimeWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_or_damaged_final_student_is_trained_again_and_the_others_are_kept(damage: str, tmp_path: Path) -> None:
    assert train(tmp_path) == [0, 1, 2, 3]
    whole = contents(tmp_path)
    spoil, again = DAMAGES[damage]
    spoil(tmp_path)
    assert train(tmp_path) == again
    assert contents(tmp_path) == whole
    assert train(tmp_path) == []


@pytest.mark.filterwarnings("ignore:.*finals.jsonl, line:RuntimeWarning")
def test_a_line_that_stands_there_twice_is_found(tmp_path: Path) -> None:
    train(tmp_path)
    whole, path = contents(tmp_path), tmp_path / "finals.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[2])
    with pytest.raises(FinalsFileError, match="line 5: final student 2 stands here twice; run the same command again"):
        read_finals(tmp_path)
    assert train(tmp_path) == []
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("damage", ["file lost", "bit flipped", "files swapped", "accuracy edited"])
def test_a_damaged_student_is_not_exported(damage: str, tmp_path: Path) -> None:
    n = 3 if damage == "files swapped" else 2
    train(tmp_path, n)
    kept = n - 1
    assert kept_student(tmp_path).name == f"student-{kept}.safetensors"
    DAMAGES[damage][0](tmp_path)
    with pytest.raises(ExportError, match="run the same search command again"):
        kept_student(tmp_path)


@pytest.mark.parametrize("damage", ["file lost", "bit flipped", "index of another"])
def test_status_tells_that_the_kept_student_is_lost(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, 2)
    (tmp_path / "run.yaml").touch()
    assert main(["status", str(tmp_path)]) == 0
    assert "beware" not in capsys.readouterr().out
    DAMAGES[damage][0](tmp_path)
    assert main(["status", str(tmp_path), "--json"]) == 0
    lost = json.loads(capsys.readouterr().out)["lost"]
    assert ("student-1.safetensors" if damage != "index of another" else "finals.jsonl, line 2") in lost
    assert main(["status", str(tmp_path)]) == 0
    assert f"  beware: {lost}" in capsys.readouterr().out.splitlines()


def test_finals_of_older_versions_are_still_right(tmp_path: Path) -> None:
    train(tmp_path)
    path = tmp_path / "finals.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({k: v for k, v in line.items() if k not in ("index", "file")}) + "\n" for line in lines)
    )
    assert train(tmp_path) == []
    assert kept_student(tmp_path) == tmp_path / "students" / "student-2.safetensors"
    swap(tmp_path)
    with pytest.warns(RuntimeWarning, match="belongs to another record"):
        assert train(tmp_path) == [1, 2]


def test_a_student_that_diverged_is_kept_only_beside_others_that_did(tmp_path: Path) -> None:
    good = FinalResult("x", 0, "success", "", 9.0, 0.0, 0.0, 1, 1, 1, 1.0)
    bad = replace(good, status="diverged", val_accuracy=0.3)
    never = replace(good, epochs=0.0, val_accuracy=0.4)
    assert finals.FinalStudents.of([bad, never, good]).kept == 2


def test_a_stop_finishes_the_student_in_training_and_the_same_command_goes_on(tmp_path: Path) -> None:
    trainer = Trainer()
    with pytest.raises(SearchInterrupted, match="stopped after 2 of 4 final students; the same command continues"):
        train(tmp_path, trainer=trainer, stop=lambda: len(trainer.trained) == 2)
    status = read_status(tmp_path)
    assert (status.finals, status.finals_of, status.state) == (2, 4, "interrupted")
    assert "  2 of 4 final students trained" in status.lines()
    assert train(tmp_path) == [2, 3]
    assert read_status(tmp_path).state == "finished"


class Workers:
    """Gives final students back in reverse; those of ``dies`` come to nothing the first ``times``."""

    def __init__(self, dies: tuple[int, ...] = (), times: int = 0, gone_after: int | None = None) -> None:
        self.dies, self.times, self.gone_after, self.started = dies, times, gone_after, list[int]()

    def final_students(
        self, candidate: Any, seeds: Mapping[int, int], label: str, stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Outcome]]:
        for done, (index, seed) in enumerate(reversed(seeds.items())):
            if done == self.gone_after:
                raise KeyboardInterrupt
            self.started.append(index)
            if index in self.dies and self.times > 0:
                yield index, Outcome(None, "error", "the worker process was killed by SIGKILL")
                continue
            trainer = Trainer()
            model, result = trainer.train_final(int, None, seed, name=label)
            result = trainer.judge(model, result)
            yield index, Outcome({"result": result.to_dict(), "file": trainer.student_file(model, result)})
        self.times -= 1


def of_workers(out: Path, workers: Workers) -> list[int]:
    """Indices that were started on the workers."""
    candidate: Any = SimpleNamespace(digest="family", kd=None)
    train_family(Trainer(), candidate, n_students=4, seed=0, out=out, engine=workers)  # type: ignore[arg-type]
    return workers.started


def test_final_students_of_workers_are_on_disk_as_they_come(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        of_workers(tmp_path, Workers(gone_after=2))
    assert [record.index for record in read_finals(tmp_path)] == [2, 3]
    assert of_workers(tmp_path, Workers()) == [1, 0]
    assert [record.index for record in read_finals(tmp_path)] == [0, 1, 2, 3]


def test_a_killed_worker_does_not_end_the_finals(tmp_path: Path) -> None:
    assert of_workers(tmp_path / "once", Workers(dies=(1,), times=1)) == [3, 2, 1, 0, 1]
    with pytest.raises(FinalsError, match=r"final student 1 was not trained \(error: .*SIGKILL\). The 3 others of 4"):
        of_workers(tmp_path / "always", Workers(dies=(1,), times=9))
    assert of_workers(tmp_path / "always", Workers()) == [1]
