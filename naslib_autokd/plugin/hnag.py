"""HNAG as a search space of NASLib: `HNAGSearchSpace`, with everything that NASLib asks of one.

The graph has no nodes: an architecture is a candidate (plain data), and `HNAGSearchSpace.parse` builds its student.
So a clone takes microseconds, not the half second of a NAS-Bench-201 graph.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import networkx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from naslib_autokd.plugin.layers import LayeredStudent, without_batch_norms
from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.records import derive_seed
from naslib_autokd.search_spaces.hnag import encoding
from naslib_autokd.search_spaces.hnag.individual import WiringCandidate, mutate, neighbours
from naslib_autokd.search_spaces.hnag.parameters import Candidate, HNAGSpace
from naslib_autokd.search_spaces.hnag.student import Student
from naslib_autokd.search_spaces.hnag.wiring import StudentSpec, fit_width
from naslib_autokd.tasks import Task, get_task

load_naslib()

from naslib.search_spaces.core.graph import Graph  # noqa: E402
from naslib.search_spaces.core.query_metrics import Metric  # noqa: E402
from naslib.utils.encodings import EncodingType  # noqa: E402

N_NEIGHBOURS = 24
"""Size of a neighbourhood: that of an architecture of NAS-Bench-201."""

VECTOR_PREDICTORS = (
    "bananas",
    "bayes_lin_reg",
    "bohamiann",
    "dngo",
    "gp",
    "lgb",
    "mlp",
    "ngb",
    "rf",
    "sparse_gp",
    "var_sparse_gp",
    "xgb",
)
"""NASLib's predictor types that learn from a vector: they work on HNAG in both modes."""

_VECTORS = (EncodingType.ADJACENCY_ONE_HOT, EncodingType.ADJACENCY_MIX, EncodingType.PATH, EncodingType.COMPACT)
_OBJECTS = (Metric.RAW, Metric.ALL, Metric.HP)  # metrics whose answer is no number
_GRAPH_ATTRIBUTES = frozenset(vars(Graph())) | set(dir(networkx.DiGraph))


