"""A search space with some of its hyperparameters fixed: what remains is searched, candidates stay the space's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from naslib_autokd.search_spaces import ChecksTask, DescribesItself, without_kd
from naslib_autokd.tasks import did_you_mean

if TYPE_CHECKING:
    import ConfigSpace
    import numpy

    from naslib_autokd.tasks import Task

DEFAULT = "default"

MAX_VALUES = 100_000
"""Integers with more values than this are treated like real numbers: clauses on them are kept, not resolved."""


class FrozenSpace:
    """``space`` without the hyperparameters in ``fixed``: every candidate has these values, where they are active.

    Conditions on what is fixed are decided: hyperparameters that they switch off are gone, those that they switch on
    are always there. Forbidden clauses take the fixed values in, and ranges shrink to what they then leave.

    Args:
        space: Any search space (`optimizers.base.SearchSpaceLike`).
        fixed: Hyperparameter -> value; "default" stands for the space's default (and for nothing where the other fixed
            values switch the hyperparameter off).

    Raises:
        ValueError: If a name is unknown (with the nearest), a value illegal, forbidden or never active, if nothing is
            left to search, or if what is left cannot be said in a ConfigSpace (the message names the clause).
    """

    def __init__(self, space: Any, fixed: Mapping[str, Any]) -> None:
        self.inner = space
        self.name: str = space.name
        self._whole: ConfigSpace.ConfigurationSpace = space.configuration_space()
        self.fixed = {name: self._fixed_value(name, value) for name, value in fixed.items()}
        """Plain values, defaults filled in."""
        self._domains: dict[str, Sequence[Any]] = {name: _domain(hp) for name, hp in self._whole.items()}
        """Values that are left; empty for a real number."""
        self._domains |= {name: (value,) for name, value in self.fixed.items()}
        self._active: dict[str, Any] = {}
        """True, False, or the condition under which a hyperparameter is active, on what is left to search."""
        self._clauses: list[Any] = []
        while self._shrunk():
            pass
        self._single = {name: values[0] for name, values in self._domains.items() if len(values) == 1}
        for name in [name for name in self.fixed if self._active[name] is False]:
            if fixed[name] != DEFAULT:
                raise ValueError(
                    f"{name} cannot be fixed at {self.fixed[name]!r}: with the other fixed values it is never active"
                )
            del self.fixed[name]  # a whole level was fixed at its default, in which this has no part
        self._free = [name for name in self._whole if name not in self._single and self._active[name] is not False]
        if not self._free:
            raise ValueError(f"nothing is left to search in {self.name}: its hyperparameters are all fixed")
        self._space = self.configuration_space()

    def __repr__(self) -> str:
        return f"FrozenSpace({self.inner!r}, {self.fixed})"

    def _fixed_value(self, name: str, value: Any) -> Any:
        if name not in self._whole:
            raise ValueError(f"unknown hyperparameter {name!r}{did_you_mean(name, list(self._whole))}")
        hyperparameter = self._whole[name]
        if isinstance(value, str) and value == DEFAULT:
            value = hyperparameter.default_value
        if isinstance(value, bool) or not _is_legal(hyperparameter, value):
            raise ValueError(f"{name} cannot be fixed at {value!r}: it is {_range(hyperparameter)}")
        return _plain(value)

    # --- what is left

    def _shrunk(self) -> bool:
        """One pass over conditions and clauses; whether a domain became smaller, so that there has to be another."""
        from ConfigSpace.forbidden import ForbiddenClause

        self._active, self._clauses = {}, []
        for name in self._whole:
            self._find_active(name)
        shrunk = False
        for clause in self._whole.forbidden_clauses:
            rest = self._decided_clause(clause)
            if rest is True:
                raise ValueError(f"the fixed values {self.fixed} are forbidden ({clause})")
            if rest is False:
                continue
            if isinstance(rest, ForbiddenClause) and self._domains[name := rest.hyperparameter.name]:
                self._domains[name] = [v for v in self._domains[name] if not rest.is_forbidden_value({name: v})]
                shrunk = True
            else:
                self._clauses.append(rest)
        return shrunk

    def _find_active(self, name: str) -> Any:
        if name not in self._active:
            self._active[name] = _all([self._decided(c) for c in self._whole.parent_conditions_of[name]])
        return self._active[name]

    def _decided(self, condition: Any) -> Any:
        """A condition with what is known taken in: True, False or a condition on what is open."""
        from ConfigSpace import AndConjunction, OrConjunction

        if isinstance(condition, AndConjunction | OrConjunction):
            parts = [self._decided(part) for part in condition.components]
            return _all(parts) if isinstance(condition, AndConjunction) else _any(parts)
        parent = condition.parent.name
        parent_is_active = self._find_active(parent)
        holds = [value for value in self._domains[parent] if condition.satisfied_by_value({parent: value})]
        if parent_is_active is False or (self._domains[parent] and not holds):
            return False
        if self._domains[parent] and len(holds) == len(self._domains[parent]):
            return _for_child(parent_is_active, condition.child)  # an inactive parent switches its children off
        return condition

    def _decided_clause(self, clause: Any) -> Any:
        """A forbidden clause with what is known taken in: True (always forbidden), False (never) or what is open."""
        from ConfigSpace import ForbiddenAndConjunction, ForbiddenInClause, ForbiddenOrConjunction
        from ConfigSpace.forbidden import ForbiddenConjunction, ForbiddenRelation

        if isinstance(clause, ForbiddenConjunction):
            parts = [self._decided_clause(part) for part in clause.components]
            everything = isinstance(clause, ForbiddenAndConjunction)
            if (not everything) in parts:
                return not everything
            parts = [part for part in parts if not isinstance(part, bool)]
            if len(parts) < 2:
                return parts[0] if parts else everything
            return (ForbiddenAndConjunction if everything else ForbiddenOrConjunction)(*parts)
        if isinstance(clause, ForbiddenRelation):
            sides = {side.name: side for side in (clause.left, clause.right)}
            if any(self._active[name] is False for name in sides):
                return False
            known = {name: self._domains[name][0] for name in sides if len(self._domains[name]) == 1}
            if not known:
                return clause
            self._refuse_conditional(known, clause)
            if len(known) == 2:
                return bool(clause.is_forbidden_value(known))
            ((open_name, open_side),) = [(name, side) for name, side in sides.items() if name not in known]
            if not self._domains[open_name]:
                raise ValueError(f"{', '.join(known)} cannot be fixed alone ({clause}): fix {open_name}, too")
            bad = [v for v in self._domains[open_name] if clause.is_forbidden_value({**known, open_name: v})]
            return ForbiddenInClause(open_side, bad) if bad else False
        name = clause.hyperparameter.name
        if self._active[name] is False:
            return False
        domain = self._domains[name]
        hit = [value for value in domain if clause.is_forbidden_value({name: value})]
        if domain and not hit:
            return False
        if domain and len(hit) == len(domain):
            self._refuse_conditional([name], clause)
            return True
        return clause

    def _refuse_conditional(self, names: Any, clause: Any) -> None:
        """A clause counts while its hyperparameters are active; "forbidden while something else is so" has no form."""
        for name in names:
            if self._active[name] is not True:
                raise ValueError(f"{name} cannot be fixed alone ({clause}; {self._active[name]}): fix its parent, too")

    def configuration_space(self) -> ConfigSpace.ConfigurationSpace:
        """A fresh ConfigSpace of what is left, the same every time (its random state too: seed 0)."""
        from ConfigSpace import ConfigurationSpace, ForbiddenInClause
        from ConfigSpace.exceptions import ForbiddenValueError

        space = ConfigurationSpace(name=self.name, seed=0)
        clauses = []
        for name in self._free:
            hyperparameter, holes = _restricted(self._whole[name], self._domains[name])
            space.add(hyperparameter)
            if holes:
                clauses.append(ForbiddenInClause(hyperparameter, holes))
        space.add([self._rebound(self._active[name], space) for name in self._free if self._active[name] is not True])
        clauses += [self._rebound_clause(clause, space) for clause in self._clauses]
        try:
            space.add(clauses)
        except ForbiddenValueError as error:
            raise ValueError(
                f"the defaults of what is left in {self.name} are forbidden with {self.fixed}: fix others, too"
            ) from error
        return space

    def _rebound(self, condition: Any, space: ConfigSpace.ConfigurationSpace) -> Any:
        """The condition on the hyperparameters of ``space``, whose ranges may have shrunk."""
        from ConfigSpace import InCondition
        from ConfigSpace.conditions import Conjunction

        if isinstance(condition, Conjunction):
            return type(condition)(*[self._rebound(part, space) for part in condition.components])
        parent = condition.parent.name
        if len(self._domains[parent]) == len(_domain(self._whole[parent])):
            return _for_child(condition, space[condition.child.name])
        holds = [value for value in self._domains[parent] if condition.satisfied_by_value({parent: value})]
        return InCondition(space[condition.child.name], space[parent], holds)

    def _rebound_clause(self, clause: Any, space: ConfigSpace.ConfigurationSpace) -> Any:
        from ConfigSpace import ForbiddenInClause
        from ConfigSpace.forbidden import ForbiddenConjunction, ForbiddenRelation

        if isinstance(clause, ForbiddenConjunction):
            return type(clause)(*[self._rebound_clause(part, space) for part in clause.components])
        if isinstance(clause, ForbiddenRelation):
            return type(clause)(space[clause.left.name], space[clause.right.name])
        name = clause.hyperparameter.name
        if len(self._domains[name]) == len(_domain(self._whole[name])):
            return clause
        return ForbiddenInClause(space[name], [v for v in self._domains[name] if clause.is_forbidden_value({name: v})])

    # --- a space like any other

    def without_kd(self) -> FrozenSpace:
        """The same values fixed in the space without its KD settings; itself if it has none (`SearchesKD`)."""
        inner = without_kd(self.inner)
        left = inner.configuration_space()
        return self if inner is self.inner else FrozenSpace(inner, {k: v for k, v in self.fixed.items() if k in left})

    def describe(self) -> dict[str, Any]:
        """What tells this space from others, as JSON can hold it."""
        described = self.inner.describe() if isinstance(self.inner, DescribesItself) else {"name": self.name}
        return {**described, "fixed": dict(self.fixed)}

    def check(self, task: Task) -> None:
        """Let the space itself check whether it can be searched on ``task``."""
        if isinstance(self.inner, ChecksTask):
            self.inner.check(task)

    def candidate(self, values: Mapping[str, Any]) -> Any:
        """The candidate with these values of what is left, and the fixed ones.

        Raises:
            ValueError: If a name is unknown (with the nearest) or fixed; what the space itself raises.
        """
        for name in values:
            if name in self._single:
                raise ValueError(f"{name} is fixed at {self._single[name]!r} and cannot be given")
            if name not in self._space:
                raise ValueError(f"unknown hyperparameter {name!r}{did_you_mean(name, self._free)}")
        everything = {
            **values,
            **{name: value for name, value in self._single.items() if self._is_active(name, values)},
        }
        return self.inner.candidate({name: everything[name] for name in self._whole if name in everything})

    def _is_active(self, name: str, values: Mapping[str, Any]) -> bool:
        from ConfigSpace.types import NotSet

        active = self._active[name]
        if isinstance(active, bool):
            return active
        return bool(active.satisfied_by_value({free: values.get(free, NotSet) for free in self._free}))

    def values(self, candidate: Any) -> dict[str, Any]:
        """Plain values of what is left in a candidate.

        Raises:
            ValueError: If it is not in the space, or has other values than the fixed ones.
        """
        values: dict[str, Any] = self.inner.values(candidate)
        for name, value in self._single.items():
            if name in values and not _same(values[name], value):
                raise ValueError(f"candidate {candidate.digest} has {name}={values[name]!r}, fixed at {value!r} here")
        return {name: value for name, value in values.items() if name not in self._single}

    def default_candidate(self) -> Any:
        """The candidate of the default configuration of what is left."""
        return self.candidate(_plain_values(self._space.get_default_configuration()))

    def sample(self, rng: numpy.random.Generator) -> Any:
        """Draw a candidate uniformly on each hyperparameter's own scale."""
        self._space.seed(int(rng.integers(2**31)))
        return self.candidate(_plain_values(self._space.sample_configuration()))


