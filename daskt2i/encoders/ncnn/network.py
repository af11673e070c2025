"""The text and the weights of a network in ncnn's format, made layer by layer.

Covers: layers, the blobs between them, the order of the weights.
Does not cover: which layers a model has (`translate`), running it (`engine`).

ncnn reads a text with one line for each layer (kind, name, numbers of inputs and outputs, their names, parameters), and
then the weights of all layers, one after the other. Each blob may have one reader only, so a blob with several readers
goes through a layer `Split`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

MAGIC = 7767517
"""The first line of the text, from ncnn's net.cpp."""

INPUT, OUTPUT = "in0", "out0"
"""Names of the first and the last blob."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Attributes:
        kind: ncnn's name of the layer.
        inputs: the blobs that it reads.
        output: the blob that it makes.
        parameters: number of the parameter -> value, as ncnn's documentation of the layer lists them.
        weights: tensors in the order in which ncnn reads them. The flag says whether ncnn expects a type before it.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    parameters: Mapping[int, str | int | float]
    weights: tuple[tuple[torch.Tensor, bool], ...] = ()


@dataclass(slots=True)
class Network:
    """A network with one input and one output.

    Attributes:
        layers: in the order in which they run.
        last: the blob that the last layer made.
    """

    layers: list[Layer] = field(default_factory=list)
    last: str = INPUT

    def add(
        self,
        kind: str,
        inputs: Sequence[str],
        parameters: Mapping[int, Any] | None = None,
        weights: Sequence[tuple[torch.Tensor, bool]] = (),
    ) -> str:
        """Append a layer. Returns the name of its output."""
        self.last = f"b{len(self.layers)}"
        self.layers.append(Layer(kind, tuple(inputs), self.last, dict(parameters or {}), tuple(weights)))
        return self.last

    def text(self) -> str:
        """The text that `ncnn.Net.load_param_mem` reads."""
        readers = Counter(name for layer in self.layers for name in layer.inputs)
        given: Counter[str] = Counter()
        lines = [_line("Input", INPUT, (), (INPUT,), {})]
        lines += _split(INPUT, readers[INPUT])
        blobs = 1 + (readers[INPUT] if readers[INPUT] > 1 else 0)
        for layer in self.layers:
            inputs = []
            for name in layer.inputs:
                inputs.append(f"{name}_{given[name]}" if readers[name] > 1 else name)
                given[name] += 1
            output = OUTPUT if layer.output == self.last else layer.output
            lines.append(_line(layer.kind, layer.output, inputs, (output,), layer.parameters))
            lines += _split(layer.output, readers[layer.output])
            blobs += 1 + (readers[layer.output] if readers[layer.output] > 1 else 0)
        return "\n".join([str(MAGIC), f"{len(lines)} {blobs}", *lines, ""])

    def weights(self) -> Iterator[npt.NDArray[np.uint8]]:
        """The bytes of all weights, in fp32, one tensor after the other. Only one of them is a copy at a time."""
        for layer in self.layers:
            for tensor, typed in layer.weights:
                if typed:  # 0: plain fp32 follows
                    yield np.zeros(4, np.uint8)
                yield tensor.detach().float().contiguous().numpy().reshape(-1).view(np.uint8)


def _split(name: str, readers: int) -> list[str]:
    if readers < 2:
        return []
    return [_line("Split", f"{name}_split", (name,), [f"{name}_{index}" for index in range(readers)], {})]


def _line(
    kind: str, name: str, inputs: Sequence[str], outputs: Sequence[str], parameters: Mapping[int, str | int | float]
) -> str:
    values = [
        f"{key}={value:.9e}" if isinstance(value, float) else f"{key}={value}" for key, value in parameters.items()
    ]
    return " ".join([kind, name, str(len(inputs)), str(len(outputs)), *inputs, *outputs, *values])
