"""The counter-example comes out as in the paper, and AMSGrad as the paper writes it is PyTorch's but for the
corrections.
"""

import numpy as np
import pytest
import torch

from labnn.theory import algorithm_2, counter_example, examples, stochastic_gradients


@pytest.mark.parametrize("path", examples().values(), ids=["online", "stochastic"])
def test_adam_ends_at_the_worst_point_with_its_regret_and_amsgrad_at_the_best(path):
    end, early = path.tail(len(path) // 5).mean(), path.iloc[len(path) // 5]
    assert end["x_adam"] > 0.9 and end["x_amsgrad"] < -0.8
    assert end["regret_amsgrad"] < 0.75 * early["regret_amsgrad"]
    assert end["regret_amsgrad"] < 0.5 * end["regret_adam"]


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
