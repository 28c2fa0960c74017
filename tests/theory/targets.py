"""Functions that are 1-Lipschitz in l_inf and reach slope 1, for trying to break Theorem 4.1."""

import torch
from torch import Tensor

from lib.theory.pyramids import Target


def random_target(d: int, seed: int) -> Target:
    """F(x) = min(max_r (a_r . x + c_r), min_s ||x - z_s||_inf + c) with ||a_r||_1 <= 1, on [B, d]."""
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(3, d, dtype=torch.float64, generator=draw)
    a /= a.abs().sum(1, keepdim=True).clamp(min=1)
    c = torch.rand(3, dtype=torch.float64, generator=draw)
    z = torch.rand(2, d, dtype=torch.float64, generator=draw)

    def target(x: Tensor) -> Tensor:
        planes = (x @ a.to(x).T + c.to(x)).amax(1)
        cones = (x[:, None] - z.to(x)).abs().amax(2).amin(1) + 0.3
        return torch.minimum(planes, cones)

    return target


def peak(at: Tensor) -> Target:
    """F(x) = -||x - at||_inf: between four cells no pyramid comes nearer than eps to its tip."""
    return lambda x: -(x - at.to(x)).abs().amax(1)
