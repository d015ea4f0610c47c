"""A run with two final students, trained once."""

from __future__ import annotations

import pytest

from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.runners.finals import train_family
from naslib_autokd.search_spaces.hnag import HNAGSpace


@pytest.fixture(scope="session")
def evaluator(tiny_data, cluttered_teacher):
    return KDEvaluator(tiny_data.task, data=tiny_data, teacher=cluttered_teacher.network)


@pytest.fixture(scope="session")
def run(evaluator, tmp_path_factory):
    """A run folder with two final students."""
    folder = tmp_path_factory.mktemp("run")
    train_family(evaluator, HNAGSpace("hnag-small").default_candidate(), n_students=2, seed=0, out=folder)
    return folder