class HNAGSearchSpace(Graph):
    """HNAG for NASLib's optimizers, predictors, trainer and zero-cost measures.

    Modes:

    * ``family``: an architecture is a family of students with its KD settings (`Candidate`); evaluating it draws
      wirings. A mutation moves one hyperparameter to a neighbouring value (ConfigSpace's one-exchange neighbourhood).
    * ``individual``: an architecture is one wiring with its KD settings (`WiringCandidate`), drawn from a random
      family; a mutation rewires it.

    Two graphs are equal, with equal hashes, if they hold the same architecture (NASLib's graphs are equal if their
    names are), and a graph is never false (NASLib's are without nodes). `clone`, `copy` and `unparse` keep the
    architecture; graphs can be pickled. All random draws come from numpy's global generator, which NASLib seeds.

    Args:
        preset: A name in `PRESETS` of `search_spaces.hnag`.
        mode: "family" or "individual".
        task: Its images, classes and parameter limit shape the student that `parse` builds.
        search_kd: Whether temperature and weight of the distillation are part of an architecture.
        n_classes: Default: the task's.
        in_channels: 1 or 3; default: the task's.
        space: Stands for ``preset``, ``mode`` and ``search_kd`` and allows what these do not: ranges of your own, and
            the KD settings that hold where they are not searched.

    Raises:
        ValueError: For an unknown preset, mode or task (names the nearest).
    """

    QUERYABLE = True

    def __init__(
        self,
        preset: str = "hnag-small",
        mode: str = "family",
        task: str | Task | None = None,
        search_kd: bool = True,
        n_classes: int | None = None,
        in_channels: int | None = None,
        *,
        space: HNAGSpace | None = None,
    ) -> None:
        super().__init__(name="hnag")
        self.space = HNAGSpace(preset, search_kd=search_kd, mode=mode) if space is None else space
        """What is searched: for optimizers that work on a ConfigSpace."""
        shape = {"n_classes": n_classes, "in_channels": in_channels}
        self.task = get_task(
            "cluttered-digits" if task is None else task, **{k: v for k, v in shape.items() if v is not None}
        )
        self.space_name = "hnag"
        self.instantiate_model = False  # NASLib need not parse an architecture to query it
        self.labeled_archs: list[Any] | None = None
        """Specs (`get_spec`) that ``sample_random_architecture(load_labeled=True)`` draws from."""
        self.sample_without_replacement = False
        self.student: nn.Module | None = None
        self._candidate: Candidate | WiringCandidate | None = None
        self._architecture: Candidate | WiringCandidate | None = None  # of a candidate with a wiring seed, the wiring
        self._vector: NDArray[np.float64] | None = None

    # The architecture

    @property
    def mode(self) -> str:
        return self.space.mode

    @property
    def candidate(self) -> Candidate | WiringCandidate:
        """The architecture, as it was sampled or set.

        Raises:
            ValueError: If there is none yet.
        """
        if self._candidate is None:
            raise ValueError(
                "this HNAGSearchSpace holds no architecture yet; sample it first (sample_random_architecture(), "
                "mutate(parent) or set_spec(spec)). One-shot optimizers cannot use it: it has no supernet"
            )
        return self._candidate

    @property
    def architecture(self) -> Candidate | WiringCandidate:
        """What decides equality and is mutated: a `WiringCandidate` in mode "individual", else the candidate."""
        return self.candidate if self._architecture is None else self._architecture

    def _hold(self, candidate: Candidate | WiringCandidate) -> None:
        """Replace whatever was held."""
        self._architecture = candidate
        if isinstance(candidate, Candidate) and self.mode == "individual":
            self._architecture = WiringCandidate.draw(candidate, 0)
        self._candidate, self._vector, self.student, self.is_parsed = candidate, None, None, False

    def get_spec(self) -> dict[str, Any]:
        """The architecture as plain data that JSON can hold."""
        return self.candidate.to_dict()

    def set_spec(self, spec: Any, dataset_api: Any = None) -> None:
        """Hold another architecture: what `get_spec` gave, or a candidate.

        In mode "individual" a `Candidate` with a wiring seed (what our optimizers propose) is the wiring it draws.

        Raises:
            ValueError: If it is no architecture of this space and mode.
        """
        candidate: Any = spec
        if isinstance(spec, Mapping):
            candidate = (WiringCandidate if "wiring" in spec else Candidate).from_dict(spec)
        if not isinstance(candidate, (Candidate, WiringCandidate)):
            raise ValueError(f"an architecture is what get_spec() gives, or a candidate, not {type(spec).__name__}")
        single = isinstance(candidate, WiringCandidate) or candidate.wiring_seed is not None
        if single and self.mode == "family":
            raise ValueError(
                "this is a single wiring, and the mode is 'family'; use HNAGSearchSpace(mode='individual')"
            )
        if not single and self.mode == "individual":
            raise ValueError(
                "this is a family, and the mode is 'individual'; draw a wiring with WiringCandidate.draw(candidate, "
                "seed), or use HNAGSearchSpace(mode='family')"
            )
        encoding.check(self.space, candidate)
        self._hold(candidate)

    def get_hash(self) -> tuple[str, str]:
        """(mode, digest): equal for equal architectures, the same on every machine."""
        return self.mode, self.architecture.digest

    def get_type(self) -> str:
        return "hnag"

    # Search

    def sample_random_architecture(self, dataset_api: Any = None, load_labeled: bool = False) -> None:
        """Hold a random architecture: uniform in the space, or among `labeled_archs`."""
        if load_labeled:
            self.sample_random_labeled_architecture()
            return
        candidate = self.space.sample(_rng())
        self._hold(WiringCandidate.draw(candidate, 0) if self.mode == "individual" else candidate)

    def sample_random_labeled_architecture(self) -> None:
        """Hold one of `labeled_archs`; with ``sample_without_replacement`` it leaves the list (which clones share).

        Raises:
            ValueError: If there are none (left).
        """
        if not self.labeled_archs:
            raise ValueError("there are no labeled architectures: set labeled_archs to a list of specs (get_spec())")
        place = int(_rng().integers(len(self.labeled_archs)))
        spec = self.labeled_archs[place]
        if self.sample_without_replacement:
            del self.labeled_archs[place]
        self.set_spec(spec)

    def mutate(self, parent: HNAGSearchSpace, dataset_api: Any = None) -> None:
        """Hold a random neighbour of ``parent``: one hyperparameter moved, or one change of the wiring or of the KD.

        Raises:
            ValueError: If ``parent`` holds no architecture, or one of the other mode.
        """
        self._hold(self._neighbours(_parent(parent, self.mode), 1)[0])

    def get_nbhd(self, dataset_api: Any = None) -> list[nn.Module]:
        """Up to `N_NEIGHBOURS` different neighbours in random order, each the attribute ``arch`` of a module."""
        wrappers = []
        for candidate in self._neighbours(self.architecture, N_NEIGHBOURS):
            arch = self._blank()
            arch._hold(candidate)
            wrapper = nn.Module()
            wrapper.arch = arch
            wrappers.append(wrapper)
        return wrappers

    def _neighbours(self, candidate: Any, n: int) -> list[Any]:
        rng = _rng()
        if self.mode == "individual":
            return [mutate(candidate, self.space, rng)] if n == 1 else neighbours(candidate, self.space, rng, n)
        from ConfigSpace import Configuration
        from ConfigSpace.util import get_one_exchange_neighbourhood

        point = Configuration(self.space._space, values=self.space.values(candidate))
        found: dict[Candidate, None] = {}
        for neighbour in get_one_exchange_neighbourhood(point, seed=int(rng.integers(2**31))):  # in random order
            found[self.space.candidate(dict(neighbour))] = None
            if len(found) == n:
                break
        return list(found)

    # Predictors

    def encode(self, encoding_type: Any = EncodingType.ADJACENCY_ONE_HOT) -> Any:
        """The architecture for a predictor.

        ADJACENCY_ONE_HOT, ADJACENCY_MIX, PATH and COMPACT: a float64 vector in [0, 1] of fixed length
        (`search_spaces.hnag.encoding.vector`). BONAS, of single wirings: their graph of operations
        (`search_spaces.hnag.encoding.operation_graph`).

        Raises:
            NotImplementedError: For other types; names the predictors that work.
            ValueError: If there is no architecture, or its graph is too large for BONAS.
        """
        candidate = self.architecture
        if encoding_type in _VECTORS:
            if self._vector is None:
                self._vector = encoding.vector(self.space, candidate)
            return self._vector.copy()
        if encoding_type is EncodingType.BONAS and isinstance(candidate, WiringCandidate):
            return encoding.operation_graph(self.space, candidate) | {"val_acc": 0.0}
        raise NotImplementedError(
            f"HNAG in mode {self.mode!r} has no encoding {getattr(encoding_type, 'name', encoding_type)}; predictors "
            f"that work: {', '.join(VECTOR_PREDICTORS)}, and in mode 'individual' bonas. NASLib's gcn, nao, seminas, "
            "gpwl and omni predictors only know NASLib's own spaces by name"
        )

    # Performance

    def query(
        self,
        metric: Any,
        dataset: str,
        path: str | None = None,
        epoch: int = -1,
        full_lc: bool = False,
        dataset_api: Any = None,
    ) -> Any:
        """Performance of the architecture, from ``dataset_api.query(self, metric, dataset, epoch=, full_lc=)``.

        Returns a finite Python float, as NASLib's optimizers and its errors.json need; a list of them with
        ``full_lc``; for RAW, HP and ALL whatever the ``dataset_api`` answers.

        Raises:
            ValueError: If there is no architecture, ``dataset_api`` is missing or not one for HNAG, or answers
                something else than finite numbers.
        """
        if not isinstance(metric, Metric):
            raise ValueError(f"metric must be a naslib Metric, such as Metric.VAL_ACCURACY, got {metric!r}")
        self.candidate  # noqa: B018 (raises)
        if not callable(getattr(dataset_api, "query", None)):
            given = "is missing" if dataset_api is None else f"is a {type(dataset_api).__name__} of another space"
            raise ValueError(
                f"dataset_api {given}: HNAG is queried by training students. Pass dataset_api=KDDatasetAPI(task=...) "
                "(naslib_autokd.plugin.evaluation), or what get_dataset_api('hnag', dataset) gives after "
                "naslib_autokd.register()"
            )
        answer = dataset_api.query(self, metric, dataset, epoch=epoch, full_lc=full_lc)
        if metric in _OBJECTS:
            return answer
        if full_lc:
            return [_finite(value, metric) for value in answer]
        return _finite(answer, metric)

    # The network

    @property
    def num_classes(self) -> int:
        from naslib_autokd.data.load import resolve

        return self.task.n_classes or resolve(self.task).n_classes

    def student_spec(self, seed: int = 0) -> StudentSpec:
        """The student that an evaluation with this seed builds: its wiring, with the width fitted to the task."""
        task = self.task
        return fit_width(
            self.candidate.sample_wiring(derive_seed(seed, "wiring")),
            task.max_params,
            in_channels=task.in_channels,
            image_size=task.image_size,
            n_classes=self.num_classes,
            stem=task.stem,
            min_channels=task.min_channels,
            width_multiple=task.width_multiple,
        )

    def parse(self, seed: int = 0) -> None:
        """Build the student, as torch layers; of a family the one whose wiring ``seed`` draws. Weights follow it too.

        Raises:
            ValueError: If there is no architecture, or (`ParameterBudgetError`) it does not fit the task.
        """
        self.student = LayeredStudent(Student(self.student_spec(seed), seed=derive_seed(seed, "weights")))
        self.is_parsed = True

    def _network(self) -> Any:
        if self.student is None:
            self.parse()
        return self.student

    def cpu(self) -> HNAGSearchSpace:
        """With its network: NASLib's zero-cost measures start so, and l2_norm then looks for layers at once."""
        self._network()
        return super().cpu()

    def get_prunable_copy(self, bn: bool = True) -> nn.Module:
        """What NASLib's zero-cost measures take apart: a copy with its network, without batch norms if not ``bn``."""
        twin = self.clone()
        twin._network()
        return twin if bn else without_batch_norms(twin)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width), by the parsed student."""
        return cast(Tensor, self._network()(x))

    def forward_before_global_avg_pool(self, x: Tensor) -> Tensor:
        """Feature maps that the global pooling reads (the zero-cost measure zen asks for them)."""
        return cast(Tensor, self._network().features(x))

    def get_loss_fn(self) -> Callable[..., Tensor]:
        return nn.functional.cross_entropy

    def reset_weights(self, inplace: bool = False) -> HNAGSearchSpace:
        """Draw new initial weights, by torch's global generator; of a clone unless ``inplace``."""
        graph = self if inplace else self.clone()
        network = graph._network()
        fresh = Student(network.spec, seed=int(torch.randint(2**31, ())))
        network.load_state_dict(LayeredStudent(fresh).state_dict())
        return graph

    # Graphs as values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HNAGSearchSpace):
            return NotImplemented
        if self._architecture is None or other._architecture is None:
            return self._architecture is other._architecture and self.space.describe() == other.space.describe()
        return bool(self._architecture == other._architecture)

    def __hash__(self) -> int:
        return hash(self._architecture)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        held = "nothing sampled" if self._architecture is None else self._architecture.digest
        return f"HNAGSearchSpace({self.space.name}, {self.mode}, {held})"

    __str__ = __repr__  # networkx has one of its own

    def _blank(self) -> HNAGSearchSpace:
        """The same space without the network; shares what is never changed."""
        return _rebuild(type(self), self.name, self.scope, self._own_attributes())

    def _own_attributes(self) -> dict[str, Any]:
        """All but those of every graph of NASLib, networkx's views and the network."""
        own = {k: v for k, v in vars(self).items() if k not in _GRAPH_ATTRIBUTES}
        return own | {"student": None}

    def clone(self) -> HNAGSearchSpace:
        """A copy that shares only what is never changed (and the list ``labeled_archs``)."""
        new = self._blank()
        new.student, new.is_parsed = copy.deepcopy(self.student), self.is_parsed
        return new.train(self.training)

    def copy(self) -> HNAGSearchSpace:
        """`clone` (NASLib's ``copy`` loses the architecture)."""
        return self.clone()

    def unparse(self) -> HNAGSearchSpace:
        """The same architecture without its network."""
        return self._blank()

    def __deepcopy__(self, memo: dict[int, Any]) -> HNAGSearchSpace:
        new = memo[id(self)] = self.clone()
        return new

    def __reduce__(self) -> Any:
        state = {"student": self.student, "is_parsed": self.is_parsed, "training": self.training}
        return _rebuild, (type(self), self.name, self.scope, self._own_attributes()), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.student, self.is_parsed = state["student"], state["is_parsed"]
        self.train(state["training"])


