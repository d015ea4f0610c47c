"""NASLib's own cell spaces as KD-aware NASLib graphs, for NASLib's own optimizers.

Each class is a subclass of NASLib's: sampling, mutation and encodings of an architecture are NASLib's code. The KD
settings are two decisions more, where the space searches them: sampled, mutated, part of ``get_hash``, of the spec and
of encodings that are vectors. With ``search_kd=False`` nothing is added, and the same random numbers give the same
architectures as NASLib's class.

A graph holds its architecture as data (NASLib's ``instantiate_model=False``) and no network until ``parse()``, so that
a clone takes microseconds instead of half a second. What NASLib leaves out or gets wrong here:

* ``get_nbhd`` builds NASLib's full network for each neighbour (24 in NAS-Bench-201, about 140 in NAS-Bench-301): the
  same neighbours are made from data here.
* NAS-Bench-101 needs the benchmark's file to tell valid cells: its rule is applied without the file here.
* The simple cell space has no sampling, mutation, hash or spec: it gets those of NAS-Bench-201.
* NAS-Bench-301 changes two things or more in a mutation (it compares an object with itself): left as it is.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from naslib_autokd.plugin.architectures import ARCHITECTURES, Architecture, EdgeOperations
from naslib_autokd.plugin.candidates import (
    KD_WEIGHT_RANGE,
    TEMPERATURE_RANGE,
    ArchitectureCandidate,
    ArchitectureSpace,
)
from naslib_autokd.plugin.layers import without_batch_norms
from naslib_autokd.plugin.loader import load_naslib
from naslib_autokd.search_spaces.hnag.parameters import KDSettings
from naslib_autokd.tasks import Task, did_you_mean

load_naslib()

from naslib.search_spaces import (  # noqa: E402
    NasBench101SearchSpace,
    NasBench201SearchSpace,
    NasBench301SearchSpace,
    SimpleCellSearchSpace,
)
from naslib.search_spaces.core.graph import Graph  # noqa: E402
from naslib.search_spaces.nasbench101.conversions import convert_tuple_to_spec  # noqa: E402
from naslib.utils import nb101_api  # noqa: E402
from naslib.utils.encodings import EncodingType  # noqa: E402

KD_STEP = 0.2
"""Size of a change of a KD setting, on its scale brought to [0, 1] (SMAC's, for a number's neighbours)."""


class KDGraph(Graph):
    """What our four graphs add to NASLib's classes.

    Args:
        space: The space; by default the one of this class with its KD settings searched.
        task: What ``parse()`` builds the network for; None for NASLib's own network at NASLib's own size.
    """

    QUERYABLE = True
    space_name: ClassVar[str]
    upstream: ClassVar[Any]
    """NASLib's class."""
    _held: ClassVar[str]
    """Where NASLib's class keeps its architecture."""

    def __init__(self, space: ArchitectureSpace | None = None, task: Task | None = None) -> None:
        Graph.__init__(self)  # not the constructor of NASLib's class, which builds its network
        self.add_node(1)  # a graph without nodes is false
        self.name = self.space_name
        self.space = ArchitectureSpace(self.space_name) if space is None else space
        if self.space.name != self.space_name:
            raise ValueError(f"this is a graph of {self.space_name}, got the space {self.space.name}")
        self.task = task
        self.kd: KDSettings = self.space.kd
        self.instantiate_model = False
        self.labeled_archs = None
        self.load_labeled = None
        self.sample_without_replacement = False
        self.num_classes = 10 if task is None else task.n_classes
        self.in_channels = 3 if task is None else task.in_channels
        self.max_epoch = {"nasbench201": 199, "nasbench301": 100}.get(self.space_name)
        setattr(self, self._held, None)

    def __bool__(self) -> bool:
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        state = random.getstate()  # a new Graph draws an id, NASLib's clones do not
        twin = type(self)(self.space, self.task)
        random.setstate(state)
        memo[id(self)] = twin
        twin._id = self._id
        for name in ("kd", "labeled_archs", "load_labeled", "sample_without_replacement", "num_classes", self._held):
            setattr(twin, name, copy.deepcopy(getattr(self, name), memo))
        if self.is_parsed:
            twin._hold(copy.deepcopy(self.network, memo))
        return twin

    def copy(self) -> Any:
        return copy.deepcopy(self)

    # what it holds

    @property
    def architecture(self) -> Architecture:
        """Canonical form (`architectures`); raises ValueError before one was sampled or set."""
        held = getattr(self, self._held)
        if held is None:
            raise ValueError(
                f"this graph of {self.space_name} has no architecture yet; "
                "call sample_random_architecture(), mutate() or set_spec() first"
            )
        return self.space.architectures.canonical(self._data_of(held))

    @staticmethod
    def _data_of(held: Any) -> Any:
        return held

    @property
    def candidate(self) -> ArchitectureCandidate:
        return ArchitectureCandidate(self.space_name, self.architecture, self.kd)

    def get_hash(self) -> tuple[Any, ...]:
        """NASLib's hash of the architecture's canonical form; then the KD settings, where they are searched."""
        return self.architecture + (self._kd_pair() if self.space.search_kd else ())

    def _kd_pair(self) -> tuple[float, float]:
        return self.kd.temperature, self.kd.kd_weight

    def get_spec(self) -> dict[str, Any]:
        """Plain data that `set_spec` takes."""
        return self.candidate.to_dict()

    def set_spec(self, spec: Any, dataset_api: Any = None) -> None:
        """Take an architecture: a candidate or its dict, a hash with or without KD settings, or a spec of NASLib's.

        Raises:
            ValueError: If it is none of this space.
        """
        if isinstance(spec, Mapping) and "space" in spec:
            # NAS-Bench-101's get_spec() says the same twice
            spec = ArchitectureCandidate.from_dict({k: v for k, v in spec.items() if k not in ("matrix", "ops")})
        if isinstance(spec, ArchitectureCandidate):
            self.space.check_candidate(spec)
            spec, self.kd = spec.architecture, spec.kd
        n_parts = len(self.space.architectures.default)
        if self.space.search_kd and isinstance(spec, (tuple, list)) and len(spec) == n_parts + 2:
            spec, self.kd = spec[:-2], KDSettings(*spec[-2:])
        if isinstance(spec, (tuple, list)):
            self.space.architectures.canonical(spec)  # raises if it is none
        self._set_held(spec, dataset_api)

    def _set_held(self, spec: Any, dataset_api: Any) -> None:
        setattr(self, self._held, self.space.architectures.canonical(spec))

    # how it changes

    def sample_random_architecture(self, dataset_api: Any = None, load_labeled: bool = False) -> None:
        """As NASLib; the KD settings uniformly (the temperature log-uniformly)."""
        super().sample_random_architecture(dataset_api=self._benchmark(dataset_api), load_labeled=load_labeled)
        if self.space.search_kd:
            self.kd = _kd_at(_rng().random(2))

    def mutate(self, parent: Any, dataset_api: Any = None, **options: Any) -> None:
        """Change the parent: with two chances in ``n_decisions + 2`` one of its KD settings, else as NASLib does."""
        kd = getattr(parent, "kd", self.space.kd)
        if self.space.search_kd:
            rng = _rng()
            if rng.random() < 2 / (self.space.architectures.n_decisions + 2):
                unit = _unit(kd)
                which = rng.integers(2)
                unit[which] = np.clip(unit[which] + KD_STEP * rng.standard_normal(), 0, 1)
                setattr(self, self._held, copy.deepcopy(getattr(parent, self._held)))
                self.kd = _kd_at(unit)
                return
        super().mutate(parent, dataset_api=self._benchmark(dataset_api), **options)
        self.kd = kd

    def get_nbhd(self, dataset_api: Any = None) -> list[torch.nn.Module]:
        """All architectures one step away, and up to four steps of a KD setting, shuffled; each at ``.arch``."""
        self.architecture  # noqa: B018 - raises if there is none
        held = self._data_of(getattr(self, self._held))
        steps = [(architecture, self.kd) for architecture in self.space.architectures.neighbours(held)]
        if self.space.search_kd:
            for which in range(2):
                for step in (-KD_STEP, KD_STEP):
                    unit = _unit(self.kd)
                    if 0 <= unit[which] + step <= 1:
                        unit[which] += step
                        steps.append((held, _kd_at(unit)))
        neighbours = []
        for index in _rng().permutation(len(steps)):
            architecture, kd = steps[index]
            model = torch.nn.Module()
            model.arch = copy.deepcopy(self)
            model.arch.set_spec(architecture)
            model.arch.kd = kd
            neighbours.append(model)
        return neighbours

    def _benchmark(self, dataset_api: Any) -> Any:
        """What NASLib's own methods get of an evaluator: nothing."""
        return dataset_api if isinstance(dataset_api, dict) else None

    # what NASLib asks of it

    def get_type(self) -> str:
        return self.space_name

    def encode(self, encoding_type: Any = EncodingType.ADJACENCY_ONE_HOT) -> Any:
        """NASLib's encoding; where it is a vector, log temperature and kd_weight in [0, 1] follow if searched."""
        encoding = self._encode(encoding_type)
        if not self.space.search_kd or isinstance(encoding, (dict, tuple)):
            return encoding
        return np.append(np.asarray(encoding, dtype=float), _unit(self.kd))

    def _encode(self, encoding_type: Any) -> Any:
        return super().encode(encoding_type=encoding_type)

    def query(
        self,
        metric: Any,
        dataset: Any = None,
        path: str | None = None,
        epoch: int = -1,
        full_lc: bool = False,
        dataset_api: Any = None,
    ) -> Any:
        """Answer from NASLib's benchmark data if ``dataset_api`` is NASLib's dict, else by its ``query(self, ...)``.

        Raises:
            ValueError: If there is no architecture yet, or ``dataset_api`` can answer nothing.
        """
        self.architecture  # noqa: B018 - raises if there is none
        if isinstance(dataset_api, dict):
            return self._query_table(metric, dataset, epoch, full_lc, dataset_api)
        if not hasattr(dataset_api, "query"):
            raise ValueError(
                f"a graph of {self.space_name} is queried through dataset_api: NASLib's get_dataset_api(), or an "
                f"evaluator with a query method (KDDatasetAPI), got {dataset_api!r}"
            )
        return dataset_api.query(self, metric, dataset, epoch=epoch, full_lc=full_lc)

    def _query_table(self, metric: Any, dataset: Any, epoch: int, full_lc: bool, dataset_api: Any) -> Any:
        return super().query(metric=metric, dataset=dataset, epoch=epoch, full_lc=full_lc, dataset_api=dataset_api)

    # its network

    def parse(self) -> None:
        """Build the network, with weights from torch's global generator."""
        if self.task is not None:
            network = self.candidate.student_spec(self.task, 0).build(int(torch.randint(2**31, ()).item()))
        else:
            network = upstream_network(self.candidate)
        self._hold(network)

    def _hold(self, network: torch.nn.Module) -> None:
        self.add_module("network", network)
        self.is_parsed = True

    def unparse(self) -> Any:
        twin = copy.deepcopy(self)
        twin._modules.pop("network", None)
        twin.is_parsed = False
        return twin

    def cpu(self) -> Any:
        """With its network: NASLib's zero-cost measures start so, and l2_norm then looks for layers at once."""
        if not self.is_parsed:
            self.parse()
        return super().cpu()

    def get_prunable_copy(self, bn: bool = True) -> torch.nn.Module:
        """What NASLib's zero-cost measures take apart: a copy with its network, without batch norms if not ``bn``."""
        twin = copy.deepcopy(self)
        if not twin.is_parsed:
            twin.parse()
        return twin if bn else without_batch_norms(twin)

    def get_loss_fn(self) -> Any:
        return torch.nn.functional.cross_entropy

    def forward(self, x: Any, *args: Any) -> Any:
        if not self.is_parsed:
            self.parse()
        return self.network(x)

    def __repr__(self) -> str:
        held = getattr(self, self._held, None)
        return f"{type(self).__name__}({'no architecture' if held is None else self.get_hash()})"