def _domain(hyperparameter: Any) -> Sequence[Any]:
    """All values of a finite hyperparameter; nothing for others."""
    from ConfigSpace import CategoricalHyperparameter, Constant, OrdinalHyperparameter, UniformIntegerHyperparameter

    if isinstance(hyperparameter, CategoricalHyperparameter):
        return tuple(map(_plain, hyperparameter.choices))
    if isinstance(hyperparameter, OrdinalHyperparameter):
        return tuple(map(_plain, hyperparameter.sequence))
    if isinstance(hyperparameter, Constant):
        return ()  # it stays in the space: whoever made it wants it seen
    if isinstance(hyperparameter, UniformIntegerHyperparameter) and hyperparameter.size <= MAX_VALUES:
        return range(int(hyperparameter.lower), int(hyperparameter.upper) + 1)
    return ()


def _restricted(hyperparameter: Any, domain: Sequence[Any]) -> tuple[Any, list[Any]]:
    """The hyperparameter with these values only, and those that its range still has and a clause must forbid."""
    from ConfigSpace import CategoricalHyperparameter, Integer, OrdinalHyperparameter

    original = _domain(hyperparameter)
    if len(domain) == len(original):
        return hyperparameter, []
    name, default = hyperparameter.name, _plain(hyperparameter.default_value)
    if isinstance(hyperparameter, CategoricalHyperparameter):
        weights = hyperparameter.weights
        kept = None if weights is None else [w for w, v in zip(weights, original, strict=True) if v in domain]
        default = default if default in domain else domain[0]
        return CategoricalHyperparameter(name, list(domain), weights=kept, default_value=default), []
    if isinstance(hyperparameter, OrdinalHyperparameter):
        place = original.index(default)
        default = min(domain, key=lambda value: abs(original.index(value) - place))
        return OrdinalHyperparameter(name, list(domain), default_value=default), []
    default = min(domain, key=lambda value: abs(value - default))
    bounds = (domain[0], domain[-1])
    holes = [value for value in range(*bounds) if value not in domain]
    return Integer(name, bounds, default=default, log=hyperparameter.log), holes


