"""Reading a run folder without workers: its store, its tables, its model.

Covers: the latents, the manifest and the metrics as tables, status, prompt suggestions, the trained pipeline.
Does not cover: computing (`daskt2i.run`), what a notebook shows (`run_view`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from daskt2i.config.settings import Workflow
from daskt2i.errors import StoreError, StoreMissing
from daskt2i.session.run_settings import RunSettings, refuse_strangers
from daskt2i.session.verbs import reader
from daskt2i.store.run_folder import MANIFEST
from daskt2i.view import Viewed

if TYPE_CHECKING:
    import pandas
    import xarray
    from diffusers import StableDiffusionPipeline

    from daskt2i.dashboard.report.result import ReportResult
    from daskt2i.insights.first_rows import LookResult
    from daskt2i.insights.rejected_rows import RejectedRows
    from daskt2i.insights.suggest import Suggestion, Suggestions
    from daskt2i.store.status import RunStatus
    from daskt2i.train.figures.curves import Curves
    from daskt2i.train.figures.sheets import Sheets


class RunReader(Viewed):
    """A run folder and its settings."""

    _found: RunSettings

    @property
    def out(self) -> str:
        """Address of the run folder."""
        return self._found.folder.root

    @property
    def workflow(self) -> Workflow:
        """The settings, with all defaults filled in."""
        return self._found.workflow

    @property
    def store(self) -> xarray.Dataset:
        """The latents, loaded lazily; see `daskt2i.open_store`."""
        from daskt2i.store.dataset import open_store

        return open_store(self.out, self._found.folder.storage_options)

    @property
    def manifest(self) -> pandas.DataFrame:
        """One line for each row of the source: accepted, or rejected with a reason; `removed` if it was removed later.

        Rows that were appended follow, with the numbers that they have in `store`.

        Raises:
            StoreMissing: encoding has not finished.
            StoreError: the file is damaged.
        """
        import pyarrow

        from daskt2i.store.parts.joined_manifest import joined_manifest

        try:
            return joined_manifest(self._found.folder).to_pandas(ignore_metadata=True)
        except FileNotFoundError:
            raise StoreMissing(
                f"{self.out} has no {MANIFEST} yet, because encoding has not finished. What is encoded stays; encode "
                "to the end to get it."
            ) from None
        except pyarrow.ArrowException as error:
            raise StoreError(
                f"{self._found.folder.address(MANIFEST)} is damaged ({' '.join(str(error).split())}). The store was "
                "not touched. Encode again: finished chunks are kept, and this file is written again."
            ) from error

    @property
    def metrics(self) -> pandas.DataFrame:
        """`loss`, `heldout_loss`, `norm` of the gradient and learning `rate` by step; empty before a training.

        A setting that changed on the way is a column such as `new_learning_rate`, in the step from which on it counts.
        """
        import pandas

        from daskt2i.train.metrics import read_metrics

        lines = read_metrics(self._found.folder)
        return pandas.DataFrame(lines).groupby("step").first() if lines else pandas.DataFrame()

    @reader
    def status(self) -> RunStatus:
        """Show how many chunks and rows are encoded.

        Raises:
            StoreMissing: there is no store.
        """
        from daskt2i.store.status import status

        return status(self._found.folder)

    @reader
    def rejected_rows(self) -> RejectedRows:
        """List the rejected rows of the store: file name, reason and detail.

        Raises:
            StoreMissing: there is no store.
        """
        from daskt2i.insights.rejected_rows import rejected_rows

        return rejected_rows(self._found.folder)

    @reader
    def report(self, html: str | Path | None = None) -> ReportResult:
        """Make the report of the whole run: what was encoded and trained, how fast, and what was noted.

        Args:
            html: a file to write the page of the dashboard into. It needs no server and makes no request.

        Raises:
            StoreMissing: nothing was encoded or trained.
            StoreError: the file cannot be written.
        """
        from daskt2i.dashboard.report.result import report

        return report(self._found.folder, html)

    @reader
    def look(self, rows: int = 8, html: str | Path | None = None) -> LookResult:
        """Look at the first rows of the source: pictures, captions, sizes, and what would be rejected.

        Args:
            rows: how many rows to read. All rows of the source are counted.
            html: a file to write a page into. It needs no server and makes no request.

        Raises:
            SourceError: the source cannot be used.
            StoreError: the file cannot be written.
        """
        from daskt2i.session.data.look import look_at

        refuse_strangers(self._found)
        return look_at(self.workflow.dataset, rows, html)

    @reader
    def curves(self, training: Literal["train", "train-vae"] = "train") -> Curves:
        """The figures of a training as curves, to follow it while it runs. Any process may follow.

        Args:
            training: `train`, or `train-vae`.
        """
        from daskt2i.train.figures.curves import Curves

        return Curves(self._found.folder, training)

    @reader
    def sheets(self) -> Sheets:
        """The sheets of pictures that the training has drawn so far, by step."""
        from daskt2i.train.figures.sheets import Sheets

        return Sheets(self._found.folder)

    @reader
    def suggest(self, text: str, n: int = 8) -> list[Suggestion]:
        """Suggest prompts: captions of the store that continue a few letters or words.

        Raises:
            StoreMissing: there is no store.
        """
        return self.suggestions().suggest(text, n)

    @reader
    def suggestions(self) -> Suggestions:
        """The captions of the store, read once, for suggestions at each key.

        Raises:
            StoreMissing: there is no store.
        """
        from daskt2i.insights.suggest import Suggestions

        folder = self._found.folder
        return Suggestions.of_store(folder.root, folder.storage_options)

    @reader
    def load_pipeline(self, device: str = "auto") -> StableDiffusionPipeline:
        """Load the trained model as a diffusers pipeline in this process.

        Args:
            device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

        Raises:
            ModelMissing: there is no trained model.
        """
        from daskt2i.model.pipeline import load

        return load(self._found.folder, device)
