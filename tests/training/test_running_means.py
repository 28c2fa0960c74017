import pytest
import torch

from lib.nets.normalisation import MeanShift
from lib.nets.sortnet import SortNet
from lib.training import running_means
from lib.training.data import batch
from lib.training.datasets import Images


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (70, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.zeros(70, dtype=torch.int64), 1 / 255)


@pytest.fixture
def net() -> SortNet:
    torch.manual_seed(0)
    return SortNet((1, 4, 4), 3, width=20, depth=4, keep_prob=0.5)


def test_running_means_are_those_of_the_evaluated_layers(net, images):
    running_means.collect_running_means_(net, images)
    outputs = net.activations(batch(images, torch.arange(70)))
    for values in outputs[1:]:
        torch.testing.assert_close(values.mean(0), torch.zeros(20), atol=1e-5, rtol=0)


def test_chunks_of_different_length_weigh_by_their_images(net, images, monkeypatch):
    monkeypatch.setattr(running_means, "CHUNK", 32)
    running_means.collect_running_means_(net, images)
    first = net.layers[0]
    distances = torch.cdist(net.normalize(batch(images, torch.arange(70))).flatten(1), first.weight, p=float("inf"))
    torch.testing.assert_close(first.shift.running_mean, distances.mean(0))


def test_of_larger_images_it_takes_the_middle(net, images):
    running_means.collect_running_means_(net, images)
    wanted = net.layers[0].shift.running_mean.clone()
    framed = torch.nn.functional.pad(images.pixels, (2, 2, 2, 2), value=255)
    running_means.collect_running_means_(net, Images(framed, images.labels, images.scale))
    assert torch.equal(net.layers[0].shift.running_mean, wanted)


def test_it_draws_nothing_and_leaves_modes_momenta_and_weights_as_they_belong(net, images):
    before, weights = torch.get_rng_state(), [parameter.clone() for parameter in net.parameters()]
    running_means.collect_running_means_(net.train(), images)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in net.modules())
    assert {module.momentum for module in net.modules() if isinstance(module, MeanShift)} == {0.1}
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), weights, strict=True))


def test_means_from_before_are_forgotten(net, images):
    running_means.collect_running_means_(net, images)
    once = {name: value.clone() for name, value in net.state_dict().items()}
    for layer in net.layers:
        layer.shift.running_mean.fill_(7.0)
    running_means.collect_running_means_(net, images)
    assert all(torch.equal(value, once[name]) for name, value in net.state_dict().items())
