"""One row of a table, from recipe to record: what the notebooks, the Snakefile and the command line call."""

import errno
import fcntl
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lib import recipes
from lib.device import Device, resolve_device
from lib.experiments import ledger, provenance
from lib.experiments.evaluate import ATTACKS, CERTIFICATES, evaluate
from lib.experiments.record import Record, Table
from lib.experiments.twin import Twin, find_twin
from lib.nets.models import Net, build
from lib.nets.store import save
from lib.recipes import Budget, Recipe
from lib.training.checkpoint import Origin, origins_of, read_checkpoint
from lib.training.data import as_found, load_data
from lib.training.datasets import Images
from lib.training.endings import Unfinished
from lib.training.fit import fit, plain_numbers, total_steps
from lib.training.ranks import check_ranks, node_rank

SHARE = 0.5  # of max_minutes that training may take where the evaluation is to follow in the same call


def run(
    recipe: str | Path,
    *,
    budget: Budget = "quick",
    seed: int = 0,
    device: Device = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    data_root: str | Path | None = None,
    max_minutes: float | None = None,
    results: str | Path = "results",
    progress: bool = True,
    **overrides: Any,
) -> Record:
    """Train the net of a recipe, evaluate it, and write its record, table and weights below `results`.

    Where a record beside it differs only in how it was evaluated, such as in eps_test, its net is taken over instead of
    trained again: see `lib.experiments.twin`.

    Args:
        recipe: a name such as "mnist/linf-dist-net", or the path of a TOML file.
        budget: "smoke", "quick", "laptop", "gpu" or "paper".
        seed: every draw of the run is a function of it.
        device: "auto" takes CUDA where there is one.
        devices, num_nodes: processes on this machine, and machines; the batch is split over them. Each of several
            machines makes the same call, with NODE_RANK, MASTER_ADDR and MASTER_PORT set and `results` shared.
        data_root: folder of the data sets; default LINF_DATA, else data/.
        max_minutes: stop training at a step boundary after so long; the same call then goes on from there. Where
            training took more than half of it, the evaluation, which is not cut, is left to the next call.
        results: folder of the ledger.
        progress: show a progress bar.
        overrides: fields of the recipe, by name (radii in raw pixels, "8/255" is accepted).

    Returns:
        The record, as written. A run that dies leaves none; the same call goes on from its last checkpoint.

    Raises:
        ValueError, TypeError: an unknown recipe, budget, device or field, a value out of range, results that are no
            folder, a record in the way of another recipe file of the same name, or another process at this very run,
            before work starts.
        FileNotFoundError: data that is not there and cannot be downloaded.
        lib.training.endings.Unfinished: max_minutes ran out.
        lib.training.endings.Diverged: a loss or a weight is no finite number any more; training stopped there.
        lib.training.endings.Elsewhere: on every machine but the first, which evaluates and writes.
    """
    resolved, changed = _resolve(recipe, budget, overrides)
    seed, devices, num_nodes, max_minutes = plain_numbers(seed, devices, num_nodes, max_minutes)
    _check_folder(results)
    target = resolve_device(device)
    check_ranks(resolved, target, devices, num_nodes)
    # of what is now loaded
    origin = Origin(*provenance.commit(), provenance.versions(), _words(target, devices * num_nodes))
    data = load_data(resolved, data_root)
    resolved = as_found(resolved, data)
    changed = {name: getattr(resolved, name) for name in changed}
    path = ledger.row_path(results, resolved, budget, seed, changed)
    _check_replaces(path, resolved)
    workdir = path.with_name(f".{path.stem}")
    # of several machines, the first one holds the folder, evaluates and writes
    with nullcontext() if node_rank(num_nodes) else _alone_in(workdir):
        if target.type == "cuda":
            torch.cuda.reset_peak_memory_stats(target)
        twin = find_twin(path, resolved, budget, seed, origin) if num_nodes == 1 else None
        if twin is not None:
            trained = _take_over(twin, origin, progress)
        else:
            trained = _train(
                resolved,
                data.train,
                seed=seed,
                origin=origin,
                device=target.type,
                devices=devices,
                num_nodes=num_nodes,
                workdir=workdir,
                max_minutes=max_minutes,
                progress=progress,
            )
        record, table = _measure(trained, resolved, data.test, target, budget, seed, changed)
        ledger.write(record, table, results, partial(save, trained.net.cpu()))
        shutil.rmtree(workdir, ignore_errors=True)
    return record


