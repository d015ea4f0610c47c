"""What a wrong command line, a missing package or a file that cannot be used says: one line, with what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from naslib_autokd.cli import build_parser, error_text, main
from naslib_autokd.commands import _options
from naslib_autokd.distillation import latency_model
from naslib_autokd.distillation.runtime import Runtime
from naslib_autokd.tasks import get_task


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("serach", "unknown command 'serach'; did you mean 'search'"),
        ("bench qery", "unknown command 'qery'; did you mean 'query'"),
        ("search --trails 5", "unknown option --trails; did you mean --trials"),
        ("search --max_params 5 --out x", "unknown option --max_params; did you mean --max-params"),
        ("search --tri 5 --out x", "unknown option --tri; did you mean --trials"),  # no abbreviations
        ("search --verbose --out x", "unknown option --verbose (naslib-autokd search --help tells more)"),
        ("search -t 5 --out x", "unknown option -t"),
        ("--trials 5 search", "unknown option --trials; the options of a command stand after its name"),
        ("search", "missing --out"),
        ("search --out", "--out needs a value"),
        ("search --out x y", "unexpected argument 'y'"),
        ("status", "missing RUN"),
        ("search --out x --trials five", "--trials must be a whole number, got 'five'"),
        ("search --out x --max-seconds 1h", "--max-seconds must be a number, got '1h'"),
        ("search --out x --max-seconds inf", "--max-seconds must be at most 1000000000, got 'inf'"),
        ("search --out x --student-epochs inf", "--student-epochs must be at most 1e+12, got 'inf'"),
        ("search --out x --student-epochs nan", "--student-epochs must be a number, got 'nan'"),
        ("search --out x --trials 0", "--trials must be at least 1, got '0'"),
        ("search --out x --trials 1e3", "--trials must be a whole number, got '1e3'"),
        ("search --out x --seed -1", "--seed must be at least 0, got '-1'"),
        ("search --out x --workers 0", "--workers must be at least 1, got '0'"),
        ("search --out x --finals 0", "--finals must be at least 1, got '0'"),
        ("search --out x --max-failures 0", "--max-failures must be at least 1, got '0'"),
        ("search --out x --max-macs 0", "--max-macs must be at least 1, got '0'"),
        ("search --out x --trial-seconds 0", "--trial-seconds must be more than 0, got '0'"),
        ("search --out x --target-accuracy 90", "--target-accuracy must be at most 1, got '90'"),
        ("search --out=", "--out must be a text that is not empty and holds no NUL, got ''"),
        ("sample --count 0", "--count must be at least 1, got '0'"),
        ("teacher train --out x --lr inf", "--lr must be at most 1000000, got 'inf'"),
        (
            "teacher check --mean nan",
            "--mean must be numbers with commas between, such as 0.485,0.456,0.406, got 'nan'",
        ),
        ("evaluate --objective kdd", "--objective must be kd, ce or MODULE:FUNCTION, got 'kdd'"),
        (
            "export run --format tflite",
            "unknown value of --format 'tflite' (known: onnx, c, torch-export, safetensors)",
        ),
        ("ablate levels --task a --benchmark b", "--benchmark: not allowed with argument --task"),
        (
            "teacher check --mean a,b",
            "--mean must be numbers with commas between, such as 0.485,0.456,0.406, got 'a,b'",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_with_the_nearest_name(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("naslib-autokd: error: ")
    assert len(captured.err.splitlines()) == 1
    assert captured.err.rstrip().endswith("--help tells more)")
    assert captured.out == ""


def test_negative_numbers_are_values_and_words_after_two_dashes_are_none_of_ours(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["search", "--max-seconds", "-3", "--out", "x"])
    assert "--max-seconds must be more than 0, got '-3'" in capsys.readouterr().err
    assert main(["status", "--", "--trails"]) == 2
    assert "--trails is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--debug", "sample", "--preset", "x"], ["sample", "--preset", "x", "--debug"]])
def test_debug_stands_before_or_after_the_command(words: list[str]) -> None:
    with pytest.raises(ValueError, match="unknown preset"):
        main(words)


def test_debug_stands_in_between_too() -> None:
    with pytest.raises(ValueError, match="there is no benchmark of 'none'"):
        main(["bench", "--debug", "info", "none"])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), "a/b does not exist"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b may not be read or written by you; choose"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", Path("a")), "a is a folder; give a file"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/a"), "f/a is not in a folder; give a folder"),
        (FileExistsError(errno.EEXIST, "File exists", "f"), "f is there already, and no folder"),
        (OSError(errno.EIO, "Input/output error", "f"), "f cannot be used: Input/output error"),
        (OSError("out of tapes"), "out of tapes"),
        (ModuleNotFoundError("No module named 'optuna.x'", name="optuna.x"), 'pip install "naslib_autokd[optuna]"'),
        (ModuleNotFoundError("No module named 'tqdm'", name="tqdm"), "needs the package tqdm, which is not installed"),
        (ImportError("cuml needs CUDA:\n    pip install x"), "cuml needs CUDA:\n    pip install x"),
        (ValueError("two\n  lines"), "two lines"),
    ],
)
def test_errors_of_the_system_say_what_to_do(error: Exception, text: str) -> None:
    assert text in error_text(error)


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err


def test_the_folder_of_another_command_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["export", str(tmp_path)]) == 2
    assert "has no final students; give the run folder of a finished search" in capsys.readouterr().err
    assert main(["evaluate", "--candidate", str(tmp_path)]) == 2
    assert "a run folder has result.json, or trials.jsonl" in capsys.readouterr().err
    assert main(["bench", "fit", str(tmp_path), "--out", "x.npz"]) == 2
    assert "is not the folder of a build" in capsys.readouterr().err
    lines = ['{"method": "a", "seed": 0, "error": "lost"}', '{"method": "a", "seed": 1}', '{"method": "a", "seed": 0}']
    (tmp_path / "runs.jsonl").write_text("\n".join([*lines, '{"method": "b", "seed": 0, "error": "lost"}', '{"met']))
    assert main(["status", str(tmp_path)]) == 0
    assert "2 runs of ablate are on disk, 1 failed" in capsys.readouterr().out


def test_a_stream_that_cannot_encode_a_sign_shows_its_number(tmp_path: Path) -> None:
    (tmp_path / "kä\u2192").mkdir()
    (tmp_path / "kä\u2192" / "runs.jsonl").write_text('{"method": "a", "seed": 1}\n')
    for words, stream in ((["status", "kä\u2192"], "stdout"), (["status", "nö"], "stderr")):
        done = subprocess.run(
            [sys.executable, "-m", "naslib_autokd.cli", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == (0 if stream == "stdout" else 2)
        assert ("k\\xe4\\u2192" if stream == "stdout" else "n\\xf6") in getattr(done, stream)


def test_json_has_null_for_what_json_has_no_number_for(capsys: pytest.CaptureFixture[str]) -> None:
    _options.print_json({"tau": float("nan"), "cost": [float("inf"), 0.5]})
    assert capsys.readouterr().out == '{"tau": null, "cost": [null, 0.5]}\n'


@pytest.mark.parametrize(
    "words", [["--latency-batch", "8"], ["--latency-threads", "2"], ["--latency-provider", "cuda"]]
)
def test_where_a_latency_is_measured_is_no_setting_of_a_search_without_one(words, tmp_path, capsys):
    assert main(["search", *words, "--out", str(tmp_path / "run")]) == 2
    assert "this search measures none: give --max-latency-ms, or latency among" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_width_multiple_auto_is_measured_where_a_latency_is_and_kept_by_the_run(tmp_path, capsys, monkeypatch):
    assert main(["search", "--width-multiple", "auto", "--out", str(tmp_path / "run")]) == 2
    assert "--width-multiple auto is measured where a latency is" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["search", "--width-multiple", "wide", "--out", str(tmp_path / "run")])
    assert "--width-multiple must be a whole number, got 'wide'" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(latency_model, "block_of", lambda runtime: asked.append(runtime) or 8)
    options = build_parser().parse_args(
        ["search", "--width-multiple", "auto", "--max-latency-ms", "1", "--latency-batch", "4", "--out", str(tmp_path)]
    )
    assert _options.task_from_options(options).width_multiple == 8
    assert asked == [Runtime(batch=4)]
    get_task("cluttered-digits", width_multiple=16).to_yaml(tmp_path / "task.yaml")
    assert _options.task_from_options(options).width_multiple == 16
    assert len(asked) == 1
