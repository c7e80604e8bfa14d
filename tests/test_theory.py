"""The counter-example comes out as in the paper, step by step; PyTorch's AMSGrad is the paper's but for the
corrections of the bias.
"""

import numpy as np
import pytest
import torch

from labnn.theory import counter_example, examples


def algorithm(gradient, x, rates, beta2=0.99, maximum=True, project=lambda x: x) -> np.ndarray:
    """Algorithm 2 of the paper (page 6) as it is written; without the ``maximum``, Adam's moments."""
    m = v = v_hat = np.zeros_like(x)
    points = [x]
    for rate in rates:
        g = gradient(x)
        m, v = 0.9 * m + 0.1 * g, beta2 * v + (1 - beta2) * g**2
        v_hat = np.maximum(v_hat, v) if maximum else v
        x = project(x - rate * m / np.sqrt(v_hat))
        points.append(x)
    return np.stack(points)


def test_adam_ends_at_the_worst_point_with_its_regret_and_amsgrad_at_the_best():
    for path in examples().values():
        end, early = path.tail(len(path) // 5).mean(), path.iloc[len(path) // 5]
        assert end["x_adam"] > 0.9 and end["x_amsgrad"] < -0.8
        assert end["regret_amsgrad"] < 0.75 * early["regret_amsgrad"]
        assert end["regret_amsgrad"] < 0.5 * end["regret_adam"]


@pytest.mark.parametrize("maximum, column", [(True, "x_amsgrad"), (False, "x_adam")])
def test_filtered_example_is_the_algorithm_step_by_step(maximum, column):
    gradients = np.where(np.random.default_rng(0).random(500) < 0.01, 1010.0, -10.0)
    coming = iter(gradients)
    options = {"maximum": maximum, "project": lambda x: np.clip(x, -1, 1)}
    points = algorithm(lambda x: next(coming), np.zeros(()), [0.05] * 500, **options)
    np.testing.assert_allclose(counter_example(gradients, 0.05)[column], points[:-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_pytorchs_steps_are_the_papers_with_both_corrections_in_the_step_size(amsgrad):
    """sqrt(1 - beta2^t) / (1 - beta1^t): PyTorch takes the maximum of the raw moments, then corrects."""
    target, t = np.array([-2.0, 0.5, 1.0, 3.0]), np.arange(1, 301)
    rates = 0.05 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    points = algorithm(lambda x: 4 * (x - target) ** 3, np.zeros(4), rates, 0.999, amsgrad)
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([x], 0.05, eps=0.0, amsgrad=amsgrad)
    for expected in points[1:]:
        optimizer.zero_grad()
        ((x - torch.from_numpy(target)) ** 4).sum().backward()
        optimizer.step()
        np.testing.assert_allclose(x.detach(), expected, rtol=1e-10)
