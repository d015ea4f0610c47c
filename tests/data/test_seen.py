"""What a student's file keeps of the pictures that it has seen tells which others it has."""

from __future__ import annotations

import json

import numpy as np
import pytest

from naslib_autokd.data.seen import SAMPLE, SeenPictures


def noise(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 1, 6, 6), dtype=np.uint8)


def test_few_pictures_are_all_known_and_others_are_not():
    seen = SeenPictures.of([noise(100, 0), noise(100, 1)])
    assert seen.whole
    assert seen.count(np.concatenate([noise(50, 1), noise(30, 2)])) == (50, 80)


def test_of_many_pictures_the_share_is_estimated():
    old, new = noise(20_000, 0), noise(6_000, 1)
    seen = SeenPictures.of(np.split(old, 20))
    assert not seen.whole
    assert len(seen.sample) == SAMPLE
    assert seen.count(old) == (SAMPLE, SAMPLE)
    found, told = seen.count(np.concatenate([old[:6_000], new]))
    assert told == pytest.approx(12_000 * SAMPLE / 20_000, rel=0.25)  # four standard deviations
    assert found / told == pytest.approx(0.5, abs=0.12)
    assert seen.count(new)[0] == 0


def test_the_order_of_pictures_and_the_file_change_nothing():
    old = noise(3_000, 0)
    seen = SeenPictures.of([old])
    assert SeenPictures.of(np.split(old[::-1], 3)) == seen
    assert SeenPictures.from_dict(json.loads(json.dumps(seen.to_dict()))) == seen
    assert len(seen.to_dict()["sample"]) < 3_500


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        {"whole": 1, "sample": ""},
        {"whole": True, "sample": "YQ=="},
        {"whole": True, "sample": 3},
        {"whole": False, "sample": ""},
        {"whole": True, "sample": "?"},
    ],
)
def test_what_is_no_sample_is_an_error(content):
    with pytest.raises(ValueError, match="no sample of seen pictures"):
        SeenPictures.from_dict(content)
