"""Commands that are killed before their file operations, or at any moment, and run again to the end.

``python kills.py FOLDER COMMAND KILLS [--cold] [--moments] [--each] [--signal NAME] [--seed N]`` in a process of its
own: it imports once what the commands need, and every command is a fork of it. With ``--cold`` each kill meets empty
caches, with ``--each`` there are four experiments: warm and cold, before operations and at moments. Each prints one
line of JSON: how many kills, before which operations, and what was wrong (nothing, if all is well).

An operation is a file that is opened for writing, replaced, linked, removed, cut, or synced, or a folder that is made
or removed, in the run folder or the caches; every kind of them that a command has is met before others are met twice.
What is compared at the end: every record, figure and tensor, but for times. No file or process may be left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

TASK = """\
name: tiny-digits
dataset: digits
n_train: 64
n_teacher: 400
n_val: 64
n_test: 64
max_params: 3000
teacher_epochs: 4
min_teacher_accuracy: 0.5
min_budget_epochs: 1
max_budget_epochs: 2
"""
STUDY = """\
name: tiny
title: Tiny
question: Is anything lost?
benchmark: cluttered-digits
full_trainings: 4
seeds: 2
methods:
  - {label: Random search, optimizer: random_search}
  - {label: Evolution, optimizer: regularized_evolution, options: {population_size: 4, sample_size: 2}}
