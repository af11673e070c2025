"""Tiny local model folders with the files of real repositories: config.json, safetensors, tokenizer files.

Weights are random from a seed. The tokenizers are made here, so that no test needs a network.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from builders import SHARED

CLIP_TOKENIZER = SHARED / "clip-tokenizer"
"""The real CLIP tokenizer, where this machine has it."""

WORDS = ("a", "red", "blue", "square", "circle", "dog", "two", "cats", "asleep", "very", "long", "caption", "on")
"""What the whole-word tokenizers know."""

KL = {
    "in_channels": 3, "out_channels": 3, "block_out_channels": [8, 16, 16], "layers_per_block": 1, "latent_channels": 4,
    "norm_num_groups": 4, "sample_size": 32, "scaling_factor": 0.5, "shift_factor": 0.1,
    "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
}  # fmt: skip
"""An AutoencoderKL with reduction 4."""

TINY = {
    "latent_channels": 4, "encoder_block_out_channels": [8, 8, 8], "decoder_block_out_channels": [8, 8, 8],
    "num_encoder_blocks": [1, 1, 1], "num_decoder_blocks": [1, 1, 1],
}  # fmt: skip
"""An AutoencoderTiny with reduction 4."""

DC = {
    "latent_channels": 8, "attention_head_dim": 8, "scaling_factor": 0.41407,
    "encoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
    "decoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock"],
    "encoder_block_out_channels": [8, 16, 32], "decoder_block_out_channels": [8, 16, 32],
    "encoder_layers_per_block": [1, 1, 1], "decoder_layers_per_block": [2, 1, 1],
    "encoder_qkv_multiscales": [[], [], []], "decoder_qkv_multiscales": [[], [], [5]],
    "downsample_block_type": "Conv", "upsample_block_type": "interpolate",
}  # fmt: skip
"""An AutoencoderDC with reduction 4; its keys are those of SANA's model."""

TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": 12,
    "max_position_embeddings": 77,
}  # fmt: skip
"""A CLIP text tower; vocabulary and end token come from its tokenizer."""


def kl_folder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A diffusers AutoencoderKL folder, reduction 4."""
    return _diffusers(folder, "AutoencoderKL", {**KL, **changes}, seed)


def tiny_folder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A diffusers AutoencoderTiny folder, reduction 4."""
    return _diffusers(folder, "AutoencoderTiny", {**TINY, **changes}, seed)


def dc_folder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A diffusers AutoencoderDC folder, reduction 4."""
    return _diffusers(folder, "AutoencoderDC", {**DC, **changes}, seed)


def clip_tokenizer(folder: Path, padding: str = "<|endoftext|>") -> Path:
    """vocab.json, merges.txt, tokenizer_config.json: CLIP's layout with single bytes and a few merges.

    Args:
        padding: the padding token: the end token as in ViT-L/14, or `!` (number 0) as in SD 2 and SDXL's second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]]
    merges = ["d o", "do g</w>", "c a", "ca t</w>", "r e", "re d</w>"]
    words = [*letters, *(letter + "</w>" for letter in letters), *(m.replace(" ", "") for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    specials = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", **specials, "pad_token": padding, "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps({**specials, "pad_token": padding}))
    return folder


def clip_folder(
    folder: Path,
    kind: str = "CLIPTextModel",
    legacy: bool = True,
    seed: int = 0,
    padding: str = "<|endoftext|>",
    **changes: Any,
) -> Path:
    """A CLIP repository with its tokenizer.

    Args:
        kind: `CLIPTextModel` or `CLIPTextModelWithProjection` (tower alone), or `CLIPModel` (the layout of
            openai/clip-vit-large-patch14: both towers in one file, the sizes under `text_config`).
        legacy: whether config.json states `eos_token_id` 2, as configs before transformers #24773 do.
    """
    import transformers

    clip_tokenizer(folder, padding)
    size = len(json.loads((folder / "vocab.json").read_text()))
    text = {
        **TEXT,
        **changes,
        "vocab_size": size,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": 1,
    }
    if kind == "CLIPModel":
        vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision |= {"image_size": 16, "patch_size": 8, "projection_dim": 12}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    else:
        config = transformers.CLIPTextConfig(**text)
    _transformers(folder, getattr(transformers, kind), config, seed)
    if legacy:
        _edit(folder / "config.json", lambda c: c.get("text_config", c).update(eos_token_id=2, bos_token_id=0))
    if kind == "CLIPTextModel":  # published towers name their tensors below text_model, newer libraries drop it
        _rename(folder / "model.safetensors", lambda key: key if key.startswith("text_model") else f"text_model.{key}")
    return folder


def t5_folder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A T5 1.1 repository as published: encoder and decoder in one file; and a word tokenizer."""
    import transformers

    words = word_tokenizer(folder, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, "$A </s>")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": words}
    config = transformers.T5Config(**{**sizes, "feed_forward_proj": "gated-gelu", **changes})
    return _transformers(folder, transformers.T5ForConditionalGeneration, config, seed)


def bert_folder(folder: Path, seed: int = 0, pooler: bool = True) -> Path:
    """A BERT repository, with or without the pooler's weights; and a word tokenizer."""
    import transformers

    specials = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    words = word_tokenizer(folder, specials, "[CLS] $A [SEP]")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, vocab_size=words, max_position_embeddings=40)
    _transformers(folder, transformers.BertModel, config, seed)
    if not pooler:
        _rename(folder / "model.safetensors", lambda key: None if key.startswith("pooler") else key)
    return folder


