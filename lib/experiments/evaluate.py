"""From a trained net and a test set to the table of one run: every image predicted, attacked and certified."""

from typing import get_args

import torch
from torch import Tensor

from lib.experiments.record import Table
from lib.nets.models import Net
from lib.recipes import Recipe
from lib.robustness.attacks import Attack, adversarial_images
from lib.robustness.certify import Method, certify
from lib.robustness.inputs import executed_logits
from lib.training.data import batch
from lib.training.datasets import Images

ATTACKS = {
    "robust": "PGD as in the paper: one start, steps of eps/4 along sign(grad of the cross-entropy) at p = inf, "
    "last iterate judged",
    "robust_strong": "the same, then descents on the margin along gradients at finite p from several starts, "
    "every iterate judged at p = inf",
}
CERTIFICATES = {
    "margin": "half the margin in pixels, rounding paid for; with a head, its intervals on the box f(x) +- eps",
    "interval": "intervals through all layers from the box clipped to valid pixels",
}
CURVE = (0.25, 0.5, 1.0, 1.5, 2.0)  # radii of the attack curve, as multiples of eps_test where those stay below 1


def evaluate(net: Net, recipe: Recipe, images: Images, *, seed: int) -> Table:
    """Predict, attack and certify every image at recipe.eps_test, and attack it at the radii of the curve.

    robust is the paper's PGD with recipe.pgd_steps; robust_strong is what also survives the stronger attack. The
    attack's draws are those of `seed`, whatever the size of the chunks that fit in memory.
    """
    x, y = batch(images, torch.arange(len(images), device=images.labels.device)), images.labels
    certificates = {method: certify(net, x, y, recipe.eps_test, method) for method in get_args(Method)}
    prediction = executed_logits(net, x).argmax(1)

    def withstands(eps: float, attack: Attack) -> Tensor:
        """As `lib.robust_correct`, the clean predictions made once for all attacks."""
        attacked = adversarial_images(net, x, y, eps, recipe.pgd_steps, attack, seed)
        return (prediction == y) & (executed_logits(net, attacked).argmax(1) == y)

    radii = curve_radii(recipe.eps_test)
    survived = {radius: withstands(radius, "pgd") for radius in radii}
    robust = survived[recipe.eps_test]
    strong = robust & withstands(recipe.eps_test, "smooth")
    return Table(
        label=y.cpu().numpy(),
        prediction=prediction.cpu().numpy(),
        radius=certificates["margin"].radius.cpu().numpy(),
        certified={method: result.certified.cpu().numpy() for method, result in certificates.items()},
        robust=robust.cpu().numpy(),
        robust_strong=strong.cpu().numpy(),
        radii=torch.tensor(radii, dtype=torch.float64, device="cpu").numpy(),
        survived=torch.stack(list(survived.values()), 1).cpu().numpy(),
    )


def curve_radii(eps: float) -> list[float]:
    """Five different radii in (0, 1), increasing, eps itself in the middle: `CURVE` times eps while 2 eps < 1."""
    beyond = min(eps, 0.99 * (1 - eps))
    return [factor * eps if factor <= 1 else eps + (factor - 1) * beyond for factor in CURVE]
