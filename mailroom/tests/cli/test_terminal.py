import io
import json
import time

from mailroom.cli.terminal import Progress, Terminal, terminal


class Screen(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_quick_work_shows_no_progress():
    screen, clock = Screen(is_terminal=False), Clock()
    progress = Progress("step", screen, clock)

    for done in range(1, 101):
        clock.now = done * 0.019
        progress.update(done, 100)

    assert screen.getvalue() == ""


def test_long_work_shows_a_plain_line_now_and_then():
    screen, clock = Screen(is_terminal=False), Clock()
    progress = Progress("step", screen, clock)

    for done in range(1, 101):
        clock.now = done * 0.25
        progress.update(done, 100, "loss 0.5")

    lines = screen.getvalue().splitlines()
    assert lines == [
        "step 8/100  23 s left  loss 0.5",
        "step 48/100  13 s left  loss 0.5",
        "step 88/100  3 s left  loss 0.5",
    ]


def test_a_terminal_gets_a_bar_that_is_wiped_for_a_line():
    screen, clock = Screen(is_terminal=True), Clock()
    progress = Progress("mail", screen, clock)
    clock.now = 3.0

    progress.update(5, 10)
    progress.clear()

    shown, wiped = screen.getvalue().split("\r")[1:3]
    assert shown == "mail [############            ] 5/10  3 s left"
    assert wiped.strip() == "" and len(wiped) == len(shown)


def test_progress_without_an_end_counts():
    screen, clock = Screen(is_terminal=False), Clock()
    progress = Progress("mail", screen, clock)
    clock.now = 3.0

    progress.update(7, 0)

    assert screen.getvalue() == "mail 7\n"


def test_with_json_nothing_but_the_document_reaches_standard_output(capsys):
    with terminal(True) as screen:
        print("a library's remark")
        screen.show("for people")
        screen.say("on the way")
        screen.result({"x": 1, "name": "é"}, "for people")

    out, err = capsys.readouterr()
    assert json.loads(out) == {"x": 1, "name": "é"} and out.count("\n") == 1
    assert "a library's remark" in err and "for people" in err and "on the way" in err


def test_without_json_the_text_is_the_result(capsys):
    Terminal(as_json=False).result({"x": 1}, "one thing")

    assert capsys.readouterr().out == "one thing\n"


def test_what_json_cannot_say_becomes_null(capsys):
    nan, infinity = float("nan"), float("inf")

    Terminal(as_json=True).result(
        {"loss": nan, "in": [1.5, (infinity,)], "x": {"y": -infinity}}, ""
    )

    document = json.loads(capsys.readouterr().out)
    assert document == {"loss": None, "in": [1.5, [None]], "x": {"y": None}}


def test_work_whose_first_piece_takes_long_is_told_of(capsys, monkeypatch):
    monkeypatch.setattr("mailroom.cli.terminal.QUIET_S", 0.05)

    told = ""
    with Terminal(as_json=True).counter("mail") as count:
        deadline = time.monotonic() + 30.0
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
            told = capsys.readouterr().err
        count(1)

    assert told == "mail 0\n"


def test_quick_work_stays_silent_after_it_is_done(capsys, monkeypatch):
    monkeypatch.setattr("mailroom.cli.terminal.QUIET_S", 2.0)

    with Terminal(as_json=True).counter("mail") as count:
        count(1)
    time.sleep(2.1)

    assert capsys.readouterr().err == ""