"""
SEARCH = shlex.split("search --task task.yaml --optimizer random_search --trials 3 --finals 2 --out run")
BUILD = shlex.split("bench build --task task.yaml --out run --space-families 2 --dense-families 1")
BUILD += [f"--{name}-families=0" for name in ("nested", "dense-nested", "held-out", "dense-held-out")]
COMMANDS: dict[str, list[str]] = {
    "search": SEARCH,
    "finals": SEARCH,
    "export": ["export", "run", "--format", "safetensors"],
    "teacher": [
        "teacher",
        "train",
        "--task",
        "task.yaml",
        "--epochs",
        "4",
        "--out",
        "run/teacher.safetensors",
        "--overwrite",
    ],
    "compare-kd": [
        "compare-kd",
        "--task",
        "task.yaml",
        "--losses",
        "kd,sp",
        "--seeds",
        "1",
        "--workers",
        "1",
        "--out",
        "run",
    ],
    "bench-build": BUILD,
    "report": ["report", "run"],
    "ablate": ["ablate", "study.yaml", "--workers", "0", "--out", "run"],
    "one-shot": ["one-shot"],
}
RECORDS = {"search.json", "trials.jsonl", "asks.jsonl", "finals.jsonl", "results.jsonl", "runs.jsonl"}
TIMES = ("_s", "seconds", "environment", "cpus")


def one_shot_job() -> int:
    """What a worker does of a comparison: a one-shot search and its final students."""
    from naslib_autokd.runners.comparison import run_job
    from naslib_autokd.tasks import get_task

    options = {"operations": ["skip_connect", "sep_conv_3x3"], "n_nodes": 1, "init_channels": 4, "step_cost": 1.0}
    method = {"label": "DARTS", "kind": "one-shot", "optimizer": "darts", "options": options}
    settings = {"budget": 16.0, "n_finals": 2, "device": "cpu", "teacher": None}
    run_job(method, 0, get_task("task.yaml").to_dict(), settings, "run", lambda _: None)
    return 0


class Command:
    """One command in a folder of its own, in a forked process."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder, self.arguments = folder, arguments

    def start(self, kill_before: int | None = None) -> int:
        """Its process; killed before its operation number ``kill_before``."""
        pid = os.fork()
        if pid:
            return pid
        try:
            os.chdir(self.folder)
            os.environ["NASLIB_AUTOKD_CACHE"] = str(self.folder / "cache")
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            journal = os.open(self.folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            quick_figures()
            watch_trainings(lambda text: os.write(journal, f"{text}\n".encode()))
            operations = os.open(self.folder / "operations", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            intercept(self.folder, operations, kill_before)
            from naslib_autokd.cli import main

            status = one_shot_job() if self.arguments == ["one-shot"] else main(self.arguments)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has ended
            (self.folder / "modules").write_text("\n".join(sys.modules))
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 99
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)

    def run(
        self, kill_before: int | None = None, kill_after_s: float | None = None, number: int = signal.SIGKILL
    ) -> int:
        """Its exit status, negative if it was killed."""
        pid = self.start(kill_before)
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            os.kill(pid, number)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def operations(self) -> list[str]:
        return (self.folder / "operations").read_text().splitlines()

    def trainings(self) -> list[str]:
        path = self.folder / "journal"
        return path.read_text().splitlines() if path.exists() else []


def intercept(folder: Path, log: int, kill_before: int | None) -> None:
    """Count the operations in ``run`` and ``cache`` of ``folder`` in this process, and kill it before one of them."""
    places = tuple(str(folder / name) for name in ("run", "cache"))
    names = {"os.rename": "replace", "os.remove": "remove", "os.mkdir": "mkdir", "os.rmdir": "rmdir"}
    names |= {"os.truncate": "truncate", "os.link": "link", "os.symlink": "link", "shutil.rmtree": "rmtree"}
    count = 0

    def operation(what: str) -> None:
        nonlocal count
        if count == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        os.write(log, f"{what}\n".encode())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
                return
        elif event in names:
            path = arguments[0]
        else:
            return
        if isinstance(path, (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(path))
            if path.startswith(places):
                operation(f"{names.get(event, event)} {Path(path).suffix or re.sub('^tmp.*', 'tmp', Path(path).name)}")

    sync = os.fsync

    def fsync(descriptor: int) -> None:
        operation("fsync")
        sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def quick_figures() -> None:
    """Figures without their drawing, which takes longer than everything else."""
    from naslib_autokd.reports import paper

    paper.picture = lambda *_: b'<svg width="234"/>'


def watch_trainings(note: Callable[[str], object]) -> None:
    """Call ``note`` with the name of every training that is started."""
    from naslib_autokd.evaluators.kd import KDEvaluator
    from naslib_autokd.optimizers.darts import DARTS
    from naslib_autokd.runners import ablation
    from naslib_autokd.teachers import load

    search_one_shot = DARTS.search

    def search_noted(self: Any, *arguments: Any, **options: Any) -> Any:
        note("one-shot search")
        return search_one_shot(self, *arguments, **options)

    DARTS.search = search_noted  # type: ignore[method-assign]
    evaluate, train_final, train_teacher = KDEvaluator.evaluate, KDEvaluator.train_final, load.train_teacher
    next_run = ablation._Schedule.next

    def evaluate_noted(self: Any, proposal: Any) -> Any:
        note(f"trial {proposal.number}")
        return evaluate(self, proposal)

    def train_final_noted(self: Any, build: Any, kd: Any, seed: int, *rest: Any, **options: Any) -> Any:
        note(f"final {options.get('name', '')} {getattr(kd, 'key', '')} {seed}")
        return train_final(self, build, kd, seed, *rest, **options)

    def train_teacher_noted(*arguments: Any, **options: Any) -> Any:
        note("teacher")
        return train_teacher(*arguments, **options)

    def next_run_noted(self: Any) -> Any:
        method, seed = next_run(self)
        note(f"run {method.label} {seed}")
        return method, seed

    ablation._Schedule.next = next_run_noted  # type: ignore[method-assign]
    KDEvaluator.evaluate = evaluate_noted  # type: ignore[method-assign]
    KDEvaluator.train_final = train_final_noted  # type: ignore[method-assign]
    load.train_teacher = train_teacher_noted


def import_as(folder: Path) -> None:
    """Import what a command that ended in ``folder`` had imported, so that its next forks need not (some 5 s)."""
    for name in (folder / "modules").read_text().splitlines():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


# --- what a folder holds --------------------------------------------------------------------------------------------


DIGESTS = ("file", "crc32", "sha256")


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: timeless(inner) for key, inner in value.items() if not str(key).endswith(TIMES) and key not in DIGESTS
        }
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, Any]:
    """Everything in a run folder that does not depend on the clock; lines in any order."""
    import numpy as np
    import yaml
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if (
            path.is_dir()
            or path.suffix in (".lock", ".log", ".html", ".png", ".pdf", ".md", ".csv", ".txt")
            or name == "status.json"
        ):
            continue
        if path.suffix == ".jsonl":
            lines = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
            found[name] = sorted(json.dumps(line, sort_keys=True) for line in lines)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                about = {k: timeless(json.loads(v)) for k, v in (file.metadata() or {}).items() if k != "record"}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            found[name] = (
                json.dumps(about, sort_keys=True),
                {
                    key: (str(tensor.dtype), tensor.shape, np.ascontiguousarray(tensor).tobytes())
                    for key, tensor in tensors.items()
                },
            )
        elif path.suffix in (".json", ".yaml"):
            found[name] = timeless(
                yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else json.loads(path.read_text())
            )
        else:
            found[name] = path.read_bytes()
    return found


