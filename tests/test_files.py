"""Whole files, locks that end, private folders, and caches that cannot be written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest

from naslib_autokd import files
from naslib_autokd.files import cache_folder, cache_place, file_name, locked, ours_alone, private_folder, write_whole
from naslib_autokd.runners.run_folder import RunFolder, RunFolderError

ROOT = hasattr(os, "getuid") and os.getuid() == 0
NOBODY = 65534


@pytest.mark.parametrize(
    ("name", "expected"),
    [("digits", "digits"), ("../../x", "x"), ("a/b", "a_b"), ("..", "_"), (".hidden", "hidden"), ("ä b\0", "ä_b")],
)
def test_a_name_becomes_one_part_of_a_path(name: str, expected: str) -> None:
    assert file_name(name) == expected
    assert len(file_name("x" * 1000)) == 80


def test_a_whole_file_follows_no_link_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.write_bytes(b"theirs")
    ours.symlink_to(theirs)
    (tmp_path / f"ours.{os.getpid()}.tmp").symlink_to(theirs)
    write_whole(ours, b"content")
    assert (theirs.read_bytes(), ours.read_bytes(), ours.is_symlink()) == (b"theirs", b"content", False)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(ours, b"more")
    assert ours.read_bytes() == b"content"
    assert {path.name for path in tmp_path.iterdir()} == {"theirs", "ours"}


def test_a_lock_is_waited_for_as_long_as_its_owner_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SIGN_OF_LIFE_S", 0.05)
    monkeypatch.setattr(files, "SILENT_S", 1.0)
    signs: list[int] = []
    monkeypatch.setattr(files, "waiting", lambda: signs.append(1))
    got: list[bool] = []

    def second() -> None:
        with locked(tmp_path / "teacher") as held:
            got.append(held)

    thread = threading.Thread(target=second)
    with locked(tmp_path / "teacher") as held:
        thread.start()
        time.sleep(1.5)
        assert held
        assert got == [], "the owner lives, for longer than a silent one is waited for"
    thread.join(10)
    assert got == [True]
    assert len(signs) > 3, "who waits gives signs of life"


def test_an_owner_that_stands_still_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "SILENT_S", 0.3)
    with filelock.FileLock(tmp_path / "teacher.lock"), locked(tmp_path / "teacher") as held:
        assert not held
    assert "no sign of life" in caplog.text


def test_without_a_lock_the_work_is_done_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "teacher.lock").mkdir()  # as in a folder where no lock can be made
    with locked(tmp_path / "teacher") as held:
        assert not held
    with pytest.raises(KeyError), locked(tmp_path / "other"):
        raise KeyError("errors of the body are the body's")


def test_the_private_folder_is_private_whatever_was_laid_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    expected = tmp_path / f"naslib_autokd-{os.getuid()}"
    assert private_folder() == private_folder() == expected
    assert expected.stat().st_mode & 0o777 == 0o700
    expected.chmod(0o777)
    assert private_folder() != expected
    expected.rmdir()
    (tmp_path / "theirs").mkdir()
    expected.symlink_to(tmp_path / "theirs")
    assert private_folder().parent == tmp_path
    assert private_folder().name.startswith("naslib_autokd-")
    assert list((tmp_path / "theirs").iterdir()) == []
    assert ours_alone(private_folder())
    assert not ours_alone(expected)


def test_links_of_another_user_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    link, run = tmp_path / "teachers", tmp_path / "run"
    run.mkdir()
    for place in (link, run / "trials.jsonl"):
        place.symlink_to(tmp_path / "ours")
    assert cache_place("teachers") == link, "one's own links are"
    with RunFolder.own(run):
        pass
    if ROOT:
        for place in (link, run / "trials.jsonl"):
            os.lchown(place, NOBODY, NOBODY)
    else:
        monkeypatch.setattr(files.os, "getuid", lambda: NOBODY)
    assert cache_place("teachers") == private_folder() / "teachers"
    assert cache_place("pictures") == tmp_path / "pictures"
    assert "teachers is a link of another user and is not followed" in caplog.text
    with pytest.raises(RunFolderError, match=r"trials\.jsonl is a link of another user; remove it"):
        RunFolder.own(run).__enter__()


def test_a_user_without_a_home_has_a_private_cache_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("NASLIB_AUTOKD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(files.Path, "expanduser", unknown)
    files._homeless.cache_clear()
    assert cache_folder().is_relative_to(tmp_path)
    assert cache_folder().is_relative_to(private_folder())
    assert caplog.text.count("no home directory") == 1
    files._homeless.cache_clear()


@pytest.mark.skipif(not ROOT, reason="only root can become a user that the machine does not know")
@pytest.mark.slow
def test_an_unknown_user_of_a_container_gets_an_answer(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    known: dict[str, Any] = {
        "env": environment,
        "user": 54321,
        "group": 54321,
        "extra_groups": [],
        "cwd": "/",
        "capture_output": True,
    }
    try:
        subprocess.run([sys.executable, "-c", "import torch"], check=True, **known)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("that user may not read this Python and its packages")
    done = subprocess.run([sys.executable, "-m", "naslib_autokd.cli", "sample"], text=True, **known)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


# --- the teacher's cache --------------------------------------------------------------------------------------------


def test_a_trained_teacher_survives_a_full_disk(
    tiny_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from naslib_autokd.teachers import load

    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    data = replace(tiny_data, task=replace(tiny_data.task, name="../../escaped", teacher_epochs=1))
    path = load.cached_teacher_path(data)
    assert path.parent == tmp_path / "teachers"
    monkeypatch.setattr(load, "check_teacher", lambda *_, **__: None)  # of one epoch; it is not what is tested
    trained = []

    def train(data: Any) -> Any:
        trained.append(1)
        network = load.build_network(load.parse_architecture("resnet-small"), 1, 10)[0]
        return load.Teacher(network, data.mean, data.std, {"architecture": "resnet-small"})

    monkeypatch.setattr(load, "train_teacher", train)
    with monkeypatch.context() as disk:
        disk.setattr(files.os, "fsync", _full)
        said: list[str] = []
        load._cached_teacher(data, said.append)
    assert f"the trained teacher cannot be kept in {path} (No space left on device)" in said[-1]
    assert "NASLIB_AUTOKD_CACHE" in said[-1]
    assert not path.exists()
    load._cached_teacher(data, said.append)
    assert path.exists()
    assert len(trained) == 2
    with monkeypatch.context() as disk:  # a warm cache that cannot be written, not even for a lock
        disk.setattr(files, "_acquired", lambda *_: False)
        disk.setattr(files.os, "fsync", _full)
        load._cached_teacher(data, said.append)
    assert len(trained) == 2


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_next_owner_of_a_lock_removes_what_killed_writers_left(tmp_path: Path) -> None:
    gone, alive = 2**22 + 1, os.getppid()  # beyond the largest number of a process
    for name in (f"teacher.pt.{gone}.tmp", f"teacher.{gone}.tmp", f"teacher.pt.{alive}.tmp", f"other.pt.{gone}.tmp"):
        (tmp_path / name).touch()
    with locked(tmp_path / "teacher.pt") as held:
        assert held
    left = {path.name for path in tmp_path.glob("*.tmp")}
    assert left == {f"teacher.pt.{alive}.tmp", f"other.pt.{gone}.tmp"}
