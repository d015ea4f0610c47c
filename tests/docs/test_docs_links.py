"""Links and anchors of README and docs lead somewhere; messages that the pages quote are in the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from docs_pages import PAGES, ROOT, anchors, blocks, links, name_of, prose

from naslib_autokd import __version__

SOURCES = [path.read_text(encoding="utf-8") for path in (ROOT / "naslib_autokd").rglob("*.py")]


def broken_links(page: Path, root: Path) -> list[str]:
    broken = []
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or not target.is_relative_to(root):
            broken.append(path)
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    assert not broken_links(page, ROOT)


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One & two\n[a](missing.md) ![b](page.md#one--two) [c](#three) [d](https://x.org)\n```\n[e](block.md)\n```\n"
    )
    assert broken_links(page, tmp_path) == ["missing.md", "#three"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_fences_are_closed_and_of_known_kinds(page: Path) -> None:
    assert len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)) == 2 * len(blocks(page))
    assert {block.kind for block in blocks(page)} <= {"bash", "python", "yaml", "toml", "text", "bibtex"}


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    def pages(node: object) -> set[str]:
        if isinstance(node, str):
            return {node}
        values = node if isinstance(node, list) else list(node.values()) if isinstance(node, dict) else []
        return set().union(*(pages(value) for value in values)) if values else set()

    known = pages(yaml.safe_load(text)["nav"])
    assert known == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_workflow_and_the_hooks_do_what_ci_does_with_its_versions() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    assert jobs["test"]["steps"][-1]["run"] == "bash .ci/run"
    versions = jobs["test"]["strategy"]["matrix"]["python"]
    assert f"for version in ({', '.join(map(json.dumps, versions))})" in (ROOT / "setup.py").read_text(encoding="utf-8")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]
    assert f"ruff=={hooks['rev'].removeprefix('v')}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")


def test_the_rooms_that_contributors_are_sent_to_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(naslib_autokd/[^`]+)`", text)
    assert len(named) >= 12
    assert [place for place in named if not (ROOT / place).exists()] == []
    rooms = {path.name for path in (ROOT / "naslib_autokd").iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= set(re.findall(r"^([a-z_]+)/", text, re.MULTILINE))


def quoted_messages(page: Path) -> list[str]:
    """What a page of problems quotes: code in bold, in the first column of a table, or that begins a line."""
    text = prose(page)
    starts = [line for line in text.splitlines() if line.startswith(("**`", "`", "| `"))]
    found = []
    for line in starts:
        head = line.split("|")[1] if line.startswith("|") else line.rpartition("**")[0]
        found += re.findall(r"`([^`]+)`", head)
    return found


def test_messages_of_the_faq_are_in_the_code() -> None:
    quoted = quoted_messages(ROOT / "docs" / "faq.md")
    assert len(quoted) > 25
    code = "\n".join(re.sub(r'"\s*\n\s*f?"', "", source) for source in SOURCES)  # texts that run over lines
    foreign = {"operator torchvision::nms does not exist"}  # torch's
    code = code.replace("{HOME}", "NASLIB_HOME")
    missing = [text for text in quoted if text not in code and text not in foreign]
    assert not missing, f"no message of the code says: {missing}"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason='mkdocs is missing: pip install -e ".[docs]"')
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "site" / "reference" / "runners" / "index.html").read_text(encoding="utf-8")
    assert "naslib_autokd.runners.search.search" in page
    assert "student_epochs" in page