def recorded(folder: Path) -> dict[str, list[str]]:
    """Whole lines of each file of records, and the files of trained teachers."""
    files = [path for name in RECORDS if (path := folder / "run" / name).exists()]
    whole = {path.name: path.read_bytes().rpartition(b"\n")[0].decode().splitlines() for path in files}
    return whole | {"teachers": [path.name for path in (folder / "cache").rglob("teachers/*.safetensors")]}


def done(records: dict[str, list[str]]) -> set[str]:
    """The trainings that are on record, as `watch_trainings` names them."""
    names = {f"trial {json.loads(line)['number']}" for line in records.get("trials.jsonl", ())}
    names |= {f"final {v['name']}  {v['seed']}" for v in map(json.loads, records.get("finals.jsonl", ()))}
    for line in map(json.loads, records.get("results.jsonl", ())):
        names.add(f"final {line['student']} {line['loss']} {line['result']['seed']}")
    names |= {"one-shot search"} if "search.json" in records else set()
    for line in map(json.loads, records.get("runs.jsonl", ())):
        names.add(f"run {line['method']} {line['seed']}")
    return names | ({"teacher"} if records["teachers"] else set())


def leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for place in ("run", "cache") for path in (folder / place).rglob("*tmp*")]


def adopt_orphans() -> None:
    """Become the parent of every process whose parent was killed, so that none is overlooked (Linux)."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def still_running(patience_s: float = 20.0) -> list[str]:
    """Processes of a command that has ended which do not end by themselves within ``patience_s``; they are ended."""
    import psutil

    deadline = time.monotonic() + patience_s
    while running := psutil.Process().children():
        for process in running:
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    process.wait(0)
                elif time.monotonic() > deadline:
                    found = [" ".join(one.cmdline()) for one in running]
                    for one in running:
                        one.kill()
                    return found
        time.sleep(0.02)
    return []


# --- the experiment -------------------------------------------------------------------------------------------------


def prepare(folder: Path, name: str, cold: bool) -> None:
    """A folder in which the command can be run; unless ``cold`` with caches that are full."""
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(TASK)
    (folder / "study.yaml").write_text(STUDY)
    if name == "teacher":
        (folder / "run").mkdir()
    kernels = Path(os.environ.get("NASLIB_AUTOKD_CACHE", "")) / "kernels"
    if not cold and kernels.is_absolute() and kernels.is_dir():  # compiled before, 2 s
        shutil.copytree(kernels, folder / "cache" / "kernels")
    if name in ("finals", "export", "report"):
        assert Command(folder, SEARCH).run() == 0, (folder / "log").read_text()
        import_as(folder)
    elif not cold and name != "ablate":
        assert Command(folder, [*SEARCH[:-1], "warm"]).run() == 0, (folder / "log").read_text()
        import_as(folder)
    if name == "finals":
        forget_finals(folder / "run")
    for left in ("warm", *(["cache"] if cold else [])):
        shutil.rmtree(folder / left, ignore_errors=True)
    for file in ("journal", "log"):
        (folder / file).unlink(missing_ok=True)


def forget_finals(run: Path) -> None:
    """A finished run as it was before its final students were trained."""
    shutil.rmtree(run / "students")
    for file in ("finals.jsonl", "result.json"):
        (run / file).unlink()


def problems_of(command: Command, before: dict[str, list[str]], n_before: int) -> list[str]:
    """What a command that was run after ``before`` was on disk has lost or done again."""
    after = recorded(command.folder)
    lost = [name for name, lines in before.items() if name != "teachers" and after.get(name, [])[: len(lines)] != lines]
    again = done(before) & set(command.trainings()[n_before:])
    return [*(f"lost lines of {name}" for name in lost), *(f"did {name} twice" for name in sorted(again))]


def kill(
    folder: Path,
    name: str,
    whole: dict[str, Any],
    kill_before: int | None,
    kill_after_s: float | None,
    number: int = signal.SIGKILL,
) -> list[str] | None:
    """Kill the command once, run it to the end, and say what is wrong; None if the moment was before or after it."""
    command = Command(folder, COMMANDS[name])
    status = command.run(kill_before, kill_after_s, number)
    said = (folder / "log").read_text()
    if (status == 0 and kill_before is None) or (status == -signal.SIGTERM and not said):
        return None
    if status != (-signal.SIGKILL if number == signal.SIGKILL else 130):
        return [f"exit status {status} before the kill: {said[-300:]}"]
    if status == 130 and not re.search("same command (continues|goes on)$", said.strip()):
        return [f"does not say how to continue: {said[-300:]}"]
    problems = [f"left running: {process}" for process in still_running()]
    before, n_before = recorded(folder), len(command.trainings())
    status = command.run()
    if status:
        return [*problems, f"exit status {status} after the kill: {(folder / 'log').read_text()[-600:]}"]
    problems += [f"left running: {process}" for process in still_running()]
    problems += problems_of(command, before, n_before)
    now = contents(folder / "run")
    problems += [f"{file} differs" for file in sorted({*now, *whole}) if now.get(file) != whole.get(file)]
    return problems + [f"left behind: {file}" for file in leftovers(folder)]


def choose(operations: list[str], kills: int, rng: random.Random) -> list[int]:
    """Operations to kill before: one of every kind, as far as ``kills`` goes, then any others."""
    shuffled = rng.sample(range(len(operations)), len(operations))
    of_kind = {operations[place]: place for place in shuffled}
    return [*of_kind.values(), *(place for place in shuffled if place not in of_kind.values())][:kills]


def experiment(
    root: Path, name: str, kills: int, *, cold: bool, moments: bool, seed: int, number: int = signal.SIGKILL
) -> dict[str, Any]:
    """Kill a command ``kills`` times, each in a copy of one folder; before every operation if it has fewer."""
    shutil.rmtree(root, ignore_errors=True)
    adopt_orphans()
    prepare(root / "start", name, cold)
    shutil.copytree(root / "start", root / "whole")
    first = Command(root / "whole", COMMANDS[name])
    assert first.run() == 0, (root / "whole" / "log").read_text()
    whole, operations = contents(root / "whole" / "run"), first.operations()
    import_as(root / "whole")
    took = 0.0
    if moments:
        shutil.copytree(root / "start", root / "timed")
        started = time.monotonic()
        Command(root / "timed", COMMANDS[name]).run()
        took = time.monotonic() - started
    rng = random.Random(seed)
    places: list[int | None] = [None] * kills if moments else list(choose(operations, kills, rng))
    problems: dict[str, list[str]] = {}
    before: Counter[str] = Counter()
    for nth, place in enumerate(places):
        folder = root / f"kill-{nth}"
        found = None
        while found is None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(root / "start", folder)
            found = kill(folder, name, whole, place, rng.random() * took if place is None else None, number)
        what = "a random moment" if place is None else operations[place]
        print(f"{name} {nth + 1}/{len(places)} before {what}: {found or 'well'}", file=sys.stderr, flush=True)
        before[what] += 1
        if found:
            problems[f"{nth}, before {what} ({place})"] = found
        else:
            shutil.rmtree(folder)
    return {
        "command": name,
        "cold": cold,
        "moments": moments,
        "signal": signal.Signals(number).name,
        "kills": len(places),
        "kinds": f"{len(before)} of {len(set(operations))}",
        "before": dict(before),
        "problems": problems,
    }


TREES = ("workers", "workers-finals")
TREE_TASK = TASK.replace("max_budget_epochs: 2", "max_budget_epochs: 1000")
"""Trainings of several seconds, longer than a worker takes to load, so that most kills hit them."""
TREE = shlex.split("search --task task.yaml --optimizer random_search --trials 8 --finals 4 --out run --workers 2")
KILLED_TOO_OFTEN = (
    "a worker ended before its first trial: the worker process was killed by SIGKILL",
    "was not trained (error: the worker process was killed by SIGKILL",
)
"""What a command says, and ends with, when its worker was killed twice while it loaded, or with a final student."""


def kind_of(process: Any, main: int) -> str:
    """What a process of the tree is: the command, a worker that loads or trains, or a helper of either."""
    if process.pid == main:
        return "command"
    return "worker" if "import child" in " ".join(process.cmdline()) else "helper"


def strike(command: Command, rng: random.Random, kills: int, killed: Counter[str], pause_s: float) -> int:
    """Run a command, killing live processes of its tree at random moments, and give its exit status.

    A dead worker is replaced, so that one run takes many kills; it ends with the command's own death or its work.
    Between two kills there are up to ``pause_s`` seconds.
    """
    import psutil

    pid = command.start()
    process, moment = psutil.Process(pid), time.monotonic() + rng.uniform(0.2, pause_s)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > moment and sum(killed.values()) < kills:
            moment = time.monotonic() + rng.uniform(0.2, pause_s)
            with contextlib.suppress(psutil.Error):
                victim = rng.choice([process, *process.children(recursive=True)])
                finals = recorded(command.folder).get("trials.jsonl", [])[7:]
                kind = kind_of(victim, pid)
                victim.kill()
                killed[f"{kind}, in the {'finals' if finals else 'search'}"] += 1
        time.sleep(0.02)


def killed_trainings(folder: Path) -> int:
    """Trials and final students on record whose worker was killed while it trained them."""
    trials = sum("SIGKILL" in json.loads(line)["message"] for line in recorded(folder).get("trials.jsonl", ()))
    log = folder / "run" / "search.log"
    lines = log.read_text().splitlines() if log.exists() else []
    finals = [line for line in lines if "was not trained" in line and "before its first trial" not in line]
    return trials + len(finals)


def tree_problems(command: Command, whole: list[dict[str, Any]]) -> list[str]:
    """What is wrong at the end of a search with workers, some of which were killed.

    Random search asks for the same trials in any order, so each is the one of the uninterrupted run or died with its
    worker. The final students are trained once more, in one process, from the same trials.
    """
    from naslib_autokd.runners.finals import read_finals

    folder = command.folder
    trials = [json.loads(line) for line in recorded(folder)["trials.jsonl"]]
    counted = [trial for trial in trials if trial["status"] != "refused"]
    found = [f"{len(counted)} trials that count, not 8"] if len(counted) != 8 else []
    right = {trial["number"]: timeless(trial) for trial in whole}
    for trial in map(timeless, trials):
        same = right.get(trial["number"])
        if same is not None and trial["status"] == "success" and trial != same:
            found.append(f"trial {trial['number']} differs")
        elif trial["status"] != "success" and trial != same and "SIGKILL" not in trial["message"]:
            found.append(f"trial {trial['number']} failed of itself: {trial['message']}")
    n_whole = min(4, sum(trial["status"] == "success" for trial in counted))
    finals = read_finals(folder / "run")
    found += [f"final students {[r.index for r in finals]}"] if len(finals) != n_whole else []
    found += [text for record in finals if (text := record.problem())] + leftovers(folder)
    now = contents(folder / "run")
    forget_finals(folder / "run")
    if Command(folder, [*TREE[:-1], "1"]).run():
        return [*found, "the finals do not run again"]
    again = contents(folder / "run")
    names = {name for name in {*now, *again} if name.startswith(("students", "finals"))}
    return found + [f"{name} differs from one process" for name in sorted(names) if now.get(name) != again.get(name)]


def tree_experiment(root: Path, name: str, kills: int, *, seed: int) -> dict[str, Any]:
    """Kill random processes, at random moments, of searches with two workers, or of their final students alone.

    A worker that is killed costs its trial (status "error") or nothing, the command goes on by itself; after a kill of
    the command the same one continues. In the end every trial is there once, and every final student whole.
    """
    shutil.rmtree(root, ignore_errors=True)
    adopt_orphans()
    prepare(root, "search", cold=False)
    (root / "task.yaml").write_text(TREE_TASK)
    command = Command(root, TREE)
    started = time.monotonic()
    assert command.run() == 0, (root / "log").read_text()
    pause_s = (time.monotonic() - started) / 2
    whole = [json.loads(line) for line in recorded(root)["trials.jsonl"]]
    forget_finals(root / "run")
    (root / "run").rename(root / "searched")

    def begin() -> None:
        shutil.rmtree(root / "run", ignore_errors=True)
        if name == "workers-finals":
            shutil.copytree(root / "searched", root / "run")

    begin()
    rng, killed, ends, ended, training = random.Random(seed), Counter[str](), 0, False, 0
    problems: dict[str, list[str]] = {}
    while sum(killed.values()) < kills or not ended:
        before, n_before = recorded(root), killed_trainings(root)
        (root / "log").unlink(missing_ok=True)
        status = strike(command, rng, kills, killed, pause_s)
        found = [f"left running: {process}" for process in still_running()]
        after, said = recorded(root), (root / "log").read_text()
        training += killed_trainings(root) - n_before
        found += [f"lost lines of {file}" for file, was in before.items() if after.get(file, [])[: len(was)] != was]
        numbers = [json.loads(line)["number"] for line in after.get("trials.jsonl", ())]
        found += [f"trial {n} is there twice" for n, times in Counter(numbers).items() if times > 1]
        if status == 0:
            found, ends = found + tree_problems(command, whole), ends + 1
        elif status != -signal.SIGKILL and not any(text in said for text in KILLED_TOO_OFTEN):
            found.append(f"exit status {status}: {said[-600:]}")
        print(f"{name} {sum(killed.values())}/{kills}: {found or 'well'}", file=sys.stderr, flush=True)
        if found:
            problems[f"after {sum(killed.values())} kills"] = found
        ended = status == 0 or bool(found)
        if ended:
            begin()
    counts = {"kills": kills, "before": dict(killed), "in_trainings": training, "ends": ends}
    return {"command": name, **counts, "problems": problems}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("command", choices=[*COMMANDS, *TREES])
    parser.add_argument("kills", type=int)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--moments", action="store_true")
    parser.add_argument("--each", action="store_true", help="all four experiments")
    parser.add_argument("--signal", default="SIGKILL", help="what is sent at a moment: SIGTERM must end it in order")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import naslib_autokd.cli  # what the commands import is imported once, before the forks
    import naslib_autokd.commands.search
    import naslib_autokd.evaluators.kd
    import naslib_autokd.optimizers.random_search
    import naslib_autokd.runners.baselines
    import naslib_autokd.runners.bench
    import naslib_autokd.runners.search
    import naslib_autokd.shipping.export  # noqa: F401

    if options.command in TREES:
        folder = options.folder.absolute() / options.command
        print(json.dumps(tree_experiment(folder, options.command, options.kills, seed=options.seed)))
        return 0
    each = itertools.product((False, True), repeat=2) if options.each else [(options.moments, options.cold)]
    for moments, cold in each:
        folder = options.folder.absolute() / "-".join(
            ["moments" if moments else "operations", "cold" if cold else "warm"]
        )
        found = experiment(
            folder,
            options.command,
            options.kills,
            cold=cold,
            moments=moments,
            seed=options.seed,
            number=signal.Signals[options.signal],
        )
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
