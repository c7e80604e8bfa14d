"""The drawings of the network and of its Fire module have the shapes of a forward pass."""

import matplotlib

matplotlib.use("agg")

import pytest
import torch
from matplotlib.text import Text

from labnn.model import FireModule, SqueezeNet
from labnn.report.drawings import draw_fire, draw_network


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("version, bypass", [("1_0", False), ("1_1", True)])
def test_network_is_drawn_with_the_shapes_of_a_forward_pass(version, bypass):
    model, passed = SqueezeNet(10, version, bypass=bypass).train(), []
    keep = lambda layer, _, output: passed.append(" × ".join(map(str, output.shape[1:])))  # noqa: E731
    for layer in model.modules():
        if isinstance(layer, FireModule) or layer in (
            model.features[0],
            model.features[1],
            model.classifier[1],
        ):
            layer.register_forward_hook(keep)
    model(torch.zeros(2, 3, 64, 64))
    told = texts(draw_network(model, 64))
    assert len(passed) == 11 and set(passed) <= set(told) and model.training
    assert sum(text.startswith("Fire: ") for text in told) == 8 and told.count("10 × 1 × 1") == 1


def test_fire_module_is_drawn_with_its_shapes():
    told = "\n".join(texts(draw_fire(FireModule(96, 16, 64, 32), 96, 54)))
    for shape in ("96 × 54 × 54", "16 × 54 × 54", "64 × 54 × 54", "32 × 54 × 54"):
        assert shape in told
    assert "вход, ReLU" not in told and "BN" not in told
