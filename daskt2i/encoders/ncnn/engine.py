"""Run the networks of an autoencoder with ncnn, in exact fp32, on a CPU.

Covers: whether it is possible here, loading from memory, images side by side, the comparison with torch.
Does not cover: which layers a model has (`translate`), when ncnn is chosen (`encoders.vae`).

ncnn computes 3x3 convolutions by Winograd's algorithm, with 4 to 5 times fewer multiplications. torch always asks
oneDNN for the direct algorithm.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.encoders.ncnn.network import INPUT, OUTPUT, Network
from daskt2i.encoders.ncnn.translate import Unsupported, decoder_network, encoder_network
from daskt2i.types import Runtime

OLDEST = (1, 0, 20261020)
"""The oldest version whose `extract` releases Python's lock. With 1.0.20250916 all other threads stood still meanwhile,
also the one that tells Dask's scheduler that the worker is alive."""

TOLERANCE = 1e-4
"""Largest difference from torch, as a part of the range of the values."""

MISSING = "the package ncnn is not installed"

PARITY_LATENT = 4
"""Side of the latent of the picture that both engines code when a model is loaded."""


class Refused(RuntimeError):
    """ncnn cannot run this model here. The text is a clause without a full stop."""


def reason_against(model: Any, runtime: Runtime) -> str | None:
    """Why ncnn cannot run a model here, as a clause; None if it can. It loads nothing but the package.

    Args:
        model: a diffusers model, or None to ask only about this process and the runtime.
        runtime: where and how the model would run.
    """
    if not runtime.device.startswith("cpu"):
        return f"ncnn is for processors, and the device is {runtime.device}"
    if runtime.precision != "fp32":
        return f"ncnn computes in fp32, and the precision is {runtime.precision}"
    try:
        _package()
        if model is not None:
            encoder_network(model)
            decoder_network(model)
    except Refused as error:
        return str(error)
    except Unsupported as error:
        return f"this model has {error}, and its form for ncnn is not known"
    return None


