"""Adam against AMSGrad without a network: the counter-example of Reddi, Kale and Kumar (ICLR 2018, arXiv
1904.09237).
"""

from itertools import accumulate

import numpy as np
import pandas as pd
from scipy.signal import lfilter


def counter_example(
    gradients: np.ndarray, lr: float, beta1: float = 0.9, beta2: float = 0.99
) -> pd.DataFrame:
    """Adam (the paper's Algorithm 1 with Adam's moments) and AMSGrad (Algorithm 2, without eps and correction
    of the bias) on f_t(x) = g_t x over [-1, 1] from x = 0, for ``gradients`` g_t, float ``(steps,)``, and a
    constant ``lr``.

    As the gradients do not depend on x, the moments are linear filters, the maximum a running one, and only
    the projection is left for a loop. A row a step: ``step``, and for "adam" and "amsgrad" the point before
    it, ``x_...``, and the average regret up to it, ``regret_...``: of f_t(x_t) - f_t(-1), as -1 is the best
    point of both examples.
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
