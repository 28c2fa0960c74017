"""One distance layer: ours and the peers, x [B, I] and w [O, I] standard normal as when training begins."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from bench import clock
from bench.clock import Found
from bench.peers import PEERS, Distance, Peer, Unable, ours, work
from lib.experiments.speed import BOTH, BOUNDS, FORWARD, OURS, Timing

EXPONENTS = (8.0, 37.3, 1000.0, math.inf)
WIDTHS = (1024, 5120)
BATCH = 512
ODD = ((1, 1000, 10), (1, 1024, 1024), (512, 1024, 10), (500, 1000, 1000))

# A peer gets as many samples as it does in about so long, and as fit its tensor of B x O x I into so many numbers.
_SECONDS = 0.25
_NUMBERS = 2**26


def sections(device: str) -> dict[str, Callable[[], Found]]:
    """By name: I = O = 1024 and 5120 at each p, and odd shapes."""
    found: dict[str, Callable[[], Found]] = {}
    for width in WIDTHS:
        for what in (FORWARD, BOTH):
            for p in EXPONENTS:
                found[f"{width}/{what}/p={p:g}"] = functools.partial(_all, device, what, p, BATCH, width, width)
        found[f"{width}/{BOUNDS}"] = functools.partial(_own, device, BOUNDS, math.inf, BATCH, width, width)
    found["odd"] = functools.partial(_odd, device)
    return found


def _all(device: str, what: str, p: float, batch: int, inputs: int, outputs: int) -> Found:
    yield from _own(device, what, p, batch, inputs, outputs)
    x, w = _inputs(device, batch, inputs, outputs)
    for peer in PEERS:
        try:
            yield _peer(peer, what, p, x, w)
        except Unable as reason:
            yield peer.who, str(reason)


def _own(device: str, what: str, p: float, batch: int, inputs: int, outputs: int) -> Found:
    yield _timing(OURS, ours(what, p), what, p, *_inputs(device, batch, inputs, outputs))


def _odd(device: str) -> Found:
    for shape in ODD:
        for what in (FORWARD, BOTH):
            for p in EXPONENTS:
                x, w = _inputs(device, *shape)
                yield _timing(OURS, ours(what, p), what, p, x, w)
                yield _peer(PEERS[0], what, p, x, w)


def _inputs(device: str, batch: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(rows, inputs, generator=generator) for rows in (batch, outputs))
    return x.to(device), w.to(device)


def _peer(peer: Peer, what: str, p: float, x: Tensor, w: Tensor) -> Timing:
    if what == BOTH and not peer.differentiable:
        raise Unable("has no gradients")
    distance = peer.make(p)
    rows = len(x) if len(x) < 3 else _affordable(distance, what, x, w)
    if peer.slab and (what == BOTH or not peer.fused):
        rows = min(rows, _NUMBERS // w.numel())
    # Powers of two, so that two machines, or two days, choose alike.
    rows = min(len(x), 2 ** int(math.log2(max(rows, 1))))
    return _timing(peer.who, distance, what, p, x[:rows], w)


def _affordable(distance: Distance, what: str, x: Tensor, w: Tensor) -> float:
    """How many samples take `_SECONDS`, what every call costs left out."""
    one, three = work(distance, what, x[:1], w), work(distance, what, x[:3], w)
    one(), three()
    seconds = clock.once(one), clock.once(three)
    # Where a call costs much more than a sample, the difference is noise.
    return _SECONDS / max((seconds[1] - seconds[0]) / 2, seconds[1] / 100)


def _timing(who: str, distance: Distance, what: str, p: float, x: Tensor, w: Tensor) -> Timing:
    seconds = clock.runs(work(distance, what, x, w))
    return Timing(what=what, who=who, p=p, batch=len(x), widths=(x.shape[1], len(w)), seconds=seconds)