class KDNASBench201(KDGraph, NasBench201SearchSpace):
    space_name = "nasbench201"
    upstream = NasBench201SearchSpace
    _held = "op_indices"

    def get_op_indices(self) -> list[int]:
        return list(self.architecture)


class KDNASBench301(KDGraph, NasBench301SearchSpace):
    space_name = "nasbench301"
    upstream = NasBench301SearchSpace
    _held = "compact"

    def _set_held(self, spec: Any, dataset_api: Any) -> None:
        # the two edges of a node in the order given, which NASLib's mutation sees
        self.compact = tuple(tuple((int(source), int(operation)) for source, operation in cell) for cell in spec)

    def get_compact(self) -> Any:
        self.architecture  # noqa: B018 - raises if there is none
        return self.compact


class _Rules(nb101_api.NASBench):
    """NAS-Bench-101's rule of valid cells, without its data."""

    def __init__(self) -> None:
        cells: Any = ARCHITECTURES["nasbench101"]
        self.config = {
            "module_vertices": cells.n_vertices,
            "max_edges": cells.max_edges,
            "available_ops": list(cells.operations),
        }


class KDNASBench101(KDGraph, NasBench101SearchSpace):
    space_name = "nasbench101"
    upstream = NasBench101SearchSpace
    _held = "spec"
    spec: dict[str, Any] | None
    rules: ClassVar[dict[str, Any]] = {"api": nb101_api, "nb101_data": _Rules()}

    @staticmethod
    def _data_of(held: Any) -> Any:
        operations = ARCHITECTURES["nasbench101"].naslib_operations  # type: ignore[attr-defined]
        return (*np.asarray(held["matrix"]).flatten().tolist(), *(operations.index(name) for name in held["ops"]))

    def _set_held(self, spec: Any, dataset_api: Any) -> None:
        if isinstance(spec, str):
            NasBench101SearchSpace.set_spec(self, spec, dataset_api)
            return
        if isinstance(spec, (tuple, list)):
            spec = convert_tuple_to_spec(spec)
        before, self.spec = self.spec, {"matrix": np.asarray(spec["matrix"]), "ops": list(spec["ops"])}
        try:
            self.architecture  # noqa: B018 - raises if it is none
        except ValueError:
            self.spec = before
            raise

    def get_spec(self) -> dict[str, Any]:
        """With NASLib's ``matrix`` and ``ops`` too, as they were sampled: unused edges included."""
        return super().get_spec() if self.spec is None else {**self.spec, **KDGraph.get_spec(self)}

    def _benchmark(self, dataset_api: Any) -> Any:
        return dataset_api if isinstance(dataset_api, dict) and "nb101_data" in dataset_api else self.rules


