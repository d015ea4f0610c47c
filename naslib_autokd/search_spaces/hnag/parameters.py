"""The space that an optimizer searches: ConfigSpace points to candidates and back.

Points with ``k >= nodes`` do not exist: k (2 or 4) is a choice only from 5 nodes on, by a condition. So is p only
where it has an effect (from 4 nodes on; from 2 in the mid graph). Compared with a forbidden clause this leaves the
other marginals flat (rejection gives 3 nodes 4% of the draws instead of 12.5%) and no design point is dropped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import yaml

from naslib_autokd.records import content_digest
from naslib_autokd.search_spaces.hnag._checks import check_integer, check_mapping, check_name, check_range, check_real
from naslib_autokd.search_spaces.hnag.generator import Generator, from_yaml
from naslib_autokd.search_spaces.hnag.graphs import MAX_NODES, ErdosRenyi, WattsStrogatz
from naslib_autokd.search_spaces.hnag.wiring import DOWNSAMPLINGS, MERGES, Wiring, fit_width

if TYPE_CHECKING:
    import ConfigSpace
    import numpy

    from naslib_autokd.tasks import Task

MODES = ("family", "individual")

MAX_WIRING_SEED = 2**16 - 1
"""In "individual" mode the wiring seed is a dimension of the space: 0 to this."""

SIZES = (0.1, 1.0)
"""With ``search_size``: shares of the parameter limit, on a logarithmic scale."""

OPERATION_MIXES = {
    "conv3x3": (("conv3x3", 1.0),),
    "separable3x3": (("separable3x3", 1.0),),
    "convolutions": tuple((f"conv{size}", 0.2) for size in ("3x3", "5x5", "1x1", "1x3", "3x1")),
    "all": (
        *((f"conv{size}", 1 / 7) for size in ("3x3", "5x5", "1x1", "1x3", "3x1")),
        *((f"avgpool{size}", 1 / 7) for size in ("3x3", "5x5")),
    ),
}
"""Choices of `hnag-wide`: distributions of the operations; "all" is uniform over the authors' seven."""

PUBLISHED_HEAD_RATIO = 4.7
"""1280 / 272: the authors' fixed head over the last stage of a student of 4M parameters."""


MAX_TEMPERATURE = 100.0
"""Above it the loss is rounding: float32 logarithms err by 2e-7, times the square of the temperature by 0.002."""


@dataclass(frozen=True)
class KDSettings:
    """Hyperparameters of the distillation loss.

    Raises:
        ValueError: If ``temperature`` is not in (0, `MAX_TEMPERATURE`] or ``kd_weight`` not in [0, 1].
    """

    temperature: float = 4.0
    """Softens teacher and student; 1 leaves them as they are."""
    kd_weight: float = 0.9
    """Share of the teacher's term; 0 is ordinary training, 1 ignores the labels."""

    def __post_init__(self) -> None:
        temperature = check_real(self.temperature, "temperature", 0.0, MAX_TEMPERATURE, open_low=True)
        object.__setattr__(self, "temperature", temperature)
        object.__setattr__(self, "kd_weight", check_real(self.kd_weight, "kd_weight", 0.0, 1.0))

    def to_dict(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "kd_weight": self.kd_weight}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], path: tuple[str, ...] = ()) -> KDSettings:
        """Inverse of `to_dict`; what is missing takes its default."""
        return cls(**check_mapping(values, ("temperature", "kd_weight"), "KD settings", path))


