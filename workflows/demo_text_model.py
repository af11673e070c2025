"""The demo's text model: its tokenizer, the training against an image tower, and what is measured on it.

Covers: all of `train_demo_encoders.py` that is about text.
Does not cover: the pictures (`demo_pictures`), the autoencoder, the command line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_pictures import TRAINED, UNSEEN, different, picture, twin
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from daskt2i.sources.drawn.drawing import BACKGROUNDS, PLACES, SHAPE_COLOURS, SHAPES, Scene
from daskt2i.sources.drawn.grammar import Expectation, captions, expected, parse_caption
from daskt2i.sources.scenes import scene

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


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Up in a twentieth of the steps, then down a half cosine to nothing."""
    warm = max(steps // 20, 1)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * min(i / steps, 1)))
    )


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """`uint8[n, h, w, 3]` -> `float32[n, 3, h, w]`, -1 to 1."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


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


def run(out: Path, scenes: int, steps: int, rng: np.random.Generator) -> dict[str, Any]:
    """Train, save into `out`, and measure.

    Args:
        scenes: how many to learn from; as many twins are added.
    """
    began = time.monotonic()
    chosen = [scene(TRAINED, i) for i in range(scenes)]
    chosen += [twin(one, rng) for one in chosen]
    make_tokenizer([text for one in chosen for text in captions(one)], out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    pairs = Pairs.of(chosen, tokenizer, np.stack([picture(one) for one in chosen]))
    model, tower, projection = train_text(pairs, steps, 128, rng)
    save_text_model(model, out)
    saved = CLIPTextModel.from_pretrained(out).eval()
    unseen = different(UNSEEN, 1024)
    top = retrieval(saved, tower, projection, Pairs.of(unseen, tokenizer, np.stack([picture(one) for one in unseen])))
    return {
        "parameters": sum(p.numel() for p in saved.parameters()),
        "vocabulary": len(tokenizer),
        "retrieval_all": round(top["all"], 4),
        "retrieval_told": round(top["told"], 4),
        "seconds": round(time.monotonic() - began),
    }
