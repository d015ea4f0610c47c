"""The command line: what it prints, what it writes, and one clear line for every kind of bad input."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from naslib_autokd.cli import build_parser, exit_status, main, parse_size, plain_warnings
from naslib_autokd.commands._parser import subcommands
from naslib_autokd.records import RecordWarning, StoreLockedError, StoreWriteError, TrialStore
from naslib_autokd.search_spaces.hnag import Candidate


def documented(command: str) -> set[str]:
    """The keys that ``--help`` says ``--json`` prints, those of nested objects left out."""
    commands = subcommands(build_parser())
    assert commands is not None
    told = (commands[command].epilog or "").partition("--json prints ")[2].partition(";")[0]
    told = re.sub(r"\([^)]*\)", "", told.rpartition(": ")[2])
    return {key for part in told.split(",") if re.fullmatch("[a-z_]+", key := part.strip())}


def test_sample_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "wirings.png"
    assert main(["sample", "--preset", "hnag", "--seed", "1", "--count", "3", "--draw", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("MMACs" in line for line in lines)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_sampled_candidate_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "--seed", "4", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    path = tmp_path / "candidate.json"
    path.write_text(json.dumps(first))
    assert main(["sample", "--candidate", str(path), "--seed", "4", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == first
    assert first["n_params"] <= 24_000
    assert documented("sample") - set(first) == set()
    assert Candidate.from_dict(first["candidate"]).sample_wiring(first["wiring_seed"]).digest == first["wiring"]


def test_search_runs_to_the_end_resumes_and_keeps_everything(
    small_task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["search", "--task", small_task, "--trials", "3", "--seed", "2", "--finals", "2", "--out", str(out)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "The family: 2 students of family" in text
    assert "kept by validation: test accuracy" in text
    trials = [trial.outcome() for trial in TrialStore(out / "trials.jsonl")]
    assert len(trials) == 3
    assert all(trial["info"].get("test_accuracy") is None for trial in trials)
    assert len(list((out / "students").glob("*.safetensors"))) == 2

    before = (out / "finals.jsonl").read_bytes()
    assert main([*command, "--json"]) == 0  # nothing is trained again
    data = json.loads(capsys.readouterr().out)
    assert (out / "finals.jsonl").read_bytes() == before
    assert [trial.outcome() for trial in TrialStore(out / "trials.jsonl")] == trials
    assert len(data["finals"]) == 2
    assert set(data) == documented("search")
    assert main(["status", str(out), "--json"]) == 0
    assert documented("status") <= set(json.loads(capsys.readouterr().out))
    assert 0 < data["finals"][data["kept"]]["test_accuracy"] <= 1


@pytest.mark.slow
def test_evaluate_is_the_same_bit_for_bit_in_a_new_process(small_task: str) -> None:
    command = ["-m", "naslib_autokd.cli", "evaluate", "--task", small_task, "--budget", "1", "--seed", "5", "--json"]
    trials = []
    for _ in range(2):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        trials.append(json.loads(done.stdout))
    for trial in trials:
        for name in ("sample_s", "build_s", "train_s", "evaluate_s"):
            assert trial.pop(name) >= 0
    assert trials[0] == trials[1]
    assert trials[0]["status"] == "success"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--preset", "hnagg"], "unknown preset 'hnagg'; did you mean 'hnag'"),
        (["sample", "--task", "clutered-digits"], "did you mean 'cluttered-digits'"),
        (["sample", "--max-params", "900"], "is too small for this wiring"),
        (["sample", "--candidate", "nowhere.yaml"], "nowhere.yaml"),
        (["evaluate", "--budget", "99"], "--budget must be from 1 to the task's maximum of 9 epochs, got 99"),
        (["evaluate", "--teacher", "nowhere.safetensors"], "nowhere.safetensors"),
        (["evaluate", "--device", "warp"], "device 'warp' cannot be used"),
        (["evaluate", "--task", "cifar10"], "needs data_dir"),
        (["evaluate", "--task", "cifar10", "--data-dir", "/nowhere"], "does not exist"),
        (["search", "--optimizer", "autokdd", "--out", "unused"], "unknown optimizer 'autokdd'; did you mean"),
        (["search", "--option", "fidelity", "--out", "unused"], "NAME=VALUE"),
        (["search", "--option", "fidelity=fulll", "--out", "unused"], "did you mean 'full'"),
        (["search", "--objectives", "error,mac", "--out", "unused"], "unknown objective 'mac'; did you mean 'macs'"),
        (["search", "--max-memory", "huge", "--out", "unused"], "--max-memory must be a number with a unit"),
        (["search", "--trial-memory", "much", "--out", "unused"], "--trial-memory must be a number with a unit"),
        (
            ["search", "--trial-memory", "1e400GB", "--out", "unused"],
            "--trial-memory must be from 1 byte to",
        ),
        (["search", "--trial-memory", "1.2.3GB", "--out", "unused"], "--trial-memory must be a number with a unit"),
        (["search", "--trial-memory", "0", "--out", "unused"], "--trial-memory must be from 1 byte"),
        (["search", "--cluster", "nowhere.yaml", "--out", "unused"], "nowhere.yaml cannot be read"),
        (["search", "--device", "cpu,cpu", "--out", "unused"], "several devices need --workers"),
        (["search", "--scheduler", "tcp://x:1", "--workers", "2", "--out", "unused"], "has its own workers"),
        (["status", "nowhere"], "nowhere is no folder; give the run folder"),
        (["search", "--option", "etaa=3", "--out", "unused"], "'autokd' has no option 'etaa'; did you mean 'eta'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("naslib-autokd: error: ")
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "nothing is left behind by a refused command"


def test_own_warnings_are_lines_for_people() -> None:
    usual = warnings.formatwarning
    with plain_warnings():
        assert warnings.formatwarning("2 records", RecordWarning, "a.py", 3) == "naslib-autokd: warning: 2 records\n"
        assert "a.py:3: UserWarning: x" in warnings.formatwarning("x", UserWarning, "a.py", 3, "code")
    assert warnings.formatwarning is usual


def test_bad_values_in_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tmp_path / "task.yaml"
    task.write_text("dataset: cluttered-digits\nbatchsize: 64\n")
    assert main(["evaluate", "--task", str(task)]) == 2
    assert "line 2: unknown key 'batchsize'; did you mean 'batch_size'" in capsys.readouterr().err
    assert main(["sample", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    candidate = tmp_path / "candidate.json"
    for change, message in (
        ({"temperature": 0.0, "kd_weight": 0.5}, "temperature"),
        ({"temperature": 4.0, "kd_weight": 1.5}, "kd_weight"),
        ({"temperature": 4.0, "kdweight": 0.5}, "did you mean 'kd_weight'"),
    ):
        candidate.write_text(json.dumps({**content["candidate"], "kd": change}))
        assert main(["evaluate", "--candidate", str(candidate)]) == 2
        assert message in capsys.readouterr().err
    candidate = tmp_path / "candidate.yaml"
    family = Candidate.from_dict(content["candidate"]).to_yaml()
    candidate.write_text(family.replace("channel_growth", "chanel_growth"))
    assert main(["evaluate", "--candidate", str(candidate)]) == 2
    error = capsys.readouterr().err
    line = 1 + next(i for i, text in enumerate(family.splitlines()) if "channel_growth" in text)
    assert f"line {line}: unknown key 'chanel_growth'" in error
    assert "did you mean 'channel_growth'" in error
    candidate.write_text("just a line")
    assert main(["evaluate", "--candidate", str(candidate)]) == 2
    assert "candidate.yaml holds no candidate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("max_params: 700", "raise max_params to at least"),
        ("image_size: 5\nstem: large", "image_size 5 is too small"),
    ],
)
def test_a_task_that_no_student_fits_is_refused_before_any_work(
    setting: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "task.yaml"
    task.write_text(f"dataset: digits\nname: tight\n{setting}\n")
    assert main(["search", "--task", str(task), "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_run_folder_of_another_task_is_refused(
    small_task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "task.yaml").write_text(Path(small_task).read_text().replace("n_train: 160", "n_train: 320"))
    assert main(["search", "--task", small_task, "--trials", "1", "--out", str(out)]) == 2
    assert "belongs to another run" in capsys.readouterr().err


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="unknown preset"):
        main(["sample", "--preset", "x", "--debug"])


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m naslib_autokd.cli sample --count 400 --json | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wiring" in json.loads(done.stdout)


def test_console_command_is_installed() -> None:
    command = Path(sys.executable).with_name("naslib-autokd")
    done = subprocess.run([str(command), "--help"], capture_output=True, text=True, check=True)
    for name in ("search", "status", "sample", "evaluate", "completion"):
        assert name in done.stdout


@pytest.mark.slow
def test_workers_find_what_one_worker_finds_and_their_limits_hold(
    small_task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", "--task", small_task, "--optimizer", "random_search", "--trials", "3", "--finals", "2"]
    results = []
    for workers, options in (("1", []), ("2", ["--trial-seconds", "200", "--trial-memory", "4GB"])):
        out = tmp_path / workers
        assert main([*command, "--workers", workers, *options, "--json", "--out", str(out)]) == 0
        results.append(json.loads(capsys.readouterr().out))
    trials = [sorted(TrialStore(tmp_path / n / "trials.jsonl"), key=lambda t: t.number) for n in "12"]
    assert [t.outcome() for t in trials[0]] == [t.outcome() for t in trials[1]]
    assert [f["test_accuracy"] for f in results[0]["finals"]] == [f["test_accuracy"] for f in results[1]["finals"]]
    assert len(list((tmp_path / "2" / "students").glob("*.safetensors"))) == 2

    out = tmp_path / "limited"
    options = ["--trial-seconds", "0.01", "--max-failures", "1", "--out", str(out)]
    assert main([*command, *options]) == 3
    assert "1 trials in a row failed, 1 of them with 'timeout: killed after 0.01 s" in capsys.readouterr().err

    assert main(["status", str(tmp_path / "2")]) == 0
    assert "finished (n_trials)" in capsys.readouterr().out
    assert main(["status", str(out), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["failures"]) == ("failed", {"timeout": 1})


def test_exit_codes() -> None:
    from naslib_autokd.runners.tally import TooManyFailures

    codes = {
        TooManyFailures("x"): 3,
        StoreWriteError("x"): 4,
        OSError(errno.ENOSPC, "x"): 4,
        StoreLockedError("x"): 2,
        ValueError("x"): 2,
        FileNotFoundError("x"): 2,
        RuntimeError("x"): 1,
        ImportError("x"): 2,
    }
    assert {error: exit_status(error) for error in codes} == codes


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 << 30), ("512 MiB", 512 << 20), ("1.5g", 3 << 29), ("1e6", 10**6), ("7kb", 7 << 10)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.slow
def test_importance_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from naslib_autokd.reports import importance

    monkeypatch.setattr(importance, "write_importance_report", lambda found, out: [out / "importance.md"])
    assert main(["bench", "importance", "--samples", "4", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"benchmark", "overall", "best_0.25", "range_of_means", "sentences", "files"} == set(found)
    assert 0 < found["overall"]["mean"] < 1
    assert found["files"] == [str(tmp_path / "importance.md")]


def test_a_search_with_several_objectives_and_limits(
    small_task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["search", "--task", small_task, "--objectives", "macs,error", "--finals", "1", "--trials", "5"]
    assert main([*command, "--max-memory", "4MB", "--out", str(out)]) == 0
    assert "MMACs" in capsys.readouterr().out
    trials = list(TrialStore(out / "trials.jsonl"))
    assert max(trial.train_memory_bytes or 0 for trial in trials) <= 4 * 2**20
    assert len({trial.candidate.get("size", 1.0) for trial in trials}) > 1
    front = json.loads((out / "result.json").read_text())["front"]
    macs = [family["objectives"]["macs"] for family in front]
    assert macs == sorted(macs, reverse=True)
    assert {"front.csv", "front_macs.png", "front_macs.pdf"} <= {path.name for path in out.iterdir()}
    # one of the settings of the run: another limit is another run
    assert main([*command, "--max-memory", "5MB", "--out", str(out)]) == 2
    assert "belongs to another run" in capsys.readouterr().err
    assert main([*command, "--max-memory", "50KB", "--out", str(tmp_path / "other")]) == 2
    assert re.search(
        r"no student of 33 families keeps the limits; .*: max_train_memory must be at least [\d.]+KB",
        capsys.readouterr().err,
    )
