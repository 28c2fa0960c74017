"""The shipped recipes: TOML files below recipes/, each resolved at one of five budgets."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from lib.recipes.recipe import Recipe
from lib.recipes.values import refuse_unknown

Budget = Literal["smoke", "quick", "laptop", "gpu", "paper"]
BUDGETS: tuple[Budget, ...] = get_args(Budget)

FOLDER = Path(__file__).resolve().parent.parent.parent / "recipes"


def load(name_or_path: str | Path, budget: str = "quick") -> Recipe:
    """The shipped recipe of that name, or the one in a TOML file, resolved at one of the `BUDGETS`.

    Raises:
        ValueError, TypeError: unknown recipe, budget or key, a missing key, or a value that `Recipe` refuses.
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


def _locate(name_or_path: str | Path) -> tuple[Path, str]:
    text = str(name_or_path)
    if not text.endswith(".toml"):
        refuse_unknown([text], names(), "recipe")
        return FOLDER / f"{text}.toml", text
    path = Path(text)
    if not path.is_file():
        raise FileNotFoundError(f"recipe file {path} does not exist, expected a TOML file")
    shipped = path.resolve().is_relative_to(FOLDER)
    return path, path.resolve().relative_to(FOLDER).with_suffix("").as_posix() if shipped else path.stem


def _keys(path: Path, budget: str) -> dict[str, Any]:
    """The base's keys at a budget, over them the file's own at the top, over those the file's own at the budget."""
    keys = _read(path)
    base, tables = keys.pop("base", None), keys.pop("budget", {})
    if not _of_budgets(tables) or (base is None and len(tables) < len(BUDGETS)):
        raise ValueError(f"{path} has not one table [budget.X] for each X of {', '.join(BUDGETS)} and no other")
    # at every budget, not at the one that is asked for alone; the name is the file's
    allowed = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
    for table in (keys, *tables.values()):
        refuse_unknown(table, allowed, f"key in {path}")
    if base is not None:
        refuse_unknown([base], names(), f"base in {path}")
        keys = _keys(FOLDER / f"{base}.toml", budget) | keys
    return keys | tables.get(budget, {})


def _of_budgets(tables: Any) -> bool:
    return isinstance(tables, dict) and all(
        name in BUDGETS and isinstance(table, dict) for name, table in tables.items()
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error
