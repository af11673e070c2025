"""Convolution weights in the layout that the processor wants, made once.

Covers: `Conv2d` on a CPU in fp32 and bf16, with zeros as padding.
Does not cover: GPUs, grouped and dilated convolutions.

On a CPU torch gives convolutions to oneDNN, which wants weights in blocks. torch makes these blocks at every call. For
a small picture this takes longer than the products. oneDNN runs the same code for weights that are packed already, so
the bits are the same. This is compared at the first call with each shape, in each process.

The functions of torch that do it have private names. Without them, or after an error of theirs, a convolution is that
of torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

LARGEST = 32 << 20
"""Most bytes of packed weights of a model; a larger model keeps the convolutions of torch.

Packed weights stand beside the weights. With Stable Diffusion's VAE in fp32 a worker took 100 to 240 MiB more, for a
gain of 0 to 2 % at 256 px.
"""

MOST_PIXELS = 4096
"""Packing pays where a batch has few pixels: 1.8 times at 4 x 4, 1.2 at 16 x 16, 1.02 at 64 x 64 (Xeon, fp32)."""

_same: dict[tuple[Any, ...], bool] = {}
"""Kind and input of a convolution -> whether the packed one gave the same bits in this process."""


@dataclass(frozen=True)
class Packing:
    """Functions of torch with private names.

    Attributes:
        pack: weights, padding, stride, dilation, groups, shape of the input -> packed weights.
        convolve: a convolution that takes packed weights.
    """

    pack: Callable[..., Any]
    convolve: Callable[..., Any]


def find_packing(torch: Any) -> Packing | None:
    """The functions in a namespace like `torch`; None if it lacks one, or was built without oneDNN."""
    try:
        if not torch.backends.mkldnn.is_available():
            return None
        return Packing(torch._C._nn.mkldnn_reorder_conv2d_weight, torch.ops.mkldnn._convolution_pointwise.default)
    except (AttributeError, RuntimeError):  # torch.ops raises either
        return None


def pack_convolutions(model: nn.Module, packing: Packing | None = None, largest: int = LARGEST) -> int:
    """The pass: change the convolutions of a model, if their weights take `largest` bytes at most. Returns how many."""
    import torch

    packing = packing or find_packing(torch)
    if packing is None:
        return 0
    layers: list[Any] = [one for one in model.modules() if type(one) is torch.nn.Conv2d and _is_known(one)]
    if sum(layer.weight.nbytes for layer in layers) > largest:
        return 0
    for layer in layers:
        layer.__class__ = _packed_conv()
        layer._packing = packing
    return len(layers)


def _is_known(layer: nn.Conv2d) -> bool:
    import torch

    weight = layer.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and weight.is_contiguous(memory_format=torch.channels_last)
        and (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
        and isinstance(layer.padding, tuple)
    )


@functools.cache
def _packed_conv() -> Any:
    import torch

    class PackedConv2d(torch.nn.Conv2d):
        """`Conv2d` for inference."""

        _packing: Packing
        _packed: tuple[Any, ...] | None = None

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            """See `Conv2d.forward`."""
            if torch.is_grad_enabled() or not self._fits(input):
                return super().forward(input)
            # torch chooses its code by the number of threads, too.
            kind = (self.weight.shape, self.stride, self.padding, input.dtype, self.bias is None)
            key = (*kind, input.shape, input.stride(), torch.get_num_threads())
            same = _same.get(key)
            if same is None:
                wanted = super().forward(input)
                found = self._convolve(input)
                _same[key] = found is not None and wanted.stride() == found.stride() and torch.equal(wanted, found)
                return wanted
            found = self._convolve(input) if same else None
            return super().forward(input) if found is None else found

        def _fits(self, input: torch.Tensor) -> bool:
            few = input.dim() == 4 and input.shape[0] * input.shape[2] * input.shape[3] <= MOST_PIXELS
            return few and input.is_cpu and input.dtype == self.weight.dtype

        def _convolve(self, input: torch.Tensor) -> torch.Tensor | None:
            """The convolution with packed weights; None after an error."""
            sizes = self.padding, self.stride, self.dilation, self.groups
            weight = self.weight
            try:
                now = (id(weight), weight.data_ptr(), weight._version)
                if self._packed is None or self._packed[0] != now:
                    packed = self._packing.pack(weight.to_mkldnn(), *sizes, input.shape)
                    self._packed = (now, packed)
                result: torch.Tensor = self._packing.convolve(input, self._packed[1], self.bias, *sizes, "none", [], "")
            except (RuntimeError, TypeError):
                return None
            return result

        def __getstate__(self) -> dict[str, Any]:
            return {name: value for name, value in self.__dict__.items() if name != "_packed"}

    return PackedConv2d
