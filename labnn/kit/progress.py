"""What a training shows while it goes on: lines in a terminal, one living line in a notebook."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

# Called after each epoch with the history so far, a dict an epoch, and the number of epochs that it will
# have.
Progress = Callable[[list[dict], int], None]


def say(text: str, end: str = "\n") -> None:
    """Prints; what the console cannot show becomes «?», and one that is gone ends no training."""
    try:
        print(text, end=end, flush=True)
    except UnicodeEncodeError:
        print(text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding), end=end, flush=True)
    except (OSError, ValueError, AttributeError):  # its reader has left, it is closed, it lacks a method
        pass


def print_progress(rows: list[dict], epochs: int) -> None:
    """Prints the newest epoch of ``rows`` in the words of the original laboratory work, after the last the
    test accuracy.
    """
    row = rows[-1]
    say(
        f"Эпоха {row['epoch']}, Время обучения: {row['seconds']:.2f}c., "
        f"Потери: {row['train_loss']:.4f}, Точность: {row['train_accuracy']:.2%}"
    )
    if row["epoch"] == epochs:
        say(f"Тестовая точность: {row['test_accuracy']:.2%}")


class Standing(NamedTuple):
    """How far many runs are: runs and epochs done of all, what is recorded already among them, and the
    seconds left by the pace so far (``None`` before there is one). ``finished`` is the run that has just
    ended, if one has; ``seconds_after``, what is known to follow these runs; ``all_read``, whether all were
    recorded already.
    """

    runs: int
    all_runs: int
    epochs: int
    all_epochs: int
    seconds_left: float | None
    finished: Any = None
    seconds_after: float = 0
    all_read: bool = False

    def before(self, epochs: float) -> "Standing":
        """The same, ``epochs`` more to follow these runs at their pace."""
        left = self.all_epochs - self.epochs
        return self._replace(seconds_after=self.seconds_left / left * epochs) if self.seconds_left else self

    def __str__(self):
        left = ""
        if self.seconds_left is not None and self.runs < self.all_runs:
            left = f", осталось около {clock(self.seconds_left)}"
            if self.seconds_after:
                left += f", а всего {clock(self.seconds_left + self.seconds_after)}"
        return f"прогонов {self.runs} из {self.all_runs}, эпох {self.epochs} из {self.all_epochs}{left}"


class Live:
    """One line that is replaced as the work goes on: an output of its own in a notebook, the last line of a
    terminal.

    A notebook keeps its last state, as plain text, with no widget. A file gets the lines of finished runs
    only. Its methods are what takes a ``progress``: ``count`` for photos or megabytes (done, all), ``epochs``
    for one training (``Progress``), ``standing`` for many runs (``Standing``), with the ``words`` of each run
    that has ended.
    """

    def __init__(self, title: str = "", words: Callable[[Any], str] = lambda run: ""):
        self.title = f"{title}: " if title else ""
        self.words = words
        self._handle = None
        self._begun = False

    def count(self, done: int, total: int) -> None:
        self.show(f"{done} из {total}", last=done == total)

    def epochs(self, rows: list[dict], epochs: int) -> None:
        row, spent = rows[-1], sum(row["seconds"] for row in rows)
        trained = self._begun or epochs == 1
        ended = f"{'готово' if trained else 'прочитано из записи, обучено'} за {clock(spent)}"
        tested = [
            row["test_accuracy"] for row in rows if row["test_accuracy"] == row["test_accuracy"]
        ]  # not NaN
        left = f"осталось около {clock(spent / len(rows) * (epochs - len(rows)))}"
        self.show(
            f"эпоха {row['epoch']} из {epochs}, потери {row['train_loss']:.4f}, "
            f"точность {row['train_accuracy']:.2%}, на тесте {tested[-1]:.2%}; "
            f"{left if len(rows) < epochs else ended}",
            last=len(rows) == epochs,
        )

    def standing(self, standing: Standing) -> None:
        ended = standing.finished is not None
        words = f". {self.words(standing.finished)}" if ended and not in_notebook() else ""
        read = ", все прочитаны из записей" if standing.all_read else ""
        self.show(f"{standing}{read}{words}", last=ended)

    def show(self, text: str, *, last: bool = False) -> None:
        """Replaces the line by ``text``; the ``last`` state of it stays."""
        self._begun, text = True, self.title + text
        if in_notebook():
            from IPython.display import display  # here, so that a terminal needs no IPython

            if self._handle is None:
                self._handle = display({"text/plain": text}, raw=True, display_id=True)
            else:
                self._handle.update({"text/plain": text}, raw=True)
        elif _in_terminal():
            say("\r" + text.ljust(80), end="\n" if last else "")
        elif last and not self.title:
            say(text)


def clock(seconds: float) -> str:
    """«1:05», from an hour on «1:00:05»."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _in_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # none (pythonw), one of the user's own, a closed one
        return False


def in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this code."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