def _rebuild(cls: type[HNAGSearchSpace], name: str, scope: str | None, attributes: dict[str, Any]) -> HNAGSearchSpace:
    """A graph with these attributes, without the constructor's work."""
    graph = cls.__new__(cls)
    Graph.__init__(graph, name, scope)
    graph.__dict__.update(attributes)
    return graph


def _rng() -> np.random.Generator:
    """A generator seeded by numpy's global one: NASLib's trainer seeds that, and nothing else."""
    return np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002


def _parent(parent: Any, mode: str) -> Candidate | WiringCandidate:
    if not isinstance(parent, HNAGSearchSpace):
        raise ValueError(f"the parent of a mutation must be an HNAGSearchSpace, got {type(parent).__name__}")
    if parent.mode != mode:
        raise ValueError(f"the parent's mode is {parent.mode!r}, and this space's {mode!r}")
    return parent.architecture


def _finite(value: Any, metric: Any) -> float:
    """Python's float of a number, numpy's scalars and tensors of one element included."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"dataset_api answers {value!r} for {metric.name}, which is no number") from error
    if not math.isfinite(number):
        raise ValueError(
            f"dataset_api answers {number} for {metric.name}, which would spoil every optimizer of NASLib; answer the "
            "worst possible value for a training that failed"
        )
    return number
