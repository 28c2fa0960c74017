"""Whole nets on the device at hand, a GPU where there is one, beside the same nets on the CPU."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lib import certified_radius, certify, load, prune, save
from lib.nets.models import ConvLInfDistNetMLP, LInfDistNet, LInfDistNetMLP, Net, ReLUNet
from lib.nets.sortnet import SortNet
from lib.robustness.attacks import adversarial_images
from lib.robustness.inputs import executed_logits, pixel_box

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = (1, 8, 8)
NETS: dict[str, Callable[[], Net]] = {
    "plain": lambda: LInfDistNet(SHAPE, 3, width=70, depth=3, mean=0.2, std=0.4),
    "composite": lambda: LInfDistNetMLP(SHAPE, 3, width=70, depth=2, hidden=12, mean=0.2, std=0.4),
    "convolutional": lambda: ConvLInfDistNetMLP(SHAPE, 3, width=4, hidden=70, mean=0.2, std=0.4),
    "sortnet": lambda: SortNet(SHAPE, 3, width=70, depth=3, keep_prob=0.5, mean=0.2, std=0.4),
    "relu": lambda: ReLUNet(SHAPE, 3, width=4, depth=7, hidden=70, mean=0.2, std=0.4),
}


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> Net:
    """A net on the CPU, in evaluation mode, trained for a few steps so that its margins are not all the same."""
    torch.manual_seed(0)
    built = NETS[request.param]()
    optimizer = torch.optim.Adam(built.parameters(), lr=0.05)
    x, y = images()
    for step in range(20):
        optimizer.zero_grad()
        F.multi_margin_loss(built.train()(x, 8.0 if step < 10 else math.inf), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return built.eval()


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(60) % 3
    centers = torch.rand(3, *SHAPE, generator=generator)
    return (centers[y] + 0.1 * torch.randn(60, *SHAPE, generator=generator)).clamp(0, 1), y


def there(net: Net) -> Net:
    return copy.deepcopy(net).to(DEVICE)


@pytest.mark.parametrize("p", [2.0, 8.0, 37.3, math.inf])
def test_logits_are_those_of_the_cpu(net: Net, p: float) -> None:
    x, _ = images()
    torch.testing.assert_close(there(net)(x.to(DEVICE), p).cpu(), net(x, p), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("p", [8.0, 37.3])
def test_gradients_are_those_of_the_cpu(net: Net, p: float) -> None:
    x, y = images()
    moved = there(net)
    F.cross_entropy(net(x, p), y).backward()
    F.cross_entropy(moved(x.to(DEVICE), p), y.to(DEVICE)).backward()
    for (name, here), parameter in zip(net.named_parameters(), moved.parameters(), strict=True):
        assert here.grad is not None and parameter.grad is not None, name
        atol = 5e-3 * here.grad.abs().max().item()
        torch.testing.assert_close(
            parameter.grad.cpu(), here.grad, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_logits_of_images_in_a_box_lie_in_its_bounds(net: Net) -> None:
    x = images()[0].to(DEVICE)
    moved = there(net)
    box = pixel_box(x, 0.02)
    lower, upper = moved.bounds(box)
    for _ in range(20):
        logits = executed_logits(moved, torch.lerp(*box, torch.rand_like(x)).clamp(*box))
        assert ((lower <= logits) & (logits <= upper)).all()


@pytest.mark.parametrize("method", ["margin", "interval"])
def test_certificates_are_those_of_the_cpu_and_no_attack_breaks_them(net: Net, method: str) -> None:
    x, y = images()
    moved, far = there(net), (x.to(DEVICE), y.to(DEVICE))
    radii = certified_radius(net, x, y, method)  # type: ignore[arg-type]
    eps = min(0.9, max(1e-3, radii[radii > 0].median().item())) if (radii > 0).any() else 1e-3
    found = certify(moved, *far, eps, method)  # type: ignore[arg-type]
    assert {column.device.type for column in found} == {DEVICE.type}
    decided = (radii - eps).abs() > 1e-4
    assert torch.equal(found.certified.cpu()[decided], (radii > eps)[decided])
    for attack in ("pgd", "smooth"):
        attacked = adversarial_images(moved, *far, eps, 5, attack, seed=0)  # type: ignore[arg-type]
        assert ((attacked.double() - far[0].double()).abs() <= eps).all()
        assert (executed_logits(moved, attacked).argmax(1) == far[1])[found.certified].all()


def test_a_net_comes_back_from_disk_and_goes_to_the_device_again(net: Net, tmp_path: Path) -> None:
    x = images()[0].to(DEVICE)
    moved = there(net)
    save(moved, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors").to(DEVICE)
    assert torch.equal(executed_logits(again, x), executed_logits(moved, x))


@pytest.mark.parametrize("kind", ["plain", "composite"])
def test_a_pruned_net_is_equal_on_the_device(kind: str) -> None:
    torch.manual_seed(0)
    dense, x = NETS[kind]().eval(), images()[0].to(DEVICE)
    pruned = prune(dense).to(DEVICE)  # type: ignore[type-var]
    dense.to(DEVICE)
    assert torch.equal(executed_logits(pruned, x), executed_logits(dense, x))
    for sparse, whole in zip(pruned.bounds(pixel_box(x, 0.05)), dense.bounds(pixel_box(x, 0.05)), strict=True):
        assert torch.equal(sparse, whole)
