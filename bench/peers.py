"""What else computes distances: for each peer its work on given inputs, or the reason why it cannot."""

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.clock import Work
from lib import linf_dist_bounds, lp_dist
from lib.experiments.speed import BOTH, BOUNDS, CDIST

Distance = Callable[[Tensor, Tensor], object]


class Unable(Exception):  # noqa: N818 - no failure of ours
    """Why somebody does not take part in a comparison, in a few words."""


class Peer(NamedTuple):
    """Somebody's distance at one p; `slab` says that it makes a tensor of B x O x I, `fused` not for its forward."""

    who: str
    make: Callable[[float], Distance]
    slab: bool
    differentiable: bool
    fused: bool = False


def work(distance: Distance, what: str, x: Tensor, w: Tensor) -> Work:
    """One run: the distances, or these and the gradients of their sum in both arguments."""
    if what != BOTH:
        return lambda: distance(x, w)
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()

    def both() -> object:
        y = distance(x, w)
        assert isinstance(y, Tensor)
        return torch.autograd.grad(y, (x, w), torch.ones_like(y))

    return both


def ours(what: str, p: float) -> Distance:
    """This book's distance, or its bounds over a box of radius 0.1."""
    if what == BOUNDS:
        return lambda x, w: linf_dist_bounds(x - 0.1, x + 0.1, w)
    return lambda x, w: lp_dist(x, w, p)


def _cdist(p: float) -> Distance:
    return lambda x, w: torch.cdist(x, w, p)


def _broadcast(p: float) -> Distance:
    def distance(x: Tensor, w: Tensor) -> Tensor:
        t = (x[:, None] - w).abs()
        return t.amax(-1) if math.isinf(p) else t.pow(p).sum(-1).pow(1 / p)

    return distance


def _compiled(p: float) -> Distance:
    compiled: Distance = torch.compile(_broadcast(p))

    @functools.cache
    def probe(device: torch.device) -> None:
        try:
            compiled(torch.zeros(4, 8, device=device), torch.zeros(4, 8, device=device))
        except Exception as error:
            raise Unable(f"no working compiler: {str(error).splitlines()[0]}") from error
        torch.compiler.reset()

    def distance(x: Tensor, w: Tensor) -> object:
        probe(x.device)
        torch._dynamo.maybe_mark_dynamic(x, 0)
        return compiled(x, w)

    return distance


def _scipy(p: float) -> Distance:
    if not math.isinf(p):
        raise Unable("measured at p = inf only")
    cdist = importlib.import_module("scipy.spatial.distance").cdist
    return lambda x, w: cdist(_array(x), _array(w), "chebyshev")


def _tropical(p: float) -> Distance:
    """max_i |x_i - w_i| as the larger of two max-plus products, of x with -w and of -x with w."""
    if not math.isinf(p):
        raise Unable("has max-plus products only, which give p = inf")
    try:
        matmul = importlib.import_module("tropical_gemm").maxplus_matmul_2d
    except ImportError as error:
        raise Unable("not installed: pip install tropical-gemm") from error
    numpy = importlib.import_module("numpy")

    def distance(x: Tensor, w: Tensor) -> object:
        a, b = _array(x), numpy.ascontiguousarray(_array(w).T)
        return numpy.maximum(matmul(a, -b), matmul(-a, b))

    return distance


def _array(a: Tensor) -> Any:
    if a.is_cuda:
        raise Unable("runs on the CPU only")
    return a.numpy()


PEERS = (
    Peer(CDIST, _cdist, slab=False, differentiable=True),
    Peer("broadcast", _broadcast, slab=True, differentiable=True),
    Peer("torch.compile of the broadcast", _compiled, slab=True, differentiable=True, fused=True),
    Peer("scipy cdist", _scipy, slab=False, differentiable=False),
    Peer("tropical-gemm", _tropical, slab=False, differentiable=False),
)
