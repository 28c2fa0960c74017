"""From a net and a batch to certificates. Nothing else in the library may call a sample certified.

A certificate speaks of the prediction as executed in float32, rounding included: no float image within eps of x (and
inside [0, 1]) gets another label from this very net.
"""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lib.nets.base import CompositeNet, DistanceNet, Execution, PlainNet, margin
from lib.nets.box import Box
from lib.nets.checks import check_parts
from lib.nets.models import Net
from lib.recipes import parse_eps
from lib.robustness.inputs import CHUNK, check_arithmetic, check_batch, evaluation_mode, pixel_box

Method = Literal["margin", "interval"]

LARGEST_VALUE = 2.0**100  # values up to it stay far from overflow, the largest distances of a SortNet neuron too
SMALLEST = 2.0**-100  # its roundings are more than a value of its scale loses to underflow, denormals kept or flushed
SECOND_ORDER = 1 + 2.0**-10  # roundings of what was rounded
MOST_ROUNDINGS = 2**14  # up to which that is enough
BISECTIONS = 24  # halvings of [0, 1]: a radius to within 2^-24


class Certificate(NamedTuple):
    """What is known of each sample, [B] each.

    correct: the prediction is the label. certified: proved to stay the label within eps. radius: the margin radius in
    pixels (float64), a lower bound of the robust radius; 0 where the prediction is wrong, and at most 1, since no valid
    pixel can move further.
    """

    correct: Tensor
    certified: Tensor
    radius: Tensor


def certify(net: Net, x: Tensor, y: Tensor, eps: float | str, method: Method = "interval") -> Certificate:
    """Prove that the prediction of each image stays right within eps in l_inf.

    "margin" (Fact 3.6): every logit of a distance net moves at most as far as its input, so f_y - max_(i != y) f_i
        > 2 eps / sigma settles it; with a head, its intervals on the box f(x) +- eps / sigma (Section 6), which is the
        whole ball where there are no distances. Rounding is paid for with 2^-22 n (max|v| + eps / sigma), v over all
        executed values, 2^-100 and 2^-100 / sigma, a thousandth more for higher orders, n the roundings on the way to a
        logit (`DistanceNet.roundings`): 2 (L + 1) behind L layers of l_inf-dist neurons that have a bias or a mean
        shift each, as they are built.
        Nothing is proved where a value could exceed 2^100 within the ball, or a sum of the head 2^126.
    "interval" (Appendix B): the box of valid images within eps, pushed through every layer at p = inf; certified
        where the lower bound of logit y exceeds every other upper bound, by Eq. 21 where the last layer is linear.
        An image that its margin certifies is certified by it: no box is made for it. Intervals speak of executions
        that keep denormals, as torch does unless told otherwise. (What one loses that flushes them is paid for once, by
        `DistanceNet.flushed`, but not where layers are built to enlarge it; margins pay for that too.) And they
        speak of the net as it is called, and of torch.compile on the CPU: on CUDA that divides pixels by std less
        exactly.

    Args:
        net: any net of this library; evaluation mode, p = inf and full float32 precision are enforced here.
        x: images [B, C, H, W] in [0, 1].
        y: labels [B].
        eps: radius in raw pixels, 0 < eps < 1; "8/255" is accepted.
        method: "margin" or "interval". Strict: a tie is not certified.

    Raises:
        ValueError, TypeError: what `check_batch` refuses, a net that `check_parts` refuses, eps
            outside (0, 1), an unknown method, reduced precision (a net of half precision, TF32, autocast),
            a thread that flushes denormals, a net of more than 2^14 roundings.
    """
    radius, by_intervals = parse_eps(eps), _by_intervals(method)
    _check(net, x, y)
    y = y.long()
    # Images of one label are alike, and a pruned net stops sooner where those stand side by side.
    order = y.argsort(stable=True)
    with torch.no_grad(), evaluation_mode(net):
        chunks = order.split(CHUNK)
        # index_select, not x[some]: the same copy, several times as fast
        runs: Iterable[Execution] = (_executed(net, x.index_select(0, some)) for some in chunks)
        if isinstance(net, PlainNet):  # whose runs are small, and their margins sooner found at once
            chunks, runs = (order,), [Execution(*map(torch.cat, zip(*runs, strict=True)))]
        parts = [_certify_by_margin(net, run, y[some], radius) for run, some in zip(runs, chunks, strict=True)]
        place = order.argsort()
        correct, certified, reach = (torch.cat(column)[place] for column in zip(*parts, strict=True))
        if by_intervals:
            # The margin settles most images; only the others need a box of their own.
            for some in order[(correct & ~certified)[order]].split(CHUNK):
                eps_each = torch.full_like(reach[some], radius)
                certified[some] = _proves_by_interval(net, x.index_select(0, some), y[some], eps_each)
    return Certificate(correct, certified, reach)


