"""Archives as other systems write them: their names are found, and what is ambiguous is refused."""

from __future__ import annotations

import io
import struct
import unicodedata
import warnings
import zipfile
import zlib
from pathlib import Path

import fsspec
import pytest
from builders.outcomes import Sentence, sentence_of
from hypothesis import given
from hypothesis import strategies as st

from daskt2i.errors import Reason, RowRejected, SourceError
from daskt2i.sources.coco import CocoSource
from daskt2i.sources.files.opening import Pictures
from daskt2i.sources.files.zipped import Zip
from daskt2i.types import Row

NFC, NFD = "caf\u00e9.bmp", "cafe\u0301.bmp"
FIRST, SECOND = b"first", b"second"


class _Named(zipfile.ZipInfo):
    """An entry with the given bytes as its name, with or without the flag for UTF-8."""

    raw, utf8 = b"", False

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # the name is zipfile's
        return self.raw, self.flag_bits | 0x800 if self.utf8 else self.flag_bits & ~0x800


def archive(path: Path, *entries: tuple[bytes, bytes], utf8: bool = False, extra: bytes = b"") -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as opened:
        warnings.simplefilter("ignore")  # zipfile's own about doubled names
        for raw, data in entries:
            entry = _Named(raw.decode("utf-8" if utf8 else "cp437"))
            entry.raw, entry.utf8, entry.extra = raw, utf8, extra
            opened.writestr(entry, data)
    return path


def read(place: Path, name: str) -> bytes:
    return CocoSource(str(place), "unused").read(Row(0, 1, name, ("a caption",)))


def rejection(place: Path, name: str) -> RowRejected:
    with pytest.raises(RowRejected) as caught:
        read(place, name)
    return caught.value


def unicode_path(of: bytes, name: str) -> bytes:
    field = struct.pack("<BL", 1, zlib.crc32(of)) + name.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


@pytest.mark.parametrize("utf8", [True, False], ids=["flag", "no flag"])
@pytest.mark.parametrize("stored", [NFC, NFD], ids=["NFC", "NFD"])
@pytest.mark.parametrize("asked", [NFC, NFD], ids=["NFC", "NFD"])
def test_a_name_in_utf_8_is_found_in_either_form(asked: str, stored: str, utf8: bool, tmp_path: Path) -> None:
    place = archive(tmp_path / "x.zip", (f"fotos/{stored}".encode(), FIRST), (b"ok.bmp", SECOND), utf8=utf8)
    assert read(place, asked) == read(place, f"fotos/{asked}") == FIRST
    assert rejection(place, "cafe.bmp").reason == Reason.MISSING_FILE


@pytest.mark.parametrize("stored", [NFC, NFD], ids=["NFC", "NFD"])
@pytest.mark.parametrize("asked", [NFC, NFD], ids=["NFC", "NFD"])
def test_a_file_in_a_folder_is_found_in_either_form(asked: str, stored: str, tmp_path: Path) -> None:
    (tmp_path / stored).write_bytes(FIRST)
    assert read(tmp_path, asked) == FIRST
    assert rejection(tmp_path, "na\u00efve.bmp").detail == "na\u00efve.bmp"
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/of-zipped/{stored}", FIRST)
    source = CocoSource("memory://of-zipped", "unused")
    assert source.read(Row(0, 1, asked, ("a caption",))) == FIRST


def test_the_very_name_wins_over_the_other_form(tmp_path: Path) -> None:
    (tmp_path / NFC).write_bytes(FIRST)
    (tmp_path / NFD).write_bytes(SECOND)
    place = archive(tmp_path / "x.zip", (NFC.encode(), FIRST), (NFD.encode(), SECOND))
    assert [read(one, name) for one in (tmp_path, place) for name in (NFC, NFD)] == [FIRST, SECOND] * 2


