"""Images of one run, certified and broken, with what an attack made of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lib.experiments.published import METHOD
from lib.experiments.record import Record, Table
from lib.nets.models import Net
from lib.robustness.attacks import adversarial_images
from lib.robustness.inputs import executed_logits
from lib.training.data import batch
from lib.training.datasets import Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4  # images of each kind
TRIED = 40  # broken images that are attacked again to find some


def plot_examples(net: Net, images: Images, record: Record, table: Table, names: Sequence[str]) -> "Figure":
    """Up to four certified images, then up to four that the stronger attack broke: as they are, attacked, the change.

    Args:
        net: the run's own, on the CPU.
        images: the n images that the run was evaluated on, in their order.
        record, table: of the run.
        names: of the classes, K.

    The attack is the stronger one at record.eps, drawn anew; changes are shown with eps as white and -eps as
    black, colours averaged.
    """
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(3, 2 * COLUMNS, figsize=(10, 4.4), dpi=72, layout="constrained", squeeze=False)
    plt.close(figure)
    for axes in grid.flat:
        axes.set_axis_off()
    certified = _attacked(net, images, record, np.flatnonzero(table.certified[METHOD])[:COLUMNS])
    broken = _attacked(net, images, record, np.flatnonzero(table.clean & ~table.robust_strong)[:TRIED])
    broken = [example for example in broken if example.prediction != example.label][:COLUMNS]
    for first, heading, examples in ((0, "certified", certified), (COLUMNS, "broken", broken)):
        grid[0, first].text(0, 1.32, heading, transform=grid[0, first].transAxes, fontsize=12, weight="bold")
        for axes, example in zip(grid.T[first:], examples, strict=False):
            _show(axes, example, record.eps, names)
    return figure


class _Example(NamedTuple):
    image: Tensor  # [C, H, W]
    attacked: Tensor  # [C, H, W]
    label: int
    prediction: int  # for the attacked one


def _attacked(net: Net, images: Images, record: Record, rows: npt.NDArray[np.intp]) -> list[_Example]:
    if not len(rows):
        return []
    indices = torch.from_numpy(rows)
    x, y = batch(images, indices), images.labels[indices]
    attacked = adversarial_images(net, x, y, record.eps, record.recipe.pgd_steps, "smooth", record.seed)
    predictions = executed_logits(net, attacked).argmax(1)
    return [_Example(x[k], attacked[k], int(y[k]), int(predictions[k])) for k in range(len(rows))]


def _show(axes: "Sequence[Axes]", example: _Example, eps: float, names: Sequence[str]) -> None:
    change = ((example.attacked - example.image) / (2 * eps) + 0.5).mean(0, keepdim=True)
    titles = (names[example.label], f"read as {names[example.prediction]}", "change")
    for panel, pixels, title in zip(axes, (example.image, example.attacked, change), titles, strict=True):
        panel.imshow(_picture(pixels), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(title, fontsize=8)


def _picture(pixels: Tensor) -> npt.NDArray[Any]:
    """[C, H, W] as [H, W] or [H, W, 3], in [0, 1]."""
    picture: npt.NDArray[Any] = pixels.clamp(0, 1).permute(1, 2, 0).numpy()
    return picture[:, :, 0] if picture.shape[2] == 1 else picture