def certified_radius(net: Net, x: Tensor, y: Tensor, method: Method = "interval") -> Tensor:
    """The largest radius [B] (pixels, float64) that `method` proves, to within 2^-24; 0 where the net is wrong.

    "margin" gives the margin radius in closed form, less its last bit (for a composite net, by a search over the head's
    box); "interval" bisects, and returns a radius at which the certificate was computed and held, or that by margins
    where it is larger. At most 1, since no valid pixel can move further. Raises as `certify` does.
    """
    by_intervals = _by_intervals(method)
    _check(net, x, y)
    with torch.no_grad(), evaluation_mode(net):
        chunks = zip(x.split(CHUNK), y.long().split(CHUNK), strict=True)
        return torch.cat([_radius(net, images, labels, by_intervals) for images, labels in chunks])


def _by_intervals(method: str) -> bool:
    methods = get_args(Method)
    if method not in methods:
        raise ValueError(f"method must be one of {', '.join(methods)}, got {method!r}")
    return method == "interval"


def _check(net: Net, x: Tensor, y: Tensor) -> None:
    check_batch(net, x, y)
    check_parts(net, "certified")
    dtypes = {parameter.dtype for parameter in net.parameters()}  # that of the images is among them
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        found = ", ".join(sorted(map(str, dtypes)))
        raise TypeError(f"certificates need weights of one dtype, float32 or float64, got {found}")
    check_arithmetic(x.device.type)
    if net.roundings() > MOST_ROUNDINGS:
        raise ValueError(f"net must have at most {MOST_ROUNDINGS} roundings to be certified, got {net.roundings()}")


def _certify_by_margin(net: Net, run: Execution, y: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each image is right, its margin proves it right within eps, and its margin radius."""
    correct, radius = _by_margin(net, run, y)
    certified = radius > eps
    if isinstance(net, CompositeNet):
        # A radius that was searched for may end just short of one at which the proof holds.
        certified |= correct & _head_proves(net, run, y, torch.full_like(radius, eps))
    return correct, certified, radius


def _radius(net: Net, x: Tensor, y: Tensor, by_intervals: bool) -> Tensor:
    correct, reach = _by_margin(net, _executed(net, x), y)
    if isinstance(net, PlainNet):
        # `certify` asks for more than eps; at 1 there is no such eps
        reach = torch.where(reach < 1, reach.nextafter(torch.zeros_like(reach)), reach)
    if by_intervals:
        images, labels = x[correct], y[correct]
        found = _bisect(lambda radius: _proves_by_interval(net, images, labels, radius), images)
        reach[correct] = reach[correct].maximum(found)
    return reach


def _executed(net: Net, x: Tensor) -> Execution:
    """One pass; its size, in float64, is at least what underflow may take."""
    run = net.executed(x)
    return run._replace(size=run.size.double().clamp(min=SMALLEST * net.normalize.gain))


def _by_margin(net: Net, run: Execution, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each image of a pass is right, and its margin radius, 0 where it is wrong."""
    correct = run.logits.argmax(1) == y
    return correct, torch.where(correct, _margin_radius(net, run, y), 0.0)


def _rate(net: DistanceNet) -> float:
    """An executed value moves by at most radius + rate (size + radius) when the input moves by radius.

    Two executions, each rounding off at most 2^-24 of a value at a time; in network units.
    """
    return 2 * net.roundings() * 2.0**-24 * SECOND_ORDER


def _bisect(proved_at: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    proved = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for step in range(1, BISECTIONS + 1):
        candidate = proved + 2.0**-step
        proved = torch.where(proved_at(candidate), candidate, proved)
    return proved


def _proves_by_interval(net: Net, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return net.margin_lb(net.feature_bounds(pixel_box(x, radius)), y) > 0


def _margin_radius(net: Net, run: Execution, y: Tensor) -> Tensor:
    if isinstance(net, PlainNet):
        return _closed_form_radius(net, run, y)
    return _bisect(lambda radius: _head_proves(net, run, y, radius), run.outputs)


def _closed_form_radius(net: PlainNet, run: Execution, y: Tensor) -> Tensor:
    """The largest e with margin > 2 e / sigma + 2^-22 n (max|v| + e / sigma), solved for e; from 0 to 1."""
    rate = _rate(net)
    beyond_rounding = margin(run.logits.double(), y) - 2 * rate * run.size
    radius = (net.std * beyond_rounding / (2 + 2 * rate)).clamp(0, 1)
    return torch.where(_in_range(run.size, radius / net.std), radius, 0.0)


def _head_proves(net: CompositeNet, run: Execution, y: Tensor, radius: Tensor) -> Tensor:
    """The margin stays positive on the box that the features cannot leave while pixels move by at most radius [B]."""
    features, moved = run.outputs.double(), radius / net.std
    reach = (moved + _rate(net) * (run.size + moved))[:, None]
    in_range = _in_range(run.size, moved)
    return in_range & (net.margin_lb(Box(features - reach, features + reach), y) > 0)


def _in_range(size: Tensor, radius: Tensor) -> Tensor:
    """Whether no distance can overflow within the radius (network units); where one may, nothing is proved."""
    return size + radius <= LARGEST_VALUE
