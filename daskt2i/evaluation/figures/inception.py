"""The Inception network of FID: that of TensorFlow's archive of 2015-12-05, as torch modules.

Covers: the layers up to the pooled features, with the names of tensors in the files that pytorch-fid and torch-fidelity
read; the size and range of its pictures.
Does not cover: reading weights (`extractors`), distances (`distances`).

It is the network of Szegedy et al. (arXiv:1512.00567) with the two peculiarities of the archive: an average leaves out
the padding, and the last block takes a maximum. FID of the literature is defined by its weights, so other weights give
figures that cannot be compared. Pictures are scaled as pytorch-fid does it: bilinear without antialiasing, values from
-1 to 1. tests/evaluation/figures/test_inception.py compares it with a plain list of the layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

FEATURES = 2048
SIDE = 299
"""Side of the pictures that it takes, pixels."""

FIRST = "Conv2d_1a_3x3.conv.weight"
"""A tensor that tells the file of this network from others."""

Layer = tuple[int, Any, int, Any]
"""Channels, kernel, stride, padding of a convolution."""


def build() -> nn.Module:
    """The network without weights: `float32[n, 3, 299, 299]` from -1 to 1, to `float32[n, 2048]`."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Convolution(nn.Module):
        def __init__(self, channels: int, out: int, kernel: Any, stride: int = 1, padding: Any = 0) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
            self.bn = nn.BatchNorm2d(out, eps=0.001)

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(self.bn(self.conv(x)), inplace=True)

    class Block(nn.Module):
        """Branches side by side, each a row of convolutions; a branch may end in two, and one begins with a pool."""

        def __init__(self, channels: int, branches: dict[str, tuple[Layer, ...]], pool: str) -> None:
            super().__init__()
            self.pool, self.branches = pool, {}
            for name, layers in branches.items():
                width, row = channels, []
                for number, (out, kernel, stride, padding) in enumerate(layers, 1):
                    last = len(layers) > 1 and name not in ("branch1x1", "branch_pool")
                    label = f"{name}_{number}" if last else name
                    setattr(self, label, Convolution(width, out, kernel, stride, padding))
                    row.append(label)
                    width = out
                self.branches[name] = row

        def forward(self, x: Tensor) -> Tensor:
            found = [self._row(name, x) for name in self.branches if name != "branch_pool"]
            if self.pool == "reduce":
                found.append(functional.max_pool2d(x, 3, 2))
            elif self.pool == "max":
                found.append(self._row("branch_pool", functional.max_pool2d(x, 3, 1, 1)))
            else:
                found.append(self._row("branch_pool", functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)))
            return torch.cat(found, 1)

        def _row(self, name: str, x: Tensor) -> Tensor:
            for label in self.branches[name]:
                x = getattr(self, label)(x)
            return x

    class Wide(nn.Module):
        """The last blocks: two branches end in a pair of flat and high convolutions."""

        def __init__(self, channels: int, pool: str) -> None:
            super().__init__()
            self.pool = pool
            self.branch1x1 = Convolution(channels, 320, 1)
            self.branch3x3_1 = Convolution(channels, 384, 1)
            self.branch3x3dbl_1 = Convolution(channels, 448, 1)
            self.branch3x3dbl_2 = Convolution(448, 384, 3, 1, 1)
            for name in ("branch3x3_2", "branch3x3dbl_3"):
                setattr(self, f"{name}a", Convolution(384, 384, (1, 3), 1, (0, 1)))
                setattr(self, f"{name}b", Convolution(384, 384, (3, 1), 1, (1, 0)))
            self.branch_pool = Convolution(channels, 192, 1)

        def forward(self, x: Tensor) -> Tensor:
            short, long = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
            if self.pool == "max":
                pooled = functional.max_pool2d(x, 3, 1, 1)
            else:
                pooled = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            pairs = [
                *(getattr(self, f"branch3x3_2{which}")(short) for which in "ab"),
                *(getattr(self, f"branch3x3dbl_3{which}")(long) for which in "ab"),
            ]
            return torch.cat([self.branch1x1(x), *pairs, self.branch_pool(pooled)], 1)

    def first(channels: int, pooled: int) -> Block:
        double = ((64, 1, 1, 0), (96, 3, 1, 1), (96, 3, 1, 1))
        branches: dict[str, tuple[Layer, ...]] = {"branch1x1": ((64, 1, 1, 0),)}
        branches |= {"branch5x5": ((48, 1, 1, 0), (64, 5, 1, 2)), "branch3x3dbl": double}
        return Block(channels, branches | {"branch_pool": ((pooled, 1, 1, 0),)}, "average")

    def middle(width: int) -> Block:
        flat, high = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        single = ((width, 1, 1, 0), (width, *flat), (192, *high))
        double = ((width, 1, 1, 0), (width, *high), (width, *flat), (width, *high), (192, *flat))
        branches: dict[str, tuple[Layer, ...]] = {"branch1x1": ((192, 1, 1, 0),), "branch7x7": single}
        return Block(768, branches | {"branch7x7dbl": double, "branch_pool": ((192, 1, 1, 0),)}, "average")

    class Inception(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2)
            self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
            self.Conv2d_2b_3x3 = Convolution(32, 64, 3, 1, 1)
            self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
            self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
            self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = first(192, 32), first(256, 64), first(288, 64)
            self.Mixed_6a = Block(
                288,
                {
                    "branch3x3": ((384, 3, 2, 0),),
                    "branch3x3dbl": ((64, 1, 1, 0), (96, 3, 1, 1), (96, 3, 2, 0)),
                },
                "reduce",
            )
            self.Mixed_6b, self.Mixed_6c = middle(128), middle(160)
            self.Mixed_6d, self.Mixed_6e = middle(160), middle(192)
            self.Mixed_7a = Block(
                768,
                {
                    "branch3x3": ((192, 1, 1, 0), (320, 3, 2, 0)),
                    "branch7x7x3": ((192, 1, 1, 0), (192, (1, 7), 1, (0, 3)), (192, (7, 1), 1, (3, 0)), (192, 3, 2, 0)),
                },
                "reduce",
            )
            self.Mixed_7b, self.Mixed_7c = Wide(1280, "average"), Wide(2048, "max")

        def forward(self, x: Tensor) -> Tensor:
            x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
            x = functional.max_pool2d(x, 3, 2)
            x = functional.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
            for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
                x = getattr(self, f"Mixed_{name}")(x)
            return x.mean((2, 3))

    return Inception()


def prepared(pixels: Tensor) -> Tensor:
    """`uint8[n, y, x, 3]` to what the network takes, as pytorch-fid prepares it."""
    from torch.nn import functional

    values = pixels.permute(0, 3, 1, 2).float() / 255
    return functional.interpolate(values, (SIDE, SIDE), mode="bilinear", align_corners=False) * 2 - 1
