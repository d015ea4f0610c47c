"""NASLib asks the benchmark: the same questions as of the live evaluator, answered without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_cases import config, random_states

import naslib_autokd
from naslib_autokd.evaluators.benchmark import BenchmarkError, KDBenchmark
from naslib_autokd.plugin.loader import naslib_missing
from naslib_autokd.records import Proposal, derive_seed

pytestmark = pytest.mark.skipif(naslib_missing() is not None, reason=f"NASLib is missing: {naslib_missing()}")

DATASET = "cluttered-digits"


@pytest.fixture
def registered() -> Any:
    naslib_autokd.register(benchmark=True)
    yield
    naslib_autokd.unregister()


@pytest.fixture
def api(registered) -> Any:
    from naslib.utils import get_dataset_api

    return get_dataset_api("hnag", DATASET)


def architecture(name: str = "hnag") -> Any:
    from naslib.search_spaces import get_search_space

    graph = get_search_space(name, DATASET)
    np.random.seed(3)  # noqa: NPY002  (NASLib's)
    graph.sample_random_architecture(dataset_api=None)
    return graph


def test_every_metric_is_answered_without_training(api):
    from naslib.search_spaces.core.query_metrics import Metric

    graph = architecture()
    benchmark = KDBenchmark(DATASET)
    seed = derive_seed(api.seed, "trial", 0)
    trial = benchmark.evaluate(Proposal(graph.candidate, 9, seed, 0))
    before = random_states()
    assert graph.query(Metric.VAL_ACCURACY, DATASET, dataset_api=api) == pytest.approx(100 * trial.val_accuracy)
    assert graph.query(Metric.TRAIN_ACCURACY, DATASET, dataset_api=api) == pytest.approx(100 * trial.train_accuracy)
    assert graph.query(Metric.TRAIN_LOSS, DATASET, dataset_api=api) == trial.curve[-1]
    assert graph.query(Metric.TRAIN_TIME, DATASET, dataset_api=api) == trial.train_s > 0
    assert graph.query(Metric.PARAMETERS, DATASET, dataset_api=api) == trial.n_params / 1e6
    assert graph.query(Metric.FLOPS, DATASET, dataset_api=api) == trial.macs / 1e6
    curve = graph.query(Metric.VAL_ACCURACY, DATASET, dataset_api=api, full_lc=True)
    assert len(curve) == 9
    assert curve[-1] == pytest.approx(100 * trial.val_accuracy)
    assert len(graph.query(Metric.TRAIN_LOSS, DATASET, dataset_api=api, full_lc=True)) == 9
    assert graph.query(Metric.LATENCY, DATASET, dataset_api=api) == -1, "nothing is built"
    assert graph.query(Metric.RAW, DATASET, dataset_api=api)["info"]["benchmark"] == benchmark.name
    short = graph.query(Metric.VAL_ACCURACY, DATASET, epoch=3, dataset_api=api)
    assert short < 100 * trial.val_accuracy
    with pytest.raises(BenchmarkError, match="1, 3, 9 epochs, not of 4"):
        graph.query(Metric.VAL_ACCURACY, DATASET, epoch=4, dataset_api=api)
    assert random_states() == before


def test_the_test_split_is_opened_by_the_final_evaluation_alone(api):
    from naslib.search_spaces.core.query_metrics import Metric

    graph = architecture()
    assert graph.query(Metric.TEST_ACCURACY, DATASET, dataset_api=api) == -1
    final = graph.query(Metric.TEST_ACCURACY, DATASET, dataset_api=api.final())
    assert final == pytest.approx(100 * (1 - api.evaluator.final_test_error(graph.candidate, api.seed)))
    assert 40 < final < 100


@pytest.mark.parametrize("name", ["hnag", "hnag-individual"])
def test_a_search_of_naslib_runs_on_it(registered, tmp_path: Path, name: str):
    from naslib.defaults.trainer import Trainer
    from naslib.optimizers import RegularizedEvolution
    from naslib.search_spaces import get_search_space
    from naslib.utils import get_dataset_api

    (tmp_path / "search").mkdir()
    settings = config(tmp_path, epochs=12)
    optimizer = RegularizedEvolution(settings)
    api = get_dataset_api(name, DATASET)
    optimizer.adapt_search_space(get_search_space(name, DATASET), dataset_api=api)
    Trainer(optimizer, settings, lightweight_output=True).search()
    # a mutation may lead to a family that was trained before: it is answered from the record
    assert 10 <= api.n_trained <= 12
    assert api.n_trained == len({trial.candidate_digest for trial in api.store})
    assert api.evaluator.true_cost(optimizer.get_final_architecture().candidate) < 0.4


def test_without_it_students_are_trained(registered):
    from naslib.utils import get_dataset_api

    naslib_autokd.register()
    assert get_dataset_api("hnag", DATASET)._evaluator is None, "a KDEvaluator, made when it is needed"
    naslib_autokd.register(benchmark=True)
    assert isinstance(get_dataset_api("hnag", DATASET).evaluator, KDBenchmark)
    naslib_autokd.unregister()
    naslib_autokd.register()
    assert get_dataset_api("hnag", DATASET)._evaluator is None


def test_what_has_no_benchmark_is_an_error(registered):
    from naslib.utils import get_dataset_api

    with pytest.raises(BenchmarkError, match="there is no benchmark of 'digits'"):
        get_dataset_api("hnag", "digits")
    with pytest.raises(ValueError, match="benchmark must be True or False, got 'yes'"):
        naslib_autokd.register(benchmark="yes")  # type: ignore[arg-type]
