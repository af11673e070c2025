"""Train the two small encoders that the package carries: `python workflows/train_demo_encoders.py --out DIR --seed 0`.

`DIR/vae` is a diffusers `AutoencoderKL` (64 pixels -> 4 x 16 x 16), `DIR/text` a transformers `CLIPTextModel` with its
tokenizer, `DIR/figures.json` what was measured on scenes that neither has seen. Both learn from drawn scenes; the
autoencoder also from textures made below, so that photographs, which it has never seen, survive it too. The text model
learns against a small image tower, which is measured here and then thrown away.

Takes about an hour on two cores. docs/demo-encoders.md holds the figures of the ones we ship.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from daskt2i.sources.drawing import BACKGROUNDS, COLOURS, OPPOSITE, PLACES, SHAPE_COLOURS, SHAPES, Scene
from daskt2i.sources.grammar import Expectation, captions, describe, expected, parse_caption
from daskt2i.sources.scenes import jpeg, scene

PIXELS = 64
TRAINED, UNSEEN = 7_000_001, 7_000_002
"""Seeds of the scenes for training and for measuring; the demo data set has seed 0, so nothing of it is seen here."""

WORDS = """
man men woman women boy girl child children kid people person group crowd couple baby player rider skier surfer
sitting standing walking riding holding playing eating looking running jumping lying wearing flying skiing surfing
talking cutting cooking driving parked posing smiling watching waiting swinging throwing catching hitting carrying
street road city building house room kitchen bathroom bedroom table chair couch bed desk floor wall window door
field grass park beach ocean water river lake snow mountain hill forest tree trees sky sun cloud sand dirt
dog cat horse cow sheep bird elephant giraffe zebra bear animal animals herd train bus car truck motorcycle bicycle
bike plane airplane boat ship traffic light stop sign clock tower bench bridge fence station track airport runway
pizza cake sandwich food plate bowl cup glass bottle wine coffee fruit apple banana orange vegetables salad bread
meat knife fork spoon oven stove refrigerator sink toilet mirror shower television laptop computer keyboard phone
umbrella bag tie hat shirt jacket suit dress shoes helmet tennis baseball soccer ball bat racket court game kite
skateboard snowboard surfboard skis frisbee teddy toy book books vase flowers flower plant lamp picture photo view
black white red blue green yellow brown grey gray pink purple colorful dark bright wooden old young little small
large big long tall short empty full open closed several many some few lots other various different next near front
behind inside outside under over above below along across around through between beside against into onto from with
without while during after before that this these those there their them they his her him she its has have had was
were been being are and the for out off down up top bottom side middle left right background foreground corner edge
one two three four five six seven eight nine ten first second some very just about like getting ready taking made
photograph filled covered surrounded displayed sits stands holds rides plays looks walks runs eats ing ed er est ly
"""
"""Common English words for the tokenizer's merges; whatever is not among them falls back to bytes."""


# --- pictures -------------------------------------------------------------------------------------------------------


def picture(one: Scene) -> np.ndarray:
    """A scene as the encode stage sees it: JPEG at full size, shorter side to 64, centre crop. `uint8[64, 64, 3]`."""
    image = Image.open(io.BytesIO(jpeg(one)))
    scale = PIXELS / min(image.size)
    image = image.resize(tuple(max(PIXELS, round(side * scale)) for side in image.size), Image.Resampling.BICUBIC)
    left, top = (image.width - PIXELS) // 2, (image.height - PIXELS) // 2
    return np.asarray(image.crop((left, top, left + PIXELS, top + PIXELS)))