class _SimpleCellArchitectures(SimpleCellSearchSpace):
    """What NASLib's simple cell space lacks, in the manner of its NAS-Bench-201."""

    op_indices: Architecture | None
    edges_of_cells: ClassVar[EdgeOperations] = ARCHITECTURES["simple_cell"]  # type: ignore[assignment]

    def sample_random_architecture(self, dataset_api: Any = None, load_labeled: bool = False) -> None:
        edges = self.edges_of_cells
        self.op_indices = edges.canonical(_rng().integers(len(edges.operations), size=edges.n_decisions))

    def mutate(self, parent: Any, dataset_api: Any = None) -> None:
        neighbours = self.edges_of_cells.neighbours(parent.op_indices)
        self.op_indices = neighbours[_rng().integers(len(neighbours))]

    def encode(self, encoding_type: Any = EncodingType.ADJACENCY_ONE_HOT) -> Any:
        """One-hot operations for every encoding that is a vector."""
        assert self.op_indices is not None
        if encoding_type == EncodingType.COMPACT:
            return self.op_indices
        if encoding_type not in (EncodingType.ADJACENCY_ONE_HOT, EncodingType.ADJACENCY_MIX, EncodingType.PATH):
            raise NotImplementedError(f"the simple cell space has no encoding {encoding_type}; take ADJACENCY_ONE_HOT")
        return np.eye(len(self.edges_of_cells.operations))[list(self.op_indices)].flatten()


