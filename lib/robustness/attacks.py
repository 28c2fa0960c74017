"""Attacks: the paper's PGD, and one that sees more of these nets. All radii are in raw pixels.

At p = inf the gradient of a logit is one signed pixel (Section 2 and 5), so sign steps on it move few pixels at a time
and "robust" by PGD is optimistic. The stronger attack descends on margins at finite p, where every pixel has a say.
"""

import copy
from collections.abc import Callable
from typing import Literal, get_args

import torch
from eagerpy.astensor import astensor
from eagerpy.tensor.tensor import Tensor as EagerTensor
from foolbox.attacks.projected_gradient_descent import LinfProjectedGradientDescentAttack
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor

from lib.nets.arguments import integer
from lib.nets.models import Net
from lib.recipes import parse_eps
from lib.robustness.inputs import CHUNK, check_arithmetic, check_batch, evaluation_mode, executed_logits

Attack = Literal["pgd", "smooth"]

LADDER = (16.0, 32.0, 64.0)  # the exponents of one descent: low enough that all pixels count, and cheap to compute


def robust_correct(
    net: Net, x: Tensor, y: Tensor, eps: float | str, steps: int = 20, attack: Attack = "pgd", seed: int = 0
) -> Tensor:
    """Which images the net gets right, and still gets right after the attack: [B] bool.

    Right means argmax == y for the net as executed at p = inf in evaluation mode (on a tie the first class wins), as
    in `Certificate.correct`. Every image is attacked. Arguments and errors are those of `adversarial_images`.
    """
    images = adversarial_images(net, x, y, eps, steps, attack, seed)
    y = y.long()  # unsigned integers are not compared
    return (executed_logits(net, x).argmax(1) == y) & (executed_logits(net, images).argmax(1) == y)


def adversarial_images(
    net: Net, x: Tensor, y: Tensor, eps: float | str, steps: int = 20, attack: Attack = "pgd", seed: int = 0
) -> Tensor:
    """The images [B, C, H, W] that an attack makes of x: within eps to the bit, in [0, 1], meant to be misclassified.

    "pgd" (Section 7 and the released code): start at x + clip(N(0, (eps/4)^2), -eps/2, eps/2), then `steps` times
        x <- x + (eps/4) sign(grad CE(logits, y)), each start and step cut to the eps-box and to valid pixels. p = inf
        throughout, one start, the last image is returned.
    "smooth": `steps` gradients of the margin f_y - f_r at finite p, shared among descents of three: p = 16, 32, 64
        with sign steps 2 eps, eps, eps/2. The descents aim at the rivals r in the order of their clean logits; the
        first starts at x, the others at uniform points of the box. The first image that is misclassified at p = inf
        is returned (x itself where it already is), the last one tried where there is none.

    Args:
        net: any net of this library; its mode and its parameters' requires_grad come back unchanged.
        x: images [B, C, H, W] in [0, 1].
        y: labels [B].
        eps: radius in raw pixels, 0 < eps < 1; "8/255" is accepted.
        steps: gradient steps, at least 1.
        attack: "pgd" or "smooth".
        seed: of the random starts; drawn on the CPU for the whole batch, so equal on every device.

    Raises:
        ValueError, TypeError: what `check_batch` and `check_arithmetic` refuse, eps outside (0, 1), steps < 1, an
            unknown attack, a seed that is no integer or negative.
    """
    radius = parse_eps(eps)
    attacker = _attacker(attack)
    steps, seed = integer("steps", steps, at_least=1), integer("seed", seed, at_least=0)
    check_batch(net, x, y)
    check_arithmetic(x.device.type)
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad():
        # what was made in inference mode has no gradients, its copy has
        x, y = (v.clone() if v.is_inference() else v.detach() for v in (x, y.long()))
        net = copy.deepcopy(net) if any(v.is_inference() for v in net.state_dict().values()) else net
        with evaluation_mode(net):
            return attacker(net, x, y, radius, steps, generator)


Attacker = Callable[[Net, Tensor, Tensor, float, int, torch.Generator], Tensor]


def _attacker(attack: str) -> Attacker:
    attackers: dict[str, Attacker] = {"pgd": _pgd, "smooth": _smooth}
    if attack not in get_args(Attack):
        raise ValueError(f"attack must be one of {', '.join(get_args(Attack))}, got {attack!r}")
    return attackers[attack]


def _box(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Valid images within eps, rounded inward: no image of the box is further from x than eps, not by a rounding."""
    lower, upper = ((x.double() + step).to(x.dtype) for step in (-eps, eps))
    # also where they look equal: that difference may be rounded itself
    lower, upper = (torch.where((end - x.double()).abs() >= eps, end.nextafter(x), end) for end in (lower, upper))
    return lower.clamp(min=0), upper.clamp(max=1)


class PaperPGD(LinfProjectedGradientDescentAttack):
    """Foolbox's l_inf PGD with the paper's step, the start x + noise, and the projection onto a box of images."""

    def __init__(self, steps: int, noise: Tensor, box: tuple[Tensor, Tensor]) -> None:
        super().__init__(rel_stepsize=0.25, steps=steps)
        self.noise, self.box = noise, box

    def get_random_start(self, x0: EagerTensor, epsilon: float) -> EagerTensor:
        return x0 + astensor(self.noise)

    def project(self, x: EagerTensor, x0: EagerTensor, epsilon: float) -> EagerTensor:
        return astensor(x.raw.clamp(*self.box))


def _pgd(net: Net, x: Tensor, y: Tensor, eps: float, steps: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=generator, device=generator.device) * (eps / 4)
    noise = noise.clamp(-eps / 2, eps / 2).to(x)
    model = PyTorchModel(net, bounds=(0, 1), device=x.device)
    lower, upper = _box(x, eps)
    images = x.clone()
    for first in range(0, len(x), CHUNK):
        rows = slice(first, first + CHUNK)
        attack = PaperPGD(steps, noise[rows], (lower[rows], upper[rows]))
        images[rows] = attack.run(model, x[rows], y[rows], epsilon=eps)
    return images


def _smooth(net: Net, x: Tensor, y: Tensor, eps: float, steps: int, generator: torch.Generator) -> Tensor:
    lower, upper = _box(x, eps)
    images = x.clone()
    logits = executed_logits(net, x)
    unbroken = (logits.argmax(1) == y).nonzero().squeeze(1)
    rivals = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    for step in range(steps):
        descent, rung = divmod(step, len(LADDER))
        if descent and rung == 0:
            noise = torch.rand(x.shape, generator=generator, device=generator.device).to(x)
            images[unbroken] = torch.lerp(lower, upper, noise)[unbroken]
        rival = rivals[:, descent % (net.num_classes - 1)]
        survivors = []
        for rows in unbroken.split(CHUNK):
            slope = _margin_gradient(net, images[rows], y[rows], rival[rows], LADDER[rung])
            images[rows] = (images[rows] - 2 * eps * 0.5**rung * slope.sign()).clamp(lower[rows], upper[rows])
            survivors.append(rows[net(images[rows]).argmax(1) == y[rows]])
        unbroken = torch.cat(survivors)
    return images


def _margin_gradient(net: Net, images: Tensor, y: Tensor, rival: Tensor, p: float) -> Tensor:
    """grad_x sum_b (f_y - f_rival) at exponent p, the running means those of p = inf."""
    images = images.detach().requires_grad_()
    logits = net(images, p)
    margin = logits.gather(1, y[:, None]) - logits.gather(1, rival[:, None])
    (gradient,) = torch.autograd.grad(margin.sum(), images)
    return gradient
