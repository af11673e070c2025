"""The workflow `coco-uvit`: the protocol of U-ViT, and its published figures beside the measured one."""

from __future__ import annotations

from daskt2i.evaluation.figures.result import Figure, Figures
from daskt2i.session.data.choice import load_workflow


def test_it_draws_30_000_captions_of_the_other_split_and_compares_with_the_published_figures() -> None:
    workflow = load_workflow("coco-uvit")
    wanted = workflow.evaluate
    assert (wanted.metrics, wanted.samples, workflow.sample.steps) == (["fid"], 30_000, 50)
    assert wanted.reference != workflow.dataset.source.arguments["images"]
    figures = Figures((Figure("fid", 6.1),), 30_000, 40_504, published=wanted.published)
    assert figures.rows()[0] == ("fid", "6.1; published: U-ViT-S/2 5.95, U-ViT-S/2, Deep 5.48")
    assert figures.to_json()["published"]["fid"]["U-ViT-S/2"] == 5.95


def test_it_trains_the_papers_model() -> None:
    train = load_workflow("coco-uvit").train
    assert (train.model.class_path, train.model.preset) == ("daskt2i.model.denoisers.uvit.UViT", "uvit-s2")
    assert (train.batch, train.steps, train.betas, train.ema) == (256, 1_000_000, (0.9, 0.9), 0.9999)
    assert train.steps * train.batch == 256_000_000
