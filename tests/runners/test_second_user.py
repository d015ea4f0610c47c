"""Another user of the machine lays files, links and folders wherever both may write, and goes on while we work.

Needs root, who can become that user. Nothing of theirs may be imported or loaded as code, no link of theirs followed,
no port opened for them, and the search must end as it does on a machine of one's own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from kills import TASK

from naslib_autokd.search_spaces.hnag import execution

NOBODY = 65534
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become another user"),
]
MODULES = "sitecustomize usercustomize naslib_autokd torch numpy yaml dask distributed cloudpickle psutil pickle signal"
PLANTED = "open({marker!r}, 'a').write('imported ' + __file__ + '\\n')\n"
LIBRARY = """\
#include <stdio.h>
__attribute__((constructor)) static void run(void) {{ fclose(fopen("{marker}", "a")); }}
"""


class Machine:
    """A private place of ours, places where all users may write, and what the other user can show for their work."""

    def __init__(self, root: Path) -> None:
        root.chmod(0o711)
        self.ours, self.precious = root / "ours", root / "ours" / "precious"
        self.precious.mkdir(parents=True)
        (self.precious / "thesis.txt").write_text("the only copy")
        self.ours.chmod(0o711)
        self.shared, self.marker = root / "shared", root / "marker" / "ran"
        for folder in (self.shared, self.marker.parent, self.shared / "tmp"):
            folder.mkdir()
            folder.chmod(0o777)  # without the sticky bit, with which the kernel itself may refuse links
        (self.ours / "task.yaml").write_text(TASK)
        (self.ours / "naslib-autokd").write_text("from naslib_autokd.cli import main\nraise SystemExit(main())\n")
        self.library = self.marker.parent / "planted.so"
        (self.marker.parent / "planted.c").write_text(LIBRARY.format(marker=self.marker))
        command = ["cc", "-shared", "-fPIC", "-o", str(self.library), str(self.marker.parent / "planted.c")]
        subprocess.run(command, check=True)

    def search(self, cache: str | Path, out: str | Path) -> tuple[int, str, set[str]]:
        """Exit status, what was said, and the addresses on which the command's processes listened."""
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment |= {"TMPDIR": str(self.shared / "tmp"), "NASLIB_AUTOKD_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(place for place in sys.path if place)
        command = [sys.executable, str(self.ours / "naslib-autokd"), "search", "--optimizer", "random_search"]
        command += ["--trials", "3", "--finals", "1", "--workers", "2", "--task", str(self.ours / "task.yaml")]
        command += ["--out", str(out)]
        log, heard = self.ours / "log", set()
        with open(log, "w") as file:
            process = psutil.Popen(command, cwd=self.shared, env=environment, stdout=file, stderr=file)
            while process.poll() is None:
                heard |= listening(process)
                time.sleep(0.2)
        return process.returncode, log.read_text(), heard

    def harm(self) -> list[str]:
        """What the other user has achieved."""
        ran = self.marker.read_text().splitlines() or ["loaded a library"] if self.marker.exists() else []
        left = {path.name: path.read_bytes() for path in self.precious.iterdir()}
        return ran + ([] if left == {"thesis.txt": b"the only copy"} else [f"wrote through a link: {sorted(left)}"])


LOOKED_AT: Counter[int] = Counter()
"""Processes, and how often their ports were looked at."""


def listening(process: psutil.Process) -> set[str]:
    found = set()
    try:
        for one in (process, *process.children(recursive=True)):
            found |= {c.laddr.ip for c in one.net_connections() if c.status == "LISTEN"}
            LOOKED_AT[one.pid] += 1
    except psutil.Error:
        pass
    return found


def outcomes(out: Path) -> dict[int, object]:
    trials = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    return {trial["number"]: (trial["status"], trial["val_accuracy"], trial["candidate"]) for trial in trials}


def plant(folder: Path, machine: Machine) -> None:
    """Modules, settings, and links to ours in the place of temporary files, wherever they can be written."""
    for name in MODULES.split():
        path = folder / f"{name}.py"
        if not path.exists():
            path.write_text(PLANTED.format(marker=str(machine.marker)))


@contextmanager
def another_user(machine: Machine, places: dict[str, Path]) -> Iterator[None]:
    """A process of the other user that has laid the links of ``places`` and then plants for as long as it lives."""
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.umask(0)
            for name, target in places.items():
                path = machine.shared / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if target == machine.library:
                    path.write_bytes(target.read_bytes())
                else:
                    path.symlink_to(target)
            (machine.shared / "tmp" / "dask-scratch-space").mkdir()
            (machine.marker.parent / "begun").touch()
            while True:
                for folder, _, files in os.walk(machine.shared):
                    if os.access(folder, os.W_OK):
                        plant(Path(folder), machine)
                    for file in files:
                        path = Path(folder, file)
                        if path.suffix == ".so" and os.access(folder, os.W_OK):
                            shutil.copyfile(machine.library, path)
                time.sleep(0.2)
        except FileNotFoundError:
            pass  # of a folder that we have removed
        finally:
            os._exit(0)
    try:
        while not (machine.marker.parent / "begun").exists():
            time.sleep(0.01)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        (machine.marker.parent / "begun").unlink()


@pytest.fixture
def machine() -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to others
    yield Machine(folder)
    shutil.rmtree(folder)


def test_another_user_gains_nothing(machine: Machine) -> None:
    status, said, heard = machine.search(machine.ours / "cache", machine.ours / "alone")
    assert status == 0, said
    alone = outcomes(machine.ours / "alone")
    files = [path.relative_to(machine.ours) for path in (machine.ours / "cache").rglob("*")]
    thesis = machine.precious / "thesis.txt"
    names = [str(path) for path in files if path.parent.name in ("teachers", "soft-targets")]
    key = next(path.name for path in files if path.suffix == ".so").rpartition("-")[0]
    library = f"cache/kernels/{key}-{execution._digest(machine.library.read_bytes())}.so"
    private = f"tmp/naslib_autokd-{os.getuid()}"
    cases: dict[str, tuple[str | Path, dict[str, Path]]] = {
        "links in place of files": (
            machine.shared / "cache",
            {library: machine.library} | {f"{name}{suffix}": thesis for name in names for suffix in ("", ".lock")},
        ),
        "links in place of folders": (
            machine.shared / "cache",
            {f"cache/{name}": machine.precious for name in ("teachers", "soft-targets", "kernels", "pictures")},
        ),
        "a link in place of the private folder": ("~no-such-user/cache", {private: machine.precious}),
        "a folder in place of the private one": (
            "~no-such-user/cache",
            {library.replace("cache", private): machine.library},
        ),
    }
    for number, (case, (cache, places)) in enumerate(cases.items()):
        with another_user(machine, places):
            status, said, heard_now = machine.search(cache, f"run-{number}")
        assert status == 0, (case, said)
        assert machine.harm() == [], (case, said)
        assert outcomes(machine.shared / f"run-{number}") == alone, case
        heard |= heard_now
        shutil.rmtree(machine.shared / "cache", ignore_errors=True)
        shutil.rmtree(machine.shared / "tmp")
        (machine.shared / "tmp").mkdir()
        (machine.shared / "tmp").chmod(0o777)
    assert len(LOOKED_AT) >= 3 * (1 + len(cases)), "the command and two workers each time"
    assert heard == set(), "the command talks to its workers by pipes"


def test_links_of_another_user_in_the_run_folder_are_not_followed(machine: Machine) -> None:
    names = ("run.lock", "trials.jsonl", "asks.jsonl", "finals.jsonl", "search.log", "status.json", "students")
    for name in names:
        with another_user(machine, {f"run/{name}": machine.precious / ("" if name == "students" else "thesis.txt")}):
            status, said, _ = machine.search(machine.ours / "cache", "run")
        assert machine.harm() == [], name
        assert status == 2, (name, said)
        assert "is a link of another user" in said
        shutil.rmtree(machine.shared / "run")
        shutil.rmtree(machine.shared / "tmp" / "dask-scratch-space")