def _all(parts: Sequence[Any]) -> Any:
    from ConfigSpace import AndConjunction

    if any(part is False for part in parts):
        return False
    parts = [part for part in parts if part is not True]
    return AndConjunction(*parts) if len(parts) > 1 else parts[0] if parts else True


def _any(parts: Sequence[Any]) -> Any:
    from ConfigSpace import OrConjunction

    if any(part is True for part in parts):
        return True
    parts = [part for part in parts if part is not False]
    return OrConjunction(*parts) if len(parts) > 1 else parts[0] if parts else False


def _for_child(condition: Any, child: Any) -> Any:
    """The same condition for another child; True and False as they are."""
    from ConfigSpace.conditions import Conjunction, InCondition

    if isinstance(condition, bool):
        return condition
    if isinstance(condition, Conjunction):
        return type(condition)(*[_for_child(part, child) for part in condition.components])
    if isinstance(condition, InCondition):
        return InCondition(child, condition.parent, condition.values)
    return type(condition)(child, condition.parent, condition.value)


def _is_legal(hyperparameter: Any, value: Any) -> bool:
    try:
        return bool(hyperparameter.legal_value(value))
    except (TypeError, ValueError):  # a value that it cannot compare with its own
        return False


def _range(hyperparameter: Any) -> str:
    values = getattr(hyperparameter, "choices", None) or getattr(hyperparameter, "sequence", None)
    if values is not None:
        return f"one of {', '.join(repr(_plain(value)) for value in values)}"
    if hasattr(hyperparameter, "lower"):
        kind = "an integer" if isinstance(_plain(hyperparameter.lower), int) else "a number"
        return f"{kind} from {hyperparameter.lower} to {hyperparameter.upper}"
    return f"always {hyperparameter.default_value!r}"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)  # a ratio may come back with its last digit changed
    return bool(a == b)


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, str) else value


def _plain_values(configuration: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in dict(configuration).items()}
