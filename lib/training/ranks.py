"""Several processes and machines: how they are checked and started, who each of them is, and how all end together."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from torch.multiprocessing.spawn import ProcessExitedException

from lib.recipes import Recipe
from lib.training.endings import TERMINATED
from lib.training.quiet import hush

_PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent dies


def node_rank(num_nodes: int) -> int:
    """Which of the machines this is, from 0; the only one is the first, whatever a launcher's variables say."""
    return int(os.environ["NODE_RANK"]) if num_nodes > 1 else 0


def check_ranks(recipe: Recipe, device: torch.device, devices: int, num_nodes: int) -> None:
    """Raises ValueError unless the run can be split so on devices of that kind, and each of several machines knows its
    number and the first."""
    if recipe.keep_prob is not None and devices * num_nodes > 1:
        # from the same numbers each rank would leave the same inputs out of its own images
        raise ValueError(
            f"devices and num_nodes are {devices} and {num_nodes}, expected 1 and 1 for model {recipe.model}, "
            "which draws the inputs it leaves out for a whole batch"
        )
    if devices * num_nodes > recipe.batch_size:
        raise ValueError(
            f"devices and num_nodes are {devices} and {num_nodes}, expected together at most one for each image of a "
            f"batch: batch_size is {recipe.batch_size}"
        )
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(f"devices is {devices}, expected at most {torch.cuda.device_count()}, the CUDA devices here")
    if num_nodes == 1:
        return
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"num_nodes is {num_nodes} and {', '.join(missing)} not set, expected the number of this machine from 0, "
            "and address and free port of the first"
        )
    node = os.environ["NODE_RANK"]
    if not node.isdecimal() or int(node) >= num_nodes:
        raise ValueError(f"NODE_RANK is {node!r}, expected a whole number from 0 to {num_nodes - 1}")


class SpawnedDDP(DDPStrategy):
    """Ranks are spawned, never forked: Numba's threads do not survive a fork."""

    def __init__(self) -> None:
        super().__init__(start_method="spawn")

    def setup_environment(self) -> None:
        """In each rank, when it starts."""
        hush()
        if sys.platform == "linux":
            # a parent that is killed passes nothing on, and torch's SIGINT is ignored behind a shell's `&`
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        super().setup_environment()


class Machines(LightningEnvironment):
    """Each machine spawns its own ranks, whatever cluster it is in; a launcher's variables count only for several."""

    def __init__(self, num_nodes: int) -> None:
        super().__init__()
        self.num_nodes = num_nodes

    @property
    def main_address(self) -> str:
        return super().main_address if self.num_nodes > 1 else "127.0.0.1"

    def node_rank(self) -> int:
        return node_rank(self.num_nodes)


@contextmanager
def passing_on(trainer: L.Trainer) -> Iterator[None]:
    """Forwards SIGTERM to the ranks that the block spawns, then raises SystemExit(TERMINATED) when they have ended.

    They save and stop together: see `Keeper`. Where the block itself trains, Lightning handles the signal.
    """
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _MultiProcessingLauncher) or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = over = False

    def pass_on(*_: object) -> None:
        nonlocal asked
        asked = True
        for rank in launcher.procs:
            rank.terminate()
        if not launcher.procs and not over:
            # Lightning names the ranks only when it has started them all
            again = threading.Timer(0.1, pass_on)
            again.daemon = True
            again.start()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    except ProcessExitedException:
        # those that were asked while they started have nothing to save
        if not asked:
            raise
    finally:
        over = True
        signal.signal(signal.SIGTERM, before)
    if asked:
        raise SystemExit(TERMINATED)
