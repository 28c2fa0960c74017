"""The typed, frozen `Recipe`; whatever is wrong in one is refused by name before a run starts."""

import dataclasses
import itertools
import math
import operator
import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, Self, get_type_hints

from lib.recipes.values import is_none, number, refuse_unknown, typed

_PLAIN = ("linf-dist-net", "sortnet")
_RADII = ("eps_test", "eps_train", "theta")

EVALUATION = ("eps_test", "pgd_steps", "test_limit")  # the fields that only an evaluation reads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run except its seed; radii in raw pixel units ([0, 1]), names as in the paper.

    Fields; one with a model or losses in brackets is for those alone, and None for all others, "none" in TOML (an epoch
    count: 0):
        name: recipes/NAME.toml, and the folder of its records below results/.

        dataset: "digits", "mnist", "fashion-mnist", "cifar10" or "tiny-imagenet".
        input_shape: channels, height, width of one image, or of the piece cut out of it (tiny-imagenet).
        classes: K, number of labels, at least 2.
        mean: per-channel mean of the pixels, each in [0, 1].
        std: sigma, one standard deviation of the pixels for all channels, above 0.

        model: "linf-dist-net" and "sortnet" (plain nets), "linf-dist-net-mlp" or "conv-linf-dist-net-mlp"; "relu-net",
            an ordinary network without distances, p or decay of its own.
        width: units of a hidden distance layer; convolution: channels of the first two, relu-net: of the first.
        depth: distance layers; the plain net's top layer, of `classes` units, is one of them; 6 for convolution;
            relu-net: affine layers, 4 or 7.
        hidden: units of the head's hidden layer; 0: no head (plain net).
        keep_prob: q, probability that a neuron sees an input in a training step, 0 < q <= 1 (sortnet).
        identity: identity-map initialisation puts minus this on the diagonal; 0: plain Gaussian.

        loss: "hinge" or "clipped-hinge" for a plain net, "ibp" for one with a head.
        theta: threshold on the margin, pixels, between 0 and 2 (hinge, clipped-hinge).
        hinge_mix: rho in [0, 1], weight of the maximum against the mean over classes (hinge).
        eps_train: radius of the box given to the head, pixels (ibp); that of a relu-net is cut to valid images.
        kappa_natural: kappa in [0, 1], weight of the natural cross-entropy in Eq. 22 (ibp).
        eps_warmup_epochs: epochs over which eps grows linearly from 0 to eps_train (ibp).
        ce_weight_start: lambda of the cross-entropy until the ramp of p begins (clipped-hinge).
        ce_weight_end: lambda from the end of that ramp on (clipped-hinge).
        logit_scale_lr: initial learning rate of s, which follows the schedule of lr (clipped-hinge).
        logit_scale_decay: decoupled l_2 decay of s (clipped-hinge).

        lr: learning rate of Adam; constant during epochs_const, then cosine to 0.
        cosine_from_start: the cosine begins with the first epoch instead.
        beta1, beta2: decay of Adam's first and second moment, in [0, 1).
        adam_eps: Adam's epsilon, no radius.
        weight_decay: lambda of Eq. 6; a step decays by lr * lambda; 0 without decay.
        decay: "lp", "l2" or "none", the norm of the decay of distance weights; all others decay by l2 or not at all.
        batch_size: images per step.

        p_start: exponent during epochs_const, at least 1.
        p_end: exponent at the end of the ramp, finite; afterwards p = inf.
        p_ladder: the ramp doubles p from power of two to power of two instead of growing smoothly.
        epochs_const: e1, epochs at p_start.
        epochs_ramp: e2, epochs from p_start to p_end.
        epochs_inf: e3, epochs at p = inf.

        crop_padding: black pixels added on each side before a random crop to input_shape; 0: none.
        crop_edge: the padding repeats the pixels of the border instead.
        flip: random horizontal flip.

        train_limit: training images used; 0: all.
        test_limit: images evaluated; 0: all.
        validation: train without the last images of a fixed permutation and evaluate on those.
        eps_test: radius of evaluation, pixels, between 0 and 1.
        pgd_steps: steps of every attack.

    Raises:
        ValueError, TypeError: one sentence with the field, the value received and what was expected.
    """

    name: str

    dataset: Literal["digits", "mnist", "fashion-mnist", "cifar10", "tiny-imagenet"]
    input_shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: float

    model: Literal["linf-dist-net", "sortnet", "linf-dist-net-mlp", "conv-linf-dist-net-mlp", "relu-net"]
    width: int
    depth: int
    hidden: int
    keep_prob: float | None = None
    identity: float

    loss: Literal["hinge", "ibp", "clipped-hinge"]
    theta: float | None = None
    hinge_mix: float | None = None
    eps_train: float | None = None
    kappa_natural: float | None = None
    eps_warmup_epochs: int
    ce_weight_start: float | None = None
    ce_weight_end: float | None = None
    logit_scale_lr: float | None = None
    logit_scale_decay: float | None = None

    lr: float
    cosine_from_start: bool = False
    beta1: float
    beta2: float
    adam_eps: float
    weight_decay: float
    decay: Literal["lp", "l2", "none"]
    batch_size: int

    p_start: float
    p_end: float
    p_ladder: bool
    epochs_const: int
    epochs_ramp: int
    epochs_inf: int

    crop_padding: int
    crop_edge: bool = False
    flip: bool

    train_limit: int
    test_limit: int
    validation: bool
    eps_test: float
    pgd_steps: int

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            value = getattr(self, name)
            if name in _RADII and isinstance(value, str) and not is_none(value):
                value = number(value, name)
            object.__setattr__(self, name, typed(name, value, hint))
        for name, (holds, expected) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ValueError(f"{name} is {value!r}, expected {expected}")
        check_name(self.name)
        _check_shapes(self)
        _check_model(self)
        _check_loss(self)
        _check_decay(self)
        _check_schedule(self)

    @property
    def epochs(self) -> int:
        """Length of the run, e1 + e2 + e3."""
        return self.epochs_const + self.epochs_ramp + self.epochs_inf

    @property
    def flops(self) -> int:
        """Subtractions in distance layers and multiply-adds in affine layers, forward pass of one image."""
        channels, height, width = self.input_shape
        inputs = channels * height * width
        if self.model in _PLAIN:
            return _dense_flops(inputs, *[self.width] * (self.depth - 1), self.classes)
        if self.model == "linf-dist-net-mlp":
            return _dense_flops(inputs, *[self.width] * self.depth, self.hidden, self.classes)
        if self.model == "relu-net":
            return self._relu_flops()
        return self._conv_flops()

    def _conv_flops(self) -> int:
        taps, outputs = self._five_convolutions()
        return taps + _dense_flops(outputs, self.hidden, self.hidden, self.classes)

    def _relu_flops(self) -> int:
        taps, outputs = self._five_convolutions() if self.depth == 7 else self._two_convolutions()
        return taps + _dense_flops(outputs, self.hidden, self.classes)

    def _five_convolutions(self) -> tuple[int, int]:
        """Those of 3 x 3, the third of stride 2: their operations, and the outputs of the last."""
        channels, height, width = self.input_shape
        narrow, wide = self.width, 2 * self.width
        full, halved = height * width, ((height + 1) // 2) * ((width + 1) // 2)
        taps = full * (channels * narrow + narrow**2) + halved * (narrow * wide + 2 * wide**2)
        return 9 * taps, halved * wide

    def _two_convolutions(self) -> tuple[int, int]:
        """Those of 4 x 4 and stride 2: their operations, and the outputs of the second."""
        channels, height, width = self.input_shape
        narrow, wide = self.width, 2 * self.width
        half, quarter = (height // 2) * (width // 2), (height // 4) * (width // 4)
        return 16 * (half * channels * narrow + quarter * narrow * wide), quarter * wide

    def as_dict(self) -> dict[str, Any]:
        """All fields by name; `Recipe(**recipe.as_dict())` equals the recipe, also after a round trip through JSON."""
        return dataclasses.asdict(self)

    def replace(self, **overrides: Any) -> Self:
        """The recipe with some fields changed, validated again.

        Raises:
            ValueError: for a name that is no field, with the nearest one; TypeError, ValueError: as for `Recipe`.
        """
        refuse_unknown(overrides, _hints(), "recipe field")
        return dataclasses.replace(self, **overrides)


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Recipe)


def _in_unit(value: float) -> bool:
    return 0.0 <= value <= 1.0


_positive, _not_negative = partial(operator.lt, 0), partial(operator.le, 0)

_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "classes": (lambda k: k >= 2, "at least 2"),
    # as for a net: beyond, the float32 nearest to it may be far from it
    "std": (lambda std: 2.0**-100 <= std <= 2.0**100, "2^-100 to 2^100"),
    "width": (_positive, "at least 1"),
    "depth": (_positive, "at least 1"),
    "hidden": (_not_negative, "at least 0"),
    "keep_prob": (lambda q: 0.0 < q <= 1.0, "0 < keep_prob <= 1"),
    "identity": (_not_negative, "at least 0"),
    # a margin is at most twice the width of the pixel range
    "theta": (lambda theta: 0.0 < theta < 2.0, "0 < theta < 2 in pixel units"),
    "hinge_mix": (_in_unit, "0 <= hinge_mix <= 1"),
    "eps_train": (lambda eps: 0.0 < eps < 1.0, "0 < eps_train < 1 in pixel units"),
    "kappa_natural": (_in_unit, "0 <= kappa_natural <= 1"),
    "eps_warmup_epochs": (_not_negative, "at least 0"),
    "ce_weight_start": (_positive, "more than 0"),
    "ce_weight_end": (_positive, "more than 0"),
    "logit_scale_lr": (_not_negative, "at least 0"),
    "logit_scale_decay": (_not_negative, "at least 0"),
    "lr": (_positive, "more than 0"),
    "beta1": (lambda beta: 0.0 <= beta < 1.0, "0 <= beta1 < 1"),
    "beta2": (lambda beta: 0.0 <= beta < 1.0, "0 <= beta2 < 1"),
    "adam_eps": (_positive, "more than 0"),
    "weight_decay": (_not_negative, "at least 0"),
    "batch_size": (_positive, "at least 1"),
    "p_start": (lambda p: p >= 1.0, "at least 1"),
    "p_end": (lambda p: p >= 1.0, "at least 1"),
    "epochs_const": (_not_negative, "at least 0"),
    "epochs_ramp": (_not_negative, "at least 0"),
    "epochs_inf": (_not_negative, "at least 0"),
    "crop_padding": (_not_negative, "at least 0"),
    "train_limit": (_not_negative, "at least 0"),
    "test_limit": (_not_negative, "at least 0"),
    "eps_test": (lambda eps: 0.0 < eps < 1.0, "0 < eps_test < 1 in pixel units"),
    "pgd_steps": (_positive, "at least 1"),
}


def check_name(name: str, where: str = "name") -> None:
    """Raises ValueError, saying `where` it was found, for a name that could not be a folder below results/."""
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", name):
        raise ValueError(
            f"{where} is {name!r}, expected words of letters, digits, '-', '_' and '.' with '/' between them"
        )


def _check_shapes(recipe: Recipe) -> None:
    if min(recipe.input_shape) < 1:
        raise ValueError(f"input_shape is {recipe.input_shape}, expected channels, height and width of at least 1")
    if len(recipe.mean) != recipe.input_shape[0]:
        raise ValueError(f"mean is {recipe.mean}, expected {recipe.input_shape[0]} numbers, one per channel")
    if not all(map(_in_unit, recipe.mean)):
        raise ValueError(f"mean is {recipe.mean}, expected numbers between 0 and 1, the range of a pixel")
    if recipe.crop_padding >= min(recipe.input_shape[1:]):
        raise ValueError(
            f"crop_padding is {recipe.crop_padding}, expected less than the image {recipe.input_shape[1:]}"
        )


def _check_model(recipe: Recipe) -> None:
    plain = recipe.model in _PLAIN
    if (recipe.model == "sortnet") != (recipe.keep_prob is not None):
        expected = "a number" if recipe.model == "sortnet" else "none"
        raise ValueError(f"keep_prob is {recipe.keep_prob}, expected {expected} for model {recipe.model}")
    if plain != (recipe.hidden == 0):
        raise ValueError(
            f"hidden is {recipe.hidden}, expected {'0' if plain else 'at least 1'} for model {recipe.model}"
        )
    if plain != (recipe.loss != "ibp"):
        expected = "'hinge' or 'clipped-hinge'" if plain else "'ibp'"
        raise ValueError(f"loss is {recipe.loss!r}, expected {expected} for model {recipe.model}")
    if recipe.model == "conv-linf-dist-net-mlp" and recipe.depth != 6:
        raise ValueError(f"depth is {recipe.depth}, expected 6 (five convolutions, one dense layer) for {recipe.model}")
    if recipe.model == "relu-net":
        _check_relu_net(recipe)


def _check_relu_net(recipe: Recipe) -> None:
    if recipe.depth not in (4, 7):
        raise ValueError(f"depth is {recipe.depth}, expected 4 or 7 (two or five convolutions) for {recipe.model}")
    if recipe.depth == 4 and min(recipe.input_shape[1:]) < 4:
        raise ValueError(f"input_shape is {recipe.input_shape}, expected sides of at least 4 for a {recipe.model}")
    idle = {"identity": 0, "epochs_const": 0, "epochs_ramp": 0, "p_start": 1, "p_end": 1, "p_ladder": False}
    for name, expected in (idle | {"cosine_from_start": False}).items():
        if (value := getattr(recipe, name)) != expected:
            raise ValueError(f"{name} is {value}, expected {expected} for {recipe.model}, which measures no distances")
    if recipe.decay == "lp":
        raise ValueError(f"decay is 'lp', expected 'l2' or 'none' for {recipe.model}, which measures no distances")


_OF_LOSS = {
    "hinge": ("theta", "hinge_mix"),
    "ibp": ("eps_train", "kappa_natural"),
    "clipped-hinge": ("theta", "ce_weight_start", "ce_weight_end", "logit_scale_lr", "logit_scale_decay"),
}


def _check_loss(recipe: Recipe) -> None:
    own = _OF_LOSS[recipe.loss]
    for name in itertools.chain(*_OF_LOSS.values()):
        value = getattr(recipe, name)
        if name in own and value is None:
            raise ValueError(f"{name} is missing, expected a number for loss {recipe.loss!r}")
        if name not in own and value is not None:
            raise ValueError(f"{name} is {value}, expected none for loss {recipe.loss!r}")
    if recipe.loss != "ibp" and recipe.eps_warmup_epochs:
        raise ValueError(f"eps_warmup_epochs is {recipe.eps_warmup_epochs}, expected 0 for loss {recipe.loss!r}")


def _check_decay(recipe: Recipe) -> None:
    if (recipe.decay == "none") != (recipe.weight_decay == 0):
        expected = "0" if recipe.decay == "none" else "more than 0"
        raise ValueError(f"weight_decay is {recipe.weight_decay}, expected {expected} for decay {recipe.decay!r}")


def _check_schedule(recipe: Recipe) -> None:
    if recipe.epochs < 1:
        raise ValueError("epochs_const + epochs_ramp + epochs_inf is 0, expected at least one epoch")
    if recipe.p_end < recipe.p_start:
        raise ValueError(f"p_end is {recipe.p_end}, expected at least p_start = {recipe.p_start}")
    if recipe.eps_warmup_epochs > recipe.epochs:
        raise ValueError(
            f"eps_warmup_epochs is {recipe.eps_warmup_epochs}, expected at most {recipe.epochs}, all epochs"
        )
    ends = (recipe.p_start, recipe.p_end)
    if recipe.p_ladder and not all(math.log2(p).is_integer() for p in ends):
        raise ValueError(f"p_ladder is True, expected powers of two for p_start, p_end = {ends}")


def _dense_flops(*widths: int) -> int:
    return sum(fan_in * fan_out for fan_in, fan_out in itertools.pairwise(widths))
