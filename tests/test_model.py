"""The network is the paper's, torchvision's weights fit it, and it starts alive."""

import pytest
import torch
import torchvision

from labnn.kit.errors import LabError
from labnn.model import Dropout, FireModule, SqueezeNet


def parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "version, classes, expected",
    [("1_0", 1000, 1_248_424), ("1_0", 196, 835_972), ("1_1", 1000, 1_235_496), ("1_1", 196, 823_044)],
)
def test_parameter_counts_are_the_papers(version, classes, expected):
    assert parameters(SqueezeNet(classes, version, batch_norm=False)) == expected


@pytest.mark.parametrize("version", ["1_0", "1_1"])
@pytest.mark.parametrize("side", [64, 97])
def test_torchvision_weights_fit_and_give_equal_outputs(version, side):
    theirs = getattr(torchvision.models, f"squeezenet{version}")(num_classes=196).eval()
    ours = SqueezeNet(196, version=version, batch_norm=False).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_fire_module_of_the_original_call_keeps_the_picture_and_joins_the_branches():
    assert FireModule(96, 16, 64, 64)(torch.randn(2, 96, 13, 15)).shape == (2, 128, 13, 15)


def test_bypass_adds_the_input_and_no_parameters():
    torch.manual_seed(0)
    plain, bypassed = FireModule(128, 16, 64, 64), FireModule(128, 16, 64, 64, bypass=True)
    bypassed.load_state_dict(plain.state_dict())
    for module in (plain, bypassed):  # with every convolution at zero, only the input is left
        torch.nn.init.zeros_(module.expand1x1.weight)
        torch.nn.init.zeros_(module.expand1x1.bias)
        torch.nn.init.zeros_(module.expand3x3.weight)
        torch.nn.init.zeros_(module.expand3x3.bias)
    x = torch.rand(2, 128, 5, 5)
    assert torch.equal(bypassed(x), x)
    assert torch.equal(plain(x), torch.zeros_like(x))


def test_original_call_gives_logits_of_196_classes():
    assert SqueezeNet(num_classes=196)(torch.randn(2, 3, 224, 224)).shape == (2, 196)


def test_fresh_network_tells_images_apart():
    """At PyTorch's default start the spread of a logit over images is 0.002 of its size after the first layer: dead."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, 64, 64)
    assert SqueezeNet(10)(images).std(dim=0).mean() > 0.05


def test_unknown_version_is_told_with_the_known_ones():
    with pytest.raises(LabError, match="2_0.*1_0, 1_1"):
        SqueezeNet(10, version="2_0")


def test_dropout_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    ones = torch.ones(8, 64, 16, 16).to(memory_format=torch.channels_last)
    out = Dropout(0.2)(ones)
    assert (out == 0).float().mean().item() == pytest.approx(51 / 256, abs=3e-3)
    assert out.mean().item() == pytest.approx(1, abs=5e-3)
    assert torch.equal(Dropout(0.2).eval()(ones), ones)
    dropped = (out == 0).permute(0, 2, 3, 1).flatten()
    assert (dropped[1:] & dropped[:-1]).float().mean().item() == pytest.approx(
        (51 / 256) ** 2, abs=3e-3
    )  # each for itself


def test_relu_on_the_logits_is_a_choice():
    images = torch.randn(4, 3, 64, 64)
    for batch_norm in (False, True):
        assert SqueezeNet(10, batch_norm=batch_norm, logits_relu=True).eval()(images).min() >= 0
        assert SqueezeNet(10, batch_norm=batch_norm, logits_relu=False).eval()(images).min() < 0


def test_default_start_is_pytorchs_own():
    torch.manual_seed(0)
    ours = SqueezeNet(10, version="1_0", batch_norm=False, init="default")
    weight = ours.features[3].expand3x3.weight
    assert weight.abs().max() <= 1 / (16 * 9) ** 0.5
