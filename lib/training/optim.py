"""Adam with the decoupled l_p-norm decay of distance weights (Eq. 6)."""

import math
import sys
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from lib.nets.base import DistanceNet
from lib.recipes import Recipe
from lib.recipes.values import without_dimension

_FUSED = {"cpu", "cuda"}
_OWN = ("lp_decay", "p", "lr_share")  # of a group, beside those of torch.optim.Adam
# Entries that decay at a time: temporaries then stay in the cache, and need no fresh memory. Rows come in multiples of
# 64, so that vector instructions meet the same entries as in the whole.
_CPU_ENTRIES, _GPU_ENTRIES, _ROWS = 2**18, 2**28, 64


class AdamLp(torch.optim.Adam):
    """Adam whose step first decays every neuron w by the gradient of (lambda / 2) ||w||_p^2 (Eq. 6), decoupled:

        w_i <- w_i - lr * lambda * (|w_i| / ||w||_p)^(p - 2) * w_i

    The norm runs over all dimensions of a parameter but the first. p = inf decays the first entry of largest |w_i|.

    Args:
        params: parameters or groups; each group has its own `lr`, `p`, `lp_decay`, `weight_decay`, and its
            `lr_share` of the learning rate that `set_knobs` gives (1 where it says nothing).
        lr, betas, eps: as in torch.optim.Adam.
        lp_decay: lambda of Eq. 6.
        p: exponent of the decay, 1 <= p <= inf; like lr, set anew in the groups as training goes (`set_knobs`).
        weight_decay: coefficient of ordinary decoupled l_2 decay.
        fused: as in torch.optim.Adam.

    Raises:
        ValueError: p that is no number of at least 1, lp_decay that is no finite number of at least 0, here or in a
            group, and as torch.optim.Adam.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        betas: tuple[float, float],
        eps: float,
        lp_decay: float = 0.0,
        p: float = math.inf,
        weight_decay: float = 0.0,
        fused: bool | None = None,
    ) -> None:
        own = dict(zip(_OWN, (lp_decay, p, 1.0), strict=True))
        _check_decay(own)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            decoupled_weight_decay=True,
            fused=fused,
        )
        self.defaults.update(own)  # of groups that are added later
        for group in self.param_groups:
            group.update(own | group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch.optim.Adam; what the group does not say is as for the others."""
        if isinstance(param_group, dict):  # of others torch says what they are
            _check_decay(param_group)
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What a state of torch.optim.Adam does not have stays as it is, and l_2 decay decoupled."""
        before = [{name: group[name] for name in _OWN} for group in vars(self).get("param_groups", [])]
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for group, own in zip(self.param_groups, before, strict=False):  # a copy has none before
            group.update(own | group, decoupled_weight_decay=True)

    def set_knobs(self, p: float, lr: float) -> None:
        """Sets the exponent of the decay and the learning rate, its share of it, of every group for the next step."""
        _check("p", p, 1.0, "1 <= p <= inf")
        _check("lr", lr, 0.0, "a number of at least 0")
        for group in self.param_groups:
            group.update(p=p, lr=lr * group["lr_share"])

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluates the closure if there is one, decays, then does Adam's step; returns what the closure did.

        Where a GradScaler met infinite gradients, Adam skips the step, and nothing decays.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        decaying = [group for group in self.param_groups if group["lp_decay"]]
        if decaying and not self._is_skipped():
            for group in decaying:
                self._decay(group)
        _adam_step(self)
        return loss

    def _is_skipped(self) -> bool:
        # a GradScaler leaves it to fused kernels to look whether it found an infinite gradient
        found_inf = getattr(self, "found_inf", None)
        return found_inf is not None and bool(found_inf)

    @torch.no_grad()
    def _decay(self, group: dict[str, Any]) -> None:
        for w in group["params"]:
            if w.grad is not None:
                decay_(w, group["p"], float(group["lr"]) * group["lp_decay"])


def _adam_step(optimizer: AdamLp) -> None:
    """The step of torch's class without its hooks, which run around that of `AdamLp`."""
    step = torch.optim.Adam.step
    # torch marks a class that it has wrapped in hooks; the step itself is wrapped in other things, too
    (step.__wrapped__ if hasattr(step, "hooked") else step)(optimizer)  # type: ignore[attr-defined]


