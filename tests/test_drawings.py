"""The drawings of the network and of its Fire module have the shapes of a forward pass."""

import matplotlib

matplotlib.use("agg")

import pytest
import torch
from matplotlib.text import Text

from labnn.model import FireModule, SqueezeNet
from labnn.report.drawings import draw_fire, draw_network, network_layers


@pytest.mark.parametrize("version, bypass", [("1_0", False), ("1_1", False), ("1_1", True)])
def test_network_is_drawn_with_the_shapes_of_a_forward_pass(version, bypass):
    model = SqueezeNet(10, version, bypass=bypass).train()
    x, shapes = torch.zeros(2, 3, 64, 64), []
    parts = (*model.features, *model.classifier)
    with torch.no_grad():
        for part in parts:
            x = part(x)
            shapes.append((part, tuple(x.shape[1:])))
    layers = network_layers(model, 64)
    assert model.training and [pair for pair in shapes if pair in layers] == layers
    assert sum(isinstance(part, FireModule) for part, _ in layers) == 8
    texts = [text.get_text() for text in draw_network(model, 64).findobj(Text)]
    assert {" × ".join(map(str, shape)) for _, shape in layers} <= set(texts)
    assert len([text for text in texts if text == "10 × 1 × 1"]) == 1


def test_fire_module_is_drawn_with_its_shapes():
    texts = "\n".join(text.get_text() for text in draw_fire(FireModule(96, 16, 64, 32), 96, 54).findobj(Text))
    for shape in ("96 × 54 × 54", "16 × 54 × 54", "64 × 54 × 54", "32 × 54 × 54"):
        assert shape in texts
    assert "вход, ReLU" not in texts and "BN" not in texts