def test_names_of_dos_and_of_windows_are_found(tmp_path: Path) -> None:
    place = archive(tmp_path / "x.zip", ("d\u00e9/\u00fc.bmp".encode("cp437"), FIRST), (b"sub\\dir\\1.bmp", SECOND))
    assert read(place, "d\u00e9/\u00fc.bmp") == read(place, "\u00fc.bmp") == FIRST
    assert read(place, "sub/dir/1.bmp") == read(place, "1.bmp") == SECOND


def test_a_name_in_the_extra_field_is_found_unless_it_belongs_to_another_name(tmp_path: Path) -> None:
    field = unicode_path(b"__.bmp", "\u539f\u3063.bmp")
    place = archive(tmp_path / "x.zip", (b"__.bmp", FIRST), extra=field)
    assert read(place, "\u539f\u3063.bmp") == read(place, "__.bmp") == FIRST
    renamed = archive(tmp_path / "y.zip", (b"new.bmp", FIRST), extra=field)
    assert read(renamed, "new.bmp") == FIRST
    assert rejection(renamed, "\u539f\u3063.bmp").reason == Reason.MISSING_FILE


def test_two_entries_of_one_name_are_refused_unless_they_are_equal(tmp_path: Path) -> None:
    place = archive(
        tmp_path / "x.zip", (b"1.bmp", FIRST), (b"a/2.bmp", FIRST), (b"1.bmp", SECOND), (b"a/2.bmp", SECOND)
    )
    for name in ("1.bmp", "a/2.bmp", "2.bmp"):
        found = rejection(place, name)
        assert found.reason == Reason.UNREADABLE_IMAGE
        assert found.detail == f"{name} is in the archive 2 times, with different content"
    assert read(archive(tmp_path / "y.zip", (b"1.bmp", FIRST), (b"1.bmp", FIRST)), "1.bmp") == FIRST


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("caf\u00e9.bmp", "cp1252"),
        ("\u0444\u043e\u0442\u043e.bmp", "cp866"),
        ("\u0444\u043e\u0442\u043e.bmp", "cp1251"),
        ("\u56fe\u7247.bmp", "gbk"),
        ("\u5199\u771f/\u8868.bmp", "shift_jis"),  # its last character has the code of a backslash in it
        ("\uc0ac\uc9c4.bmp", "cp949"),
    ],
)
def test_a_name_in_a_code_page_of_windows_is_found(name: str, page: str, tmp_path: Path) -> None:
    place = archive(tmp_path / "x.zip", (f"a/{name}".encode(page), FIRST), (b"ok.bmp", SECOND))
    assert read(place, name) == read(place, f"a/{name}") == read(place, unicodedata.normalize("NFD", name)) == FIRST
    assert rejection(place, f"b/{name}").reason == Reason.MISSING_FILE
    assert rejection(place, "na\u00efve.bmp").reason == Reason.MISSING_FILE


def test_a_code_page_must_fit_to_all_names_of_an_archive(tmp_path: Path) -> None:
    """Byte E9 is \u0398 in cp437 and \u00e9 in cp1252, which has no byte 81."""
    entries = ((b"\xe9.bmp", FIRST), (b"\x81.bmp", SECOND))
    assert rejection(archive(tmp_path / "x.zip", *entries), "\u00e9.bmp").reason == Reason.MISSING_FILE
    assert read(archive(tmp_path / "y.zip", *entries[:1]), "\u00e9.bmp") == FIRST


def test_entries_that_may_both_mean_a_name_are_refused_unless_they_are_equal(tmp_path: Path) -> None:
    for name, first, second in (
        (NFC, NFC.encode("cp437"), NFC.encode()),
        ("a/1.bmp", b"a\\1.bmp", b"a/1.bmp"),
        ("\u00c1.bmp", "\u00c1.bmp".encode("cp1252"), "\u00c1.bmp".encode("cp850")),
    ):
        place = archive(tmp_path / "x.zip", (first, FIRST), (second, SECOND))
        assert rejection(place, name).reason == Reason.UNREADABLE_IMAGE
        assert read(archive(tmp_path / "y.zip", (first, FIRST), (second, FIRST)), name) == FIRST