def _check_decay(options: dict[str, Any]) -> None:
    """Raises ValueError for an exponent or a decay among the options of a group that Eq. 6 has no meaning for."""
    _check("p", options.get("p", math.inf), 1.0, "1 <= p <= inf")
    _check("lp_decay", options.get("lp_decay", 0.0), 0.0, "a finite number of at least 0", most=sys.float_info.max)


def _check(name: str, value: Any, least: float, expected: str, most: float = math.inf) -> None:
    plain = without_dimension(value)
    if not (isinstance(plain, Real) and least <= float(plain) <= most):
        raise ValueError(f"{name} is {value!r}, expected {expected}")


def decay_(w: Tensor, p: float, rate: float) -> None:
    """w_i <- w_i - rate * (|w_i| / ||w||_p)^(p - 2) * w_i in place, for every neuron w[o] of w [O, ...].

    A w without dimensions is one neuron of one entry. Raises ValueError for p < 1 or NaN.
    """
    _check("p", p, 1.0, "1 <= p <= inf")
    if not w.numel():
        return
    if not w.is_contiguous():  # such as channels_last
        dense = w.contiguous()
        decay_(dense, p, rate)
        w.copy_(dense)
        return
    entries = _CPU_ENTRIES if w.device.type == "cpu" else _GPU_ENTRIES
    neurons = w.view(len(w) if w.dim() else 1, -1)
    for rows in neurons.split(max(1, entries // (_ROWS * neurons.shape[1])) * _ROWS):
        if p == 2:
            rows.mul_(1 - rate)
        elif math.isinf(p):
            largest = rows.abs().argmax(1, keepdim=True)
            rows.scatter_(1, largest, rows.gather(1, largest) * (1 - rate))
        else:
            rows.sub_(_lp_direction(rows, p), alpha=rate)


def _lp_direction(rows: Tensor, p: float) -> Tensor:
    """(|w_i| / ||w||_p)^(p - 2) w_i [O, I], from the ratios |w_i| / max |w| so that no power overflows."""
    ratio = rows.abs()
    largest = ratio.amax(1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny)
    # a ratio whose p-th power is below 2^-100 changes nothing, but denormal numbers would be slow
    ratio = ratio.div_(largest).clamp_min_(2 ** (-100 / p))
    power = _power(ratio, p)
    # the largest entry adds 1; only a row of zeros has less
    total = ratio.square_().mul_(power).sum(1, keepdim=True).clamp_min_(1.0)
    return power.mul_(rows).mul_(total.pow_((2 - p) / p))


def _power(ratio: Tensor, p: float) -> Tensor:
    """ratio^(p - 2), for the rungs of the ladder p = 4, 8, 16, ... as ratio^2 ratio^4 ... ratio^(p/2)."""
    rungs = math.log2(p)
    if not (rungs.is_integer() and rungs >= 2):
        return ratio.pow(p - 2)
    square = ratio.square()
    power = square.clone()
    for _ in range(int(rungs) - 2):
        power.mul_(square.square_())
    return power


def make_optimizer(net: DistanceNet, objective: nn.Module, recipe: Recipe) -> AdamLp:
    """Adam with the recipe's decay of distance weights; unless that is "none", the rest decays by l_2 (Section 5).

    What the objective learns, the scale of the logits, has a learning rate and an l_2 decay of its own.
    Raises TypeError for a net that is none of this library.
    """
    if not isinstance(net, DistanceNet):
        raise TypeError(f"net is {type(net).__name__}, expected a net of this library; AdamLp takes other parameters")
    of_distance, of_other = {
        "lp": ({"lp_decay": recipe.weight_decay}, {"weight_decay": recipe.weight_decay}),
        "l2": ({"weight_decay": recipe.weight_decay}, {"weight_decay": recipe.weight_decay}),
        "none": ({}, {}),
    }[recipe.decay]
    groups: list[dict[str, Any]] = [
        {"params": net.distance_weights()} | of_distance,
        {"params": net.other_parameters()} | of_other,
    ]
    if recipe.logit_scale_lr is not None:
        share = recipe.logit_scale_lr / recipe.lr
        groups.append(
            {"params": [*objective.parameters()], "lr_share": share, "weight_decay": recipe.logit_scale_decay}
        )
    return AdamLp(
        groups,
        recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.adam_eps,
        p=recipe.p_start,
        fused=all(parameter.device.type in _FUSED for group in groups for parameter in group["params"]),
    )
