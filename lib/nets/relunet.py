"""The ordinary network that interval bounds train (IBP): convolutions and dense layers with ReLU between them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.nets.box import Box
from lib.nets.head import Affine, Head, Increasing, Linear
from lib.nets.layers import few_images

# kernel, stride, and channels in multiples of the first ones; by depth of the net, in which two dense layers follow
CONVOLUTIONS = {
    4: [(4, 2, 1), (4, 2, 2)],
    7: [(3, 1, 1), (3, 1, 1), (3, 2, 2), (3, 1, 2), (3, 1, 2)],
}


class ReLU(Increasing):
    """Entrywise max(v, 0), exact in float32."""

    error = 0.0

    def forward(self, v: Tensor, p: float = math.inf) -> Tensor:
        """max(v, 0); p is not used."""
        return v.relu()


class Conv2d(Affine):
    """The convolution z = (W / sqrt(n)) * v + b of images in rows, n = C_in k^2, one pixel of zeros around each.

    Args:
        shape: (C_in, H, W) of an image.
        units: C_out.
        kernel_size, stride: k, and pixels from one patch to the next.
    """

    def __init__(self, shape: tuple[int, int, int], units: int, kernel_size: int, stride: int) -> None:
        super().__init__(units, shape[0], kernel_size, kernel_size)
        self.shape, self.kernel_size, self.stride = shape, kernel_size, stride

    def extra_repr(self) -> str:
        return f"shape={self.shape}, units={len(self.weight)}, kernel_size={self.kernel_size}, stride={self.stride}"

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C_out, H', W')."""
        height, width = ((side + 2 - self.kernel_size) // self.stride + 1 for side in self.shape[1:])
        return len(self.weight), height, width

    def product(self, weight: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """W * v + b, v [B, C_in H W] -> [B, C_out H' W'], in any order of summation.

        In training by torch's convolution, whose algorithm does not matter there.
        """
        images = v.unflatten(1, self.shape)
        if self.training:
            return F.conv2d(images, weight, bias, padding=1, stride=self.stride).flatten(1)
        # fast convolutions (Winograd's, Fourier's) mix the inputs of several patches, and `rounding` is not theirs
        parts = few_images(images, self.kernel_size, self.stride)
        z = torch.cat([self._by_patches(weight.flatten(1), part) for part in parts])
        return z if bias is None else z + self.per_output(bias)

    def bounds(self, box: Box) -> Box:
        """Bounds [B, d_out] in float64 of every z that float32 can execute for v in the box, whatever the order.

        Raises ValueError in training mode, where more than the order of a sum may differ.
        """
        if self.training:
            raise ValueError("bounds need a convolution in evaluation mode, got training mode (call eval())")
        return super().bounds(box)

    def per_output(self, of_units: Tensor) -> Tensor:
        """Each number H' W' times, as often as its unit is in a row."""
        return of_units.repeat_interleave(math.prod(self.output_shape[1:]))

    def _by_patches(self, weight: Tensor, images: Tensor) -> Tensor:
        return (weight @ F.unfold(images, self.kernel_size, padding=1, stride=self.stride)).flatten(1)


class ReLUHead(Head):
    """The `CONVOLUTIONS` of a depth, FC(hidden), FC(num_classes), with ReLU behind all but the last.

    Args:
        shape: (C, H, W) of the images.
        num_classes: number of logits K.
        width: channels of the first convolution.
        depth: affine layers, 4 or 7.
        hidden: units of the first dense layer.

    Raises:
        ValueError: another depth, or images too small for its convolutions.
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, width: int, depth: int, hidden: int) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise ValueError(f"depth must be one of {', '.join(map(str, CONVOLUTIONS))}, got {depth}")
        self.convolutions = nn.ModuleList()
        inside = shape
        for kernel_size, stride, multiple in CONVOLUTIONS[depth]:
            convolution = Conv2d(inside, multiple * width, kernel_size, stride)
            self.convolutions.append(convolution)
            inside = convolution.output_shape
        if min(inside) < 1:
            raise ValueError(f"input_shape must hold the kernels of depth {depth}, got {shape}")
        self.fc1 = Linear(math.prod(inside), hidden)
        self.relu = ReLU()
        self.fc2 = Linear(hidden, num_classes)

    def hidden_layers(self) -> list[Affine | Increasing]:
        """Every convolution and fc1, each with the ReLU behind it."""
        return [layer for affine in (*self.convolutions, self.fc1) for layer in (affine, self.relu)]