@dataclass(frozen=True)
class Candidate:
    """A point of the space: a family and how it is taught."""

    generator: Generator
    kd: KDSettings = field(default_factory=KDSettings)
    wiring_seed: int | None = None
    """"individual" mode: the one wiring that is meant; None means the family."""
    size: float = 1.0
    """Share of the task's parameter limit that its students may have, in (0, 1]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", check_real(self.size, "size", 0.0, 1.0, open_low=True))
        if self.wiring_seed is not None:
            object.__setattr__(self, "wiring_seed", check_integer(self.wiring_seed, "wiring_seed", 0))

    def sample_wiring(self, seed: int) -> Wiring:
        """Draw a wiring of the family; in "individual" mode always the same one, whatever ``seed``."""
        return self.generator.sample_wiring(seed if self.wiring_seed is None else self.wiring_seed)

    @property
    def is_one_wiring(self) -> bool:
        """Whether all wirings are the same, so that its students differ by their weights alone."""
        return self.wiring_seed is not None or self.generator.is_one_wiring

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the content, the same on every machine."""
        return content_digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        values = {"generator": self.generator.to_dict(), "kd": self.kd.to_dict(), "wiring_seed": self.wiring_seed}
        return values if self.size == 1.0 else values | {"size": self.size}  # digests from before sizes stay

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        """Inverse of `to_dict`; ``kd``, ``wiring_seed`` and ``size`` may be missing.

        Raises:
            UnknownKeyError: A ValueError that names the key and the nearest known one.
            ValueError: If a value is missing or outside its range.
        """
        names = tuple(field.name for field in fields(cls))
        check_mapping(values, names, "candidate", required=("generator",))
        return cls(
            generator=Generator.from_dict(values["generator"], ("generator",)),
            kd=KDSettings.from_dict(values.get("kd", {}), ("kd",)),
            wiring_seed=values.get("wiring_seed"),
            size=values.get("size", 1.0),
        )

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> Candidate:
        """Inverse of `to_yaml`; an unknown key is named with its line."""
        candidate: Candidate = from_yaml(text, cls.from_dict)
        return candidate


# Defaults of the searched hyperparameters, clipped into their ranges.
_DEFAULTS = {"top_nodes": 5, "mid_nodes": 3, "bottom_nodes": 3, "channel_growth": 1.0}
_DEFAULT_P = 0.5


@dataclass(frozen=True)
class Preset:
    """Ranges of one version of the space. A range of one value is fixed and no hyperparameter.

    Raises:
        ValueError: If a range is impossible (not two numbers, reversed, outside what its values may be), or a name
            unknown.
    """

    top_nodes: tuple[int, int] = (3, 10)
    mid_nodes: tuple[int, int] = (1, 10)
    bottom_nodes: tuple[int, int] = (3, 10)
    p: tuple[float, float] = (0.1, 1.0)
    """Of all three levels."""
    channel_growth: tuple[float, float] = (2.0, 2.0)
    downsampling: tuple[str, ...] = ("average",)
    stage_ratio: tuple[float, float] = (1.0, 1.0)
    """Range of the first and of the last stage's share of top nodes, relative to the middle stage's."""
    operations: tuple[str, ...] = ("conv3x3",)
    """Names in `OPERATION_MIXES`."""
    merges: tuple[str, ...] = ("sum",)
    """Of all three levels at once."""
    head_ratio: float = 0.0
    max_operations: int | None = None
    """Bounds top_nodes * bottom_nodes, by forbidden clauses (for a mid level of one node)."""
    temperature: tuple[float, float] = (1.0, 10.0)
    kd_weight: tuple[float, float] = (0.0, 1.0)
    default: Mapping[str, Any] = field(default_factory=dict)
    """Values of the default family, where they are not those of `_DEFAULTS`."""

    def __post_init__(self) -> None:
        for name in ("top_nodes", "mid_nodes", "bottom_nodes"):
            nodes = check_range(getattr(self, name), name, 1, MAX_NODES)
            object.__setattr__(self, name, tuple(check_integer(bound, name, 1) for bound in nodes))
        for name, low, high, open_low in (
            ("p", 0.0, 1.0, False),
            ("channel_growth", 0.0, math.inf, True),
            ("stage_ratio", 0.0, math.inf, True),
            ("temperature", 0.0, MAX_TEMPERATURE, True),
            ("kd_weight", 0.0, 1.0, False),
        ):
            bounds = check_range(getattr(self, name), name, low, high, open_low=open_low)
            object.__setattr__(self, name, tuple(map(float, bounds)))
        for name, allowed in (("downsampling", DOWNSAMPLINGS), ("operations", OPERATION_MIXES), ("merges", MERGES)):
            chosen = getattr(self, name)
            if isinstance(chosen, str) or not chosen:
                raise ValueError(f"{name} of a preset is a tuple of names, got {chosen!r}")
            for one in chosen:
                check_name(one, allowed, name)
            object.__setattr__(self, name, tuple(chosen))
        check_real(self.head_ratio, "head_ratio", 0.0, math.inf)
        smallest = self.top_nodes[0] * self.bottom_nodes[0]
        if self.max_operations is not None and check_integer(self.max_operations, "max_operations", 1) < smallest:
            raise ValueError(f"max_operations={self.max_operations} leaves no family: the smallest has {smallest}")
        top, bottom = (self.default_of(name, getattr(self, name)) for name in ("top_nodes", "bottom_nodes"))
        if self.max_operations is not None and top * bottom > self.max_operations:
            raise ValueError(
                f"the default family has {top} top nodes of {bottom} operations, more than max_operations="
                f"{self.max_operations}: give others in default"
            )

    def default_of(self, name: str, bounds: tuple[float, float], otherwise: float = 0.0) -> float:
        """Of a hyperparameter that has this range, and ``otherwise`` as its default where nothing says another."""
        value: float = self.default.get(name, _DEFAULTS.get(name, otherwise))
        return min(max(value, bounds[0]), bounds[1])

    def fixed_kd(self) -> dict[str, float]:
        """The KD settings that are ranges of one value."""
        ranges = {"temperature": self.temperature, "kd_weight": self.kd_weight}
        return {name: low for name, (low, high) in ranges.items() if low == high}


