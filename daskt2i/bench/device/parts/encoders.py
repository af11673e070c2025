"""Encoders alone: images/s of an autoencoder, captions/s of a text model.

    daskt2i   the encoder as `encode` calls it: pixels or captions from the CPU, arrays back on the CPU
    naive     as the original study: fp32, one item at a time, captions padded to the full length
    module    the bare module of the library, the same weights; its input and its output stay on the device

Covers: precisions, channels_last against torch's own order, batches; all ways of a group take turns.
Does not cover: reading, decoding and writing (`whole_path`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from daskt2i.bench.device.clock import NO_TIME, Clock, Way, figures, operations, why_not
from daskt2i.bench.device.recorder import Recorder
from daskt2i.bench.device.sizes import Sizes, image_component, text_component
from daskt2i.bench.encode.naive import caption_states, image_latents, plain_module
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.protocols import ImageEncoder
from daskt2i.protocols import TextEncoder as AnyTextEncoder
from daskt2i.sources.scenes import ScenesSource
from daskt2i.types import Precision, Runtime

PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
FIRST, OTHER = "channels_last", "contiguous"


def measure(sizes: Sizes, clock: Clock, record: Recorder) -> None:
    """Record one line for each way of each group, and the text models after the autoencoders."""
    for name, arguments in sizes.images.items():
        _images(name, arguments, sizes, clock, record)
    for name, arguments in sizes.texts.items():
        _texts(name, arguments, sizes, clock, record)


def write(ways: list[Way], record: Recorder) -> None:
    """Record the ways of a group, each compared with the naive way and with its bare module."""
    rates = {tuple(way.values.get(k) for k in ("way", "precision", "layout")): figures(way).get("rate") for way in ways}
    naive = next((rate for key, rate in rates.items() if key[0] in ("naive", "plain", "diffusers") and rate), None)
    for way in ways:
        values = figures(way)
        if isinstance(rate := values.get("rate"), float):
            module = rates.get(("module", way.values.get("precision"), FIRST))
            if isinstance(naive, float):
                values["of_naive"] = rate / naive
            if isinstance(module, float) and way.values["way"] == "daskt2i":
                values["of_module"] = rate / module
        record.cell({**way.values, **values}, *([way.flag] if way.flag else []))
        if isinstance(rate, float):
            text = " ".join(
                str(way.values[k]) for k in ("model", "way", "px", "precision", "layout") if way.values.get(k)
            )
            record.tell(f"{text}: {rate:.4g} {way.values['unit']}/s")


def _images(name: str, arguments: Mapping[str, Any], sizes: Sizes, clock: Clock, record: Recorder) -> None:
    import torch

    key = {"model": name, "unit": "images"}
    models: dict[str, Any] = {}
    refused: list[Way] = []
    with torch.inference_mode():
        try:
            models["naive"] = plain_module(_image(arguments), Runtime(clock.device, "fp32", clock.threads))
            models["naive"].to(memory_format=torch.contiguous_format)
        except Exception as error:
            refused.append(_refused({**key, "way": "naive", "precision": "fp32", "layout": OTHER}, error))
        for precision in PRECISIONS:
            try:
                encoder = _image(arguments)
                runtime = Runtime(clock.device, precision, clock.threads)
                encoder.load(runtime)
                plain = encoder.plain(runtime)
                other = copy.deepcopy(plain).to(memory_format=torch.contiguous_format)
                models[precision] = (encoder, plain, other)
            except Exception as error:
                refused.append(_refused({**key, "way": "daskt2i", "precision": precision, "layout": FIRST}, error))
        write(refused, record)
        for batch in sizes.batches:
            for side in sizes.sides:
                if record.left() <= 0:
                    record.cell({**key, "px": side, "batch": batch}, NO_TIME)
                    continue
                ways = _image_ways(key | {"px": side}, models, side, batch, clock)
                clock.take_turns(ways, sizes.rounds, sizes.sample_seconds, record.left)
                write(ways, record)
                clock.free()


def _image(arguments: Mapping[str, Any]) -> VaeEncoder:
    made: VaeEncoder = image_component(arguments).build(ImageEncoder, "dataset.encoders.image")
    return made


def _image_ways(key: Mapping[str, Any], models: Mapping[str, Any], side: int, batch: int, clock: Clock) -> list[Way]:
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    ways: list[Way] = []
    flop = 0.0
    if (plain := models.get("naive")) is not None:
        device = clock.device
        values = {**key, "way": "naive", "precision": "fp32", "layout": OTHER, "batch": 1}
        ways.append(Way(values, lambda: [image_latents(plain, one, device) for one in pixels], batch))
        flop = operations(lambda: image_latents(plain, pixels[0], device))
    for precision in PRECISIONS:
        if precision not in models:
            continue
        encoder, bare, other = models[precision]
        dtype = next(other.parameters()).dtype
        given = torch.from_numpy(pixels).to(clock.device).permute(0, 3, 1, 2).to(dtype) / 127.5 - 1
        same = {**key, "precision": precision, "batch": batch}
        tf32 = precision != "fp32"  # daskt2i computes true fp32
        ways.append(Way({**same, "way": "daskt2i", "layout": FIRST}, _call(encoder.encode, pixels, batch), batch, tf32))
        for layout, module in ((FIRST, bare), (OTHER, other)):
            order = getattr(torch, "channels_last" if layout == FIRST else "contiguous_format")
            ready = given.contiguous(memory_format=order)
            ways.append(Way({**same, "way": "module", "layout": layout}, _call(module.encode, ready), batch, tf32))
    for way in ways:
        way.flop = flop
    return ways


def _texts(name: str, arguments: Mapping[str, Any], sizes: Sizes, clock: Clock, record: Recorder) -> None:
    import torch

    captions = _captions(sizes.captions)
    key: dict[str, Any] = {"model": name, "unit": "captions"}
    ways: list[Way] = []
    with torch.inference_mode():
        for precision in (None, *PRECISIONS):
            runtime = Runtime(clock.device, precision or "fp32", clock.threads)
            try:
                encoder: TextEncoder = text_component(arguments).build(AnyTextEncoder, "dataset.encoders.text")
                if precision is None:
                    ways.append(_naive_text(key, encoder, runtime, captions))
                else:
                    ways += _text_ways(key, encoder, runtime, captions, sizes.text_batch)
            except Exception as error:
                ways.append(_refused({**key, "way": "daskt2i", "precision": runtime.precision}, error))
        clock.take_turns(ways, sizes.rounds, sizes.sample_seconds, record.left)
    write(ways, record)
    clock.free()


def _captions(count: int) -> list[str]:
    """Different captions of drawn scenes."""
    rows = ScenesSource(count).rows(0, count)
    return list(dict.fromkeys(caption for row in rows for caption in row.captions))[:count]


def _tokenizer(encoder: TextEncoder) -> tuple[Any, int]:
    import transformers

    found = transformers.AutoTokenizer.from_pretrained(  # a folder on this machine  # nosec B615
        str(encoder.tokenizer_folder()), trust_remote_code=False, local_files_only=True
    )
    return found, int(encoder.info().attributes["max_tokens"])


def _naive_text(key: Mapping[str, Any], encoder: TextEncoder, runtime: Runtime, captions: list[str]) -> Way:
    tokenizer, length = _tokenizer(encoder)
    model, device = plain_module(encoder, runtime), runtime.device
    some = captions[: max(1, len(captions) // 8)]  # one at a time is slow, and one is like the other
    values = {**key, "way": "naive", "precision": "fp32", "batch": 1}
    return Way(values, lambda: [caption_states(model, tokenizer, length, one, device) for one in some], len(some))


def _text_ways(
    key: Mapping[str, Any], encoder: TextEncoder, runtime: Runtime, captions: list[str], batch: int
) -> list[Way]:
    import torch

    encoder.load(runtime)
    tokenizer, length = _tokenizer(encoder)
    ids = tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    parts = ids["input_ids"].to(runtime.device).split(batch)
    module = encoder.module

    def bare() -> None:
        for part in parts:
            module(input_ids=part)

    same = {**key, "precision": runtime.precision, "batch": batch}
    tf32 = runtime.precision != "fp32"
    flop = operations(lambda: module(input_ids=parts[0][:1]))
    with torch.inference_mode():
        return [
            Way({**same, "way": "daskt2i"}, _call(encoder.encode, captions, batch), len(captions), tf32),
            Way({**same, "way": "module padded"}, bare, len(captions), tf32, flop),
        ]


def _refused(values: Mapping[str, Any], error: BaseException) -> Way:
    return Way(dict(values), lambda: None, 1, flag=why_not(error))


def _call(function: Any, *arguments: Any) -> Any:
    return lambda: function(*arguments)
