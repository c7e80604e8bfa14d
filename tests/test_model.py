"""The network is the paper's, torchvision's weights fit it, and it starts alive."""

import pytest
import torch
import torchvision

from labnn import FireModule, SqueezeNet
from labnn.kit.dropout import Dropout

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "version, classes, expected",
    [("1_0", 1000, 1_248_424), ("1_0", 196, 835_972), ("1_1", 1000, 1_235_496), ("1_1", 196, 823_044)],
)
def test_parameter_counts_are_the_papers(version, classes, expected):
    model = SqueezeNet(classes, version, batch_norm=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("version", ["1_0", "1_1"])
@pytest.mark.parametrize("side", [64, 97])
def test_torchvision_weights_fit_and_give_equal_outputs(version, side):
    theirs = getattr(torchvision.models, f"squeezenet{version}")(num_classes=196).eval()
    ours = SqueezeNet(196, version=version, batch_norm=False).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_original_calls_keep_their_shapes():
    assert SqueezeNet(num_classes=196)(torch.randn(2, 3, 224, 224)).shape == (2, 196)
    assert FireModule(96, 16, 64, 64)(torch.randn(2, 96, 13, 15)).shape == (2, 128, 13, 15)


def test_bypass_adds_the_input_and_no_parameters():
    bypassed = FireModule(128, 16, 64, 64, bypass=True)
    bypassed.load_state_dict(FireModule(128, 16, 64, 64).state_dict())
    for parameter in bypassed.parameters():  # with every convolution at zero, only the input is left
        torch.nn.init.zeros_(parameter)
    x = torch.rand(2, 128, 5, 5)
    assert torch.equal(bypassed(x), x)


def test_fresh_network_tells_images_apart():
    """At PyTorch's default start a logit's spread over images is 0.002 of the first layer's: dead."""
    torch.manual_seed(0)
    assert SqueezeNet(10)(torch.randn(8, 3, 64, 64)).std(dim=0).mean() > 0.05


def test_default_start_is_pytorchs_own():
    ours = SqueezeNet(10, version="1_0", batch_norm=False, init="default")
    assert ours.features[3].expand3x3.weight.abs().max() <= 1 / (16 * 9) ** 0.5


@pytest.mark.parametrize("batch_norm", [False, True])
def test_relu_on_the_logits_is_a_choice(batch_norm):
    for logits_relu in (True, False):
        model = SqueezeNet(10, batch_norm=batch_norm, logits_relu=logits_relu).eval()
        assert (model(IMAGES).min() >= 0) == logits_relu


def test_dropout_drops_its_share_each_for_itself_and_keeps_the_mean():
    torch.manual_seed(0)
    ones = torch.ones(8, 64, 16, 16).to(memory_format=torch.channels_last)
    out = Dropout(0.2)(ones)
    dropped = (out == 0).permute(0, 2, 3, 1).flatten()
    assert dropped.float().mean().item() == pytest.approx(51 / 256, abs=3e-3)
    assert (dropped[1:] & dropped[:-1]).float().mean().item() == pytest.approx((51 / 256) ** 2, abs=3e-3)
    assert out.mean().item() == pytest.approx(1, abs=5e-3)
    assert torch.equal(Dropout(0.2).eval()(ones), ones)


@pytest.mark.parametrize(
    "record", [torch.fx.symbolic_trace, lambda model: torch.export.export(model, (IMAGES,)).module()]
)
def test_recorded_network_gives_the_same_logits(record):
    """What ``torch.onnx`` and ``torch.compile`` begin with."""
    model = SqueezeNet(10).eval()
    torch.testing.assert_close(record(model)(IMAGES), model(IMAGES))
