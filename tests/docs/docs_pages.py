"""What the pages of the documentation hold: fenced blocks, commands, links and headings."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "reference" not in path.parts),
)

FENCE = re.compile(r"^```([\w-]*)(?: +title=\"([^\"]+)\")?[^\n]*\n(.*?)^```\s*?$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    kind: str
    """The language behind the fence; empty if there is none."""
    title: str
    """``title="mynet.py"``: a file that the reader writes."""
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    return tuple(Block(kind, title or "", text) for kind, title, text in FENCE.findall(text_of(page)))


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def commands_in(block: Block) -> list[str]:
    """The commands of a bash block, one a line, without comments, continuations and the path of the environment."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s+&&\s+", line):
            words = shlex.split(part, comments=True)
            if words:
                words[0] = words[0].removeprefix(".venv/bin/")
                found.append(shlex.join(words))
    return found


def commands(page: Path) -> list[str]:
    return [command for block in blocks(page) if block.kind == "bash" for command in commands_in(block)]


def inline_commands(page: Path) -> list[str]:
    """Commands within the text, between single backticks; those that leave something out (`...`, `a|b`) are none."""
    found = re.findall(r"`(naslib-autokd [^`]+)`", prose(page))
    return [" ".join(command.split()) for command in found if "..." not in command and "|" not in command]


def links(page: Path) -> list[tuple[str, str]]:
    """``(path, anchor)`` of every relative link and picture; both may be empty."""
    found = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", prose(page))
    found += re.findall(r"<img[^>]*\ssrc=\"([^\"]+)\"", prose(page))
    return [(target.partition("#")[0], target.partition("#")[2]) for target in found if "://" not in target]


def anchors(page: Path) -> set[str]:
    """Of the headings, as code hosts make them."""
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found
