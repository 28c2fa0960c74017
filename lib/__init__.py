"""l_inf-dist nets: distance kernels, layers, nets, their training and their certificates.

Public names are resolved on first use, so that layers and certificates never import the training stack.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib.experiments.ledger import Record as Record
    from lib.experiments.run import run as run
    from lib.nets.box import Box as Box
    from lib.nets.layers import LInfDist as LInfDist
    from lib.nets.layers import LInfDistConv2d as LInfDistConv2d
    from lib.nets.models import ConvLInfDistNetMLP as ConvLInfDistNetMLP
    from lib.nets.models import LInfDistNet as LInfDistNet
    from lib.nets.models import LInfDistNetMLP as LInfDistNetMLP
    from lib.nets.models import ReLUNet as ReLUNet
    from lib.nets.normalisation import MeanShift as MeanShift
    from lib.nets.prune import prune as prune
    from lib.nets.sortnet import SortLinear as SortLinear
    from lib.nets.sortnet import SortNet as SortNet
    from lib.nets.store import load as load
    from lib.nets.store import save as save
    from lib.ops import linf_dist_bounds as linf_dist_bounds
    from lib.ops import lp_dist as lp_dist
    from lib.robustness.attacks import robust_correct as robust_correct
    from lib.robustness.certify import Certificate as Certificate
    from lib.robustness.certify import certified_radius as certified_radius
    from lib.robustness.certify import certify as certify

_HOME = {
    "Box": "lib.nets.box",
    "Certificate": "lib.robustness.certify",
    "ConvLInfDistNetMLP": "lib.nets.models",
    "LInfDist": "lib.nets.layers",
    "LInfDistConv2d": "lib.nets.layers",
    "LInfDistNet": "lib.nets.models",
    "LInfDistNetMLP": "lib.nets.models",
    "MeanShift": "lib.nets.normalisation",
    "ReLUNet": "lib.nets.models",
    "Record": "lib.experiments.ledger",
    "SortLinear": "lib.nets.sortnet",
    "SortNet": "lib.nets.sortnet",
    "certified_radius": "lib.robustness.certify",
    "certify": "lib.robustness.certify",
    "linf_dist_bounds": "lib.ops",
    "load": "lib.nets.store",
    "lp_dist": "lib.ops",
    "prune": "lib.nets.prune",
    "robust_correct": "lib.robustness.attacks",
    "run": "lib.experiments.run",
    "save": "lib.nets.store",
}

__all__ = sorted(_HOME)

# A thread of OpenMP that waits spins for milliseconds, by default, and keeps its core from others: where anything else
# runs, a small net trains ten times as slowly. Read when torch is loaded; what the environment says already is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lib' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
