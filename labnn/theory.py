"""Adam against AMSGrad without a network: the counter-example of Reddi, Kale and Kumar (ICLR 2018, arXiv
1904.09237).
"""

import math

import numpy as np
import pandas as pd
from scipy.signal import lfilter


def counter_example(
    gradients: np.ndarray, lr: float, beta1: float = 0.9, beta2: float = 0.99
) -> pd.DataFrame:
    """Adam (the paper's Algorithm 1 with Adam's moments) and AMSGrad (Algorithm 2, without eps and correction
    of the bias) on f_t(x) = g_t x over [-1, 1] from x = 0, for ``gradients`` g_t, float ``(steps,)``, and a
    constant ``lr``.

    As the gradients do not depend on x, the moments are linear filters and the maximum a running one. A row
    a step: ``step``, and for "adam" and "amsgrad" the point before it, ``x_...``, and the average regret up
    to it, ``regret_...``: of f_t(x_t) - f_t(-1), as -1 is the best point of both examples.
    """
    m = lfilter([1 - beta1], [1, -beta1], gradients)
    v = lfilter([1 - beta2], [1, -beta2], gradients**2)
    steps = np.arange(1, len(gradients) + 1)
    table = {"step": steps}
    for name, v_hat in (("adam", v), ("amsgrad", np.maximum.accumulate(v))):
        x = _projected(lr * m / np.sqrt(v_hat))
        table |= {f"x_{name}": x, f"regret_{name}": np.cumsum(gradients * (x + 1)) / steps}
    return pd.DataFrame(table)


def _projected(moves: np.ndarray) -> np.ndarray:
    """The points before each of ``moves``, of which the projection on [-1, 1] is taken, from 0.

    All blocks of moves go their way at once, a loop of millions of steps being slow: first from -1 and from
    1, which tells where each leads from anywhere between, for it shifts and cuts off; then from their starts.
    """
    side = math.isqrt(len(moves)) + 1
    blocks = np.pad(moves, (0, side**2 - len(moves))).reshape(side, side)
    low, high = -np.ones(side), np.ones(side)
    for move in blocks.T:
        low, high = np.clip(low - move, -1, 1), np.clip(high - move, -1, 1)
    starts = [0.0]
    for shift, least, most in zip(blocks.sum(1), low, high, strict=True):
        starts.append(min(max(starts[-1] - shift, least), most))
    points = np.empty((side, side + 1))
    points[:, 0] = starts[:-1]
    for place, move in enumerate(blocks.T):
        points[:, place + 1] = np.clip(points[:, place] - move, -1, 1)
    return points[:, :-1].ravel()[: len(moves)]


def examples() -> dict[str, pd.DataFrame]:
    """``counter_example`` of the paper's two problems, by their titles in figures: f_t(x) = 1010 x where
    t mod 101 = 1, or with probability 0.01, else -10 x. Each is as long as AMSGrad takes to reach the edge.

    The paper names no step size; these are so small that swings within a period do not hide the way.
    """
    regular = np.arange(1, 1_000_001) % 101 == 1
    random = np.random.default_rng(0).random(3_000_000) < 0.01
    return {
        "по порядку: α = 0,003": counter_example(np.where(regular, 1010.0, -10.0), 0.003),
        "случайно: α = 0,001": counter_example(np.where(random, 1010.0, -10.0), 0.001),
    }
