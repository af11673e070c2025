"""Any COCO-like document: its rows are those that a plain reading gives, and a damaged one is refused in a sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from builders.outcomes import Sentence, sentence_of
from hypothesis import given
from hypothesis import strategies as st

from daskt2i.errors import Reason, SourceError
from daskt2i.sources import coco_index
from daskt2i.sources.files.opening import unusable
from daskt2i.sources.listed.index import Index

TEXT = st.text(max_size=12)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(st.integers(), max_size=2)
OTHERS = st.dictionaries(
    st.sampled_from(["images", "annotations", "url", "name", "licenses", "info", "category_id", "x"]),
    PLAIN | st.dictionaries(st.sampled_from(["id", "images", "caption"]), PLAIN, max_size=2),
    max_size=3,
)
"""Keys that nobody uses, also those that other objects have."""

IMAGES = st.lists(
    st.builds(
        lambda more, number, name, licence: {**more, "id": number, "file_name": name, "license": licence},
        OTHERS, st.integers(0, 5), TEXT | st.sampled_from(["1.jpg", "a/2.jpg"]), st.integers(0, 3) | TEXT,
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip
ANNOTATIONS = st.lists(
    st.builds(
        lambda more, number, caption: {**more, "image_id": number, "caption": caption},
        OTHERS, st.integers(0, 6), TEXT | st.sampled_from(["A dog", "A cat"]),
    ),
    max_size=8,
)  # fmt: skip
LICENCES = st.lists(st.fixed_dictionaries({"id": st.integers(0, 3), "name": TEXT}), max_size=3)
DOCUMENTS = st.builds(
    lambda more, images, annotations, licences: {
        **more, "images": images, "annotations": annotations, "licenses": licences,
    },
    OTHERS, IMAGES, ANNOTATIONS, LICENCES,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coco") / "captions.json"


def parse(path: Path, raw: bytes) -> Index:
    path.write_bytes(raw)
    return coco_index.parse(str(path), {})


def whole(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


@given(DOCUMENTS, st.booleans())
def test_what_goes_in_comes_out_unchanged_or_is_counted(place: Path, document: dict[str, Any], swap: bool) -> None:
    if swap:  # the order of keys means nothing
        document = dict(reversed(document.items()))
    ids = [image["id"] for image in document["images"]]
    captions = document["annotations"]
    orphans = [one for one in captions if one["image_id"] not in ids]
    mine = [one for one in captions if one["image_id"] in ids]
    kept = [one for one in mine if one["caption"].strip() and whole(one["caption"])]
    raw = json.dumps(document).encode()
    if captions and not mine:
        with pytest.raises(SourceError, match="belongs to an image"):
            parse(place, raw)
        return
    index = parse(place, raw)
    assert list(index.ids) == ids
    assert (index.orphan_captions, index.blank_captions, index.caption_count) == (
        len(orphans), len(mine) - len(kept), len(kept),
    )  # fmt: skip
    assert index.caption_characters == sum(len(one["caption"]) for one in kept)
    for position, image in enumerate(document["images"]):
        row = index.row(position)
        first = ids.index(image["id"]) == position
        assert list(row.captions) == [one["caption"] for one in kept if first and one["image_id"] == image["id"]]
        assert row.file_name == image["file_name"] or not whole(image["file_name"])
        wrong = unusable(image["file_name"])
        expected = None if row.captions else Reason.NO_CAPTION
        assert row.reason == (Reason.DUPLICATE_ID if not first else wrong[0] if wrong else expected)
        f"{row.file_name}{row.licence}{row.detail}{row.captions}".encode()


@given(DOCUMENTS, st.data())
def test_a_mutated_document_gives_rows_or_one_sentence(
    place: Path, document: dict[str, Any], draw: st.DataObject
) -> None:
    raw = bytearray(json.dumps(document, ensure_ascii=draw.draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(draw.draw(st.integers(1, 3))):
        start = draw.draw(st.integers(0, len(raw)))
        raw[start : start + draw.draw(st.integers(0, 9))] = draw.draw(
            st.binary(max_size=4)
            | st.sampled_from([b"null", b"[]", b"{}", b'"id":1,', b"1e999", b"-", b"NaN", b"true"])
        )
    index = sentence_of(SourceError, parse, place, bytes(raw))
    for position in range(0 if isinstance(index, Sentence) else len(index)):
        row = index.row(position)
        f"{row.file_name}{row.licence}{row.detail}{row.captions}".encode()


ODD = [None, True, 1.5, math.nan, 10**30, "x", "\ud83d", [], ["x"], {}, {"id": 1}, [[1] * 50]]


@pytest.mark.parametrize(
    "key", ["images", "annotations", "licenses", "id", "file_name", "license", "image_id", "caption"]
)
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_value_of_another_kind_gives_rows_or_one_sentence(key: str, value: Any, place: Path) -> None:
    image: dict[str, Any] = {"id": 1, "file_name": "1.jpg", "license": 1}
    document = {
        "images": [image, {**image, "id": 2}],
        "annotations": [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "b"}],
        "licenses": [{"id": 1, "name": "BY"}],
    }
    if key in document:
        document[key] = value
    else:
        where = "images" if key in image else "annotations"
        document[where][0][key] = value
    index = sentence_of(SourceError, parse, place, json.dumps(document).encode())
    if isinstance(index, Sentence):
        assert len(index) < 400
    else:
        row = index.row(0)
        f"{row.file_name}{row.licence}{row.detail}".encode()
        assert index.row(1).captions == (("b",) if document["annotations"] else ())


@pytest.mark.parametrize(
    ("value", "licence"),
    [
        (1, "BY"),
        ("1", "BY"),
        (1.0, "BY"),
        (7, "7"),
        ("\ud83d", "?"),
        (None, ""),
        (True, ""),
        ([1], ""),
        ({"id": 1}, ""),
    ],
    ids=repr,
)
def test_a_licence_is_a_name_a_number_or_none(value: Any, licence: str, place: Path) -> None:
    document = {
        "images": [{"id": 1, "file_name": "1.jpg", "license": value}],
        "annotations": [{"image_id": 1, "caption": "a"}],
        "licenses": [{"id": 1, "name": "BY", "url": "x"}, {"name": "no number"}, {"id": [1], "name": "a list"}],
    }
    assert parse(place, json.dumps(document).encode()).row(0).licence == licence


@pytest.mark.parametrize("key", ["images", "annotations", "url", "name", "licenses", "image_id", "caption"])
def test_entries_may_have_keys_of_other_objects(key: str, place: Path) -> None:
    """Nested exports keep the ids of its annotations in an image."""
    document = {
        "images": [{key: [{"id": 9, "file_name": "9.jpg"}], "id": 1, "file_name": "1.jpg"}],
        "annotations": [{**({key: {"images": [], "annotations": []}} if key not in ("image_id", "caption") else {}),
                         "image_id": 1, "caption": "a"}],
    }  # fmt: skip
    row = parse(place, json.dumps(document).encode()).row(0)
    assert (row.image_id, row.file_name, row.captions, row.reason) == (1, "1.jpg", ("a",), None)


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ('"images": [', '"images": [], "images": [', "images"),
        ('"annotations": [', '"annotations": [], "annotations": [', "annotations"),
        ('"file_name":', '"file_name": "2.jpg", "file_name":', "file_name"),
        ('"caption":', '"caption": "another", "caption":', "caption"),
        ('"year":', '"year": 1, "year":', "year"),
    ],
)
def test_a_doubled_key_is_refused_and_named(before: str, after: str, key: str, place: Path) -> None:
    document = {
        "info": {"year": 2014},
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "caption": "a"}],
    }
    with pytest.raises(SourceError, match=f"the key '{key}' occurs twice"):
        parse(place, json.dumps(document).replace(before, after).encode())


@pytest.mark.parametrize(
    ("value", "kind"), [(["a", "b"], "a list"), ({"en": "a"}, "an object"), (7, "a number"), (True, "true or false")]
)
def test_captions_that_are_no_text_are_refused_by_what_they_are(value: Any, kind: str, place: Path) -> None:
    document = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        "annotations": [{"image_id": 1, "caption": value}, {"image_id": 2, "caption": value}],
    }
    with pytest.raises(SourceError, match=f"in 2 of 2 annotations `caption` is {kind}"):
        parse(place, json.dumps(document).encode())
    document["annotations"][1]["caption"] = "text"  # one of both: its row is accepted, the other one says why not
    index = parse(place, json.dumps(document).encode())
    assert (index.row(0).reason, index.row(0).detail) == (Reason.NO_CAPTION, f"its caption is {kind}, not text")
    assert index.row(1).captions == ("text",)
    assert index.blank_captions == 1


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_caption_file_in_another_coding_of_unicode_is_read(coding: str, place: Path) -> None:
    document = {
        "images": [{"id": 1, "file_name": "\u00fc.jpg"}],
        "annotations": [{"image_id": 1, "caption": "\U0001f992 \u539f"}],
    }
    row = parse(place, json.dumps(document, ensure_ascii=False).encode(coding)).row(0)
    assert (row.file_name, row.captions) == ("\u00fc.jpg", ("\U0001f992 \u539f",))
