"""Secrets are hidden in text and settings; what is no secret stays."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from builders.workflows import component, fake_settings, finish, with_parts
from hypothesis import given
from hypothesis import strategies as st

from daskt2i import redact
from daskt2i.config.component import Component
from daskt2i.config.workflow_file import fingerprint, parse_workflow
from daskt2i.credentials import for_use
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encode.saved_workflow import settings_of, without_secrets
from daskt2i.encode.verify import verify
from daskt2i.errors import ConfigError, Daskt2iError, RowRejected, SourceError, sentence
from daskt2i.events import Note
from daskt2i.executors.serial import SerialExecutor
from daskt2i.portable_errors import from_json, portable, to_json
from daskt2i.sources.coco import CocoSource
from daskt2i.sources.fake import FakeSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

SECRET = "TOPSECRET"

HOLDERS = [
    "https://me:TOPSECRET@host/images?x=1",
    "https://TOPSECRET@host/images",
    "s3://AKIA1:TOPSECRET@bucket/run",
    "https://host/c.json?X-Amz-Signature=TOPSECRET&X-Amz-Date=1",
    "https://host/c.json?X-Amz-Credential=TOPSECRET%2F2026",
    "https://a.blob.core.windows.net/c?sv=1&sig=TOPSECRET",
    "https://host/c.json#access_token=TOPSECRET",
    "https://host/c.json?key=TOPSECRET",
    "https://host/api/c.json?code=TOPSECRET-0123456789",
    "https://host/c.json?x=1&subscription-key=TOPSECRET",
    "https://host/c.json?hdnts=st=1~exp=2~hmac=TOPSECRET",
    "encode --set 'run.storage_options={key: TOPSECRET, secret: TOPSECRET}'",
    "encode --set run.storage_options.secret=TOPSECRET",
    "got {'key': 'TOPSECRET', 'client_kwargs': {'aws_secret_access_key': 'TOPSECRET'}}",
    '{"token": "TOPSECRET"}',
    "AWS_SESSION_TOKEN=TOPSECRET AWS_SECRET_ACCESS_KEY=TOPSECRET",
    "AccountName=a;AccountKey=TOPSECRET==;EndpointSuffix=core",
    "Authorization: Bearer TOPSECRET",
    "connect(password='TOP SECRET TOPSECRET')",
]

HARMLESS = [
    "abfs://container@account.dfs.core.windows.net/run",
    "ssh://me@host/run",
    "Leave the tokens out (tokens=False, --no-tokens)",
    "pad_token=<pad>, num_tokens=77, keys=3, key=jpg",
    "run.storage_options={anon: true, token: anon, secret: env:MY_SECRET}",
    "dataset.image.resolution: 64 there, 96 now",
    "https://host/images/00001.jpg?width=64",
    "https://host/images/00001.jpg?code=de&versionId=a1b2c3d4e5f6a7b8c9",
]


@pytest.mark.parametrize("text", HOLDERS)
def test_a_text_that_holds_a_secret_loses_it(text: str) -> None:
    assert SECRET not in redact.without_secret(text)
    assert redact.without_secret(redact.without_secret(text)) == redact.without_secret(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_a_text_without_a_secret_stays(text: str) -> None:
    assert redact.without_secret(text) == text


_TEXT = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=8)
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["images", "key", "rows", "a"]), inner),
    max_leaves=8,
)


@given(_PLAIN, st.sampled_from(["secret", "password", "token", "account_key", "connection_string", "sas_token"]))
def test_settings_lose_what_stands_under_the_name_of_a_secret_and_nothing_else(data: Any, name: str) -> None:
    assert redact.without_secrets(data) == data
    found = redact.without_secrets({"a": [data, {name: SECRET, "b": data}]})
    assert found == {"a": [data, {name: "***", "b": data}]}


def test_inside_storage_options_the_key_is_a_secret_and_what_says_that_there_is_none_stays() -> None:
    options = {"key": "AKIA1", "anon": False, "token": "anon", "secret": "env:NAME", "endpoint_url": "http://x"}
    assert redact.without_secrets({"key": "jpg", "storage_options": options}) == {
        "key": "jpg",
        "storage_options": {**options, "key": "***"},
    }


def test_credentials_that_were_used_are_hidden_wherever_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "x9y8z7w6")
    assert for_use({"secret": "env:MY_SECRET", "n": 1}) == {"secret": "x9y8z7w6", "n": 1}
    assert redact.without_secret("the server said: x9y8z7w6 is not known") == "the server said: *** is not known"
    monkeypatch.delenv("MY_SECRET")
    with pytest.raises(ConfigError, match="MY_SECRET"):
        for_use({"client_kwargs": {"token": "env:MY_SECRET"}})


@pytest.mark.parametrize(
    "address",
    ["s3://me:p%40ss-w0rd-77@bucket/run", "https://host/a?sig=p%40ss-w0rd-77", "https://p%40ss-w0rd-77@host/a"],
)
def test_a_part_of_an_address_that_was_used_shows_no_secret(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_known", set())
    for_use({}, address)
    for part in ("p%40ss-w0rd-77", "p@ss-w0rd-77"):
        assert part not in redact.without_secret(f"Invalid bucket name {part} of bucket")


def test_errors_and_notes_show_no_secret_here_and_in_another_process() -> None:
    text = f"cannot read https://me:{SECRET}@host/a"
    ours, theirs = SourceError(text), OSError(5, text)
    shown = [
        str(ours),
        repr(ours),
        sentence(ours),
        sentence(theirs),
        Note(text).text,
        RowRejected("missing-file", text),
    ]
    shown += [to_json(ours), str(from_json(to_json(theirs))), portable(OSError(text)), ours._render_traceback_()]
    assert [one for one in shown if SECRET in str(one) or SECRET in repr(one)] == []
    assert isinstance(portable(ours), Daskt2iError)


def test_objects_show_no_secret() -> None:
    source = component("a.B", images=f"https://me:{SECRET}@host/a", storage_options={"key": SECRET}, token=SECRET)
    workflow = with_parts(fake_settings(storage_options={"secret": SECRET}), source=source)
    folder = RunFolder(f"s3://k:{SECRET}@bucket/x", {"secret": SECRET})
    shown = [source, workflow, folder, CocoSource(f"https://host/a?sig={SECRET}", "b", {"key": SECRET})]
    assert [one for one in shown if SECRET in repr(one) or SECRET in str(one)] == []


def test_a_wrong_setting_inside_credentials_is_named_without_its_value() -> None:
    data = {"name": "x", "dataset": {}, "run": {"storage_options": f"key: a, secret: {SECRET}"}, "launch": {}}
    with pytest.raises(ConfigError, match=r"run\.storage_options") as error:
        parse_workflow(data, "of a test")
    assert SECRET not in str(error.value)


class NamedPlaces(FakeSource):
    """A source that names its own locations, and not the credentials among them."""

    locations = frozenset({"folder"})

    def __init__(self, folder: str = "x", storage_options: dict[str, str] | None = None, broken: bool = False) -> None:
        super().__init__(12)
        self.folder, self.options, self.broken = folder, storage_options, broken

    def read(self, row: Any) -> bytes:
        if self.broken and row.index == 9:
            raise LookupError(f"cannot reach {self.folder} with {self.options}")
        return super().read(row)


def secret_run(**arguments: Any) -> Any:
    address = f"https://me:{SECRET}@host/images?sig={SECRET}"
    options = {"key": SECRET, "secret": SECRET, "client_kwargs": {"aws_session_token": SECRET}}
    source = component("test_redact.NamedPlaces", folder=address, storage_options=options, **arguments)
    return with_parts(fake_settings(rows_per_chunk=8, retries=0), source=source)


def test_no_file_of_a_run_holds_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Any] = []
    caplog.set_level(logging.DEBUG)
    done = encode(prepare(secret_run(broken=True), tmp_path), SerialExecutor(), events.append)
    assert len(done.failed) == 1
    files = [Path(folder, name) for folder, _, names in os.walk(tmp_path) for name in names]
    assert any(path.suffix == ".log" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert [event for event in events if SECRET in repr(event)] == []
    assert SECRET not in caplog.text + repr(done) + str(done.to_json())
    assert "host/images" in str(settings_of(RunFolder(tmp_path)))


def test_a_store_that_holds_secrets_of_an_older_version_is_still_the_same_store(tmp_path: Path) -> None:
    workflow = secret_run()
    finish(workflow, tmp_path)
    attributes = ZarrStore(RunFolder(tmp_path)).attributes()
    assert attributes is not None
    # As an older version wrote it: the identity with the secrets, its fingerprint, and receipts with that fingerprint.
    old = {**attributes["daskt2i"]["identity"], "source": _old_identity(workflow.dataset.source)}
    old["source"] |= {k: v for k, v in attributes["daskt2i"]["identity"]["source"].items() if k not in old["source"]}
    mark = fingerprint(old)
    for path in [tmp_path / "latents.zarr" / "zarr.json", *sorted((tmp_path / "receipts").iterdir())]:
        path.write_text(path.read_text().replace(attributes["daskt2i"]["fingerprint"], mark))
    meta = tmp_path / "latents.zarr" / "zarr.json"
    found = json.loads(meta.read_text())
    found["attributes"]["daskt2i"]["identity"] = old
    meta.write_text(json.dumps(found))
    (tmp_path / "receipts" / "chunk-0000001.json").unlink()
    again = finish(workflow, tmp_path)
    assert (again.skipped, again.done) == (1, 1)
    assert verify(RunFolder(tmp_path), workflow, trusted=True).ok


def _old_identity(source: Component) -> dict[str, Any]:
    return {"class": source.class_path, **{k: v for k, v in source.arguments.items() if k != "folder"}, "broken": False}


def test_a_workflow_without_secrets_is_kept_as_it_is() -> None:
    workflow = fake_settings()
    kept = without_secrets(workflow)
    assert kept.dataset == workflow.dataset
    assert kept.dataset.source.identity() == workflow.dataset.source.identity()


def test_the_name_of_a_user_stays_in_paths_and_a_path_with_a_hidden_part_is_not_used() -> None:
    for_use({"username": "research", "password": "researchers-secret"}, "sftp://host/x")
    kept = redact.without_secrets({"images": "sftp://host/home/research/images", "user": "research"})
    assert kept == {"images": "sftp://host/home/research/images", "user": "research"}
    hidden = redact.without_secrets({"images": "/data/researchers-secret/images"})
    assert hidden == {"images": "/data/***/images"}
    with pytest.raises(ConfigError, match=r"source\.folder stands in these settings without its secret"):
        component("daskt2i.sources.fake.FakeSource", folder=hidden["images"]).build(FakeSource, "source")


@pytest.mark.parametrize("text", ["x://" + "a:" * 20_000, "x://" * 1_000, "'token': '" * 5_000, "a.-_" * 10_000])
def test_a_long_text_without_secrets_stays_as_it_is_and_a_secret_behind_it_is_found(text: str) -> None:
    assert redact.without_secret(text) == text
    assert SECRET not in redact.without_secret(f"{text} s3://AKIA1:{SECRET}@bucket")