def twin(one: Scene, rng: np.random.Generator) -> Scene:
    """A scene that differs from another in one respect: the negative that is hardest to tell from it."""
    things = list(one.things)
    kind = rng.choice(["swap colours", "swap shapes", "swap places", "colour", "shape", "background"])
    if len(things) == 2 and str(kind).startswith("swap"):
        a, b = things
        if kind == "swap colours" and a.colour != b.colour:
            a, b = (dataclasses.replace(t, colour=o.colour, rgb=o.rgb) for t, o in ((a, b), (b, a)))
        elif kind == "swap shapes" and a.shape != b.shape:
            a, b = dataclasses.replace(a, shape=b.shape), dataclasses.replace(b, shape=a.shape)
        else:
            a, b = (dataclasses.replace(t, x=o.x, y=o.y, place=o.place) for t, o in ((a, b), (b, a)))
        things = [a, b]
    elif len(things) == 1 and kind == "swap places":
        a = things[0]
        place = OPPOSITE.get(a.place)
        if place:
            things = [dataclasses.replace(a, x=1000 - a.x, y=1000 - a.y, place=place)]
    elif kind == "background":
        taken = {one.background, *(thing.colour for thing in things)}
        other = str(rng.choice([name for name in BACKGROUNDS if name not in taken]))
        return dataclasses.replace(one, index=one.index + 10**9, background=other, background_rgb=_rgb(other))
    else:
        i = int(rng.integers(len(things)))
        a = things[i]
        if kind in ("shape", "swap shapes"):
            things[i] = dataclasses.replace(a, shape=str(rng.choice([name for name in SHAPES if name != a.shape])))
        else:
            free = [name for name in SHAPE_COLOURS if name not in (a.colour, one.background)]
            colour = str(rng.choice(free))
            things[i] = dataclasses.replace(a, colour=colour, rgb=_rgb(colour))
    return dataclasses.replace(one, index=one.index + 10**9, things=tuple(things))


def _rgb(name: str) -> tuple[int, int, int]:
    return COLOURS[name]


