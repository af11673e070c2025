"""How to draw with a pipeline, by the name of its class.

Covers: the classes that daskt2i draws with.
Does not cover: what each one does (a module each), how their folders look (`model.pipeline_forms`).
"""

from __future__ import annotations

from collections.abc import Mapping

from daskt2i.sample.pipelines.drawing import Drawing
from daskt2i.sample.pipelines.flow_transformers import PRX, Lumina2, Sana, StableDiffusion3
from daskt2i.sample.pipelines.pixart import PixArtSigma
from daskt2i.sample.pipelines.stable_diffusion import StableDiffusion
from daskt2i.sample.pipelines.stable_diffusion_xl import StableDiffusionXL

DRAWINGS: Mapping[str, Drawing] = {
    "StableDiffusionPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
    "PixArtSigmaPipeline": PixArtSigma(),
    "StableDiffusion3Pipeline": StableDiffusion3(),
    "Lumina2Pipeline": Lumina2(),
    "SanaPipeline": Sana(),
    "PRXPipeline": PRX(),
}
"""Name of a pipeline of diffusers -> how to draw with it."""
