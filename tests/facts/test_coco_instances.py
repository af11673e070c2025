"""Instance files: ids are integers in any writing, and anything else is one sentence that names the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.outcomes import Sentence, sentence_of
from hypothesis import given
from hypothesis import strategies as st

from daskt2i.errors import ConfigError
from daskt2i.facts.coco_instances import persons_of

PERSON = {"id": 1, "name": "person"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("instances") / "instances.json"


def counted(path: Path, annotations: Any, categories: Any = (PERSON, {"id": 2, "name": "dog"})) -> dict[int, int]:
    path.write_text(json.dumps({"annotations": annotations, "categories": categories}))
    return persons_of(str(path))


def box(image: Any, category: Any = 1) -> dict[str, Any]:
    return {"id": 5, "image_id": image, "category_id": category, "segmentation": [[1.5, 2.5]]}


def test_digits_in_quotes_and_whole_floats_are_ids(place: Path) -> None:
    boxes = [box(7), box("7"), box(7.0), box("007", "1"), box(8, 1.0), box(8, 2), box(-3)]
    assert counted(place, boxes) == {7: 4, 8: 1, -3: 1}
    assert counted(place, [box(7)], [{"id": "1", "name": "person"}]) == {7: 1}


@pytest.mark.parametrize("value", ["x1", "", None, True, 1.5, 2**63, [1], {}, "\u0663"], ids=repr)
def test_another_id_is_one_sentence_that_names_its_entry(value: Any, place: Path) -> None:
    with pytest.raises(ConfigError, match=r"`image_id` of entry 1 of `annotations` is .* 64-bit integer"):
        counted(place, [box(1), box(value)])
    with pytest.raises(ConfigError, match="`category_id` of entry 0 of `annotations` is"):
        counted(place, [box(1, value)])
    with pytest.raises(ConfigError, match="`id` of entry 1 of `categories` is"):
        counted(place, [box(1)], [{"id": 2, "name": "dog"}, {"id": value, "name": "person"}])


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ('{"categories": [], "annotations": [], "categories": []}', "the key 'categories' occurs twice"),
        ('{"categories": [{"id": 1, "id": 2, "name": "person"}], "annotations": []}', "the key 'id' occurs twice"),
        ("[]", "it has no list `categories`"),
        ('{"categories": {}, "annotations": []}', "it has no list `categories`"),
        ('{"categories": [{"id": 1, "name": "person"}]}', "it has no list `annotations`"),
        ('{"categories": [1], "annotations": [1]}', "entry 0 of `annotations` is no object"),
        ('{"categories": [], "annotations": [{"image_id": 1}]}', "entry 0 of `annotations` is no object"),
        (
            '{"categories": [], "annotations": [{"category_id": 1}]}',
            "`image_id` of entry 0 of `annotations` is missing",
        ),
        ('{"categories": [{"category_id": 1}], "annotations": []}', "entry 0 of `categories` is an annotation"),
        ('{"categories": [], "annotations": []}', "has no category named person"),
        ("", "it is empty"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_instance_file_is_one_sentence(text: str, clause: str, place: Path) -> None:
    place.write_text(text)
    with pytest.raises(ConfigError) as caught:
        persons_of(str(place))
    assert clause in str(caught.value)
    assert "Nothing was counted" in str(caught.value)


PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
)
ENTRIES = st.lists(
    PLAIN | st.dictionaries(st.sampled_from(["id", "image_id", "category_id", "name", "annotations"]), PLAIN),
    max_size=4,
)


@given(ENTRIES | PLAIN, ENTRIES.map(lambda entries: [PERSON, *entries]) | PLAIN)
def test_any_document_gives_counts_or_one_sentence(place: Path, annotations: Any, categories: Any) -> None:
    found = sentence_of(ConfigError, counted, place, annotations, categories)
    assert isinstance(found, Sentence) or sum(found.values()) <= len(annotations)