def _resolve(recipe: str | Path, budget: Budget, overrides: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with its overrides, and those of them that change it."""
    if "name" in overrides:
        raise ValueError(f"name is {overrides['name']!r}, expected no override: records lie under it")
    shipped = recipes.load(recipe, budget)
    resolved = shipped.replace(**overrides)
    return resolved, {name: value for name in overrides if (value := getattr(resolved, name)) != getattr(shipped, name)}


@contextmanager
def _alone_in(workdir: Path) -> Iterator[None]:
    """Makes a work folder and holds its lock, which the system drops with the process, however that ends."""
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # other numbers come from file systems that know no locks
            taken = error.errno in (errno.EAGAIN, errno.EACCES)
        else:
            # a run that ended just now has removed the file
            taken = os.fstat(lock.fileno()).st_nlink == 0
        if taken:
            raise ValueError(f"another process works in {workdir}, expected one at a time; wait until it has ended")
        yield


class _Trained(NamedTuple):
    net: Net
    history: list[dict[str, float]]
    origins: list[Origin]  # of all that took a part, this call last


def _train(
    recipe: Recipe,
    train: Images,
    *,
    seed: int,
    origin: Origin,
    workdir: Path,
    max_minutes: float | None,
    **options: Any,
) -> _Trained:
    """By `fit`; Unfinished also where training just now took so long that the evaluation waits for the next call."""
    checkpoint, steps = workdir / "last.ckpt", total_steps(recipe, len(train))
    complete, began = _is_trained(checkpoint, steps), time.perf_counter()
    net = build(recipe, seed)
    history = fit(net, recipe, train, seed=seed, origin=origin, workdir=workdir, max_minutes=max_minutes, **options)
    if max_minutes is not None and not complete and time.perf_counter() - began > SHARE * 60 * max_minutes:
        raise Unfinished(steps, steps)
    return _Trained(net, history, [*origins_of(read_checkpoint(checkpoint)), origin])


def _take_over(twin: Twin, origin: Origin, progress: bool) -> _Trained:
    if progress:
        print(f"{twin.path} has trained this net already; it is evaluated now", file=sys.stderr)
    return _Trained(twin.net, twin.record.history, [origin])


def _measure(
    trained: _Trained,
    recipe: Recipe,
    test: Images,
    target: torch.device,
    budget: Budget,
    seed: int,
    overrides: dict[str, Any],
) -> tuple[Record, Table]:
    """The record and the table of a trained net, which is evaluated here."""
    began = time.perf_counter()
    table = evaluate(trained.net.to(target), recipe, test.to(target), seed=seed)
    record = Record(
        recipe=recipe,
        budget=budget,
        seed=seed,
        overrides=overrides,
        **_credited(trained.origins),
        seconds_train=sum(row["seconds"] for row in trained.history),
        seconds_evaluate=time.perf_counter() - began,
        peak_memory=_peak_memory(target),
        history=trained.history,
        eps=recipe.eps_test,
        **_counts(table),
        attacks=ATTACKS,
        certificates=CERTIFICATES,
    )
    return record, table


def _check_folder(results: Any) -> None:
    if not isinstance(results, str | Path) or (Path(results).exists() and not Path(results).is_dir()):
        raise ValueError(f"results is {results}, expected a folder")


def _check_replaces(path: Path, recipe: Recipe) -> None:
    """Two files of the same name, which are not among the shipped recipes, would share a record."""
    if recipe.name not in recipes.names() and path.exists() and ledger.read(path).recipe != recipe:
        raise ValueError(
            f"{path} is the record of another recipe named {recipe.name}: "
            "expected another file name or folder of results, or that record gone"
        )


def _is_trained(checkpoint: Path, steps: int) -> bool:
    return checkpoint.exists() and read_checkpoint(checkpoint)["global_step"] == steps


def _credited(origins: list[Origin]) -> dict[str, Any]:
    """What a record says of all that took a part in a run, the last of which evaluated.

    Where their code or versions differ, the run is of no one commit, and so dirty.
    """
    *others, last = origins
    one = all(other[:3] == last[:3] for other in others)
    devices = ", then ".join(dict.fromkeys(origin.device for origin in origins if origin.device))
    return last._asdict() | {"dirty": last.dirty if one else True, "device": devices}


def _counts(table: Table) -> dict[str, Any]:
    return {
        "n": len(table.label),
        "clean": int(table.clean.sum()),
        "robust": int(table.robust.sum()),
        "robust_strong": int(table.robust_strong.sum()),
        "certified": {method: int(verdicts.sum()) for method, verdicts in table.certified.items()},
    }


def _words(device: torch.device, ranks: int) -> str:
    times = f"{ranks} x " if ranks > 1 else ""
    if device.type == "cuda":
        return times + torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{times}CPU ({platform.machine()}), {threads} thread{'' if threads == 1 else 's'}"


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
