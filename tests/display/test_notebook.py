"""Progress and errors in a notebook, run by a real kernel and driven by recorded stages."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from builders.kernels import run_notebook

BEGIN = """
import threading, time
from builders.stages import *
from rich.console import Console
from daskt2i.display.listener import progress_for
from daskt2i.display.notebook import NotebookProgress
from daskt2i.errors import ExecutorError, Interrupted, StoreError
from daskt2i.events import *
from daskt2i.portable_errors import from_json

def play(events, listener=None):
    clock = Clock()
    listener = listener or NotebookProgress(clock)
    for at, event in events:
        clock.now = 1000.0 + at
        listener(event)

def wait_for_timers():
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()

type(progress_for(Console())).__name__, type(progress_for(Console(), plain=True)).__name__
"""

CELLS = {
    "begin": BEGIN,
    "whole": "play([(0, StageStarted('encode', 1500)), *demo_events(), (25.3, StageEnded('encode'))])",
    "running": """
play([(0, Note('from <b>before</b>')), (0, StageStarted('encode', 100)), (1, ready(1, 0, 'http://127.0.0.1:8787/status')),
      (2, Note('\\x1b[31m<script>alert(1)</script> & "quotes"\\x1b[0m')), (12, chunk_done(0, seconds=2.0))])
""",
    "script link": "play([(0, StageStarted('encode', 9)), (1, ready(1, 0, 'javascript:alert(1)'))])",
    "lump": """
listener = NotebookProgress()
for event in (StageStarted('encode', 500), ready(8), *(chunk_done(i) for i in range(50))):
    listener(event)
wait_for_timers()
""",
    "often": """
drawn = []
count = lambda message: (drawn.append(message['msg_type']), message)[1]
get_ipython().display_pub.register_hook(count)
play([(0, StageStarted('encode', 9000)), (0, ready(1)), *((1 + i / 100, chunk_done(i)) for i in range(900))])
get_ipython().display_pub.unregister_hook(count)
print(len(drawn), drawn.count('display_data'))
""",
    "few notes": """
play([(0, StageStarted('encode', 20)), (0, ready()), (0, Note('one')), (1, chunk_failed(1, StoreError('Full.'), False)),
      (2, chunk_failed(1, StoreError('Full.'))), (3, chunk_done(0)), (9, StageEnded('encode'))])
""",
    "many notes": """
play([(0, StageStarted('encode', 50)), (0, ready()), *((1, Note(f'note {i}')) for i in range(200)),
      (2, chunk_failed(3, OSError('away'))), (2, chunk_failed(1, StoreError('Full.'))), (3, chunk_done(0)),
      (9, StageEnded('encode'))])
""",
    "many notes running": """
play([(0, StageStarted('encode', 50)), (0, ready()), *((1, Note(f'note {i}')) for i in range(5)),
      (2, chunk_failed(1, StoreError('Full.')))])
""",
    "repaired": """
play([(0, StageStarted('encode', 10)), (0, ready()), (1, chunk_failed(0, StoreError('Full; no more.'), False)),
      (3, chunk_done(0)), (9, StageEnded('encode'))])
""",
    "two stages": """
play([(0, StageStarted('encode', 20)), (1, ready(2, 20)), (2, StageEnded('encode')),
      (2, DashboardReady('/user/me/proxy/8787/status')), (3, StageStarted('train', 100, 4)), (5, rank_started()),
      (6, rank_step(1)), (16, rank_step(100, 0.25)), (17, StageEnded('train'))])
""",
    "nothing to do": "play([(0, StageStarted('encode', 20)), (1, StageEnded('encode'))])",
    "thread": """
events = [(0, StageStarted('encode', 10)), (9, chunk_done(0)), (9, StageEnded('encode'))]
thread = threading.Thread(target=play, args=(events,))
thread.start()
thread.join()
""",
    "quick count": "play([(0, Progress('scenes drawn', i, 20)) for i in range(21)])",
    "count": "play([(i, Progress('scenes drawn', i, 20)) for i in range(21)])",
    "broken count": """
play([(i, Progress('pictures drawn', i, 20)) for i in range(9)])
raise StoreError('Full.')
""",
    "after the broken count": "play([(0, Activity('calibrating: loads')), (9, Activity('calibrating: loaded'))])",
    "activity with a note": "play([(0, Activity('2 workers are ready')), (9, Note('one'))])",
    "interrupted": """