class Engine:
    """Encoder and decoder of one model. Threads may share it.

    Args:
        model: a loaded diffusers `AutoencoderKL`, fp32, on the CPU. It is not kept.
        runtime: where and how it runs.

    Raises:
        Refused: ncnn cannot load the model, or computes something else than torch.
    """

    def __init__(self, model: Any, runtime: Runtime) -> None:
        reason = reason_against(model, runtime)
        if reason is not None:
            raise Refused(reason)
        try:
            self._encoder, self._decoder = Net(encoder_network(model)), Net(decoder_network(model))
            self._threads = max(1, runtime.threads)
            difference = _difference(self, model)
        except Refused:
            raise
        except Exception as error:  # ncnn and pybind11 raise many kinds, and none of them is a reason to stop here
            raise Refused(f"ncnn failed when it was loaded: {first_line(error)}") from error
        if not difference <= TOLERANCE:  # NaN is refused too
            raise Refused(f"its values differ from torch's by {difference:.0e} of their range")

    def encode(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """`fp32[n, 3, height, width]` in the range of the model -> mean and log-variance, `fp32[n, 2 z, h, w]`.

        The result for an image does not depend on the others, nor on the number of threads.
        """
        return self._encoder.run_all(pixels, self._threads)

    def decode(self, latents: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """`fp32[n, z, h, w]` -> pictures in the range of the model, `fp32[n, 3, height, width]`."""
        return self._decoder.run_all(latents, self._threads)


class Net:
    """One network, loaded."""

    def __init__(self, network: Network) -> None:
        ncnn = _package()
        net = ncnn.Net()
        options = net.opt
        options.num_threads = 1
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage", "vulkan_compute"):
            setattr(options, f"use_{name}", False)
        if net.load_param_mem(network.text()):
            raise Refused("ncnn cannot read the network")
        reader = _reader(ncnn, network.weights())
        if net.load_model(reader) or not reader.at_end:
            raise Refused("ncnn cannot read the weights")
        self._net = net

    def run_all(self, items: npt.NDArray[np.float32], threads: int) -> npt.NDArray[np.float32]:
        """Items side by side, one thread for each.

        Threads that share an item wait for each other at every layer. Where other work ran beside, two threads took ten
        times as long as one for the demo's VAE; two items side by side took half of the time.
        """
        at_once = min(threads, len(items))
        if at_once < 2:
            return np.stack([self.run(one) for one in items])
        with ThreadPoolExecutor(at_once) as pool:
            return np.stack(list(pool.map(self.run, items)))

    def run(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """One item, by one thread."""
        ncnn = _package()
        values = np.ascontiguousarray(values, np.float32)
        extractor = self._net.create_extractor()
        # The Mat has no reference to the array, so `values` must live until the end.
        extractor.input(INPUT, ncnn.Mat(values))
        code, out = extractor.extract(OUTPUT)
        if code:
            raise MemoryError(f"ncnn has no memory for a picture (code {code})")
        return np.array(out)


def _package() -> Any:
    """The package ncnn.

    Raises:
        Refused: it is missing, too old, or broken.
    """
    try:
        ncnn = importlib.import_module("ncnn")
    except ModuleNotFoundError:
        raise Refused(MISSING) from None
    except Exception as error:  # a library of another processor or system
        raise Refused(f"the package ncnn cannot be imported: {first_line(error)}") from error
    version = str(getattr(ncnn, "__version__", ""))
    if tuple(int(part) for part in version.split(".") if part.isdigit()) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise Refused(f"the package ncnn is {version or 'of an unknown version'}, older than {oldest}")
    return ncnn


def _reader(ncnn: Any, parts: Iterator[npt.NDArray[np.uint8]]) -> Any:
    """A `DataReader` of ncnn that copies one tensor after the other, so that no whole copy of the weights exists.

    `Net.load_model_mem` is no choice: ncnn would keep pointers into a Python string that is gone after the call.
    """
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.argtypes, address.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p

    class Reader(ncnn.DataReader):
        left = np.empty(0, np.uint8)

        def scan(self, _format: str, _target: object) -> int:
            return 0

        def read(self, target: object, size: int) -> int:
            done, start = 0, address(target, None)
            while done < size:
                if not len(self.left):
                    part = next(parts, None)
                    if part is None:
                        return done
                    self.left = part
                count = min(size - done, len(self.left))
                ctypes.memmove(start + done, self.left.ctypes.data, count)
                self.left, done = self.left[count:], done + count
            return done

        @property
        def at_end(self) -> bool:
            return not len(self.left) and next(parts, None) is None

    return Reader()


def _difference(engine: Engine, model: Any) -> float:
    """The difference from torch for one small picture, encoded and decoded: a part of the range of the values."""
    import torch

    side = PARITY_LATENT * 2 ** (len(model.config["block_out_channels"]) - 1)
    ramp = np.linspace(-0.7, 0.7, side, dtype=np.float32)
    smooth = np.stack([np.outer(ramp, ramp), np.tile(ramp, (side, 1)), np.tile(ramp[:, None], side)])
    pixels = smooth[None] + np.random.default_rng(0).uniform(-0.3, 0.3, (1, 3, side, side)).astype(np.float32)
    with torch.inference_mode():
        parameters = model.encode(torch.from_numpy(pixels)).latent_dist.parameters
        mean = parameters[:, : parameters.shape[1] // 2].contiguous()
        picture = model.decode(mean).sample
    return max(
        difference_of_range(engine.encode(pixels), parameters.numpy()),
        difference_of_range(engine.decode(mean.numpy()), picture.numpy()),
    )


def difference_of_range(ours: npt.NDArray[np.float32], plain: npt.NDArray[np.float32]) -> float:
    """The largest difference divided by the range of `plain`; infinite if shapes differ or a value is not finite."""
    if ours.shape != plain.shape or not (np.isfinite(ours).all() and np.isfinite(plain).all()):
        return math.inf
    return float(np.abs(ours - plain).max() / max(float(np.ptp(plain)), 1e-30))


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