_SMALL = Preset(
    top_nodes=(3, 9),
    mid_nodes=(1, 1),
    bottom_nodes=(1, 5),
    channel_growth=(0.6, 2.0),
    downsampling=("average", "max"),
    max_operations=20,
    # of a dozen families by hand on cluttered-digits the best: 89.8 +- 0.1 on validation (3 trainings), others
    # 88.1 to 89.3
    default={
        "top_k": 4,
        "top_p": 0.3,
        "bottom_nodes": 1,
        "channel_growth": 1.3,
        "downsampling": "max",
    },
)

PRESETS = {
    "hnag": Preset(head_ratio=PUBLISHED_HEAD_RATIO),
    "hnag-wide": Preset(
        channel_growth=(0.5, 2.0),
        downsampling=("average", "max"),
        stage_ratio=(0.25, 4.0),
        operations=tuple(OPERATION_MIXES),
        merges=MERGES,
        head_ratio=PUBLISHED_HEAD_RATIO,
    ),
    "hnag-small": _SMALL,
    "hnag-small-untuned": replace(_SMALL, temperature=(1.0, 30.0), default={}),
    "hnag-device": Preset(
        top_nodes=(2, 6),
        mid_nodes=(1, 1),
        bottom_nodes=(1, 2),
        p=(0.0, 0.0),  # of so few nodes one edge decides: students of a family with p = 0.5 had 55 and 65% (CIFAR-10)
        channel_growth=(1.0, 4.0),
        downsampling=("average", "max"),
        stage_ratio=(0.25, 4.0),
        max_operations=8,
        default={"top_nodes": 3, "bottom_nodes": 1, "channel_growth": 2.0, "downsampling": "max"},
    ),
}
"""``hnag``: the published ranges, stage and channel ratios fixed to 1/3 each and 2, average pooling. ``hnag-wide``: the
same graphs with stage ratios, growth, downsampling, operations and merges searched. ``hnag-small``: for small images
and few parameters, at most 20 operations; bottom graphs of one node included, which are among the best there. Its
default was chosen by hand on cluttered-digits; ``hnag-small-untuned`` has the default that all presets have, and higher
temperatures, since the best families of ``hnag-small`` lie at 10.
``hnag-device``: 2 to 8 wide operations, for a limit of latency: where a node costs time whatever it computes. Each of
its families is one wiring."""


