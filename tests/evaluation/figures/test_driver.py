"""Figures of drawn pictures: measured on workers, kept part by part, and refused in one sentence before work begins."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.advice import told
from builders.coco import PEOPLE, WITH_PEOPLE, settings, write_coco
from builders.models import clip_folder, dinov2_folder
from builders.runs import tiny_workflow
from builders.workflows import finish
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.multimodal.clip_score import CLIPScore

import daskt2i
from daskt2i.errors import ConfigError
from daskt2i.evaluation.figures import distances, extractors, inception
from daskt2i.evaluation.figures.prepare import require_models
from daskt2i.evaluation.figures.reference import require_fit
from daskt2i.evaluation.figures.statistics import Statistics, StatisticsFile, from_bytes, to_bytes
from daskt2i.events import Event, Note, Progress
from daskt2i.executors.serial import SerialExecutor
from daskt2i.protocols import ExecutorInfo, R

PROMPTS = ["a red circle on a blue background", "a yellow star on a white background", "two dogs"]
FIGURES = ["fid", "kid", "cmmd", "clip", "precision"]
COUNT = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A DINOv2 and a CLIP with random weights, as repositories have them."""
    folder = tmp_path_factory.mktemp("models")
    dinov2, clip = dinov2_folder(folder / "dinov2"), clip_folder(folder / "clip", "CLIPModel")
    sizes = {"crop_size": 16, "size": 16, "do_center_crop": True, "do_resize": True, "do_normalize": True}
    means = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    kinds = {"feature_extractor_type": "CLIPFeatureExtractor", "image_processor_type": "CLIPImageProcessor"}
    (clip / "preprocessor_config.json").write_text(json.dumps({**sizes, **means, **kinds, "resample": 3}))
    small = {"size": {"height": 32, "width": 32}, "do_center_crop": False, "resample": 3}
    (dinov2 / "preprocessor_config.json").write_text(
        json.dumps({**small, **means, "image_processor_type": "ViTImageProcessor"})
    )
    return {"vision": str(dinov2), "clip": str(clip)}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures without captions, one of them damaged."""
    folder = tmp_path_factory.mktemp("real")
    numbers = np.random.default_rng(0)
    for index in range(9):
        Image.fromarray(numbers.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    (folder / "9.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def out(demo_run: Path, tmp_path: Path) -> Path:
    for name in ("pipeline", "latents.zarr"):
        shutil.copytree(demo_run / name, tmp_path / "run" / name)
    return tmp_path / "run"


def run_of(out: Path, scheduler: str = "serial", progress: Any = False, **evaluate: Any) -> daskt2i.Run:
    given = {"sample.steps": 1, "sample.batch": 2, "evaluate.few_samples": True}
    given |= {f"evaluate.{name}": value for name, value in evaluate.items()}
    return daskt2i.Run(tiny_workflow(), out, scheduler=scheduler, progress=progress, settings=given)


def kept(out: Path, name: str) -> np.ndarray[Any, Any]:
    """Features of the drawn pictures, as the run folder keeps them."""
    from safetensors.numpy import load_file

    return np.concatenate([load_file(file)[name] for file in sorted((out / "reports/features").rglob("*.safetensors"))])


def test_the_figures_are_those_of_torchmetrics_on_the_same_arrays(
    out: Path, real: Path, models: dict[str, str]
) -> None:
    import torch

    run = run_of(out, keep_pictures=True)
    asked = {"metrics": FIGURES, "reference": str(real), "weights": [*models.values()], "samples": COUNT}
    found = run.evaluate(PROMPTS, **asked).to_json()
    pictures = [np.asarray(Image.open(file)) for file in sorted((out / "samples/evaluate").glob("*.png"))]
    assert len(pictures) == COUNT == found["drawn"]
    assert found["real"] == 9, "the damaged one is left out"
    # What the workers sent are the features of these pictures.
    vision = extractors.Extractor(extractors.look(models["vision"]), "cpu", 1)
    np.testing.assert_allclose(kept(out, "vision"), vision.pictures(pictures), rtol=1e-3, atol=1e-5)
    metric = FrechetInceptionDistance(feature=distances._given(vision.found.features))
    metric.update(torch.from_numpy(kept(out, "vision")), real=False)
    metric.update(
        torch.from_numpy(from_bytes(Path(found["statistics"]).read_bytes(), "x").by_kind["vision"].features)
    ) if False else metric.update(torch.from_numpy(real_features(found, "vision")), real=True)
    assert found["fid"] == pytest.approx(float(metric.compute()), rel=1e-3)
    # CLIP score through torchmetrics from the pictures themselves.
    clip = extractors.Extractor(extractors.look(models["clip"]), "cpu", 1)
    score = CLIPScore(model_name_or_path=lambda: (_Plain(clip._model), clip._processor))
    texts = [PROMPTS[n % 3] for n in range(COUNT)]
    score.update([torch.from_numpy(one.transpose(2, 0, 1).copy()) for one in pictures], texts)
    assert found["clip_score"] == pytest.approx(float(score.compute()), rel=1e-3, abs=1e-3)
    assert {"kid", "cmmd", "precision", "recall"} <= set(found)
    assert json.loads((out / "reports/evaluate.json").read_text())["fid"] == found["fid"]


class _Plain:
    """A CLIP model that returns features as before transformers 5: torchmetrics 1.9 reads no other."""

    def __init__(self, model: Any) -> None:
        self._model, self.config, self.device = model, model.config, model.device

    def to(self, device: Any) -> _Plain:
        return self

    def get_image_features(self, pixel_values: Any) -> Any:
        return self._model.get_image_features(pixel_values=pixel_values).pooler_output

    def get_text_features(self, input_ids: Any, attention_mask: Any) -> Any:
        found = self._model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return found.pooler_output


def real_features(found: dict[str, Any], kind: str) -> Any:
    return from_bytes(Path(found["statistics"]).read_bytes(), "x.safetensors").by_kind[kind].features


def test_a_stopped_evaluate_goes_on_and_gives_the_same_figures(out: Path, real: Path, models: dict[str, str]) -> None:
    asked = {"metrics": ["kid"], "reference": str(real), "weights": models["vision"], "samples": COUNT}
    whole = run_of(out).evaluate(PROMPTS, **asked).to_json()
    shutil.rmtree(out / "reports")

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.what.startswith("pictures drawn") and event.done >= 4:
            raise KeyboardInterrupt

    with told("evaluation/figures/driver.py:measure Interrupted"):
        run_of(out, progress=stop).evaluate(PROMPTS, **asked)
    heard: list[Event] = []
    again = run_of(out, progress=heard.append).evaluate(PROMPTS, **asked).to_json()
    assert again["kid"] == whole["kid"]
    assert [event.done for event in heard if isinstance(event, Progress)] == [COUNT], "one part of three was left"
    assert any("4 of 6 were done before" in event.text for event in heard if isinstance(event, Note))


@pytest.mark.slow
def test_two_workers_give_the_figures_of_one(out: Path, real: Path, models: dict[str, str]) -> None:
    asked = {"metrics": FIGURES, "reference": str(real), "weights": [*models.values()], "samples": COUNT}
    found = []
    for scheduler in ("serial", "local:2"):
        with run_of(out, scheduler) as run:
            found.append(run.evaluate(PROMPTS, **asked).to_json())
        shutil.rmtree(out / "reports")
    for name in ("fid", "kid", "cmmd", "clip_score", "precision", "recall"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-3, abs=1e-4), name


def test_statistics_in_a_file_are_used_again_and_checked(
    out: Path, real: Path, models: dict[str, str], tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"metrics": ["fid", "kid"], "weights": models["vision"], "samples": COUNT}
    first = run_of(out).evaluate(PROMPTS, reference=str(real), **asked).to_json()
    file = shutil.copy(first["statistics"], tmp_path / "real.safetensors")
    second = run_of(out).evaluate(PROMPTS, reference=str(file), **asked).to_json()
    assert (second["fid"], second["kid"], second["real"]) == (first["fid"], first["kid"], first["real"])

    def refuse(match: str, **changes: Any) -> None:
        with pytest.raises(ConfigError, match=match):
            run_of(out).evaluate(PROMPTS, **{**asked, "reference": str(file), **changes})

    refuse("have no features of .*clip", metrics="cmmd", weights=models["clip"])
    other = dinov2_folder(tmp_path / "other", seed=1)
    refuse("made by other weights", weights=str(other))
    np.savez(tmp_path / "bare.npz", mu=np.zeros(inception.FEATURES), sigma=np.eye(inception.FEATURES))
    refuse("have no features of .*vision", reference=str(tmp_path / "bare.npz"))
    features = from_bytes(Path(file).read_bytes(), "x.safetensors")
    values = {"vision": features.by_kind["vision"].features}
    larger = tmp_path / "larger.safetensors"
    larger.write_bytes(to_bytes(values, {**features.made_of, "side": 128}))  # type: ignore[arg-type]
    refuse("of pictures of 128 pixels", reference=str(larger))
    (tmp_path / "torn.safetensors").write_bytes(Path(file).read_bytes()[:100])
    with told("evaluation/figures/statistics.py:from_bytes ConfigError"):
        run_of(out).evaluate(PROMPTS, reference=str(tmp_path / "torn.safetensors"), **asked)
    with told("evaluation/figures/reference.py:real_pictures SourceError"):
        run_of(out).evaluate(PROMPTS, reference=str(tmp_path / "none.npz"), **asked)
    with told("evaluation/figures/reference.py:real_pictures SourceError") as error:
        run_of(out).evaluate(PROMPTS, reference=str(tmp_path / "nowhere"), **asked)
    assert "(reference)" in str(error.value)


@pytest.fixture
def nothing_drawn(out: Path) -> Iterator[None]:
    yield
    assert not (out / "reports").exists()


@pytest.mark.usefixtures("nothing_drawn")
def test_few_pictures_are_refused_before_work_begins(out: Path, real: Path, models: dict[str, str]) -> None:
    asked: dict[str, Any] = {"reference": str(real), "weights": models["vision"]}
    strict = run_of(out, few_samples=False)
    with told("evaluation/figures/request.py:require_enough ConfigError"):
        strict.evaluate(PROMPTS, metrics="fid", samples=10, **asked)
    with told("evaluation/figures/request.py:require_enough ConfigError"):
        strict.evaluate(PROMPTS, metrics="kid", samples=2, **asked)


@pytest.mark.usefixtures("nothing_drawn")
def test_without_torchmetrics_one_sentence_says_so(
    out: Path, real: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)  # as if it were not installed
    with told("evaluation/figures/request.py:_require_library ConfigError"):
        run_of(out).evaluate(PROMPTS, metrics="fid", reference=str(real), weights=models["vision"], samples=COUNT)


@pytest.mark.usefixtures("nothing_drawn")
def test_a_figure_without_its_model_is_refused(out: Path, real: Path, models: dict[str, str], tmp_path: Path) -> None:
    run = run_of(out)
    with told("evaluation/figures/request.py:figure_request ConfigError"):
        run.evaluate(PROMPTS, metrics="cmmd", reference=str(real), weights=models["vision"], samples=COUNT)
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "inception.pth").write_bytes(b"a pickle")
    with told("evaluation/figures/extractors.py:look ModelError"):
        run.evaluate(PROMPTS, metrics="kid", reference=str(real), weights=str(tmp_path / "pickled"), samples=COUNT)
    from safetensors.numpy import save_file

    (tmp_path / "other").mkdir()
    save_file({"weight": np.zeros(3)}, tmp_path / "other" / "model.safetensors")
    with told("evaluation/figures/extractors.py:look ModelError"):
        run.evaluate(PROMPTS, metrics="kid", reference=str(real), weights=str(tmp_path / "other"), samples=COUNT)


def test_an_inception_with_other_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({inception.FIRST: np.zeros((32, 3, 3, 3), np.float32)}, tmp_path / "model.safetensors")
    found = extractors.look(str(tmp_path))
    assert found.kind == "inception"
    with told("evaluation/figures/extractors.py:Extractor.__init__ ModelError"):
        extractors.Extractor(found, "cpu", 1)


def test_pictures_of_a_folder_with_captions_give_the_prompts(out: Path, models: dict[str, str], tmp_path: Path) -> None:
    for index in range(5):
        Image.fromarray(np.full((64, 64, 3), 40 * index, np.uint8)).save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.txt").write_text(f"a grey picture, number {index}")
    asked = {"metrics": ["clip", "precision"], "weights": [*models.values()], "samples": COUNT}
    found = run_of(out, keep_pictures=True).evaluate(reference=str(tmp_path), **asked).to_json()
    assert found["real"] == 5
    prompts = [Image.open(file).text["Prompt"] for file in sorted((out / "samples/evaluate").glob("*.png"))]  # type: ignore[attr-defined]
    assert len(prompts) == COUNT
    assert len(set(prompts)) == 5, "of each picture one caption, and then from the first on"


def test_a_run_folder_is_compared_with_by_the_images_that_it_was_encoded_from(
    out: Path, models: dict[str, str], tmp_path: Path
) -> None:
    coco = write_coco(tmp_path / "coco")
    whole, chosen = tmp_path / "whole", tmp_path / "chosen"
    for place, where in ((whole, None), (chosen, "people")):
        finish(settings(coco, where), place)
    asked = {"metrics": ["precision"], "weights": models["vision"], "samples": COUNT}
    found = [run_of(out).evaluate(PROMPTS, reference=str(place), **asked).to_json() for place in (whole, chosen)]
    assert [one["real"] for one in found] == [len(PEOPLE), len(WITH_PEOPLE)], "the rows that dataset.where keeps"
    shutil.rmtree(coco)
    with told("evaluation/figures/reference.py:_of_run SourceError"):
        run_of(out).evaluate(PROMPTS, reference=str(whole), **asked)
    (whole / "workflow.yaml").unlink()
    with told("evaluation/figures/reference.py:_of_run ConfigError"):
        run_of(out).evaluate(PROMPTS, reference=str(whole), **asked)


def test_the_judge_and_other_figures_draw_their_pictures_once(out: Path, models: dict[str, str]) -> None:
    scenes = PROMPTS[:2]
    heard: list[Event] = []
    run = run_of(out, progress=heard.append, seeds=2)
    both = run.evaluate(scenes, metrics=["judge", "clip"], weights=models["clip"]).to_json()
    drawn = [event.total for event in heard if isinstance(event, Progress) and "drawn" in event.what]
    assert set(drawn) == {4}
    assert len(drawn) == 2, "two parts of two pictures"
    alone = run_of(out, seeds=2).evaluate(scenes, metrics="judge").to_json()
    assert {name: both[name] for name in alone if name != "sheet"} == {k: v for k, v in alone.items() if k != "sheet"}
    assert both["drawn"] == 4


def test_a_host_that_lacks_the_weights_is_named_before_a_picture_is_drawn(models: dict[str, str]) -> None:
    there = extractors.look(models["vision"])
    gone = replace(there, model="models/gone")
    require_models(Elsewhere(), [there])
    with told("evaluation/figures/prepare.py:require_models WorkerWithoutFiles") as caught:
        require_models(Elsewhere(), [there, gone])
    assert f"{socket.gethostname()}: models/gone" in str(caught.value)
    with told("evaluation/figures/prepare.py:require_models WorkerWithoutFiles"):
        require_models(Elsewhere(), [replace(there, digest="of other weights")])


class Elsewhere(SerialExecutor):
    """An executor whose worker is asked what it sees; here the worker is this process."""

    def ask(self, question: Callable[[], R], seconds: float) -> Mapping[str, R]:
        return {"worker": question()}

    def leave_out(self, workers: Collection[str]) -> ExecutorInfo:
        raise AssertionError("nobody is left out")


def test_mean_and_covariance_alone_are_refused_for_other_figures_than_fid() -> None:
    model = extractors.FeatureModel("folder", "inception", "0", 2)
    bare = StatisticsFile({"inception": Statistics(np.zeros(2), np.eye(2), 9)})
    require_fit(bare, [model], 64, features=False)
    with told("evaluation/figures/reference.py:require_fit ConfigError"):
        require_fit(bare, [model], 64, features=True)
