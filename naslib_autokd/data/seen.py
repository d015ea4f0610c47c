"""Which pictures a student has seen, in little room: a sample of fingerprints, which its file keeps.

Of all pictures those `SAMPLE` with the smallest fingerprints are kept (bottom-k sampling, Cohen and Kaplan 2007). Of
any other pictures those whose fingerprint is no larger than the largest of these can be looked up: they are known if,
and only if, the student has seen them. So the share of pictures that are known is estimated without bias.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLE = 512
"""Fingerprints that are kept."""
BYTES = 5
"""Of a fingerprint: one in 2 billion other pictures is taken for one of `SAMPLE`."""


def fingerprints(images: npt.NDArray[np.uint8]) -> list[int]:
    """Of uint8 pictures ``(n, channels, height, width)`` as a network takes them: equal for equal pixels only."""
    images = np.ascontiguousarray(images)
    return [int.from_bytes(hashlib.blake2b(image.data, digest_size=BYTES).digest(), "big") for image in images]


@dataclass(frozen=True)
class SeenPictures:
    """A sample of the pictures that a student was trained or chosen on."""

    whole: bool
    """Whether these are all pictures that there were."""
    sample: frozenset[int]

    @classmethod
    def of(cls, batches: Iterable[npt.NDArray[np.uint8]]) -> SeenPictures:
        kept: set[int] = set()
        whole = True
        for batch in batches:
            kept.update(fingerprints(batch))
            if len(kept) > SAMPLE:
                kept, whole = set(sorted(kept)[:SAMPLE]), False
        return cls(whole, frozenset(kept))

    def count(self, images: npt.NDArray[np.uint8]) -> tuple[int, int]:
        """How many of these pictures are known, and of how many that can be told."""
        largest = 256**BYTES if self.whole else max(self.sample)
        told = [one for one in fingerprints(images) if one <= largest]
        return sum(one in self.sample for one in told), len(told)

    def to_dict(self) -> dict[str, Any]:
        raw = b"".join(one.to_bytes(BYTES, "big") for one in sorted(self.sample))
        return {"whole": self.whole, "sample": base64.b64encode(raw).decode()}

    @classmethod
    def from_dict(cls, content: Any) -> SeenPictures:
        """What `to_dict` gave.

        Raises:
            ValueError: If it is something else.
        """
        try:
            raw = base64.b64decode(content["sample"], validate=True)
            if len(raw) % BYTES or not isinstance(content["whole"], bool) or not (raw or content["whole"]):
                raise ValueError("no list of fingerprints")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no sample of seen pictures: {error}") from error
        parts = (raw[start : start + BYTES] for start in range(0, len(raw), BYTES))
        return cls(content["whole"], frozenset(int.from_bytes(part, "big") for part in parts))
