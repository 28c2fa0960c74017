"""What a finished run says: the `Record` of its counts and the `Table` of its images, checked on construction."""

import dataclasses
import math
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from lib.recipes import BUDGETS, Budget, Recipe
from lib.recipes.values import nearest_float

SCHEMA = 1
EPOCH = ("epoch", "p", "lr", "eps", "loss", "accuracy", "seconds")  # the names in a row of the history

Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A finished run: what was asked for, what it ran on, and how many of `n` images passed each judgement.

    Raises:
        ValueError, TypeError: one sentence with the field, the value received and what was expected.
    """

    recipe: Recipe  # resolved: budget and overrides applied
    budget: Budget
    seed: int
    overrides: dict[str, Any]  # the fields that differ from the recipe file, with their values
    commit: str  # of the code that evaluated; "unknown" only after a warning
    # lib/ or recipes/ differed from it, or other code or versions trained a part; None: no git to ask
    dirty: bool | None
    versions: dict[str, str]  # of python and the packages
    device: str  # what it ran on, in words, after "4 x" where four processes trained; "A, then B" where it moved
    seconds_train: float  # wall time
    seconds_evaluate: float  # wall time
    # bytes; on a GPU the peak of this run, on a CPU that of the process so far, earlier cells of a notebook included;
    # of the evaluation alone where several processes trained, or an earlier call did
    peak_memory: int
    history: list[dict[str, float]]  # one row of `EPOCH` per epoch; p is inf at the end
    eps: float  # radius of evaluation, pixels
    n: int  # images evaluated
    clean: int  # right
    robust: int  # right, and right after the paper's attack
    robust_strong: int  # also right after the stronger attack
    certified: dict[str, int]  # proved right in the whole ball, by method
    attacks: dict[str, str]  # what "robust" and "robust_strong" mean, in words
    certificates: dict[str, str]  # what each method of `certified` is, in words
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _check_types(self)
        check_schema(self.schema)
        _check_asked(self)
        _check_numbers(self)
        _check_history(self)
        _check_counts(self)
        resolved = {name: getattr(self.recipe, name) for name in sorted(self.overrides)}
        object.__setattr__(self, "overrides", resolved)

    @property
    def subset(self) -> str:
        """How the data fell short of the whole training and test set, in words; empty where they did not."""
        parts = [f"{self.recipe.train_limit:,} training images"] if self.recipe.train_limit else []
        if self.recipe.validation:
            return ", ".join([*parts, f"{self.n:,} validation images"])
        return ", ".join([*parts, f"{self.n:,} test images"] if self.recipe.test_limit else parts)

    @property
    def setting(self) -> str:
        """The budget and what was overridden, in words."""
        return f"{self.budget} with {self.changes}" if self.overrides else self.budget

    @property
    def changes(self) -> str:
        """What was overridden, in words; empty where nothing was."""
        return ", ".join(f"{name} = {value}" for name, value in self.overrides.items())

    def percent(self, count: int) -> float:
        """A count as a percentage of `n`, correctly rounded to a float."""
        return 100 * count / self.n


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """What happened to each of the n images, as arrays.

    Raises:
        ValueError: arrays of different lengths, or radii outside [0, 1].
    """

    label: npt.NDArray[np.int16]  # [n]
    prediction: npt.NDArray[np.int16]  # [n]
    radius: npt.NDArray[np.float64]  # [n] margin radius in pixels, at most 1, 0 where the prediction is wrong
    certified: dict[str, Bools]  # method -> [n]
    robust: Bools  # [n] right, and right after the paper's attack
    robust_strong: Bools  # [n] also right after the stronger attack
    radii: npt.NDArray[np.float64]  # [R] radii of the attack curve, pixels
    survived: Bools  # [n, R] right after the paper's attack at each of `radii`

    def __post_init__(self) -> None:
        for name, dtype in COLUMNS.items():
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        certified = {method: np.asarray(verdicts, dtype=bool) for method, verdicts in self.certified.items()}
        object.__setattr__(self, "certified", certified)
        n, shapes = len(self.label), {name: getattr(self, name).shape for name in COLUMNS}
        shapes |= {f"certified[{method!r}]": verdicts.shape for method, verdicts in certified.items()}
        for name, shape in shapes.items():
            expected = {"radii": self.radii.shape[:1], "survived": (n, *self.radii.shape)}.get(name, (n,))
            if shape != expected:
                raise ValueError(f"{name} has shape {list(shape)}, expected {list(expected)}")
        for name in ("radius", "radii"):
            radii = getattr(self, name)
            if not ((radii >= 0) & (radii <= 1)).all():
                wrong = radii[~((radii >= 0) & (radii <= 1))][0]
                raise ValueError(f"{name} holds {wrong}, expected radii in pixels from 0 to 1")

    @property
    def clean(self) -> Bools:
        """[n] the prediction is right."""
        return np.equal(self.label, self.prediction)


COLUMNS: dict[str, type] = {
    "label": np.int16,
    "prediction": np.int16,
    "radius": np.float64,
    "robust": np.bool_,
    "robust_strong": np.bool_,
    "radii": np.float64,
    "survived": np.bool_,
}


def check_agreement(record: Record, table: Table) -> None:
    """Every implication holds for every image, and the table's counts are the record's."""
    _check_implications(record, table)
    ours = {"n": len(table.label)} | {name: int(getattr(table, name).sum()) for name in _VERDICTS}
    theirs = {name: getattr(record, name) for name in ours}
    ours |= {f"certified[{method!r}]": int(verdicts.sum()) for method, verdicts in table.certified.items()}
    theirs |= {f"certified[{method!r}]": count for method, count in record.certified.items()}
    if ours != theirs:
        raise ValueError(f"the table counts {ours}, expected the record's {theirs}")


_VERDICTS = ("clean", "robust", "robust_strong")


def _check_implications(record: Record, table: Table) -> None:
    claims = [*_verdicts(table), *_within_radii(table, record.eps)]
    broken = [
        f"{int(offending.sum())} images are {stronger} but not {weaker}"
        for stronger, verdicts, weaker, wanted in claims
        if (offending := verdicts & ~wanted).any()
    ]
    if broken:
        raise ValueError(
            f"{'; '.join(broken)}, expected certified => robust_strong => robust => clean for every image, "
            "within smaller radii too"
        )


_Claim = tuple[str, Bools, str, Bools]


def _verdicts(table: Table) -> Iterator[_Claim]:
    """What is asked at the radius of evaluation: (stronger, [n], weaker, [n])."""
    for method, verdicts in table.certified.items():
        yield f"certified by {method}", verdicts, "robust_strong", table.robust_strong
    yield "robust_strong", table.robust_strong, "robust", table.robust
    yield "robust", table.robust, "clean", table.clean
    yield "of positive radius", table.radius > 0, "clean", table.clean


def _within_radii(table: Table, eps: float) -> Iterator[_Claim]:
    """What a proof within one radius says of others, and that the attack at the radius of evaluation is the same."""
    for method, verdicts in table.certified.items():
        yield f"of radius above {eps}", table.radius > eps, f"certified by {method}", verdicts
    proved = np.logical_or.reduce([*table.certified.values(), np.zeros_like(table.robust)])
    for radius, survived in zip(table.radii, table.survived.T, strict=True):
        yield f"robust at {radius}", survived, "clean", table.clean
        yield f"of radius above {radius}", table.radius > radius, f"robust at {radius}", survived
        if radius <= eps:
            yield f"certified at {eps}", proved, f"robust at {radius}", survived
        if radius == eps:
            yield "robust", table.robust, f"robust at {radius}", survived
            yield f"robust at {radius}", survived, "robust", table.robust


def check_schema(schema: int) -> None:
    """ValueError unless the number is that of this code."""
    if schema != SCHEMA:
        made = "an older" if schema < SCHEMA else "a newer"
        raise ValueError(f"schema is {schema}, expected {SCHEMA}: the record was made by {made} version of this code")


@cache
def _kinds() -> dict[str, tuple[type, ...]]:
    """By field, the classes of its values, as `Record` declares them; texts out of a few are checked elsewhere."""
    hints = get_type_hints(Record)
    return {name: _classes(hint) for name, hint in hints.items() if get_origin(hint) is not Literal}


def _classes(hint: Any) -> tuple[type, ...]:
    if hint is float:
        return int, float  # as in JSON
    parts = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    return tuple(get_origin(part) or part for part in parts)


def _check_types(record: Record) -> None:
    for name, kinds in _kinds().items():
        value = getattr(record, name)
        # bool is a subclass of int
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"{name} is {value!r}, expected {' or '.join(kind.__name__ for kind in kinds)}")
    for name in ("versions", "attacks", "certificates"):
        if not all(isinstance(text, str) for text in getattr(record, name).values()):
            raise TypeError(f"{name} is {getattr(record, name)!r}, expected texts")
    if not all(isinstance(count, int) and not isinstance(count, bool) for count in record.certified.values()):
        raise TypeError(f"certified is {record.certified!r}, expected whole numbers")


def _check_asked(record: Record) -> None:
    if record.budget not in BUDGETS:
        raise ValueError(f"budget is {record.budget!r}, expected one of {', '.join(BUDGETS)}")
    if record.seed < 0:
        raise ValueError(f"seed is {record.seed}, expected at least 0")
    if record.recipe.replace(**record.overrides) != record.recipe:
        raise ValueError(f"overrides are {record.overrides}, expected the values that the recipe resolved to")
    if record.eps != record.recipe.eps_test:
        raise ValueError(f"eps is {record.eps}, expected the recipe's eps_test = {record.recipe.eps_test}")


def _check_numbers(record: Record) -> None:
    for name in ("seconds_train", "seconds_evaluate", "peak_memory"):
        value = getattr(record, name)
        if not 0 <= nearest_float(value) < math.inf:
            raise ValueError(f"{name} is {value}, expected a finite number of at least 0")


def _check_history(record: Record) -> None:
    if len(record.history) != record.recipe.epochs:
        raise ValueError(
            f"history has {len(record.history)} rows, expected {record.recipe.epochs}, one per epoch of the recipe"
        )
    for row in record.history:
        if set(row) != set(EPOCH):
            raise ValueError(f"history has a row of {sorted(row)}, expected {sorted(EPOCH)}")
        for name, value in row.items():
            # p = inf is an exponent like any other
            if not _is_finite(value) and not (name == "p" and value == math.inf):
                raise ValueError(f"history has {name} = {value!r}, expected a finite number")


def _is_finite(value: Any) -> bool:
    """Whether it is a number, and one that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(nearest_float(value))


def _check_counts(record: Record) -> None:
    if set(record.attacks) != {"robust", "robust_strong"} or set(record.certificates) != set(record.certified):
        raise ValueError(
            f"attacks name {sorted(record.attacks)} and certificates {sorted(record.certificates)}, "
            f"expected robust, robust_strong and {sorted(record.certified)}"
        )
    if record.n < 1 or record.n > (record.recipe.test_limit or record.n):
        limit = f" and at most test_limit = {record.recipe.test_limit}" if record.recipe.test_limit else ""
        raise ValueError(f"n is {record.n}, expected at least one image{limit}")
    most, least = max(record.certified.values(), default=0), min(record.certified.values(), default=0)
    chain = (most, record.robust_strong, record.robust, record.clean, record.n)
    if least < 0 or list(chain) != sorted(chain):
        raise ValueError(
            f"certified is {record.certified} and robust_strong, robust, clean, n are {chain[1:]}, "
            "expected 0 <= certified <= robust_strong <= robust <= clean <= n"
        )