listener = NotebookProgress(Clock())
with stage_events('encode', 20, listener):
    listener(ready())
    raise Interrupted('Stopped. 1 of 2 chunks are in <here>.')
""",
    "failed": """
with stage_events('encode', 20, NotebookProgress(Clock())):
    raise StoreError('No space.')
""",
    "from a worker": """
notes = ['on host:17', 'Traceback:\\n  <far away>\\n']
told = {'type': 'StoreError', 'message': 'Full.', 'notes': notes, 'cause': 'OSError'}
try:
    open('/not/there')
except OSError as cause:
    raise from_json(told) from cause
""",
    "%tb": "%tb",
    "odd": """
class Odd(StoreError):
    __notes__ = 7
raise Odd('\\x1b[1mbold\\x1b[0m')
""",
    "not ours": "1 / 0",
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The outputs of the cells above."""
    return run_notebook(CELLS, tmp_path_factory.mktemp("notebook"))


def shown(outputs: list[Any]) -> list[tuple[str, str]]:
    """HTML and plain text of each displayed output."""
    return [(o["data"]["text/html"], o["data"]["text/plain"]) for o in outputs if o["output_type"] == "display_data"]


def only(outputs: list[Any]) -> tuple[str, str]:
    """HTML and plain text of a cell that has one output."""
    assert len(outputs) == 1, outputs
    return shown(outputs)[0]


def words(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html)


def test_a_kernel_gets_notebook_progress_unless_plain_is_set(cells: dict[str, list[Any]]) -> None:
    assert cells["begin"][0]["data"]["text/plain"] == "('NotebookProgress', 'TerminalProgress')"


def test_an_ended_stage_shows_only_one_sentence(cells: dict[str, list[Any]]) -> None:
    html, text = only(cells["whole"])
    assert text == words(html) == "encoded 1,500 rows in 25.3 s"
    assert "progressbar" not in html
    assert "details" not in html
    assert len(json.dumps(cells["whole"])) < 1000


def test_a_running_stage_shows_bar_rate_time_left_and_link_on_one_line(cells: dict[str, list[Any]]) -> None:
    before, running = shown(cells["running"])
    assert before[1] == "from <b>before</b>"
    html, text = running
    assert text.splitlines()[0] == "encoding: 10 of 100 rows, 5.0 images/s, 18.0 s left"
    assert "width:10.0%" in html
    assert html.count("<a ") == html.count("http") == 1
    assert 'href="http://127.0.0.1:8787/status" target="_blank" rel="noopener noreferrer"' in html


def test_text_is_escaped_and_has_no_escape_codes(cells: dict[str, list[Any]]) -> None:
    html, text = shown(cells["running"])[1]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quotes&quot;" in html
    assert '<script>alert(1)</script> & "quotes"' in text
    everything = [part for outputs in cells.values() for pair in shown(outputs) for part in pair]
    assert not [part for part in everything if "\x1b" in part]
    assert not [html for outputs in cells.values() for html, _ in shown(outputs) if "<script" in html]


def test_a_link_that_is_not_a_web_address_is_left_out(cells: dict[str, list[Any]]) -> None:
    html, _ = only(cells["script link"])
    assert "<a " not in html
    assert "javascript" not in html


def test_the_last_chunk_of_many_is_shown_even_if_no_other_event_follows(cells: dict[str, list[Any]]) -> None:
    assert "500 of 500 rows" in only(cells["lump"])[1]


def test_a_line_is_updated_at_most_four_times_a_second(cells: dict[str, list[Any]]) -> None:
    drawings, outputs = map(int, next(o["text"] for o in cells["often"] if o["output_type"] == "stream").split())
    assert outputs == 1
    assert 20 < drawings <= 9 * 4 + 2


def test_few_notes_are_shown_below_the_line_failures_first_and_red(cells: dict[str, list[Any]]) -> None:
    html, text = only(cells["few notes"])
    assert text.splitlines() == ["encoded 10 of 20 rows in 9.0 s; 1 chunk failed", "chunk 1 failed: Full.", "one"]
    assert "details" not in html
    assert re.search(r"error-color[^>]*>chunk 1 failed", html)
    assert re.search(r"warn-color[^>]*>one<", html)


def test_many_notes_are_folded_and_their_number_is_limited(cells: dict[str, list[Any]]) -> None:
    html, text = only(cells["many notes"])
    assert html.count("<details>") == 1  # without `open`
    inside = html.partition("<summary")[2]
    assert words("<" + inside).startswith(
        "2 failed chunks, 200 noteschunk 1 failed: Full.chunk 3 failed: OSError: away"
    )
    assert "and 150 more notes" in text
    assert len(text.splitlines()) == 1 + 2 + 50 + 1


