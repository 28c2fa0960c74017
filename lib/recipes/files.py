"""The shipped recipes: TOML files below recipes/, each resolved at one of five budgets."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from lib.recipes.recipe import Recipe, check_name
from lib.recipes.values import refuse_unknown

Budget = Literal["smoke", "quick", "laptop", "gpu", "paper"]
BUDGETS: tuple[Budget, ...] = get_args(Budget)

FOLDER = Path(__file__).resolve().parent.parent.parent / "recipes"


def load(name_or_path: str | Path, budget: str = "quick") -> Recipe:
    """The shipped recipe of that name, or the one in a TOML file, resolved at one of the `BUDGETS`.

    Raises:
        ValueError, TypeError: no name or path, unknown recipe, budget or key, a missing key, or a value that `Recipe`
            refuses.
        FileNotFoundError: a path to a file that is not there.
    """
    refuse_unknown([budget], BUDGETS, "budget")
    path, name = _locate(name_or_path)
    keys = _keys(path, budget) | {"name": name}
    fields = dataclasses.fields(Recipe)
    missing = [field.name for field in fields if field.default is dataclasses.MISSING and field.name not in keys]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)} at budget {budget}")
    try:
        return Recipe(**keys)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}, budget {budget}: {error}") from error


def names() -> list[str]:
    """The shipped recipes, such as "mnist/linf-dist-net", sorted."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.toml"))


def _locate(name_or_path: object) -> tuple[Path, str]:
    if not isinstance(name_or_path, str | Path):
        raise TypeError(f"recipe is of type {type(name_or_path).__name__}, expected a name or a path")
    text = str(name_or_path)
    if not text.endswith(".toml"):
        refuse_unknown([text], names(), "recipe")
        return FOLDER / f"{text}.toml", text
    path = Path(text)
    if not path.is_file():
        raise FileNotFoundError(f"recipe file {path} does not exist, expected a TOML file")
    if path.resolve().is_relative_to(FOLDER):
        return path, path.resolve().relative_to(FOLDER).with_suffix("").as_posix()
    check_name(path.stem, f"the name of the file {path}, which is that of its recipe,")
    return path, path.stem


def _keys(path: Path, budget: str) -> dict[str, Any]:
    """The base's keys at a budget, over them the file's own at the top, over those the file's own at the budget."""
    keys = _read(path)
    base, tables = keys.pop("base", None), keys.pop("budget", {})
    _check_budgets(tables, path)
    missing = [f"[budget.{name}]" for name in BUDGETS if name not in tables]
    if base is None and missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}, expected these tables, or base, the name of a recipe")
    # at every budget, not at the one that is asked for alone; the name is the file's
    allowed = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
    for table in (keys, *tables.values()):
        refuse_unknown(table, allowed, f"key in {path}")
    if base is not None:
        of_the_library = "the name of a recipe of the library, such as 'mnist/linf-dist-net'"
        refuse_unknown([base], names(), f"base in {path}", of_the_library)
        keys = _keys(FOLDER / f"{base}.toml", budget) | keys
    return keys | tables.get(budget, {})


def _check_budgets(tables: Any, path: Path) -> None:
    if not isinstance(tables, dict):
        raise ValueError(f"budget in {path} is {tables!r}, expected tables [budget.X], X being {', '.join(BUDGETS)}")
    refuse_unknown(tables, BUDGETS, f"budget in {path}")
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"budget.{name} in {path} is {table!r}, expected a table [budget.{name}]")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error