class HNAGSpace:
    """The families that an optimizer may propose.

    Args:
        preset: A name in `PRESETS`, or a `Preset`.
        search_kd: Whether temperature and kd_weight are searched; otherwise ``kd`` holds for all.
        kd: Fixed KD settings, and the defaults of searched ones. What the preset fixes (a range of one value) holds
            in any case.
        mode: "family": a candidate is a generator. "individual": the wiring seed is one more dimension, and a
            candidate is one wiring.
        search_size: Whether the share of the parameter limit is searched too (0.1 to 1), for a search with several
            objectives; otherwise students take all of it.

    Raises:
        ValueError: If the preset or the mode is unknown (names the nearest preset), or ``kd`` is to hold for all and
            contradicts what the preset fixes.
    """

    def __init__(
        self,
        preset: str | Preset = "hnag-small",
        *,
        search_kd: bool = True,
        kd: KDSettings | None = None,
        mode: str = "family",
        search_size: bool = False,
    ) -> None:
        if isinstance(preset, str):
            check_name(preset, PRESETS, "preset")
        check_name(mode, MODES, "mode")
        self.name = preset if isinstance(preset, str) else "custom"
        self.preset = PRESETS[preset] if isinstance(preset, str) else preset
        self.search_kd, self.mode, self.search_size = search_kd, mode, search_size
        self.kd = self._with_fixed(kd)

    def _with_fixed(self, kd: KDSettings | None) -> KDSettings:
        fixed = self.preset.fixed_kd()
        for name, value in fixed.items():
            if kd is not None and not self.search_kd and getattr(kd, name) != value:
                raise ValueError(
                    f"the preset fixes {name} at {value:g}, but kd says {getattr(kd, name):g}: give one of them"
                )
        return replace(kd or KDSettings(), **fixed)

    def replaced(self, **changes: Any) -> HNAGSpace:
        """The space with other arguments than it was made with, such as ``search_size=True``."""
        own = {"search_kd": self.search_kd, "kd": self.kd, "mode": self.mode, "search_size": self.search_size}
        return HNAGSpace(self.preset if self.name == "custom" else self.name, **{**own, **changes})

    def without_kd(self) -> HNAGSpace:
        """The space without temperature and kd_weight, for trainings on the labels alone; itself if it has none."""
        return self if not self.search_kd else self.replaced(search_kd=False)

    def __repr__(self) -> str:
        size = ", search_size=True" if self.search_size else ""
        return f"HNAGSpace({self.name!r}, search_kd={self.search_kd}, kd={self.kd}, mode={self.mode!r}{size})"

    def configuration_space(self) -> ConfigSpace.ConfigurationSpace:
        """A fresh ConfigSpace, the same every time (its random state too: seed 0)."""
        from ConfigSpace import (
            Categorical,
            ConfigurationSpace,
            Float,
            ForbiddenAndConjunction,
            ForbiddenEqualsClause,
            ForbiddenInClause,
            GreaterThanCondition,
            Integer,
        )

        preset = self.preset
        space = ConfigurationSpace(name=self.name, seed=0)

        def add(hyperparameter: Any) -> Any:
            space.add(hyperparameter)
            return hyperparameter

        def add_float(name: str, bounds: tuple[float, float], default: float, log: bool = False) -> Any:
            if bounds[0] == bounds[1]:
                return None
            return add(Float(name, bounds, default=preset.default_of(name, bounds, default), log=log))

        def add_choice(name: str, items: tuple[Any, ...], ordered: bool = False) -> Any:
            if len(items) == 1:
                return None
            return add(Categorical(name, list(items), default=preset.default.get(name, items[0]), ordered=ordered))

        for level, smallest_with_p in (("top", 4), ("mid", 2), ("bottom", 4)):
            low, high = getattr(preset, f"{level}_nodes")
            nodes = None
            if low < high:
                default = int(preset.default_of(f"{level}_nodes", (low, high)))
                nodes = add(Integer(f"{level}_nodes", (low, high), default=default))
            if level != "mid" and high >= 5:
                k = add_choice(f"{level}_k", (2, 4), ordered=True)
                if nodes is not None and low < 5:
                    space.add(GreaterThanCondition(k, nodes, 4))
            if high >= smallest_with_p:
                p = add_float(f"{level}_p", preset.p, _DEFAULT_P)
                if p is not None and nodes is not None and low < smallest_with_p:
                    space.add(GreaterThanCondition(p, nodes, smallest_with_p - 1))
        if preset.max_operations is not None:
            top, bottom = preset.top_nodes, preset.bottom_nodes
            for n in range(bottom[0], bottom[1] + 1):
                too_many = [m for m in range(top[0], top[1] + 1) if m * n > preset.max_operations]
                clauses: list[Any] = [ForbiddenEqualsClause(space["bottom_nodes"], n)] if bottom[0] < bottom[1] else []
                clauses += [ForbiddenInClause(space["top_nodes"], too_many)] if top[0] < top[1] and too_many else []
                if too_many and clauses:  # fixed numbers of nodes are no hyperparameters
                    space.add(ForbiddenAndConjunction(*clauses) if len(clauses) == 2 else clauses[0])
        add_float("first_stage_ratio", preset.stage_ratio, 1.0, log=True)
        add_float("last_stage_ratio", preset.stage_ratio, 1.0, log=True)
        add_float("channel_growth", preset.channel_growth, 1.0, log=True)
        add_choice("downsampling", preset.downsampling)
        add_choice("operations", preset.operations)
        add_choice("merges", preset.merges)
        if self.search_kd:
            add_float("temperature", preset.temperature, self.kd.temperature, log=True)
            add_float("kd_weight", preset.kd_weight, self.kd.kd_weight)
        if self.search_size:
            add_float("size", SIZES, 1.0, log=True)
        if self.mode == "individual":
            space.add(Integer("wiring_seed", (0, MAX_WIRING_SEED), default=0))
        return space

    @cached_property
    def _space(self) -> ConfigSpace.ConfigurationSpace:
        return self.configuration_space()

    def describe(self) -> dict[str, Any]:
        """What tells this space from others, as JSON can hold it (for ``run.yaml``)."""
        described: dict[str, Any] = {"name": self.name, "mode": self.mode, "search_kd": self.search_kd}
        if self.name == "custom":
            described["preset"] = json.loads(json.dumps(asdict(self.preset)))
        if self.search_size:
            described["search_size"] = True
        return described | {"kd": self.kd.to_dict()}

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> HNAGSpace:
        """Inverse of `describe`.

        Raises:
            ValueError, TypeError: If another space is described.
        """
        preset = described.get("name", "")
        if preset == "custom":
            ranges: dict[str, Any] = {}
            for name, value in dict(described.get("preset") or {}).items():
                ranges[name] = tuple(value) if isinstance(value, list) else value
            preset = Preset(**ranges)
        own = {name: described[name] for name in ("search_kd", "mode", "search_size") if name in described}
        return cls(preset, kd=KDSettings.from_dict(described.get("kd", {})), **own)

    def check(self, task: Task) -> None:
        """Check before any work that the default family fits the task's images and parameter limit.

        Other families may still be too large: their trials then fail and say the smallest possible size.

        Raises:
            ValueError: If the images are too small for the stages, or (`ParameterBudgetError`) the limit is too low.
        """
        fit_width(
            self.default_candidate().sample_wiring(0),
            task.max_params,
            in_channels=task.in_channels,
            image_size=task.image_size,
            n_classes=max(2, task.n_classes),  # an image folder's are not counted yet
            stem=task.stem,
            min_channels=task.min_channels,
            width_multiple=task.width_multiple,
        )

    def candidate(self, values: Mapping[str, Any]) -> Candidate:
        """The candidate of a configuration (ConfigSpace's, or any mapping of the active hyperparameters).

        Raises:
            ValueError: If a name is unknown (names the nearest), a value missing, outside its range, or inactive, or
                the point forbidden.
        """
        from ConfigSpace import Configuration

        plain = {name: _plain(value) for name, value in dict(values).items()}
        check_mapping(plain, list(self._space), f"configuration of {self.name}")
        try:
            Configuration(self._space, values=plain)
        except (ValueError, KeyError) as error:  # ConfigSpace's own errors are these
            raise ValueError(f"not a configuration of {self.name}: {error}") from error
        return self._candidate(plain)

    def _candidate(self, plain: Mapping[str, Any]) -> Candidate:
        preset = self.preset

        def n_nodes(level: str) -> int:
            return int(plain.get(f"{level}_nodes", getattr(preset, f"{level}_nodes")[0]))

        def fixed_p(smallest: int, n: int) -> float:
            return preset.p[0] if n >= smallest and preset.p[0] == preset.p[1] else 0.0

        def watts_strogatz(level: str) -> WattsStrogatz:
            n = n_nodes(level)
            k = plain.get(f"{level}_k", min(2, n - 1))
            return WattsStrogatz(n, k, plain.get(f"{level}_p", fixed_p(4, n)))

        merges = ((plain.get("merges", preset.merges[0]), 1.0),)
        mid_nodes = n_nodes("mid")
        generator = Generator(
            top=watts_strogatz("top"),
            mid=ErdosRenyi(mid_nodes, plain.get("mid_p", fixed_p(2, mid_nodes))),
            bottom=watts_strogatz("bottom"),
            stage_ratios=self._stage_ratios(plain),
            channel_growth=plain.get("channel_growth", preset.channel_growth[0]),
            downsampling=plain.get("downsampling", preset.downsampling[0]),
            operations=OPERATION_MIXES[plain.get("operations", preset.operations[0])],
            top_merges=merges,
            mid_merges=merges,
            bottom_merges=merges,
            head_ratio=preset.head_ratio,
        )
        kd = KDSettings(plain.get("temperature", self.kd.temperature), plain.get("kd_weight", self.kd.kd_weight))
        return Candidate(generator, kd, plain.get("wiring_seed"), plain.get("size", 1.0))

    def _stage_ratios(self, plain: Mapping[str, Any]) -> tuple[float, float, float]:
        low, high = self.preset.stage_ratio
        if low == high == 1.0:
            return 1 / 3, 1 / 3, 1 / 3
        return plain.get("first_stage_ratio", low), 1.0, plain.get("last_stage_ratio", low)

    def values(self, candidate: Candidate) -> dict[str, Any]:
        """The configuration of a candidate: plain ints, floats and strings, active hyperparameters only.

        Raises:
            ValueError: If the candidate is not in this space.
        """
        generator = candidate.generator
        mixes = {mix: name for name, mix in _checked_mixes().items()}
        described: dict[str, Any] = {
            "top_nodes": generator.top.n_nodes,
            "top_k": generator.top.k,
            "top_p": generator.top.p,
            "mid_nodes": generator.mid.n_nodes,
            "mid_p": generator.mid.p,
            "bottom_nodes": generator.bottom.n_nodes,
            "bottom_k": generator.bottom.k,
            "bottom_p": generator.bottom.p,
            "first_stage_ratio": generator.stage_ratios[0] / generator.stage_ratios[1]
            if generator.stage_ratios[1]
            else 0.0,
            "last_stage_ratio": generator.stage_ratios[2] / generator.stage_ratios[1]
            if generator.stage_ratios[1]
            else 0.0,
            "channel_growth": generator.channel_growth,
            "downsampling": generator.downsampling,
            "operations": mixes.get(generator.operations, "?"),
            "merges": generator.bottom_merges[0][0],
            "temperature": candidate.kd.temperature,
            "kd_weight": candidate.kd.kd_weight,
            "wiring_seed": candidate.wiring_seed,
            "size": candidate.size,
        }
        inactive = set()
        for level in ("top", "mid", "bottom"):
            n = described[f"{level}_nodes"]
            if n < (2 if level == "mid" else 4):
                inactive.add(f"{level}_p")
            if n < 5:
                inactive.add(f"{level}_k")
        values = {name: described[name] for name in self._space if name not in inactive}
        try:
            back = self.candidate(values)
        except ValueError as error:
            raise ValueError(f"candidate {candidate.digest} is not in the space {self.name}: {error}") from error
        if back != candidate:
            raise ValueError(
                f"candidate {candidate.digest} is not in the space {self.name}: its nearest point is {values}"
            )
        return values

    def default_candidate(self) -> Candidate:
        """The family that the space's default configuration describes: a sensible first guess."""
        return self.candidate(dict(self._space.get_default_configuration()))

    def sample(self, rng: numpy.random.Generator) -> Candidate:
        """Draw a candidate uniformly (log-uniformly where the scale is logarithmic)."""
        self._space.seed(int(rng.integers(2**31)))
        configuration = self._space.sample_configuration()
        return self._candidate({name: _plain(value) for name, value in dict(configuration).items()})

    def sample_many(self, n: int, seed: int) -> Iterator[Candidate]:
        """Draw ``n`` candidates, distributed as those of `sample`, an order of magnitude faster than one by one."""
        import numpy as np

        if n < 1:
            return
        space = self._space
        space.seed(seed)
        drawn: Any = space.sample_configuration(n)
        codes = np.array([c.get_array() for c in ([drawn] if n == 1 else drawn)])  # inactive hyperparameters are nan
        columns = []
        for place, hyperparameter in enumerate(space.values()):
            column = codes[:, place]
            active = ~np.isnan(column)
            values = np.full(n, None, dtype=object)
            values[active] = [_plain(value) for value in hyperparameter.to_value(column[active])]
            columns.append(values)
        names = list(space)
        for row in zip(*columns, strict=True):
            yield self._candidate({name: value for name, value in zip(names, row, strict=True) if value is not None})


def _checked_mixes() -> dict[str, Any]:
    """`OPERATION_MIXES` in the form that `Generator` gives them."""
    from naslib_autokd.search_spaces.hnag.generator import _distribution
    from naslib_autokd.search_spaces.hnag.wiring import OPERATIONS

    return {name: _distribution(mix, OPERATIONS, "operation") for name, mix in OPERATION_MIXES.items()}


def _plain(value: Any) -> Any:
    """numpy's scalars as Python's."""
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, str) else value
