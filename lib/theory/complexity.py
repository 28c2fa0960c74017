"""Rademacher complexity (Section 4.2): of finite classes, of all bounded l_inf-dist nets, of small ones by search."""

import itertools

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lib.ops import lp_dist

MOST_POINTS = 16  # 2^16 sign vectors


def random_signs(draws: int, n: int, seed: int) -> Tensor:
    """`draws` vectors of n independent signs, +1 or -1 with probability 1/2 each: [draws, n] in float64."""
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(2, (draws, n), generator=generator).double() - 1


def rademacher(values: Tensor) -> float:
    """E_s max_f (1/n) sum_i s_i f(x_i) of a finite class, by going through all 2^n sign vectors.

    Adding one fixed function to all members changes nothing (used in Lemma A.4): its own mean over s is 0.

    Args:
        values: f(x_i) [F, n] of F functions at n points.

    Raises:
        ValueError: more than `MOST_POINTS` points.
    """
    n = values.shape[1]
    if n > MOST_POINTS:
        raise ValueError(f"values are at {n} points, expected at most {MOST_POINTS}: all 2^n signs are tried")
    signs = values.new_tensor(list(itertools.product((-1.0, 1.0), repeat=n)))
    return float((signs @ values.T / n).amax(1).mean())


def lipschitz_complexity(x: Tensor, signs: Tensor, bound: float) -> Tensor:
    """sup_f (1/n) sum_i s_i f(x_i) over every f that is 1-Lipschitz in l_inf with |f| <= B, for each s: [draws].

    Exact, and by Theorem 4.1 the supremum over all l_inf-dist nets with |f| <= B, of any width and depth; its mean
    over s is their empirical Rademacher complexity. By linear programming duality it is 1/n times the cost of the
    cheapest matching of points with s = +1 to points with s = -1, where a pair costs its distance and a point that
    stays alone costs B. As B grows it grows like B |mean s|, without end: the class of all nets has no finite one.

    Args:
        x: points [n, d].
        signs: [draws, n] of +1 and -1.
        bound: B, at least 0.

    Raises:
        ValueError: a negative bound.
    """
    if not bound >= 0:
        raise ValueError(f"bound is {bound}, expected at least 0")
    distance = lp_dist(x.double(), x.double())
    costs = [_cost(distance, cheapest_matching(x, s, bound), bound) for s in signs]
    return torch.tensor(costs, dtype=torch.float64) / len(x)


def pyramid_complexity(x: Tensor, signs: Tensor, bound: float, width: int, steps: int = 200) -> Tensor:
    """A lower bound of the same supremum over nets with `width` hidden units, for each s: [draws].

    The nets are f = max_k (c_k - ||x - w_k||_inf), two layers (Proposition A.2), clipped to |f| <= B. Adam climbs
    from centres at points with s = +1, if there are enough; what is returned is the best that was met.

    Args:
        x, signs, bound: as in `lipschitz_complexity`.
        width: hidden units, at least 1.
        steps: gradient steps, at rates that fall from a twentieth of the bound to 0.
    """
    targets = signs.to(x)
    nearest = targets.argsort(dim=1, descending=True, stable=True)[:, :width]
    centers = x[nearest].clone().requires_grad_()  # [draws, width, d]
    heights = (bound / 2 * targets.gather(1, nearest)).requires_grad_()
    climb = torch.optim.Adam([centers, heights], lr=bound / 20, maximize=True)
    slowing = torch.optim.lr_scheduler.LinearLR(climb, 1.0, 0.0, steps)
    best = torch.full((len(signs),), -float("inf")).to(x)
    for _ in range(steps):
        distance = lp_dist(x, centers.flatten(0, 1)).view(len(x), *nearest.shape)
        values = (heights - distance).amax(2).clamp(-bound, bound)
        correlation = (targets.T * values).mean(0)
        best = torch.maximum(best, correlation.detach())
        climb.zero_grad()
        correlation.sum().backward()
        climb.step()
        slowing.step()
    return best


def cheapest_matching(x: Tensor, s: Tensor, alone: float) -> list[tuple[int, int]]:
    """The pairs (i, k), s_i = +1 and s_k = -1, of the cheapest matching: each costs ||x_i - x_k||_inf, others `alone`.

    Args:
        x: points [n, d].
        s: signs [n].
        alone: the cost of each point in no pair, at least 0.
    """
    positive, negative = (s > 0).nonzero()[:, 0], (s < 0).nonzero()[:, 0]
    costs = torch.zeros(len(s), len(s), dtype=torch.float64)  # a partner beyond the points stands for none
    costs[: len(positive), : len(negative)] = lp_dist(x[positive].double(), x[negative].double())
    costs[: len(positive), len(negative) :] = costs[len(positive) :, : len(negative)] = alone
    chosen = zip(*linear_sum_assignment(costs.numpy()), strict=True)
    return [(int(positive[i]), int(negative[k])) for i, k in chosen if i < len(positive) and k < len(negative)]


def _cost(distance: Tensor, pairs: list[tuple[int, int]], alone: float) -> float:
    matched = sum(float(distance[i, k]) for i, k in pairs)
    return matched + alone * (len(distance) - 2 * len(pairs))