def textures(count: int, rng: np.random.Generator) -> np.ndarray:
    """Made-up pictures with the statistics of photographs: `uint8[count, 64, 64, 3]`."""
    kinds = (_leaves, _leaves, _noise, _gradient, _grid)
    pictures = [kinds[i % len(kinds)](rng) for i in range(count)]
    return np.clip(np.stack(pictures), 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A colour as they come in photographs: mostly muted, sometimes vivid."""
    grey = rng.uniform(0, 255)
    return np.clip(grey + rng.normal(0, rng.choice([12, 35, 80]), 3), 0, 255)


def _axes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:PIXELS, 0:PIXELS].astype(np.float64)
    angle = rng.uniform(0, 2 * np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Octaves of smooth noise whose strength falls with frequency, as in nature."""
    field = np.zeros((PIXELS, PIXELS, 3))
    slope = rng.uniform(0.6, 1.3)
    for octave in range(1, 7):
        coarse = rng.normal(0, 1, (2**octave, 2**octave, 3))
        coarse = coarse * rng.uniform(0, 0.6) + coarse.mean(axis=2, keepdims=True)
        for channel in range(3):
            layer = Image.fromarray(coarse[:, :, channel].astype(np.float32)).resize((PIXELS, PIXELS), Image.BICUBIC)
            field[:, :, channel] += np.asarray(layer) * 2 ** (-octave * slope)
    return _colour(rng) + field * rng.uniform(30, 140)


def _gradient(rng: np.random.Generator) -> np.ndarray:
    u, v = _axes(rng)
    ramp = (u - u.min()) / (np.ptp(u) + 1e-9)
    picture = _colour(rng) * (1 - ramp[:, :, None]) + _colour(rng) * ramp[:, :, None]
    wave = np.sin(v * rng.uniform(0.05, 0.8) + rng.uniform(0, 6)) * rng.uniform(0, 20)
    return picture + wave[:, :, None] + rng.normal(0, rng.uniform(0, 4), (PIXELS, PIXELS, 3))


def _grid(rng: np.random.Generator) -> np.ndarray:
    u, v = _axes(rng)
    period, share = rng.uniform(4, 24), rng.uniform(0.2, 0.8)
    sharp = rng.uniform(1, 8)
    lines = np.clip((np.sin(u * 2 * np.pi / period) - share + 0.5) * sharp, 0, 1)
    if rng.random() < 0.5:
        lines = np.abs(lines - np.clip((np.sin(v * 2 * np.pi / rng.uniform(4, 24)) - share + 0.5) * sharp, 0, 1))
    return _gradient(rng) * (1 - lines[:, :, None]) + _colour(rng) * lines[:, :, None]


def _leaves(rng: np.random.Generator) -> np.ndarray:
    """Dead leaves: shapes of all sizes that cover each other, each with a shade and a grain of its own."""
    canvas = _noise(rng) if rng.random() < 0.5 else _gradient(rng)
    for _ in range(int(rng.integers(15, 50))):
        u, v = _axes(rng)
        size = min(3 / (rng.random() + 0.05), 30)
        u, v = u - u[tuple(rng.integers(0, PIXELS, 2))], v - v[tuple(rng.integers(0, PIXELS, 2))]
        v = v * rng.uniform(1, 3)
        far = np.hypot(u, v) if rng.random() < 0.5 else np.maximum(np.abs(u), np.abs(v))
        cover = np.clip((size - far) / rng.choice([1.0, 1.0, 3.0]) + 0.5, 0, 1)[:, :, None]
        grain = rng.normal(0, rng.uniform(0, 8), (PIXELS, PIXELS, 1))
        shade = _colour(rng) + (u * rng.normal(0, 1.5))[:, :, None] + grain
        canvas = canvas * (1 - cover) + shade * cover
    return canvas


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """`uint8[n, h, w, 3]` -> `float32[n, 3, h, w]`, -1 to 1."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


# --- the autoencoder ------------------------------------------------------------------------------------------------


def make_vae() -> AutoencoderKL:
    """Reduction 4, no attention: its cost and its quality do not depend on the size of the picture."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=PIXELS,
        mid_block_add_attention=False,
    )


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Up in a twentieth of the steps, then down a half cosine to nothing."""
    warm = max(steps // 20, 1)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * min(i / steps, 1)))
    )


def train_vae(
    scenes: np.ndarray, made_up: np.ndarray, steps: int, batch: int, rng: np.random.Generator
) -> AutoencoderKL:
    """Absolute and squared error, the error of the differences between neighbours, and a little KL.

    Three quarters of the steps see quarters of pictures, which is much cheaper; the rest see half as many whole ones.
    Five pictures in eight are scenes.
    """
    vae = make_vae().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    rate = schedule(optimizer, steps)
    began = time.monotonic()
    for step in range(steps):
        quarters = step < steps * 3 // 4
        count = batch if quarters else batch // 2
        half = count * 5 // 8
        chosen = np.concatenate(
            [scenes[rng.integers(0, len(scenes), half)], made_up[rng.integers(0, len(made_up), count - half)]]
        )
        if quarters:
            y, x = rng.integers(0, PIXELS // 2 + 1, 2)
            chosen = chosen[:, y : y + PIXELS // 2, x : x + PIXELS // 2]
        if rng.random() < 0.5:
            chosen = chosen[:, :, ::-1]
        if rng.random() < 0.5:
            chosen = chosen[:, ::-1]
        clean = to_tensor(np.ascontiguousarray(chosen))
        posterior = vae.encode(clean).latent_dist
        made = vae.decode(posterior.sample()).sample
        error = made - clean
        edges = (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss = error.abs().mean() + 2 * error.square().mean() + 0.5 * edges + 3e-5 * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        rate.step()
        if step % 50 == 0 or step == steps - 1:
            psnr = -10 * math.log10(error[:half].square().mean().item() / 4)
            other = -10 * math.log10(error[half:].square().mean().item() / 4)
            print(f"vae  {step:5d}  scenes {psnr:.1f} dB  textures {other:.1f} dB  kl {kl.item():.2f}  "
                  f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    return vae.eval()


@torch.inference_mode()
def scale_of(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """1 / standard deviation of the latents, as a denoiser wants them: variance 1."""
    return 1 / vae.encode(to_tensor(pictures)).latent_dist.sample(torch.Generator().manual_seed(0)).std().item()


@torch.inference_mode()
def psnr_of(vae: AutoencoderKL, pictures: np.ndarray) -> list[float]:
    """PSNR of each picture through the mean of its posterior and back to 8 bits, dB (ITU-T J.247)."""
    values: list[float] = []
    for start in range(0, len(pictures), 32):
        part = pictures[start : start + 32]
        made = vae.decode(vae.encode(to_tensor(part)).latent_dist.mode()).sample
        back = ((made.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).numpy()
        error = np.square(back - part).mean(axis=(1, 2, 3))
        values.extend(float(v) for v in 10 * np.log10(255**2 / np.maximum(error, 1e-3)))
    return values


# --- the text model -------------------------------------------------------------------------------------------------


def make_tokenizer(lines: list[str], folder: Path) -> None:
    """A CLIP tokenizer: byte-level pairs with end-of-word marks, all 256 bytes in it, so that no text is lost."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1500, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    text = [line.lower() for line in lines] + [line for line in WORDS.split("\n") for _ in range(20)]
    trained.train_from_iterator(text, trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    names = alphabet + [name + "</w>" for name in alphabet] + ["".join(pair) for pair in merges]
    names = [*dict.fromkeys(names), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}, ensure_ascii=False))
    rules = "\n".join(f"{a} {b}" for a, b in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{rules}\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(
        folder, model_max_length=77, pad_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {key: about[key] for key in sorted(about) if key.endswith(("_token", "_class", "_length"))}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def make_text_model(vocabulary: int) -> CLIPTextModel:
    """The end-of-text token has the highest number, so that both of CLIP's ways to find it agree."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
            max_position_embeddings=77, projection_dim=128, bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )  # fmt: skip


def save_text_model(model: CLIPTextModel, folder: Path) -> None:
    """Save with the names that the weights have in published CLIP repositories.

    transformers 5 writes shorter ones, which 4.48 does not know: it would start from random weights, with a warning.
    """
    model.save_pretrained(folder)
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": w.contiguous() for name, w in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


TOWER = ((3, 32, 5, 2), (32, 64, 3, 2), (64, 96, 3, 2), (96, 128, 3, 1), (128, 64, 3, 2))
"""Channels in and out, kernel, stride of its layers."""


class Tower(nn.Module):
    """Pictures to unit vectors; it keeps where things are, as relations hang on it."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside, kernel, stride in TOWER:
            layers += [nn.Conv2d(inside, outside, kernel, stride, kernel // 2), nn.GroupNorm(8, outside), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(64 * 16, 256), nn.SiLU(), nn.Linear(256, width))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(pictures).flatten(1))


# A scene or a caption as nine numbers, -1 where nothing is said: background, how the things lie, and of the first
# (the left or upper one) and the second: shape, colour, size; then whether the order of the two is known.
ARRANGED = ("centre", "left", "right", "above", "below", "side by side", "one above the other")
SIZED = ("small", "medium", "large")
CLASSES = (len(BACKGROUNDS), len(ARRANGED), len(SHAPES), len(SHAPE_COLOURS), len(SHAPES), len(SHAPE_COLOURS))


def facts(said: Expectation) -> list[int]:
    """What a sentence or a scene says, as numbers."""
    things = sorted(said.things, key=lambda thing: thing.place in ("right", "below"))
    place = things[0].place
    if len(things) == 1:
        lie = PLACES.index(place) if place else -1
    else:
        lie = -1 if place is None else 5 if place == "left" else 6
    numbers = [BACKGROUNDS.index(said.background) if said.background else -1, lie]
    for i in range(2):
        if i < len(things):
            numbers += [SHAPES.index(things[i].shape), SHAPE_COLOURS.index(str(things[i].colour))]
            numbers += [SIZED.index(things[i].size) if things[i].size else -1]
        else:
            numbers += [-2, -2, -2]
    return [*numbers, int(len(things) == 1 or place is not None)]


def is_true(said: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Whether caption i is true of scene j: `bool[n, m]` of `int[n, 9]` and `int[m, 9]`."""

    def fits(columns: list[int], of: list[int]) -> np.ndarray:
        wanted, there = said[:, None, columns], shown[None, :, of]
        return ((wanted == -1) | (wanted == there)).all(axis=2)

    straight, crossed = fits(list(range(2, 8)), list(range(2, 8))), fits([2, 3, 4, 5, 6, 7], [5, 6, 7, 2, 3, 4])
    return fits([0, 1], [0, 1]) & (straight | (crossed & (said[:, 8] == 0)[:, None]))


@dataclasses.dataclass
class Pairs:
    """Pictures with all their captions, tokenized."""

    pictures: np.ndarray
    shown: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    said: np.ndarray
    texts: list[tuple[str, ...]]

    @classmethod
    def of(cls, scenes: list[Scene], tokenizer: Any, pictures: np.ndarray) -> Pairs:
        texts = [captions(one) for one in scenes]
        flat = [text for five in texts for text in five]
        ids = tokenizer(flat, padding="max_length", max_length=77, truncation=True, return_tensors="np")
        lengths = ids["attention_mask"].sum(axis=1).reshape(-1, 5)
        said = []
        for text in flat:
            meant = parse_caption(text)
            assert meant is not None, text
            said.append(facts(meant))
        return cls(
            pictures, np.array([facts(expected(one)) for one in scenes]),
            ids["input_ids"].astype(np.int64).reshape(-1, 5, 77), lengths, np.array(said).reshape(-1, 5, 9), texts,
        )  # fmt: skip

    def caption(self, rows: np.ndarray, slots: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        longest = int(self.lengths[rows, slots].max())
        mask = np.arange(longest)[None] < self.lengths[rows, slots][:, None]
        return torch.from_numpy(self.tokens[rows, slots, :longest]), torch.from_numpy(mask.astype(np.int64))


def train_text(
    pairs: Pairs, steps: int, batch: int, rng: np.random.Generator
) -> tuple[CLIPTextModel, Tower, nn.Linear]:
    """Contrastively (arXiv 2103.00020), each batch half scenes, half their twins; a caption that is also true of
    another picture of the batch is no negative for it. Beside it, both sides learn to name what they hold."""
    model = make_text_model(int(pairs.tokens.max()) + 1).train()
    tower, projection = Tower().train(), nn.Linear(128, 128)
    naming_text, naming_picture = nn.Linear(128, sum(CLASSES)), nn.Linear(128, sum(CLASSES))
    warmth = nn.Parameter(torch.tensor(math.log(10.0)))
    parts = nn.ModuleList([model, tower, projection, naming_text, naming_picture])
    optimizer = torch.optim.AdamW(
        [{"params": parts.parameters(), "weight_decay": 0.02}, {"params": [warmth], "weight_decay": 0.0}],
        lr=1.5e-3, betas=(0.9, 0.98),
    )  # fmt: skip
    rate = schedule(optimizer, steps)
    half = len(pairs.pictures) // 2
    began = time.monotonic()
    for step in range(steps):
        first = rng.choice(half, batch // 2, replace=False)
        rows = np.concatenate([first, first + half])
        slots = rng.integers(0, 5, batch)
        ids, mask = pairs.caption(rows, slots)
        shown, said = pairs.shown[rows], pairs.said[rows, slots]
        pooled = model(input_ids=ids, attention_mask=mask).pooler_output
        seen = tower(to_tensor(pairs.pictures[rows]))
        text, image = functional.normalize(projection(pooled), dim=1), functional.normalize(seen, dim=1)
        logits = warmth.exp().clamp(max=100) * text @ image.T
        also = torch.from_numpy(is_true(said, shown)) & ~torch.eye(batch, dtype=torch.bool)
        logits = logits.masked_fill(also, -1e4)
        target = torch.arange(batch)
        contrast = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        known = said.copy()
        known[said[:, 8] == 0, 2:8] = -1
        naming = _naming(naming_text(pooled), known) + _naming(naming_picture(seen), shown)
        loss = contrast + 0.3 * naming
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        rate.step()
        if step % 50 == 0 or step == steps - 1:
            right = (logits.argmax(1) == target).float().mean().item()
            print(f"text {step:5d}  contrast {contrast.item():.3f}  naming {naming.item():.2f}  in-batch {right:.3f}  "
                  f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    return model.eval(), tower.eval(), projection.eval()


def _naming(logits: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
    columns = numbers[:, [0, 1, 2, 3, 5, 6]]
    losses = []
    for part, column in zip(logits.split(CLASSES, dim=1), columns.T, strict=True):
        known = torch.from_numpy(np.where(column < 0, -1, column))
        if (known >= 0).any():
            losses.append(functional.cross_entropy(part, known, ignore_index=-1))
    return torch.stack(losses).mean()


@torch.inference_mode()
def embed(model: CLIPTextModel, pairs: Pairs, slot: int) -> torch.Tensor:
    """Pooled states of one caption of every scene, `float32[n, 128]`."""
    rows = np.arange(len(pairs.pictures))
    states = []
    for part in np.array_split(rows, max(len(rows) // 128, 1)):
        ids, mask = pairs.caption(part, np.full(len(part), slot))
        states.append(model(input_ids=ids, attention_mask=mask).pooler_output)
    return torch.cat(states)


@torch.inference_mode()
def retrieval(model: CLIPTextModel, tower: Tower, projection: nn.Linear, pairs: Pairs) -> dict[str, float]:
    """Top-1 of a caption among the pictures of 64 scenes with different descriptions, over all groups of 64.

    `told` counts the captions that tell the background and how the things lie, `all` every caption.
    """
    image = functional.normalize(torch.cat([tower(to_tensor(p)) for p in np.array_split(pairs.pictures, 8)]), dim=1)
    right: dict[str, list[bool]] = {"all": [], "told": []}
    for slot in range(5):
        text = functional.normalize(projection(embed(model, pairs, slot)), dim=1)
        for start in range(0, len(text) - 63, 64):
            rows = slice(start, start + 64)
            best = (text[rows] @ image[rows].T).argmax(1).numpy()
            for i, found in enumerate(best):
                right["all"].append(bool(found == i))
                if (pairs.said[start + i, slot, :2] >= 0).all():
                    right["told"].append(bool(found == i))
    return {name: float(np.mean(hits)) for name, hits in right.items()}


# --- all of it ------------------------------------------------------------------------------------------------------


def different(seed: int, count: int) -> list[Scene]:
    """The first `count` scenes of a seed such that no two in the same group of 64 are described alike."""
    chosen: list[Scene] = []
    index = 0
    while len(chosen) < count:
        one, group = scene(seed, index), chosen[len(chosen) // 64 * 64 :]
        index += 1
        if describe(one) not in {describe(other) for other in group}:
            chosen.append(one)
    return chosen


def main() -> None:
    """Train both, measure both, save both."""
    parser = argparse.ArgumentParser(description="Train the demo encoders.")
    parser.add_argument("--out", type=Path, required=True, help="folder for vae/, text/ and figures.json")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and textures (0)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    parser.add_argument("--scenes", type=int, default=4000, help="scenes to learn from, and as many twins (4000)")
    parser.add_argument(
        "--vae-steps", type=int, default=9000, help="steps of 16 quarters or 8 pictures; 0 trains none (9000)"
    )
    parser.add_argument("--text-steps", type=int, default=1000, help="steps of 128 captions; 0 trains none (1000)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.vae_steps:
        note(arguments.out, "vae", run_vae(arguments))
    if arguments.text_steps:
        note(arguments.out, "text", run_text(arguments))


def start(seed: int, part: int) -> np.random.Generator:
    """The two parts do not share their numbers, so that each can be run alone with the same result."""
    torch.manual_seed(1000 * seed + part)
    return np.random.default_rng([seed, part])


def note(out: Path, part: str, found: dict[str, Any]) -> None:
    """Add the figures of one part to `figures.json`."""
    file = out / "figures.json"
    figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**figures, part: found}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found), flush=True)


def run_vae(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, save and measure the autoencoder."""
    began, rng = time.monotonic(), start(arguments.seed, 1)
    pool = np.stack([picture(scene(TRAINED, i)) for i in range(arguments.scenes)])
    vae = train_vae(pool, textures(arguments.scenes, rng), arguments.vae_steps, 16, rng)
    vae.register_to_config(scaling_factor=round(scale_of(vae, pool[:512]), 5))
    vae.save_pretrained(arguments.out / "vae")
    saved = AutoencoderKL.from_pretrained(arguments.out / "vae", low_cpu_mem_usage=False).eval()
    values = psnr_of(saved, np.stack([picture(one) for one in different(UNSEEN, 512)]))
    return {
        "seed": arguments.seed,
        "parameters": sum(p.numel() for p in saved.parameters()),
        "scaling_factor": saved.config.scaling_factor,
        "psnr_mean": round(float(np.mean(values)), 2),
        "psnr_worst": round(min(values), 2),
        "psnr_textures": round(float(np.mean(psnr_of(saved, textures(128, np.random.default_rng(99))))), 2),
        "seconds": round(time.monotonic() - began),
    }


def run_text(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, save and measure the text model."""
    began, rng = time.monotonic(), start(arguments.seed, 2)
    scenes = [scene(TRAINED, i) for i in range(arguments.scenes)]
    scenes += [twin(one, rng) for one in scenes]
    folder = arguments.out / "text"
    make_tokenizer([text for one in scenes for text in captions(one)], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = Pairs.of(scenes, tokenizer, np.stack([picture(one) for one in scenes]))
    model, tower, projection = train_text(pairs, arguments.text_steps, 128, rng)
    save_text_model(model, folder)
    saved = CLIPTextModel.from_pretrained(folder).eval()
    unseen = different(UNSEEN, 1024)
    top = retrieval(saved, tower, projection, Pairs.of(unseen, tokenizer, np.stack([picture(one) for one in unseen])))
    return {
        "seed": arguments.seed,
        "parameters": sum(p.numel() for p in saved.parameters()),
        "vocabulary": len(tokenizer),
        "retrieval_all": round(top["all"], 4),
        "retrieval_told": round(top["told"], 4),
        "seconds": round(time.monotonic() - began),
    }


if __name__ == "__main__":
    main()