def test_a_name_with_needless_slashes_and_points_is_found(tmp_path: Path) -> None:
    place = archive(tmp_path / "x.zip", (b"./a//b/./1.bmp", FIRST), (b"x/__MACOSX/1.bmp", SECOND))
    assert read(place, "a/b/1.bmp") == read(place, "1.bmp") == FIRST


def test_an_entry_whose_folder_has_two_readings_counts_once(tmp_path: Path) -> None:
    place = archive(tmp_path / "x.zip", ("d\u00e9/1.bmp".encode(), FIRST))
    assert read(place, "1.bmp") == FIRST


def test_zip64_data_descriptors_and_bytes_before_the_archive_are_read(tmp_path: Path) -> None:
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise OSError

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:  # lengths follow the data
        with opened.open(zipfile.ZipInfo("1.bmp"), "w", force_zip64=True) as entry:
            entry.write(FIRST * 100)
        opened.writestr("2.bmp", SECOND)
    place = tmp_path / "x.zip"
    place.write_bytes(b"MZ of a self-extracting archive" + stream.getvalue())
    assert read(place, "1.bmp") == FIRST * 100
    assert read(place, "2.bmp") == SECOND


def test_a_part_of_a_split_archive_is_refused_by_what_it_is(tmp_path: Path) -> None:
    place = archive(tmp_path / "x.zip", (b"1.bmp", FIRST))
    data = bytearray(place.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 34 : directory + 36] = b"\x01\x00"  # the number of the part that holds the entry
    place.write_bytes(data)
    with pytest.raises(SourceError, match="one part of a split zip archive"):
        read(place, "1.bmp")


WHOLE = io.BytesIO()
with zipfile.ZipFile(WHOLE, "w", zipfile.ZIP_DEFLATED) as _opened:
    for _number in range(3):
        _opened.writestr(f"d\u00e9/{_number}.bmp", bytes([_number]) * 200)


@given(st.integers(0, len(WHOLE.getvalue())), st.binary(max_size=12), st.booleans())
def test_a_damaged_archive_gives_the_right_bytes_or_a_sentence(place: int, change: bytes, cut: bool) -> None:
    raw = bytearray(WHOLE.getvalue())
    if cut:
        del raw[place : place + len(change)]
    else:
        raw[place : place + len(change)] = change
    memory = fsspec.filesystem("memory")
    memory.pipe("/of-zipped/damaged.zip", bytes(raw))
    for number in range(3):
        name = f"d\u00e9/{number}.bmp"
        found = sentence_of((RowRejected, SourceError), lambda: Zip(memory, "/of-zipped/damaged.zip").read(name))  # noqa: B023
        assert isinstance(found, Sentence) or found == bytes([number]) * 200


def test_a_name_is_compared_with_as_many_parts_of_an_entry_as_it_has(tmp_path: Path) -> None:
    entries = [(f"train/{n}/image.jpg".encode(), str(n).encode()) for n in range(30)]
    place = archive(tmp_path / "a.zip", *entries, (b"__MACOSX/train/7/image.jpg", b"of the Finder"))
    assert read(place, "7/image.jpg") == b"7"
    assert read(place, "train/17/image.jpg") == b"17"
    assert rejection(place, "image.jpg").detail == "image.jpg is in the archive 30 times"
    assert rejection(place, "rain/7/image.jpg").reason is Reason.MISSING_FILE


def test_names_are_listed_as_unicode_where_they_can_be_and_each_once(tmp_path: Path) -> None:
    """The Finder writes UTF-8, and does not say so."""
    field = unicode_path(b"__.bmp", "\u539f.bmp")
    stored = {
        (NFD.encode(), b""): NFD,
        (b"sub\\dir\\1.bmp", b""): "sub/dir/1.bmp",
        (b"\xe9.bmp", b""): "\u0398.bmp",
        (b"__.bmp", field): "\u539f.bmp",
    }
    for (raw, extra), name in stored.items():
        place = archive(tmp_path / "x.zip", (raw, FIRST), (raw, FIRST), extra=extra)
        found = Pictures(str(place), {})
        assert found.names() == [name]
        assert found.read(name) == FIRST
