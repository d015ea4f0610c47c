"""Shared machines: what other users put there is not imported, no port is open beyond loopback, no wait is endless."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from naslib_autokd.runners import limits
from naslib_autokd.runners.engine import DaskPool, EngineError, read_cluster
from naslib_autokd.runners.limits import Limits, Stillness, WorkerProcess, WorkerStartError, import_path, pickled

ROOT = os.getuid() == 0
NOBODY = 65534


def answering(_: int) -> Any:
    return lambda job, report: job


def importing(_: int) -> Any:
    return lambda job, report: (importlib.util.find_spec(job) is not None, sys.path)


def listening() -> list[str]:
    """Addresses on which this process and its children listen."""
    me = psutil.Process()
    return [
        connection.laddr.ip
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections()
        if connection.status == "LISTEN"
    ]


def test_nothing_is_imported_from_a_scratch_folder_of_all_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "dask-scratch-space"  # as in /tmp, where who comes first owns it
    shared.mkdir()
    (shared / "planted_module.py").write_text("raise SystemExit('another user runs here')")
    shared.chmod(0o777)
    if ROOT:
        os.chown(shared, NOBODY, NOBODY)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = list(sys.path)
    with DaskPool(importing, workers=2) as pool:
        assert sys.path == before
        pool.submit(0, "planted_module")
        finished = pool.next_finished(60)
        assert finished is not None
        found, path = finished[1].value
        assert not found
        assert not [place for place in path if place.startswith(str(tmp_path))]
    assert list(tmp_path.iterdir()) == [shared], "nothing is left behind"


def test_scratch_folders_on_the_path_of_a_cluster_are_taken_only_if_private(tmp_path: Path) -> None:
    private, public = tmp_path / "dask-scratch-space" / "worker-1", tmp_path / "dask-scratch-space" / "worker-2"
    for folder, mode in ((private, 0o700), (public, 0o777)):
        folder.mkdir(parents=True)
        folder.chmod(mode)
    given = ["", "/usr/lib/python3", str(private), str(public), str(tmp_path / "dask-scratch-space" / "none")]
    assert import_path(given) == ["", "/usr/lib/python3", str(private)]


def test_local_workers_open_no_port() -> None:
    before = listening()
    with DaskPool(answering, workers=2) as pool:
        pool.submit(0, "done")
        finished = pool.next_finished(60)
        assert finished is not None
        assert finished[1].value == "done"
        assert listening() == before


@pytest.mark.parametrize("queue", ["refuses", "is missing"])
def test_a_queue_that_takes_no_job_ends_the_command_with_its_message(
    queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dask_jobqueue")
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: Batch job submission failed: Invalid account' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    tools = f"{tmp_path}:{os.environ['PATH']}" if queue == "refuses" else "/nowhere"
    monkeypatch.setenv("PATH", tools)
    description = tmp_path / "cluster.yaml"
    description.write_text("kind: slurm\nworkers: 2\noptions: {cores: 1, memory: 1GB, interface: lo}\n")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    started = time.monotonic()
    with DaskPool(answering, cluster=read_cluster(description)) as pool:
        assert [path.stat().st_mode & 0o777 for path in temporary.iterdir()] == [0o700], "Dask's, of nobody else"
        assert set(listening()) <= {"127.0.0.1"}, "interface: lo, and a dashboard for this machine alone"
        pool.submit(0, "job")
        with pytest.raises(EngineError) as caught:
            pool.next_finished(60)
    expected = (
        "Batch job submission failed: Invalid account" if queue == "refuses" else "No such file or directory: 'sb"
    )
    assert "the queue refused all 2 jobs: " in str(caught.value)
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert list(temporary.iterdir()) == [], "the private folder goes with the pool"
    assert time.monotonic() - started < 60
    assert "sbatch" not in capfd.readouterr().err, "Dask does not report it again"


def broken(_: int) -> Any:
    raise FileNotFoundError("the data are not on this machine")


def test_a_worker_that_cannot_start_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with DaskPool(broken, workers=1) as pool:
        pool.submit(0, "job")
        with pytest.raises(WorkerStartError, match="the data are not on this machine"):
            pool.next_finished(60)
    assert "the data are not" not in capfd.readouterr().err, "not again in ten lines of Dask"


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca.pem``, and ``own.pem`` with ``own.key`` that it has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "2")
    openssl("req", *curve, "-keyout", "own.key", "-out", "own.csr", "-subj", "/CN=127.0.0.1")
    sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    openssl("x509", "-req", "-in", "own.csr", *sign, "-out", "own.pem")
    return folder


def test_a_tls_scheduler_is_used_with_certificates_and_refused_without(certificates: Path) -> None:
    import dask
    from distributed import LocalCluster
    from distributed.security import Security

    ca, cert, key = (str(certificates / name) for name in ("ca.pem", "own.pem", "own.key"))
    roles = {
        f"tls_{role}_{part}": path
        for role in ("scheduler", "worker", "client")
        for part, path in (("cert", cert), ("key", key))
    }
    settings: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tls://",
        host="127.0.0.1",
        security=Security(tls_ca_file=ca, require_encryption=True, **roles),
        silence_logs=50,
        **settings,
    ) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        with pytest.raises(ValueError, match=r"no Dask scheduler answers at 'tls.*__COMM__TLS__CA_FILE"):
            DaskPool(answering, scheduler=address, isolate=False)
        own = {"ca-file": ca, "client.cert": cert, "client.key": key}
        with (
            dask.config.set({f"distributed.comm.tls.{name}": value for name, value in own.items()}),
            DaskPool(answering, scheduler=address, isolate=False) as pool,
        ):
            pool.submit(0, "encrypted")
            finished = pool.next_finished(60)
            assert finished is not None
            assert finished[1].value == "encrypted"


# --- workers that stand still ---------------------------------------------------------------------------------------


def stuck_loader() -> Any:
    time.sleep(600)


def waiting_loader() -> Any:
    """Waits for a lock whose owner lives."""
    from naslib_autokd import files

    for _ in range(20):
        time.sleep(0.1)
        files.waiting()
    return lambda job, report: job


class StuckJob:
    """Does not unpickle in the worker."""

    def __reduce__(self) -> Any:
        return time.sleep, (600,)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Limits:
    monkeypatch.setattr(limits, "STILL_S", 1.0)
    return Limits(seconds=0.5)


def test_a_worker_that_stands_still_while_it_loads_ends_the_run_and_says_where(short: Limits) -> None:
    worker = WorkerProcess(pickled(stuck_loader), short)
    started = time.monotonic()
    with pytest.raises(WorkerStartError, match=r"it stood still for 1 s while it loaded \(in stuck_loader, .*line \d+"):
        worker.run("job")
    assert time.monotonic() - started < 45
    assert worker.pid is None


def test_a_worker_that_stands_still_before_a_training_is_replaced(short: Limits) -> None:
    worker = WorkerProcess(pickled(lambda: answering(0)), short)
    assert worker.run("first").value == "first"
    first = worker.pid
    with pytest.raises(WorkerStartError, match="stood still before it took its first job"):
        worker.run(StuckJob())
    assert worker.run("second").value == "second"
    assert worker.pid != first
    worker.close()


def test_a_worker_that_waits_for_somebody_who_lives_is_left_alone(short: Limits) -> None:
    worker = WorkerProcess(pickled(waiting_loader), short)
    assert worker.run("job").value == "job"
    worker.close()


@pytest.mark.slow
def test_who_computes_does_not_stand_still_and_who_sleeps_does() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(2)  # both have started
        watched = [Stillness(process.pid, 1.5) for process in (busy, idle)]
        ends = time.monotonic() + 6
        still = [False, False]
        while time.monotonic() < ends:
            still = [was or one.too_long() for was, one in zip(still, watched, strict=True)]
            time.sleep(0.1)
        assert still == [False, True]
    finally:
        for process in (busy, idle):
            process.kill()
            process.wait()
