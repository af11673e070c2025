"""The command studio: its address, what it refuses, its end."""

from __future__ import annotations

import signal
import socket
import urllib.request
from pathlib import Path

import pytest
from builders.advice import told
from builders.command_line import start

from daskt2i.cli import studio as command
from daskt2i.errors import ConfigError, StoreMissing
from daskt2i.studio.serve import PORT, listen


def test_it_prints_its_address_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    with start("studio", tmp_path, "--no-browser") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = line.split()[-1]
        assert "token=" in address
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(address) as answer:  # it gives the cookie, and sends on to the page
            assert answer.status == 200
            assert "token" not in answer.url
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0
        assert rest in ("", "Ctrl-C ends it.\n"), rest  # readline may have read the second line too


def test_it_listens_on_loopback_and_takes_the_next_port_if_one_is_taken(tmp_path: Path) -> None:
    with listen([str(tmp_path)]).socket as first, listen([str(tmp_path)]).socket as second:
        assert first.getsockname()[0] == "127.0.0.1"
        assert PORT <= first.getsockname()[1] < second.getsockname()[1]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with told("studio/serve.py:_bound ConfigError") as error:
            listen([str(tmp_path)], port=port)
        assert str(port) in str(error.value)


def test_without_a_token_it_answers_this_machine_alone(tmp_path: Path) -> None:
    with told("studio/serve.py:listen ConfigError"):
        listen([str(tmp_path)], "0.0.0.0", 0, without_token=True)
    served = listen([str(tmp_path)], port=0, without_token=True)
    served.socket.close()
    assert served.token is None
    assert "token" not in served.address


@pytest.mark.parametrize("token", ["short", "with a blank in it", "nicht-ä-scii-token"])
def test_a_token_that_a_browser_may_spoil_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigError, match="8 or more letters"):
        listen([str(tmp_path)], port=0, token=token)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="nowhere"):
        listen([str(tmp_path / "nowhere")])


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "NEEDED", ("starlette", "a_package_that_nobody_has"))
    with pytest.raises(ConfigError, match=r"a_package_that_nobody_has.*pip install 'daskt2i\[studio\]'"):
        command.require_packages()
