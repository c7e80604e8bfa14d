"""The counter-example comes out as in the paper, and AMSGrad as the paper writes it is PyTorch's but for the
corrections.
"""

import numpy as np
import pytest
import torch

from labnn.report.theory import (
    algorithm_2,
    counter_example,
    online_gradients,
    step_sizes,
    stochastic_gradients,
)


def test_adam_goes_to_the_worst_point_and_amsgrad_to_the_best_online():
    table = counter_example(online_gradients(1_000_000), 0.003).tail(100_000)
    assert table["x_adam"].mean() > 0.9 and table["x_amsgrad"].mean() < -0.9


def test_regret_of_adam_stays_and_that_of_amsgrad_falls_online():
    table = counter_example(online_gradients(1_000_000), 0.003)
    early, late = table.iloc[200_000], table.iloc[-1]
    assert late["regret_adam"] > 0.95 * early["regret_adam"]
    assert late["regret_amsgrad"] < 0.7 * early["regret_amsgrad"]


@pytest.mark.parametrize("seed", [0, 1])
def test_stochastic_example_ends_the_same(seed):
    table = counter_example(stochastic_gradients(3_000_000, seed), 0.001)
    assert table["x_adam"].tail(1_000_000).mean() > 0.9 and table["x_amsgrad"].tail(1_000_000).mean() < -0.8
    assert table["regret_amsgrad"].iloc[-1] < 0.5 * table["regret_adam"].iloc[-1]


@pytest.mark.parametrize("maximum, column", [(True, "x_amsgrad"), (False, "x_adam")])
def test_filtered_example_is_the_algorithm_step_by_step(maximum, column):
    gradients = stochastic_gradients(500)
    options = {"beta2": 0.99, "maximum": maximum, "project": lambda x: np.clip(x, -1, 1)}
    points = algorithm_2(
        lambda t, x: np.full(1, gradients[t - 1]), np.zeros(1), 500, lambda t: 0.05, **options
    )
    np.testing.assert_allclose(counter_example(gradients, 0.05)[column], points[:-1, 0], rtol=0, atol=1e-12)


def torch_points(amsgrad: bool, steps: int, lr: float) -> np.ndarray:
    """Where ``torch.optim.Adam`` goes on the sum of (x - target)^4, without eps."""
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr, eps=0.0, amsgrad=amsgrad)
    points = [x.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        ((x - torch.tensor(TARGET)) ** 4).sum().backward()
        optimizer.step()
        points.append(x.detach().clone())
    return torch.stack(points).numpy()


TARGET = [-2.0, 0.5, 1.0, 3.0]


@pytest.mark.parametrize("amsgrad", [False, True])
def test_algorithm_2_is_pytorchs_with_both_corrections_in_the_step_size(amsgrad):
    """sqrt(1 - beta2^t) / (1 - beta1^t): PyTorch takes the maximum of the raw moments and corrects
    afterwards.
    """
    lr = lambda t: 0.05 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)  # noqa: E731
    points = algorithm_2(lambda t, x: 4 * (x - TARGET) ** 3, np.zeros(4), 300, lr, maximum=amsgrad)
    np.testing.assert_allclose(points, torch_points(amsgrad, 300, 0.05), rtol=1e-10)


def test_without_the_corrections_the_first_step_is_three_times_longer():
    points = algorithm_2(lambda t, x: 4 * (x - TARGET) ** 3, np.zeros(4), 1, lambda t: 0.05)
    np.testing.assert_allclose(points[1] / torch_points(True, 1, 0.05)[1], 0.1 / np.sqrt(0.001), rtol=1e-10)


def test_step_sizes_are_those_of_the_algorithms():
    """The same gradients through the paper's algorithm and through PyTorch's optimizer."""
    gradients = np.random.default_rng(0).normal(size=(50, 3)) * np.exp(-np.arange(50) / 10)[:, None]
    table = step_sizes(gradients)
    paper = algorithm_2(lambda t, x: gradients[t - 1], np.zeros(3), 50, lambda t: 1.0)
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer, points = torch.optim.Adam([x], 1.0, amsgrad=True), [np.zeros(3)]
    for gradient in gradients:
        x.grad = torch.tensor(gradient)
        optimizer.step()
        points.append(x.detach().numpy().copy())
    for column, path in (("paper", paper), ("torch", np.stack(points))):
        np.testing.assert_allclose(
            table[column], np.sqrt((np.diff(path, axis=0) ** 2).mean(axis=1)), rtol=1e-6
        )


def test_maximum_taken_after_the_correction_remembers_noisy_first_moments():
    """The corrected moment of one large first gradient is that gradient's square; the raw one is a thousandth
    of it.
    """
    gradients = np.full((100, 1), 0.1)
    gradients[0] = 10.0
    table = step_sizes(gradients)
    assert table["corrected_first"].iloc[0] == pytest.approx(table["torch"].iloc[0])
    assert table["corrected_first"].iloc[-1] < 0.5 * table["torch"].iloc[-1]
