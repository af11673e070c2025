"""Latent caches of kohya's sd-scripts: one npz and one caption file an image.

Covers: `NAME_WWWWxHHHH_sd.npz` (`_sdxl.npz` for the VAE of SDXL) as its `SdSdxlLatentsCachingStrategy` reads them, and
`NAME.txt` with a caption a line.
Does not cover: images and text states, which sd-scripts does not read from such files.

sd-scripts expects a sample of the posterior, raw, in single precision; this is its mean. `crop_ltrb` is what its
`get_crop_ltrb` computes for a square bucket.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from daskt2i.errors import ConfigError, StoreError
from daskt2i.export.rows import Exported, ExportedRows

_CHANNELS, _REDUCTION = 4, 8
_SDXL_BELOW = 0.15
"""The VAE of SDXL has a scaling factor of 0.13025, and that of Stable Diffusion a larger one. Only names of files
depend on it."""


class KohyaWriter:
    """Writes the files beside each other, in the folders of the images.

    Raises:
        ConfigError: the latents are not those of a VAE that sd-scripts caches in this form.
    """

    def __init__(self, place: Path, exported: Exported) -> None:
        channels, height, width = exported.latent_shape
        if channels != _CHANNELS or "source_size" not in exported.extra:
            raise ConfigError(
                f"kohya-npz is for latents of {_CHANNELS} channels with the sizes of their images, and "
                f"{exported.store.address} has {channels} channels. Nothing was written; choose another format, "
                "such as webdataset."
            )
        self._place, self._bucket = place, (width * _REDUCTION, height * _REDUCTION)
        factor = float(exported.about["image_encoder"].get("scaling_factor") or 1.0)
        self._end = "_sdxl.npz" if factor < _SDXL_BELOW else "_sd.npz"

    def write(self, part: ExportedRows) -> None:
        """Write the files of the rows."""
        for place, name in enumerate(part.file_names):
            size = (int(part.extra["source_size"][place][0]), int(part.extra["source_size"][place][1]))
            stem = self._stem(name)
            stem.parent.mkdir(parents=True, exist_ok=True)
            text = stem.with_name(f"{stem.name}.txt")
            if text.exists():
                raise StoreError(
                    f"Two images have the name {name} apart from its ending, and sd-scripts would take one for the "
                    "other. The store is unchanged, and nothing was left of the export; leave one of them out with "
                    "where."
                )
            np.savez(
                stem.with_name(f"{stem.name}_{size[0]:04d}x{size[1]:04d}{self._end}"),
                latents=part.mean[place].astype(np.float32),
                original_size=np.array(size),
                crop_ltrb=np.array(_crop_ltrb(self._bucket, size)),
            )
            text.write_text("\n".join(" ".join(one.split()) for one in part.captions[place]) + "\n", encoding="utf-8")

    def close(self) -> None:
        """All files are closed already."""

    def discard(self) -> None:
        """All files are closed already."""

    def _stem(self, name: str) -> Path:
        path = PurePosixPath(name.replace("\\", "/"))
        parts = [part for part in path.with_suffix("").parts if part not in ("/", "..")]
        return self._place.joinpath(*parts)


def _crop_ltrb(bucket: tuple[int, int], image: tuple[int, int]) -> tuple[float, float, float, float]:
    """Where the image lies in its bucket, both (width, height), in the way of sd-scripts."""
    ratio = image[0] / image[1]
    if bucket[0] / bucket[1] > ratio:
        width, height = bucket[1] * ratio, float(bucket[1])
    else:
        width, height = float(bucket[0]), bucket[0] / ratio
    left, top = (bucket[0] - width) // 2, (bucket[1] - height) // 2
    return left, top, left + width, top + height
