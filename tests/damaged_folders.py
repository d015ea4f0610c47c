"""A seeded generator of damaged run folders: ``damage(folder, index)`` does always the same to the same folder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

VALUES: list[Any] = [
    *(-5, 7, 1e308, 10**40, float("nan"), float("inf"), True, None, "", "x", "../../x", "\x1b[31m", "é→"),
    *([], [1], {}, {"a": 1}, [[[]]], "9" * 5000),
]


TEXTS = [
    *(b"", b"\0" * 50, b"null\n", b"5\n", b"[]\n", b"{}\n", b"- 1\n", b"a: [", b"word", b"\xff\xfe\x00"),
    *(b"a: !!python/name:os.system\n", b"<<: {a: 1}\n", b'{"a": NaN}\n', b"[" * 100_000, b'{"a":' * 50_000),
]


def damage(folder: Path, index: int) -> str:
    """Damage one file of a run folder; says what was done."""
    rng = random.Random(f"damaged folder {index}")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    path = rng.choice(files)
    content = path.read_bytes()
    structured = path.suffix in (".json", ".jsonl")
    kind = rng.choice(
        ["value", "value", "value", "line", "line", "bytes", "bytes", "text", "place"]
        if structured
        else ["line", "bytes", "bytes", "text", "place"]
    )
    if kind == "value":
        what = _value(rng, path)
    elif kind == "line":
        what = _line(rng, path, content)
    elif kind == "bytes":
        what = _bytes(rng, path, content)
    elif kind == "text":
        text = rng.choice([*TEXTS, rng.randbytes(500)])
        path.write_bytes(text)
        what = f"holds {text[:20]!r}"
    else:
        what = _place(rng, path)
    return f"{path.relative_to(folder)} {what}"


def _value(rng: random.Random, path: Path) -> str:
    """Another value somewhere in a file of JSON."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
    at = rng.randrange(len(lines))
    document = json.loads(lines[at])
    place, trail = document, []
    while True:
        key = rng.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
        trail.append(key)
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.2:
            break
        place = place[key]
    if isinstance(place, dict) and rng.random() < 0.2:
        del place[key]
        what = "is gone"
    else:
        place[key] = rng.choice(VALUES)
        what = f"= {place[key]!r:.30}"
    lines[at] = json.dumps(document, separators=(",", ":") if path.suffix == ".jsonl" else None)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"line {at + 1} {trail} {what}"


def _line(rng: random.Random, path: Path, content: bytes) -> str:
    lines = content.splitlines(keepends=True) or [b"\n"]
    at = rng.randrange(len(lines))
    kind = rng.choice(["twice", "gone", "first", "half", "junk", "all twice"])
    changed = {
        "twice": [*lines[:at], lines[at], *lines[at:]],
        "gone": [*lines[:at], *lines[at + 1 :]],
        "first": [lines[at], *lines[:at], *lines[at + 1 :]],
        "half": [*lines[:at], lines[at][: len(lines[at]) // 2] + b"\n", *lines[at + 1 :]],
        "junk": [*lines[:at], b'{"x": 1}\n', *lines[at:]],
        "all twice": lines * 2,
    }[kind]
    path.write_bytes(b"".join(changed))
    return f"line {at + 1} {kind}"


def _bytes(rng: random.Random, path: Path, content: bytes) -> str:
    at = rng.randrange(max(1, len(content)))
    if rng.random() < 0.5:
        path.write_bytes(content[:at])
        return f"ends at byte {at} of {len(content)}"
    flipped = bytearray(content or b"\0")
    flipped[at % len(flipped)] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(flipped))
    return f"byte {at} flipped"


def _place(rng: random.Random, path: Path) -> str:
    """Something else in the file's place."""
    path.unlink()
    kind = rng.choice(["is gone", "is a folder", "is a link to nothing", "is a link to itself"])
    if kind == "is a folder":
        path.mkdir()
    elif kind == "is a link to nothing":
        path.symlink_to(path.parent / "nothing")
    elif kind == "is a link to itself":
        path.symlink_to(path)
    return kind
