"""The drawings of the network and of its Fire module have the shapes of a forward pass."""

import matplotlib

matplotlib.use("agg")

import pytest
import torch
from matplotlib.text import Text
from torch import nn

from labnn.model import FireModule, SqueezeNet
from labnn.report.drawings import draw_fire, draw_network


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("version, bypass", [("1_0", False), ("1_1", True)])
def test_network_is_drawn_with_the_shapes_of_a_forward_pass(version, bypass):
    model, x, passed = SqueezeNet(10, version, bypass=bypass).train(), torch.zeros(2, 3, 64, 64), []
    told = texts(draw_network(model, 64))
    assert model.training
    for layer in (*model.features, *model.classifier):
        x = layer(x)
        if isinstance(layer, (FireModule, nn.Conv2d, nn.MaxPool2d)):
            passed.append(" × ".join(map(str, x.shape[1:])))
    assert set(passed) <= set(told) and told.count("10 × 1 × 1") == 1
    assert sum(text.startswith("Fire: ") for text in told) == 8


def test_fire_module_is_drawn_with_its_shapes():
    told = "\n".join(texts(draw_fire(FireModule(96, 16, 64, 32), 96, 54)))
    for shape in ("96 × 54 × 54", "16 × 54 × 54", "64 × 54 × 54", "32 × 54 × 54"):
        assert shape in told
    assert "вход, ReLU" not in told and "BN" not in told
