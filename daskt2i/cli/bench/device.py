"""The command bench device.

Covers: reading options, calling the benchmark, its page of Markdown.
Does not cover: measuring (`daskt2i.bench.device`), writing and showing reports (`cli.bench.command`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from daskt2i.cli.bench.command import report_folder, show, tell, typed
from daskt2i.cli.endings import report_errors
from daskt2i.cli.numbers import words
from daskt2i.cli.options import JsonOption


def device(
    where: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N. [default: cuda]")] = "cuda",
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Time for all parts.")] = 400.0,
    parts: Annotated[
        str | None,
        typer.Option(
            "--parts", help="device, encoders, whole, training, drawing, kernels, with commas. [default: all]"
        ),
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small models on few items, to see that it works.")] = False,
    out_folder: Annotated[str, typer.Option("--out", "-o", help="The folder of the reports.")] = "runs/bench-device",
    as_json: JsonOption = False,
) -> None:
    """Measure one device: encoding, training and drawing beside plain code of the libraries, and its kernels.

    It needs no network and no data. A part that fails or runs out of time says so in the report.
    """
    with report_errors():
        from daskt2i.bench.device.driver import bench_device
        from daskt2i.bench.device.markdown import markdown

        folder = report_folder(out_folder)
        chosen = {} if parts is None else {"parts": words(parts)}
        report = bench_device(where, seconds=seconds, tiny=tiny, command=typed(), tell=tell, **chosen)
        show(report, folder, as_json, {"md": markdown(report)})
