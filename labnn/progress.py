"""What a training tells while it goes on: a line an epoch in a terminal, one living line in a notebook."""

import sys
from collections.abc import Callable

# Called after each epoch with the history so far, a dict an epoch, and the number of epochs that it will have.
Progress = Callable[[list[dict], int], None]


def print_progress(rows: list[dict], epochs: int) -> None:
    """Prints the newest epoch of ``rows`` in the words of the original laboratory work, and after the last the test accuracy."""
    row = rows[-1]
    print(
        f"Эпоха {row['epoch']}, Время обучения: {row['seconds']:.2f}c., "
        f"Потери: {row['train_loss']:.4f}, Точность: {row['train_accuracy']:.2%}",
        flush=True,
    )
    if row["epoch"] == epochs:
        print(f"Тестовая точность: {row['test_accuracy']:.2%}", flush=True)


def print_decoding(done: int, total: int) -> None:
    """Shows in a terminal, on one line, how many images are decoded; nothing where the output goes to a file."""
    if sys.stderr.isatty():
        filled = 30 * done // total
        line = f"\rДекодирование [{'#' * filled}{'.' * (30 - filled)}] {done} из {total}"
        print(line, end="\n" if done == total else "", file=sys.stderr, flush=True)


class LiveDecoding:
    """``print_decoding`` for a notebook: one line of output, replaced as it goes."""

    def __init__(self):
        self._handle = _display("")

    def __call__(self, done: int, total: int) -> None:
        _update(self._handle, f"Декодировано снимков: {done} из {total}")


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
        accuracy = next(row["test_accuracy"] for row in reversed(rows) if row["test_accuracy"] == row["test_accuracy"])  # the last not NaN
        text = (
            f"{self.title}: эпоха {row['epoch']} из {epochs}, потери {row['train_loss']:.4f}, точность {row['train_accuracy']:.2%}, "
            f"на тесте {accuracy:.2%}; {state}"
        )
        _update(self._handle, text)


def _display(text: str):
    from IPython.display import display  # here, so that a terminal needs no IPython

    return display({"text/plain": text}, raw=True, display_id=True)


def _update(handle, text: str) -> None:
    handle.update({"text/plain": text}, raw=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
