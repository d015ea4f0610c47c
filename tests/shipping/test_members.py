"""Families of a run are found by how their digest begins."""

from __future__ import annotations

import numpy as np
import pytest

from naslib_autokd.records import Proposal, Trial, TrialStore
from naslib_autokd.runners.run_folder import TRIALS
from naslib_autokd.search_spaces.hnag import HNAGSpace
from naslib_autokd.shipping.members import find_family, train_member
from naslib_autokd.shipping.student_file import ExportError


@pytest.fixture
def tried(tmp_path):
    """A run folder with trials of three families."""
    rng, space = np.random.default_rng(0), HNAGSpace("hnag-small")
    families = [space.default_candidate(), space.sample(rng), space.sample(rng)]
    with TrialStore(tmp_path / TRIALS) as store:
        for number, family in enumerate([*families, families[0]]):
            trial = Trial.of(Proposal(family, 1, number, number), n_params=1000 + number, cost=0.1 * (number + 1))
            store.append(trial)
    return tmp_path, families


def test_the_first_digits_are_enough(tried):
    folder, families = tried
    for family in families:
        assert find_family(folder, family.digest) == find_family(folder, family.digest[:6]) == family


def test_what_is_no_family_of_the_run_is_refused_with_some_that_are(tried, tmp_path):
    folder, families = tried
    with pytest.raises(ExportError, match=r"no family has it; some of its families: .*1,001 parameters"):
        find_family(folder, "ffffff")
    with pytest.raises(ExportError, match="give at least 4 digits"):
        find_family(folder, families[0].digest[:3])
    with pytest.raises(ExportError, match="is no run folder of a search"):
        train_member(tmp_path / "nowhere", families[0].digest)
