"""The progress of a run: sentences with a clock of our own, a renewing line in a terminal, plain lines elsewhere."""

import io
import time
from pathlib import Path

from tools import progress
from tools.declared import Declaration
from tools.progress import Progress

TOUR = [Declaration(Path(f"0{i}_x.ipynb"), "x", (), minutes, 1) for i, minutes in enumerate((1, 3, 5))]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_minutes_so_far_are_measured_and_minutes_to_go_are_the_declared_ones():
    now = [100.0]
    shown = Progress(TOUR, stream=io.StringIO(), clock=lambda: now[0])
    now[0] += 4 * 60
    shown.begin(TOUR[1])
    assert (shown.so_far(), shown.to_go()) == (4, 3 + 5)
    now[0] += 2 * 60
    shown.cell(7, 21)
    assert shown.sentence() == "notebook 2 of 3: 01_x, cell 7 of 21; 6 minutes so far, about 6 to go"
    now[0] += 10 * 60  # longer than declared: what is left of it is not negative
    assert shown.to_go() == 5


def test_without_a_terminal_each_notebook_is_one_plain_line():
    stream = io.StringIO()
    with Progress(TOUR, stream=stream, estimate=False) as shown:
        for stop in TOUR:
            shown.begin(stop)
            shown.cell(1, 2)
            shown.cell(2, 2)
    assert stream.getvalue() == "".join(f"notebook {i + 1} of 3: 0{i}_x; 0 minutes so far\n" for i in range(3))


def test_in_a_terminal_one_line_renews_itself_also_while_a_cell_runs(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    stream, now = Terminal(), [0.0]
    with Progress(TOUR, stream=stream, clock=lambda: now[0]) as shown:
        shown.begin(TOUR[0])
        shown.cell(1, 9)
        now[0] = 180.0
        limit = time.monotonic() + 10
        while "3 minutes so far" not in stream.getvalue() and time.monotonic() < limit:
            time.sleep(0.01)
    text = stream.getvalue()
    assert "notebook 1 of 3: 00_x, cell 1 of 9; 3 minutes so far, about 8 to go" in text
    assert text.count("\n") == 1 and text.endswith("\n")  # closed after the last state; before that only returns
