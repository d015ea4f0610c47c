"""Shell completion: scripts that a shell takes, with the names and paths that can be typed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from naslib_autokd.cli import main
from naslib_autokd.commands.completion import INSTALL, script
from naslib_autokd.optimizers import OPTIMIZERS
from naslib_autokd.tasks import TASKS

BASH = shutil.which("bash")
COMPLETE = """\
source "$1"; shift
compopt() { :; }
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
function=$(complete -p naslib-autokd | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function naslib-autokd "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "naslib-autokd.bash"
    path.write_text(script("bash"))
    return path


@pytest.mark.skipif(BASH is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sea", {"search"}),
        ("bench q", {"query"}),
        ("search --max-p", {"--max-params"}),
        ("search --optimizer aut", {"autokd", "autokd-full"}),
        ("search --task clut", {"cluttered-digits", "cluttered-digits-12"}),
        ("search --task mi", {"mit67", "mine.yaml"}),  # a name or a file
        ("search --objective c", {"ce"}),
        ("sample --preset hnag-", {"hnag-device", "hnag-small", "hnag-small-untuned", "hnag-wide"}),
        ("ablate kd", {"kd-settings"}),
        ("bench info clut", {"cluttered-digits"}),
        ("export --format o", {"onnx"}),
        ("export ru", {"runs"}),
        ("search --out ru", {"runs"}),
        ("search --out mi", {""}),  # a folder, no file
        ("completion z", {"zsh"}),
        ("teacher check --teacher resnet-s", {"resnet-small"}),
        ("data ch", {"check"}),
        ("search --config mi", {"mine.yaml"}),
    ],
)
def test_bash_completes(line: str, expected: set[str], bash_script: Path, tmp_path: Path) -> None:
    assert BASH is not None
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "runs").mkdir()
    command = [BASH, "-c", COMPLETE, "bash", str(bash_script), "naslib-autokd", *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(done.stdout.splitlines()) == expected


@pytest.mark.parametrize("shell", INSTALL)
def test_every_shell_gets_the_names(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name in (*OPTIMIZERS, *TASKS, "search", "compare-kd", "trial-seconds", "hnag-small", "kd-settings"):
        assert name in text


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert "there is no completion for 'fish'; give one of bash, zsh, tcsh" in capsys.readouterr().err