class KDSimpleCell(KDGraph, _SimpleCellArchitectures):
    space_name = "simple_cell"
    upstream = SimpleCellSearchSpace
    _held = "op_indices"

    def _query_table(self, *_: Any) -> Any:
        raise ValueError("there is no benchmark of the simple cell space; train with KD instead (KDDatasetAPI)")


_CLASSES: dict[str, Any] = {
    graph.space_name: graph for graph in (KDNASBench101, KDNASBench201, KDNASBench301, KDSimpleCell)
}


def graph_class(space: str) -> Any:
    """The KD-aware graph class of a space.

    Raises:
        ValueError: If there is none of this name (with the nearest).
    """
    if space not in _CLASSES:
        raise ValueError(f"unknown space of NASLib {space!r}{did_you_mean(space, _CLASSES)}")
    return _CLASSES[space]


def architecture_of(graph: Any) -> tuple[str, Architecture]:
    """``(space, canonical form)`` of the architecture that one of NASLib's own graphs holds.

    Raises:
        ValueError: If the graph is of another space, or holds no architecture yet.
    """
    name = next((name for name, kind in _CLASSES.items() if isinstance(graph, kind.upstream)), None)
    if name is None:
        raise ValueError(
            f"{type(graph).__name__} is no graph of {', '.join(_CLASSES)}; "
            "a space of your own needs an attribute `candidate`"
        )
    if isinstance(graph, KDGraph):
        return name, graph.architecture
    try:
        if name == "simple_cell":
            from naslib_autokd.plugin.networks import architecture_of as indices_of

            held = indices_of(graph, name)
        else:
            held = graph.get_hash()
    except (AttributeError, TypeError, KeyError) as error:  # operations still to be chosen on the edges
        raise ValueError(
            f"{type(graph).__name__} has no architecture yet; sample one, or set_spec(), or discretize it first"
        ) from error
    return name, ARCHITECTURES[name].canonical(held)


