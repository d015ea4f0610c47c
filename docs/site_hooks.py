"""Lets the pages link to files of the repository beside ``docs/``, on the site as on a code host.

A link such as ``../benchmarks/results/optimizers.md`` leaves the documentation's folder, which mkdocs refuses. What is
linked is added to the site under ``repository/``, and links to it are rewritten.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("examples", "benchmarks", "tests", "naslib_autokd", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
SUFFIXES = {".md", ".png", ".svg", ".json", ".jsonl", ".csv", ".txt", ".yaml", ".py", ".html"}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
PLACE = "repository/"


def _is_shown(path: str) -> bool:
    return path.split("/")[0] in SHOWN and (ROOT / path).exists()


def on_files(files: Files, config: Any) -> Files:
    """Add what pages link to; results with all that lies beside them, as they link to each other."""
    linked: set[Path] = set()
    for page in list(files.documentation_pages()):
        for _, target, _ in LINK.findall(page.content_string):
            path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.src_uri), target))
            if not path.startswith("docs/") and _is_shown(path):
                place = ROOT / path
                folder = place if place.is_dir() else place.parent
                linked |= set(folder.iterdir()) if path.startswith("benchmarks/results/") else {place}
    for path in sorted(linked):
        if path.is_file() and path.suffix in SUFFIXES:
            uri = PLACE + path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links that leave ``docs/`` to the copies."""
    folder = posixpath.dirname(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        if "://" in match[2]:
            return match[0]
        if page.file.src_uri.startswith(PLACE):  # a page of the repository: what it links to may not be shown
            target = posixpath.normpath(posixpath.join(folder, match[2]))
            return match[0] if files.get_file_from_path(target) else f"{match[1]}#)"
        path = posixpath.normpath(posixpath.join("docs", folder, match[2]))
        if path.startswith("docs/") or not _is_shown(path):
            return match[0]
        uri = PLACE + path
        if (ROOT / path).is_dir():  # a folder: the page in it
            uri += "/README.md"
        return f"{match[1]}{posixpath.relpath(uri, folder or '.')}{match[3]}"

    return LINK.sub(rewritten, markdown)
