"""The ConfigSpace, its candidates, and the width solver against a search that knows nothing of its shortcuts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ConfigSpace import Configuration
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from test_hnag_generator import MIXED, PUBLISHED, SMALL, generators

from naslib_autokd.runners.ablation import variant
from naslib_autokd.search_spaces import HNAG_PRESETS
from naslib_autokd.search_spaces.frozen import FrozenSpace
from naslib_autokd.search_spaces.hnag.generator import ErdosRenyi, Generator, WattsStrogatz
from naslib_autokd.search_spaces.hnag.individual import WiringCandidate, mutate
from naslib_autokd.search_spaces.hnag.parameters import PRESETS, Candidate, HNAGSpace, KDSettings, Preset
from naslib_autokd.search_spaces.hnag.wiring import ParameterBudgetError, StudentSpec, channels_at, fit_width

SPACES = [
    *(HNAGSpace(preset) for preset in PRESETS),
    HNAGSpace("hnag-small", search_kd=False, kd=KDSettings(2.0, 1.0)),
    HNAGSpace("hnag-wide", mode="individual"),
]
CIFAR: dict[str, Any] = {"in_channels": 3, "image_size": 32, "n_classes": 10}
DIGITS: dict[str, Any] = {"in_channels": 1, "image_size": 12, "n_classes": 10}


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_every_configuration_is_a_candidate_and_comes_back(space: HNAGSpace) -> None:
    configurations = space.configuration_space()
    for configuration in configurations.sample_configuration(40):
        candidate = space.candidate(configuration)
        values = space.values(candidate)
        assert {type(value) for value in values.values()} <= {int, float, str}
        assert json.loads(json.dumps(values)) == values
        assert Configuration(configurations, values=values) == configuration
        assert space.candidate(values) == candidate
        assert candidate.generator.top.k < candidate.generator.top.n_nodes
        assert Candidate.from_dict(json.loads(json.dumps(candidate.to_dict()))) == candidate
        assert Candidate.from_yaml(candidate.to_yaml()).digest == candidate.digest


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_the_space_is_fresh_and_the_same_every_time(space: HNAGSpace) -> None:
    first, second = space.configuration_space(), space.configuration_space()
    assert first is not second
    assert first == second
    assert first.sample_configuration(5) == second.sample_configuration(5)
    drawn = [space.sample(np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_presets_have_the_dimensions_that_they_promise() -> None:
    graph = {"top_nodes", "top_k", "top_p", "bottom_nodes", "bottom_k", "bottom_p"}
    published = graph | {"mid_nodes", "mid_p"}
    kd = {"temperature", "kd_weight"}
    searched = {"channel_growth", "downsampling"}
    stages = {"first_stage_ratio", "last_stage_ratio", "operations", "merges"}
    assert set(HNAGSpace("hnag").configuration_space()) == published | kd
    assert set(HNAGSpace("hnag-wide").configuration_space()) == published | kd | searched | stages
    assert set(HNAGSpace("hnag-small").configuration_space()) == graph | kd | searched
    device = {"top_nodes", "top_k", "bottom_nodes", "first_stage_ratio", "last_stage_ratio"}
    assert set(HNAGSpace("hnag-device").configuration_space()) == device | kd | searched
    assert set(HNAGSpace("hnag", search_kd=False).configuration_space()) == published
    assert "wiring_seed" in HNAGSpace("hnag", mode="individual").configuration_space()
    assert set(HNAG_PRESETS) == set(PRESETS)
    generator = HNAGSpace("hnag").sample(np.random.default_rng(0)).generator
    assert generator.channel_growth == 2.0
    assert generator.downsampling == "average"
    assert len(set(generator.stage_ratios)) == 1


def test_the_small_preset_stays_small_and_reaches_single_operations() -> None:
    space = HNAGSpace("hnag-small")
    rng = np.random.default_rng(0)
    generators = [space.sample(rng).generator for _ in range(200)]
    sizes = [g.sample_wiring(0).n_operations for g in generators]
    assert max(sizes) <= 20
    assert {g.bottom.n_nodes for g in generators} == {1, 2, 3, 4, 5}
    assert {g.top.n_nodes for g in generators} == set(range(3, 10))


def test_the_untuned_preset_is_the_small_one_with_the_default_of_the_published_one() -> None:
    untuned, published = HNAGSpace("hnag-small-untuned"), HNAGSpace("hnag")
    small, found = (HNAGSpace(name).configuration_space() for name in ("hnag-small", "hnag-small-untuned"))
    assert list(small) == list(found)
    for name in small:  # the same choices, but for higher temperatures
        ends = [[space[name].to_value(vector) for vector in (0.0, 1.0)] for space in (small, found)]
        assert ends == [[1.0, 10.0], [1.0, 30.0]] if name == "temperature" else ends[0] == ends[1]
    ours, theirs = (space.default_candidate().generator for space in (untuned, published))
    assert (ours.top, ours.bottom.n_nodes) == (theirs.top, theirs.bottom.n_nodes)
    assert untuned.default_candidate().kd == published.default_candidate().kd


def test_families_for_a_device_have_few_operations_and_may_be_chains() -> None:
    space, rng = HNAGSpace("hnag-device"), np.random.default_rng(0)
    families = [space.sample(rng) for _ in range(200)]
    assert all(family.is_one_wiring for family in families)
    wirings = [family.sample_wiring(0) for family in families]
    assert {wiring.n_operations for wiring in wirings} == {2, 3, 4, 5, 6, 8}
    assert any(wiring.merges == ("single", "single") for wiring in wirings)
    assert {wiring.stages[-1] for wiring in wirings} == {0, 1, 2}
    small = [HNAGSpace("hnag-small").sample(rng).sample_wiring(0) for _ in range(200)]
    assert np.mean([w.n_operations for w in wirings]) < 0.5 * np.mean([w.n_operations for w in small])
    assert space.default_candidate().sample_wiring(0).stages == (0, 1, 2)


def test_k_not_below_nodes_does_not_exist_in_the_space() -> None:
    space = HNAGSpace("hnag")
    values = space.values(space.sample(np.random.default_rng(0))) | {"top_nodes": 4, "top_k": 4, "top_p": 0.5}
    with pytest.raises(ValueError, match="not a configuration of hnag"):
        space.candidate(values)
    sampled = space.configuration_space().sample_configuration(300)
    # The price of a forbidden clause, 4% of draws with 3 nodes, is not paid: they have their eighth.
    assert 20 <= sum(c["top_nodes"] == 3 for c in sampled) <= 60


def test_individual_mode_means_one_wiring() -> None:
    candidate = HNAGSpace("hnag-small", mode="individual").sample(np.random.default_rng(3))
    assert candidate.wiring_seed is not None
    assert candidate.sample_wiring(1) == candidate.sample_wiring(2)
    assert candidate.sample_wiring(1) == candidate.generator.sample_wiring(candidate.wiring_seed)
    family = Candidate(PUBLISHED)
    assert family.sample_wiring(1) == PUBLISHED.sample_wiring(1) != family.sample_wiring(2)
    assert family.digest != candidate.digest


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HNAGSpace("hnag-smal"), "unknown preset 'hnag-smal'; did you mean 'hnag-small'"),
        (lambda: HNAGSpace(mode="families"), "unknown mode 'families'; did you mean 'family'"),
        (lambda: KDSettings(temperature=0), r"temperature must be in \(0, 100\], got 0"),
        (lambda: KDSettings(temperature=1e9), r"temperature must be in \(0, 100\], got 1000000000"),
        (lambda: KDSettings(temperature=float("nan")), r"temperature must be in \(0, 100\], got nan"),
        (lambda: KDSettings(kd_weight=1.01), r"kd_weight must be in \[0, 1\], got 1.01"),
        (lambda: KDSettings(kd_weight="0.5"), "kd_weight must be a number"),  # type: ignore[arg-type]
        (lambda: HNAGSpace().candidate({"top_node": 3}), "unknown key 'top_node'.*did you mean 'top_nodes'"),
        (lambda: HNAGSpace().candidate({"top_nodes": 3}), "not a configuration of hnag-small"),
        (lambda: HNAGSpace().values(Candidate(PUBLISHED)), "is not in the space hnag-small"),
        (lambda: HNAGSpace("hnag").values(Candidate(MIXED)), "is not in the space hnag"),
        (lambda: Candidate.from_dict({"generator": PUBLISHED.to_dict(), "kd": {"T": 3}}), "unknown key 'T' in KD"),
        (lambda: Candidate.from_dict({}), "candidate lacks 'generator'"),
        (lambda: Candidate(PUBLISHED, wiring_seed=-1), "wiring_seed must be at least 0"),
    ],
)
def test_bad_input_is_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def widest(wiring: Any, max_params: int, min_channels: int, task: dict[str, Any]) -> StudentSpec:
    """The largest width by bisection over the real numbers: slow, and with nothing in common with the solver."""
    growth = (
        1 + 1e-9 if wiring.channel_growth == 1 else wiring.channel_growth
    )  # at 1 stages are raised one at a time, the last first

    def spec(width: float) -> StudentSpec:
        return StudentSpec(wiring, channels_at(width, growth, min_channels), **task)

    low, high = 0.0, 1.0
    while spec(high).n_params <= max_params:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spec(middle).n_params <= max_params else (low, middle)
    return spec(low)


EQUAL_STAGES = Generator(
    top=WattsStrogatz(2, 1, 0.0),
    mid=ErdosRenyi(1, 0.0),
    bottom=WattsStrogatz(1, 0, 0.0),
    stage_ratios=(0.0, 0.5, 0.5),
    channel_growth=1.0,
)


@settings(max_examples=60, deadline=None)
@example(EQUAL_STAGES, 0, 36_193, 1)
@given(generators(8, 3, 4), st.integers(0, 1000), st.integers(3_000, 200_000), st.integers(1, 5))
def test_the_width_is_the_largest_that_fits(
    generator: Generator, seed: int, max_params: int, min_channels: int
) -> None:
    wiring = generator.sample_wiring(seed)
    smallest = StudentSpec(wiring, (min_channels,) * 3, **CIFAR)  # type: ignore[arg-type]
    if smallest.n_params > max_params:
        with pytest.raises(ParameterBudgetError, match=f"at least {smallest.n_params} or choose") as caught:
            fit_width(wiring, max_params, min_channels=min_channels, **CIFAR)
        assert caught.value.smallest == smallest.n_params
        return
    spec = fit_width(wiring, max_params, min_channels=min_channels, **CIFAR)
    expected = widest(wiring, max_params, min_channels, CIFAR)
    assert min(spec.channels) >= min_channels
    assert spec.n_params <= max_params
    if expected.budget_used(max_params) >= 0.95:
        used = set(wiring.stages)  # the channels of a stage without nodes cost nothing and mean nothing
        assert [spec.channels[stage] for stage in used] == [expected.channels[stage] for stage in used]
    else:  # one channel more in some stages is allowed then, and only then
        assert spec.n_params >= expected.n_params
        assert all(0 <= a - b <= 1 for a, b in zip(spec.channels, expected.channels, strict=True))


def test_nothing_can_be_added_below_95_percent() -> None:
    for seed in range(10):
        for generator in (SMALL, MIXED):
            wiring = generator.sample_wiring(seed)
            spec = fit_width(wiring, 24_000, min_channels=4, **DIGITS)
            if spec.budget_used(24_000) < 0.95:
                for stage in set(wiring.stages):
                    more = tuple(c + (s == stage) for s, c in enumerate(spec.channels))
                    assert StudentSpec(wiring, more, **DIGITS).n_params > 24_000  # type: ignore[arg-type]


def test_equal_stages_rise_one_at_a_time() -> None:
    # With growth 1 all stages round up at the same width; only all together they would leave up to a fifth unused.
    for budget in range(10_000, 30_000, 1_000):
        spec = fit_width(
            Generator(SMALL.top, SMALL.mid, SMALL.bottom, channel_growth=1.0).sample_wiring(0), budget, **DIGITS
        )
        first, second, third = spec.channels
        assert first <= second <= third <= first + 2
        assert spec.budget_used(budget) > 0.93


@pytest.mark.parametrize(
    ("preset", "max_params", "task", "min_channels", "share"),
    [
        ("hnag-small", 24_000, DIGITS, 4, 0.95),
        ("hnag", 4_000_000, CIFAR, 1, 0.95),
        ("hnag-wide", 500_000, CIFAR, 1, 0.9),
    ],
)
def test_students_use_their_budget(
    preset: str, max_params: int, task: dict[str, Any], min_channels: int, share: float
) -> None:
    space, rng = HNAGSpace(preset), np.random.default_rng(0)
    used = []
    for seed in range(150):
        wiring = space.sample(rng).sample_wiring(seed)
        used.append(fit_width(wiring, max_params, min_channels=min_channels, **task).budget_used(max_params))
    assert max(used) <= 1.0
    assert np.mean(np.array(used) >= 0.95) >= share


def test_a_growing_budget_never_shrinks_the_student() -> None:
    wiring = SMALL.sample_wiring(1)
    sizes = [fit_width(wiring, budget, **DIGITS).n_params for budget in range(2_000, 40_000, 500)]
    assert sizes == sorted(sizes)


@settings(max_examples=30, deadline=None)
@given(generators(6, 3, 4), st.floats(0.3, 40), st.floats(0.0, 3.0))
def test_parameters_never_fall_with_the_width(generator: Generator, width: float, more: float) -> None:
    wiring = generator.sample_wiring(0)
    assume(all(c < 1000 for c in channels_at(width + more, wiring.channel_growth)))
    narrow, wide = (
        StudentSpec(wiring, channels_at(w, wiring.channel_growth), **CIFAR).n_params for w in (width, width + more)
    )
    assert narrow <= wide


def test_count_by_hand() -> None:
    # Three cells of one 3x3 convolution in a triangle, 1 -> 2 -> 4 channels, 8x8 grey images, 3 classes.
    wiring = Generator(WattsStrogatz(3, 2), ErdosRenyi(1), WattsStrogatz(1, 0)).sample_wiring(0)
    spec = StudentSpec(wiring, (1, 2, 4), in_channels=1, image_size=8, n_classes=3)
    stem, operations, norms = 9, 9 + 36 + 144, 2 * (1 + 1 + 2 + 4)
    projections = 1 * 2 + 1 * 4 + 2 * 4  # 0->1, 0->2, 1->2
    head, merge_weights = 4 * 3 + 3, 2  # only the last cell merges
    assert spec.n_params == stem + operations + norms + projections + merge_weights + head
    macs = 64 * 9 + 64 * 9 + 16 * (36 + 2) + 4 * (144 + 4 + 8) + 12
    assert spec.macs == macs
    assert (spec.depth, wiring.n_operations) == (3, 3)


def test_images_too_small_for_the_stages_are_refused() -> None:
    wiring = SMALL.sample_wiring(0)
    with pytest.raises(ValueError, match="image_size 3 is too small: 2 halvings between the stages and the small stem"):
        fit_width(wiring, 24_000, in_channels=1, image_size=3, n_classes=10)
    for stem in ("small", "large"):
        smallest = 4 if stem == "small" else 13
        fit_width(wiring, 24_000, in_channels=1, image_size=smallest, n_classes=10, stem=stem)
        with pytest.raises(ValueError, match=f"at least {smallest} pixels"):
            fit_width(wiring, 24_000, in_channels=1, image_size=smallest - 1, n_classes=10, stem=stem)


def test_the_stem_follows_the_image() -> None:
    wiring = PUBLISHED.sample_wiring(0)
    stems = [fit_width(wiring, 500_000, in_channels=3, image_size=n, n_classes=10).stem for n in (32, 63, 64, 224)]
    assert stems == ["small", "small", "large", "large"]
    with pytest.raises(ValueError, match="unknown stem 'medium'"):
        fit_width(wiring, 500_000, stem="medium", **CIFAR)


def test_a_specification_survives_its_dictionary() -> None:
    spec = fit_width(MIXED.sample_wiring(0), 30_000, **CIFAR)
    again = StudentSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.digest == spec.digest
    assert hash(again) == hash(spec)
    with pytest.raises(
        ValueError, match="unknown key 'image_sise' in student specification; did you mean 'image_size'"
    ):
        StudentSpec.from_dict({"image_sise": 3})
    with pytest.raises(ValueError, match="channels must be at least 1"):
        StudentSpec(spec.wiring, (0, 1, 1), **CIFAR)
    with pytest.raises(ValueError, match="n_classes must be at least 2"):
        fit_width(spec.wiring, 30_000, in_channels=3, image_size=32, n_classes=1)


# --- ranges of one value


@pytest.mark.parametrize("mode", ["family", "individual"])
def test_fixed_kd_settings_hold_in_every_candidate(mode: str) -> None:
    both = HNAGSpace(Preset(temperature=(7, 7), kd_weight=(0.3, 0.3)), mode=mode)
    one = HNAGSpace(Preset(temperature=(7, 7)), mode=mode, kd=KDSettings(2.0, 0.5))
    frozen = FrozenSpace(one, {"kd_weight": 0.25})
    assert not {"temperature", "kd_weight"} & set(both.configuration_space())
    assert "kd_weight" in set(one.configuration_space())
    for space in (both, one, frozen):
        drawn = [space.sample(np.random.default_rng(seed)) for seed in range(5)]
        for candidate in [space.default_candidate(), *drawn, *one.sample_many(3, 0)]:
            assert candidate.kd.temperature == 7.0
        assert all(space.candidate(space.values(candidate)) == candidate for candidate in drawn)
    assert both.default_candidate().kd == both.kd == KDSettings(7.0, 0.3)
    assert both.describe()["kd"] == {"temperature": 7.0, "kd_weight": 0.3}
    assert frozen.default_candidate().kd == KDSettings(7.0, 0.25)
    with pytest.raises(ValueError, match="is not in the space custom"):  # a warm start with other settings
        one.values(replace(one.default_candidate(), kd=KDSettings(4.0, 0.5)))


def test_kd_settings_that_are_not_searched_are_those_that_the_preset_fixes() -> None:
    fixed = Preset(temperature=(7, 7))
    assert HNAGSpace(fixed, search_kd=False).default_candidate().kd == KDSettings(7.0, 0.9)
    with pytest.raises(ValueError, match="the preset fixes temperature at 7, but kd says 4: give one of them"):
        HNAGSpace(fixed, search_kd=False, kd=KDSettings(kd_weight=0.5))
    changed = variant(HNAGSpace(fixed), {"kd": {"temperature": 2.0, "kd_weight": 0.5}})
    assert changed.default_candidate().kd == KDSettings(2.0, 0.5)  # a study says so in so many words
    assert variant(HNAGSpace(fixed), {"search_kd": False}).default_candidate().kd.temperature == 7.0


@pytest.mark.parametrize("mode", ["family", "individual"])
def test_a_wiring_keeps_fixed_kd_settings_when_it_is_mutated(mode: str) -> None:
    space, rng = HNAGSpace(Preset(temperature=(7, 7)), mode=mode), np.random.default_rng(0)
    drawn = space.sample(rng)
    wiring = WiringCandidate(drawn.sample_wiring(0), drawn.kd, drawn.generator)
    for _ in range(20):
        wiring = mutate(wiring, space, rng)
        assert wiring.kd.temperature == 7.0


@pytest.mark.parametrize("field", ["top_nodes", "mid_nodes", "bottom_nodes", "p", "channel_growth"])
def test_every_range_of_one_value_is_a_constant(field: str) -> None:
    value = {"p": 0.35, "channel_growth": 1.7}.get(field, 6)
    space = HNAGSpace(Preset(**{field: (value, value)}, max_operations=60))
    for candidate in space.sample_many(20, 0):
        generator = candidate.generator
        found = {
            **{f"{level}_nodes": getattr(generator, level).n_nodes for level in ("top", "mid", "bottom")},
            "p": generator.top.p if generator.top.n_nodes > 3 else 0.35,
            "channel_growth": generator.channel_growth,
        }
        assert found[field] == value
        assert generator.top.n_nodes * generator.bottom.n_nodes <= 60
        assert space.candidate(space.values(candidate)) == candidate


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"temperature": (10, 1)}, "the range of temperature is reversed: 10 is larger than 1"),
        ({"temperature": (0, 4)}, r"the range of temperature must be in \(0, 100\], got 0"),
        ({"temperature": (-2, -1)}, r"in \(0, 100\]"),
        ({"temperature": (math.nan, 4)}, r"in \(0, 100\], got nan"),
        ({"temperature": (1, math.inf)}, r"in \(0, 100\], got inf"),
        ({"temperature": 7}, "the range of temperature is two numbers, the smallest and the largest value, got 7"),
        ({"temperature": (1, 2, 3)}, "is two numbers"),
        ({"temperature": ("1", "2")}, "must be a number, got '1'"),
        ({"kd_weight": (0.5, 1.5)}, r"the range of kd_weight must be in \[0, 1\], got 1.5"),
        ({"kd_weight": (-0.1, 0.5)}, r"in \[0, 1\], got -0.1"),
        ({"kd_weight": (0.9, 0.1)}, "kd_weight is reversed"),
        ({"p": (0.5, 1.1)}, "the range of p must be in"),
        ({"channel_growth": (0.0, 2.0)}, "channel_growth must be greater than 0"),
        ({"top_nodes": (0, 4)}, "the range of top_nodes must be in"),
        ({"top_nodes": (3, 99)}, r"top_nodes must be in \[1, 64\], got 99"),
        ({"bottom_nodes": (2.5, 4)}, "bottom_nodes must be an integer, got 2.5"),
        ({"merges": ()}, "merges of a preset is a tuple of names"),
        ({"operations": ("conv3x4",)}, "unknown operations 'conv3x4'; did you mean 'conv3x3'"),
        ({"max_operations": 4}, "max_operations=4 leaves no family: the smallest has 9"),
        ({"max_operations": 12}, "the default family has 5 top nodes of 3 operations, more than max_operations=12"),
    ],
)
def test_impossible_ranges_are_refused_when_they_are_made(ranges: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preset(**ranges)


def test_a_space_for_labels_alone_has_no_kd_dimensions() -> None:
    space = HNAGSpace("hnag-small", mode="individual", search_size=True)
    left = space.without_kd()
    assert set(space.configuration_space()) - set(left.configuration_space()) == {"temperature", "kd_weight"}
    assert left.without_kd() is left
    frozen = FrozenSpace(space, {"temperature": 2.0, "top_nodes": 4}).without_kd()
    assert frozen.fixed == {"top_nodes": 4}
    assert set(frozen.configuration_space()) < set(left.configuration_space())


@pytest.mark.parametrize(
    "space",
    [
        HNAGSpace("hnag-wide", search_size=True, mode="individual"),
        HNAGSpace("hnag-small", search_kd=False, kd=KDSettings(3.0, 0.25)),
        HNAGSpace(Preset(top_nodes=(4, 6), temperature=(2.0, 2.0), max_operations=60, default={"top_nodes": 5})),
    ],
)
def test_a_description_gives_the_space_again(space: HNAGSpace) -> None:
    described = json.loads(json.dumps(space.describe()))
    again = HNAGSpace.of(described)
    assert again.describe() == space.describe()
    assert again.configuration_space() == space.configuration_space()
    with pytest.raises(ValueError, match="nasbench201"):
        HNAGSpace.of({"name": "nasbench201"})