def upstream_network(candidate: ArchitectureCandidate) -> torch.nn.Module:
    """NASLib's own network of an architecture: its width, three colours, ten classes; parsed."""
    kind = _CLASSES[candidate.space].upstream
    if candidate.space == "simple_cell":
        from naslib_autokd.plugin.networks import ResizedSimpleCell as kind  # NASLib's takes no images
    graph = kind()
    graph.set_spec(list(candidate.architecture) if candidate.space != "nasbench101" else candidate.architecture)
    graph.parse()
    network: torch.nn.Module = graph
    return network


def _rng() -> np.random.Generator:
    """Seeded by numpy's global stream, which NASLib's Trainer seeds."""
    return np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002


def _unit(kd: KDSettings) -> list[float]:
    """KD settings on scales from 0 to 1, the temperature's logarithmic."""
    low, high = map(math.log, TEMPERATURE_RANGE)
    bottom, top = KD_WEIGHT_RANGE
    return [(math.log(kd.temperature) - low) / (high - low), (kd.kd_weight - bottom) / (top - bottom)]


def _kd_at(unit: Any) -> KDSettings:
    """Inverse of `_unit`."""
    low, high = map(math.log, TEMPERATURE_RANGE)
    bottom, top = KD_WEIGHT_RANGE
    temperature = math.exp(low + float(unit[0]) * (high - low))
    # exp(log(10)) is a little above 10
    return KDSettings(
        min(max(temperature, TEMPERATURE_RANGE[0]), TEMPERATURE_RANGE[1]), bottom + float(unit[1]) * (top - bottom)
    )
