"""What the painter needs to know of a class of pipelines.

Covers: the protocol.
Does not cover: the classes (a module each), which of them a folder needs (`drawings`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from daskt2i.sample.prompt_states import PromptStates

Tell = Callable[[int, Any], None]
"""Called after each step with its number (from 0) and the latents."""


class Drawing(Protocol):
    """Draws with one class of pipelines. It has no state."""

    def alone(self, denoiser: Any, scheduler: Any) -> Any:
        """A pipeline without encoders: it takes text states, and gives latents."""

    def conditioned(
        self, pipe: Any, found: PromptStates, count: int, masked: bool
    ) -> AbstractContextManager[dict[str, Any]]:
        """The arguments of a call that tell the pipeline its prompts, for the time of the call.

        Args:
            found: states of `count` prompts; before them, if the pictures are guided, those of the empty prompt.
            masked: whether padding is no text.
        """

    def watched(self, tell: Tell) -> dict[str, Any]:
        """The arguments of a call that let it tell each step."""

    def sides(self, height: int, width: int, picture: tuple[int, int]) -> dict[str, Any]:
        """The arguments of a call for pictures of the size that the model draws.

        Args:
            height, width: in pixels, as the pipeline counts them: 8 for a value of a latent if it has no autoencoder.
            picture: height and width of the pictures, pixels.
        """