def word_tokenizer(folder: Path, specials: dict[str, str], template: str, blanks: bool = False) -> int:
    """tokenizer.json and tokenizer_config.json of a whole-word tokenizer; returns the size of its vocabulary.

    Args:
        blanks: whether each blank is a token too, as a tokenizer of sentence pieces sees them.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: n for n, word in enumerate([*specials.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=specials["unk_token"]))
    pieces = pre_tokenizers.Split(Regex(r"\s|\w+|[^\w\s]+"), "isolated")
    tokenizer.pre_tokenizer = pieces if blanks else pre_tokenizers.Whitespace()
    used = [(word, vocabulary[word]) for word in template.split() if word in vocabulary]
    if used:
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **specials).save_pretrained(str(folder))
    return len(vocabulary)


def gemma_folder(folder: Path, seed: int = 0) -> Path:
    """A Gemma 2 repository: a language model with fewer heads for keys than for queries; and a word tokenizer."""
    import transformers

    specials = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    words = word_tokenizer(folder, specials, "<bos> $A", blanks=True)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Gemma2Config(
        **sizes, num_key_value_heads=1, head_dim=12, vocab_size=words, max_position_embeddings=64
    )
    return _transformers(folder, transformers.Gemma2ForCausalLM, config, seed)


def sdxl_folder(folder: Path) -> Path:
    """The text part of a Stable Diffusion XL repository: two CLIP models of different sizes, two tokenizers."""
    _text_part(folder, "", clip_folder(folder / "text_encoder"))
    wide = {"hidden_size": 24, "projection_dim": 20}
    second = clip_folder(folder / "text_encoder_2", "CLIPTextModelWithProjection", seed=1, padding="!", **wide)
    _text_part(folder, "_2", second)
    return _pipeline(folder, "StableDiffusionXLPipeline")


def sd3_folder(folder: Path) -> Path:
    """The text part of a Stable Diffusion 3 repository: two CLIP models with projection, and T5."""
    kind = "CLIPTextModelWithProjection"
    _text_part(folder, "", clip_folder(folder / "text_encoder", kind))
    wide = {"hidden_size": 24, "projection_dim": 20}
    _text_part(folder, "_2", clip_folder(folder / "text_encoder_2", kind, seed=1, padding="!", **wide))
    _text_part(folder, "_3", t5_folder(folder / "text_encoder_3", d_model=48))
    return _pipeline(folder, "StableDiffusion3Pipeline")


def flux_folder(folder: Path) -> Path:
    """The text part of a Flux repository: CLIP for the pooled state, and T5."""
    _text_part(folder, "", clip_folder(folder / "text_encoder"))
    _text_part(folder, "_2", t5_folder(folder / "text_encoder_2"))
    return _pipeline(folder, "FluxPipeline")


def _text_part(folder: Path, number: str, model: Path) -> None:
    """Move the tokenizer of a model to its place in a pipeline."""
    target = folder / f"tokenizer{number}"
    target.mkdir()
    for path in model.iterdir():
        if path.name not in ("config.json", "generation_config.json", "model.safetensors"):
            shutil.move(path, target / path.name)


def _pipeline(folder: Path, kind: str) -> Path:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return folder


VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
}  # fmt: skip
"""A vision transformer of 16 patches."""


def dinov2_folder(folder: Path, registers: int = 0, seed: int = 0, **changes: Any) -> Path:
    """A DINOv2 repository, with or without registers; and what its processor says."""
    import transformers

    sizes = {**VISION, "mlp_ratio": 2, **changes}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=registers)
        _transformers(folder, transformers.Dinov2WithRegistersModel, config, seed)
    else:
        _transformers(folder, transformers.Dinov2Model, transformers.Dinov2Config(**sizes), seed)
    pixels = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder


def siglip_folder(folder: Path, whole: bool = False, seed: int = 0) -> Path:
    """A SigLIP repository: the picture's tower alone, or both towers as published."""
    import transformers

    vision = {**VISION, "intermediate_size": 32}
    if whole:
        text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.SiglipConfig(text_config={**text, "vocab_size": 40}, vision_config=vision)
        return _transformers(folder, transformers.SiglipModel, config, seed)
    return _transformers(folder, transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**vision), seed)


def pipeline_folder(folder: Path) -> Path:
    """The layout of a Stable Diffusion repository: vae, text_encoder, tokenizer, model_index.json."""
    kl_folder(folder / "vae")
    clip_folder(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.move(folder / "text_encoder" / name, folder / "tokenizer" / name)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def _diffusers(folder: Path, kind: str, config: dict[str, Any], seed: int) -> Path:
    import diffusers
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        getattr(diffusers, kind)(**config).save_pretrained(str(folder), safe_serialization=True)
    return folder


def _transformers(folder: Path, kind: Any, config: Any, seed: int) -> Path:
    import torch

    from daskt2i.encoders.weights import quiet

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():  # the usual 0.02 makes all states alike
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(str(folder), safe_serialization=True)
    return folder


def _edit(path: Path, change: Any) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data, indent=2))


def _rename(path: Path, rename: Any) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {rename(key): value.clone() for key, value in load_file(path).items()}
    tensors.pop(None, None)
    save_file(tensors, path, metadata={"format": "pt"})