def test_notes_of_a_running_stage_are_not_folded(cells: dict[str, list[Any]]) -> None:
    html, _ = only(cells["many notes running"])
    assert "details" not in html
    assert words(html).endswith("chunk 1 failed: Full.note 0note 1and 3 more, shown at the end")


def test_a_failed_chunk_that_succeeds_later_becomes_a_note(cells: dict[str, list[Any]]) -> None:
    html, text = only(cells["repaired"])
    assert text.splitlines() == ["encoded 10 rows in 9.0 s", "chunk 0 failed: Full; no more; a later try encoded it"]
    assert "error-color" not in html


def test_each_stage_of_a_cell_has_its_own_line(cells: dict[str, list[Any]]) -> None:
    assert [text for _, text in shown(cells["two stages"])] == [
        "encoded 0 rows in 2.0 s; 20 were encoded before",
        "trained 100 steps in 14.0 s, loss of the last step 0.2500",
    ]
    assert "proxy" not in str(cells["two stages"])  # the cluster may be gone


def test_a_stage_with_nothing_to_do_says_so(cells: dict[str, list[Any]]) -> None:
    assert only(cells["nothing to do"])[1] == "all 20 rows were encoded before"


def test_a_stage_in_another_thread_is_shown_in_its_cell(cells: dict[str, list[Any]]) -> None:
    assert only(cells["thread"])[1] == "encoded 10 rows in 9.0 s"


def test_short_counts_are_not_shown(cells: dict[str, list[Any]]) -> None:
    assert cells["quick count"] == []
    assert only(cells["count"])[1] == "20 scenes drawn"


def test_an_interrupted_count_ends_with_its_cell(cells: dict[str, list[Any]]) -> None:
    html, text = shown(cells["broken count"])[0]
    assert text == words(html) == "pictures drawn: ended at 8 of 20"


def test_what_went_on_is_gone_when_the_cell_ends(cells: dict[str, list[Any]]) -> None:
    assert only(cells["after the broken count"])[1] == ""
    html, text = only(cells["activity with a note"])
    assert text == words(html) == "one"


@pytest.mark.parametrize(
    ("cell", "line", "said"),
    [
        (
            "interrupted",
            "encoding was stopped after 0.0 s: 0 of 20 rows are done",
            "\x1b[31mInterrupted\x1b[39m: Stopped. 1 of 2 chunks are in <here>.",
        ),
        ("failed", "encoding did not begin", "\x1b[31mStoreError\x1b[39m: No space."),
    ],
)
def test_an_error_shows_its_message_and_a_folded_traceback(
    cells: dict[str, list[Any]], cell: str, line: str, said: str
) -> None:
    (_, first), (html, text) = shown(cells[cell])
    assert first == line
    assert text == "(%tb shows the traceback.)"
    assert re.match(r"<details style=[^>]*><summary", html)  # without `open`
    assert "Traceback (most recent call last):" in html
    assert "IPython" not in html
    assert [o["traceback"] for o in cells[cell] if o["output_type"] == "error"] == [[said]]
    assert len(cells[cell]) == 3


def test_an_error_of_a_worker_shows_its_host_and_folds_its_traceback(cells: dict[str, list[Any]]) -> None:
    (html, _) = shown(cells["from a worker"])[0]
    assert "&lt;far away&gt;" in html
    assert "FileNotFoundError" in html
    assert cells["from a worker"][1]["traceback"] == ["\x1b[31mStoreError\x1b[39m: Full.", "on host:17"]


def test_the_magic_tb_shows_the_traceback(cells: dict[str, list[Any]]) -> None:
    (error,) = cells["%tb"]
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error["traceback"]))
    assert "Traceback (most recent call last)" in text
    assert "open('/not/there')" in text
    assert "The above exception was the direct cause" in text


def test_an_error_with_invalid_notes_is_still_shown(cells: dict[str, list[Any]]) -> None:
    html, _ = shown(cells["odd"])[0]
    assert "bold" in html
    assert cells["odd"][1]["ename"] == "Odd"
    assert len(cells["odd"][1]["traceback"]) == 1


def test_an_error_of_another_library_keeps_its_traceback(cells: dict[str, list[Any]]) -> None:
    (error,) = cells["not ours"]
    assert len(error["traceback"]) > 1
