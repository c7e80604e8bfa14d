"""What a long work shows while it goes on: lines of epochs, or one living line with the time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Called after each epoch with the history so far, a dict an epoch, and the number of epochs in all.
Progress = Callable[[list[dict], int], None]


def say(text: str, end: str = "\n") -> None:
    """Prints; what the console cannot show becomes "?", and one that is gone ends no training."""
    try:
        print(text, end=end, flush=True)
    except UnicodeEncodeError:
        print(text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding), end=end, flush=True)
    except (OSError, ValueError, AttributeError):  # its reader has left, it is closed, there is none
        pass


def print_progress(rows: list[dict], epochs: int) -> None:
    """Prints the newest epoch of ``rows`` in the words of the original laboratory work, after the last of
    ``epochs`` the test accuracy.
    """
    row = rows[-1]
    say(
        f"Эпоха {row['epoch']}, Время обучения: {row['seconds']:.2f}c., "
        f"Потери: {row['train_loss']:.4f}, Точность: {row['train_accuracy']:.2%}"
    )
    if row["epoch"] == epochs:
        say(f"Тестовая точность: {row['test_accuracy']:.2%}")


@contextmanager
def told_when_stopped(rows: list[dict], epochs: int, checkpoint: str | Path | None) -> Iterator[None]:
    """Says in one line what Ctrl-C or a notebook's stop leaves of a training in ``checkpoint``."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"сохранено эпох {len(rows)} из {epochs}, тот же вызов продолжит с них"
        say(f"Остановлено: {kept if checkpoint and rows else 'сохранённых эпох нет'}.")
        raise


class Live:
    """One line that is replaced as the work goes on: an output of its own in a notebook, which keeps its last
    state as plain text, with no widget; the last line of a terminal. A file gets the last state only.
    """

    def __init__(self, title: str):
        self.title = title
        self._start, self._first, self._handle = 0.0, None, None

    def show(self, done: int, total: int, unit: str = "", text: str = "") -> None:
        """Replaces the line by «``done`` из ``total``», the time left by the pace since the first call, and
        ``text``.
        """
        if self._first is None:  # part of the work may be done before
            self._start, self._first = time.perf_counter(), done
        spent, made, last = time.perf_counter() - self._start, done - self._first, done == total
        pace = f", осталось около {clock(spent / made * (total - done))}" if made else ""
        pace = f", заняло {clock(spent)}" if made and last else pace
        line = f"{self.title}: {unit} {done} из {total}{pace}{text}"
        ipython = sys.modules.get("IPython")
        if ipython is not None and hasattr(ipython.get_ipython(), "kernel"):
            content = {"text/plain": line}
            if self._handle is None:
                self._handle = ipython.display.display(content, raw=True, display_id=True)
            else:
                self._handle.update(content, raw=True)
        elif getattr(sys.stdout, "isatty", bool)():
            say("\r" + line.ljust(80), end="\n" if last else "")
        elif last:
            say(line)


def clock(seconds: float) -> str:
    """«1:05», from an hour on «1:00:05»."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
