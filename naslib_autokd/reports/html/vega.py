"""The JavaScript that draws the page's charts: Vega, Vega-Lite and Vega-Embed, as vl-convert brings them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from importlib.metadata import version

from naslib_autokd.files import cache_place, ours_alone, write_whole

log = logging.getLogger(__name__)


def vega() -> str:
    """Source of the libraries, 0.9 MB: they set ``vegaEmbed``. Packing them takes seconds, so they are kept.

    The file's name has the digest of its content, and another user's file is not read: it is run in a browser.
    """
    folder = cache_place("vega")
    start = f"vega-{version('vl-convert-python')}"
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob(f"{start}-*.js")):
            content = path.read_bytes() if ours_alone(folder) and ours_alone(path) else b""
            if path.stem == f"{start}-{_digest(content)}":
                return content.decode()
    import vl_convert

    source = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(folder / f"{start}-{_digest(source.encode())}.js", source.encode(), mode=0o600)
    except OSError as error:  # read-only, or full: the next page packs them again
        log.debug("the page's libraries cannot be kept: %s", error)
    return source


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
