"""The ledger: one JSON per finished run and, beside it, one compressed table with a row per evaluated image.

Numbers are stored unrounded and as counts; radii alone in single precision, rounded down, so that what is kept is still
proved: they are most of a table. A record whose table breaks "certified implies robust_strong implies robust
implies clean" is not written, and a file that is not a whole record of this schema is not read.
"""

import dataclasses
import hashlib
import json
import lzma
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.experiments.record import COLUMNS, SCHEMA, Record, Table, check_agreement, check_schema
from lib.files import compact_json, replacing
from lib.recipes import Recipe

__all__ = ["Record", "Table", "path_of", "read", "read_table", "records", "row_path", "write"]


def path_of(results: str | Path, record: Record) -> Path:
    """Where a record lies, see `row_path`."""
    return row_path(results, record.recipe, record.budget, record.seed, record.overrides)


def row_path(results: str | Path, recipe: Recipe, budget: str, seed: int, overrides: Mapping[str, Any]) -> Path:
    """results/RECIPE/BUDGET-SEED[-hash of overrides].json; the hash is of the fields' resolved values."""
    stem = f"{budget}-{seed}"
    if overrides:
        resolved = {name: getattr(recipe, name) for name in sorted(overrides)}
        stem += "-" + hashlib.sha256(json.dumps(resolved).encode()).hexdigest()[:8]
    return Path(results) / recipe.name / f"{stem}.json"


def write(
    record: Record, table: Table, results: str | Path, save_weights: Callable[[Path], None] | None = None
) -> Path:
    """Writes the record, its table and, where given, the weights of its net, in the place of those of an earlier run.

    Nothing is left behind by a failure, and there is never a JSON beside another run's table or weights.

    Returns:
        The path of the JSON.

    Raises:
        ValueError: the table breaks an implication or disagrees with the record's counts.
    """
    check_agreement(record, table)
    path = path_of(results, record)
    path.parent.mkdir(parents=True, exist_ok=True)
    data, weights = path.with_suffix(".npz"), path.with_suffix(".safetensors")
    try:
        # the JSON comes last, and the old one goes before anything of the new run is in its place
        with replacing(path) as new_path, replacing(data) as new_data, _saved(save_weights, weights):
            _write_columns(new_data, _columns(table))
            new_path.write_text(_to_json(record), encoding="utf-8")
            path.unlink(missing_ok=True)
    finally:
        if not path.exists():
            data.unlink(missing_ok=True)
            weights.unlink(missing_ok=True)
    return path


def read(path: str | Path) -> Record:
    """The record in a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, another schema, a missing or unknown key, or a value that `Record` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"record {path} does not exist, expected results/RECIPE/BUDGET-SEED.json")
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no whole record, expected JSON: {error}") from error
    if not isinstance(keys, dict) or not isinstance(keys.get("schema"), int):
        raise ValueError(f"{path} is no record, expected a JSON object with a schema number")
    try:
        return _from_json(keys)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_table(path: str | Path) -> Table:
    """The table beside a record, by the path of either file, checked against the record.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: the table is damaged or not the record's.
    """
    record, data = read(Path(path).with_suffix(".json")), Path(path).with_suffix(".npz")
    if not data.is_file():
        raise FileNotFoundError(f"table {data} does not exist, expected it beside its record")
    try:
        with np.load(data, allow_pickle=False) as archive:
            columns = dict(archive)
    # a runtime error for a method of compression, or of encryption, that a damaged byte asks for
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise ValueError(f"{data} is no whole table, expected an .npz archive: {error}") from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"{data} lacks the columns {', '.join(missing)}")
    methods = {name.removeprefix("certified_"): columns.pop(name) for name in list(columns) if name not in COLUMNS}
    table = Table(certified=methods, **columns)
    check_agreement(record, table)
    return table


def records(results: str | Path) -> Iterator[Record]:
    """All records below a folder, by path; a damaged one raises as in `read`, a missing folder FileNotFoundError."""
    if not Path(results).is_dir():
        raise FileNotFoundError(f"folder of records {results} does not exist, expected a ledger such as results/")
    for path in sorted(Path(results).rglob("*.json")):
        yield read(path)


@contextmanager
def _saved(save_weights: Callable[[Path], None] | None, path: Path) -> Iterator[None]:
    """Weights that are in their place when the block ends; without any those of an earlier run are gone by then."""
    if save_weights is None:
        yield
        path.unlink(missing_ok=True)
    else:
        with replacing(path) as new:
            save_weights(new)
            yield


def _write_columns(path: Path, columns: dict[str, npt.NDArray[Any]]) -> None:
    """As np.savez_compressed, by a method that makes a tenth less of it; np.load reads either."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, column in columns.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, column, allow_pickle=False)


def _columns(table: Table) -> dict[str, Any]:
    certified = {f"certified_{method}": verdicts for method, verdicts in table.certified.items()}
    labels = {name: _in_few_bytes(getattr(table, name)) for name in ("label", "prediction")}
    shortened = labels | {"radius": _rounded_down(table.radius)}
    return {name: getattr(table, name) for name in COLUMNS} | shortened | certified


def _in_few_bytes(labels: npt.NDArray[np.int16]) -> npt.NDArray[Any]:
    ends = labels.min(initial=0), labels.max(initial=0)
    return labels.astype(np.result_type(*map(np.min_scalar_type, ends)))


def _rounded_down(radius: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    nearest = radius.astype(np.float32)
    return np.where(nearest > radius, np.nextafter(nearest, np.float32(0)), nearest)


def _to_json(record: Record) -> str:
    keys = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    keys["recipe"] = record.recipe.as_dict()
    # JSON has no infinity
    keys["history"] = [
        {name: "inf" if value == math.inf else value for name, value in row.items()} for row in record.history
    ]
    return compact_json(keys, 2)  # an epoch a line


def _from_json(keys: dict[str, Any]) -> Record:
    check_schema(keys["schema"])
    known = {field.name for field in dataclasses.fields(Record)}
    if set(keys) != known:
        missing, unknown = sorted(known - set(keys)), sorted(set(keys) - known)
        raise ValueError(f"the record lacks {missing} and has unknown {unknown}, expected the keys of schema {SCHEMA}")
    if not isinstance(keys["recipe"], dict):
        raise TypeError(f"recipe is {keys['recipe']!r}, expected an object")
    if not isinstance(keys["history"], list) or not all(isinstance(row, dict) for row in keys["history"]):
        raise TypeError("history is no list of objects, expected one per epoch")
    history = [{name: math.inf if v == "inf" else v for name, v in row.items()} for row in keys["history"]]
    return Record(**keys | {"recipe": Recipe(**keys["recipe"]), "history": history})
