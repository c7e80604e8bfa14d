"""What a training tells while it goes on: a line an epoch in a terminal, one living line in a notebook."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

# Called after each epoch with the history so far, a dict an epoch, and the number of epochs that it will have.
Progress = Callable[[list[dict], int], None]


class Standing(NamedTuple):
    """How far many runs are: runs and epochs done of all, what is recorded already among them, and the seconds left by the pace
    so far (``None`` before there is one). ``finished`` is the run that has just ended, if one has."""

    runs: int
    all_runs: int
    epochs: int
    all_epochs: int
    seconds_left: float | None
    finished: Any = None

    def __str__(self):
        left = (
            ""
            if self.seconds_left is None or self.runs == self.all_runs
            else f", осталось около {_clock(self.seconds_left)}"
        )
        return f"прогонов {self.runs} из {self.all_runs}, эпох {self.epochs} из {self.all_epochs}{left}"


def print_standing(standing: Standing, words: Callable[[Any], str] = lambda run: "") -> None:
    """Prints a line for each finished run, with its ``words``; in a terminal also, on one line, how far all runs are."""
    terminal = sys.stdout.isatty()
    if standing.finished is not None:
        line = f"{standing}. {words(standing.finished)}"
        print("\r" + line.ljust(80) if terminal else line, flush=True)
    elif terminal:
        print(f"\r{standing}".ljust(80), end="", flush=True)


def print_progress(rows: list[dict], epochs: int) -> None:
    """Prints the newest epoch of ``rows`` in the words of the original laboratory work, and after the last the test accuracy."""
    row = rows[-1]
    print(
        f"Эпоха {row['epoch']}, Время обучения: {row['seconds']:.2f}c., Потери: {row['train_loss']:.4f}, Точность: {row['train_accuracy']:.2%}",
        flush=True,
    )
    if row["epoch"] == epochs:
        print(f"Тестовая точность: {row['test_accuracy']:.2%}", flush=True)


def print_decoding(done: int, total: int, title: str = "Декодирование") -> None:
    """Shows in a terminal, on one line, how many images are decoded; nothing where the output goes to a file."""
    if sys.stderr.isatty():
        filled = 30 * done // total
        line = f"\r{title} [{'#' * filled}{'.' * (30 - filled)}] {done} из {total}"
        print(line, end="\n" if done == total else "", file=sys.stderr, flush=True)


def print_download(done: int, total: int) -> None:
    """``print_decoding`` for bytes that come from the network, in megabytes."""
    print_decoding(done // 10**6, max(total // 10**6, 1), "Скачивание, МБ")


class LiveDecoding:
    """``print_decoding`` for a notebook: one line of output, replaced as it goes."""

    def __init__(self):
        self._handle = _display("")

    def __call__(self, done: int, total: int) -> None:
        _update(self._handle, f"Декодировано снимков: {done} из {total}")


class LiveDownload(LiveDecoding):
    """``print_download`` for a notebook."""

    def __call__(self, done: int, total: int) -> None:
        _update(self._handle, f"Скачано МБ: {done // 10**6} из {total // 10**6}")


class LiveProgress:
    """A notebook's progress: one line of output for a run, replaced after each epoch, with the time left.

    The notebook keeps its last state only, as plain text, with no widget.
    """

    def __init__(self, title: str):
        self.title = title
        self._handle = _display(f"{title}: первая эпоха…")

    def __call__(self, rows: list[dict], epochs: int) -> None:
        row = rows[-1]
        spent = sum(row["seconds"] for row in rows)
        left = spent / len(rows) * (epochs - len(rows))
        state = f"осталось около {_clock(left)}" if len(rows) < epochs else f"готово за {_clock(spent)}"
        accuracy = next(
            row["test_accuracy"] for row in reversed(rows) if row["test_accuracy"] == row["test_accuracy"]
        )  # the last not NaN
        text = (
            f"{self.title}: эпоха {row['epoch']} из {epochs}, потери {row['train_loss']:.4f}, точность {row['train_accuracy']:.2%}, "
            f"на тесте {accuracy:.2%}; {state}"
        )
        _update(self._handle, text)


class LiveStanding:
    """``print_standing`` for a notebook: one line of output, replaced as it goes."""

    def __init__(self, title: str):
        self.title = title
        self._handle = _display(f"{title}: …")

    def __call__(self, standing: Standing) -> None:
        _update(self._handle, f"{self.title}: {standing}")


def _display(text: str):
    from IPython.display import display  # here, so that a terminal needs no IPython

    return display({"text/plain": text}, raw=True, display_id=True)


def _update(handle, text: str) -> None:
    handle.update({"text/plain": text}, raw=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
