"""Adam against AMSGrad without a network: the counter-example of Reddi, Kale and Kumar (ICLR 2018, arXiv
1904.09237).
"""

from collections.abc import Callable
from itertools import accumulate

import numpy as np
import pandas as pd
from scipy.signal import lfilter


def online_gradients(steps: int) -> np.ndarray:
    """The paper's online example: f_t(x) = 1010 x where t mod 101 = 1, else -10 x; float ``(steps,)``."""
    return np.where(np.arange(1, steps + 1) % 101 == 1, 1010.0, -10.0)


def stochastic_gradients(steps: int, seed: int = 0) -> np.ndarray:
    """The paper's stochastic example: f_t(x) = 1010 x with probability 0.01, else -10 x; ``(steps,)``."""
    return np.where(np.random.default_rng(seed).random(steps) < 0.01, 1010.0, -10.0)


def counter_example(
    gradients: np.ndarray, lr: float, beta1: float = 0.9, beta2: float = 0.99
) -> pd.DataFrame:
    """Adam and AMSGrad on f_t(x) = g_t x over [-1, 1] from x = 0, for given ``gradients`` g_t, float
    ``(steps,)``, and a constant ``lr``.

    The gradients of these functions do not depend on x, so that ``algorithm_2`` need not go step by step: the
    moments are linear filters, the maximum a running one, and only the projection is left for a loop. A row a
    step: ``step``, and for "adam" and "amsgrad" the point before it, ``x_...``, and the average regret up to
    it, ``regret_...``: of f_t(x_t) - f_t(-1), as -1 is the best point of both examples.
    """
    m = lfilter([1 - beta1], [1, -beta1], gradients)
    v = lfilter([1 - beta2], [1, -beta2], gradients**2)
    steps = np.arange(1, len(gradients) + 1)
    table = {"step": steps}
    for name, v_hat in (("adam", v), ("amsgrad", np.maximum.accumulate(v))):
        moves = (lr * m / np.sqrt(v_hat)).tolist()
        points = accumulate(moves, lambda x, move: min(max(x - move, -1.0), 1.0), initial=0.0)
        x = np.fromiter(points, float, len(moves) + 1)[:-1]
        table |= {f"x_{name}": x, f"regret_{name}": np.cumsum(gradients * (x + 1)) / steps}
    return pd.DataFrame(table)


def examples() -> dict[str, pd.DataFrame]:
    """``counter_example`` of the paper's two problems, by their titles in figures, each as long as AMSGrad
    takes to reach the edge.

    The paper names no step size; these are so small that swings within a period do not hide the way.
    """
    return {
        "по порядку: α = 0,003": counter_example(online_gradients(1_000_000), 0.003),
        "случайно: α = 0,001": counter_example(stochastic_gradients(3_000_000), 0.001),
    }


def algorithm_2(
    gradient: Callable[[int, np.ndarray], np.ndarray],
    x: np.ndarray,
    steps: int,
    lr: Callable[[int], float],
    beta1: float = 0.9,
    beta2: float = 0.999,
    *,
    maximum: bool = True,
    project: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> np.ndarray:
    """AMSGrad as Algorithm 2 of the paper has it (page 6); without the ``maximum``, Adam as its Algorithm 1
    with the paper's moments.

    ``gradient(t, x)`` and the step size ``lr(t)`` for t from 1; ``project`` maps onto the feasible set.
    Returns the points from the start on, float ``(steps + 1, *x.shape)``. No bias correction and no eps: a
    first gradient of 0 gives NaN, 0 / 0.
    """
    m = v = v_hat = np.zeros_like(x)
    points = [x]
    for t in range(1, steps + 1):
        g = gradient(t, x)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        v_hat = np.maximum(v_hat, v) if maximum else v
        x = project(x - lr(t) * m / np.sqrt(v_hat))
        points.append(x)
    return np.stack(points)
