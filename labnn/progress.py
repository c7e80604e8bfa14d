"""What a training tells while it goes on: a line an epoch in a terminal, one living line in a notebook."""

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


class LiveProgress:
    """A notebook's progress: one line of output for a run, replaced after each epoch, with the time left.

    The notebook keeps its last state only, as plain text, with no widget.
    """

    def __init__(self, title: str):
        from IPython.display import display  # here, so that a terminal needs no IPython

        self.title = title
        self._handle = display({"text/plain": f"{title}: первая эпоха…"}, raw=True, display_id=True)

    def __call__(self, rows: list[dict], epochs: int) -> None:
        row = rows[-1]
        spent = sum(row["seconds"] for row in rows)
        left = spent / len(rows) * (epochs - len(rows))
        state = f"осталось около {_clock(left)}" if len(rows) < epochs else f"готово за {_clock(spent)}"
        text = (
            f"{self.title}: эпоха {row['epoch']} из {epochs}, потери {row['train_loss']:.4f}, точность {row['train_accuracy']:.2%}, "
            f"на тесте {row['test_accuracy']:.2%}; {state}"
        )
        self._handle.update({"text/plain": text}, raw=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
