"""The network is the paper's, torchvision's weights fit it, and it starts alive."""

import hashlib
import socket
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import torchvision
from conftest import MINICARS
from torchvision.models.feature_extraction import create_feature_extractor

from labnn.__main__ import main
from labnn.kit.errors import LabError
from labnn.model import Dropout, FireModule, SqueezeNet, squeezenet_imagenet
from labnn.report import words
from labnn.report.studies import STUDIES


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
    """At PyTorch's default start a logit's spread over images is 0.002 of the first layer's: dead."""
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
    both = (dropped[1:] & dropped[:-1]).float().mean().item()
    assert both == pytest.approx((51 / 256) ** 2, abs=3e-3)  # each for itself


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


@pytest.fixture(params=[SqueezeNet, torchvision.models.squeezenet1_1], ids=["ours", "torchvision"])
def network(request):
    """Ours and, as the measure of what is right, torchvision's."""
    return request.param(num_classes=10)


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "recorded",
    [
        torch.jit.script,
        partial(torch.jit.trace, example_inputs=IMAGES),
        torch.fx.symbolic_trace,
        lambda model: torch.export.export(model, (IMAGES,)).module(),
    ],
    ids=["script", "trace", "fx", "export"],
)
def test_recorded_network_gives_the_same_logits(network, recorded):
    network.eval()
    torch.testing.assert_close(recorded(network)(IMAGES), network(IMAGES))


@pytest.mark.parametrize(
    "recorded",
    [
        torch.jit.script,
        partial(torch.jit.trace, example_inputs=IMAGES, check_trace=False),
        torch.fx.symbolic_trace,
        lambda model: torch.export.export(model, (IMAGES,)).module(),
    ],
    ids=["script", "trace", "fx", "export"],
)
def test_recorded_while_training_the_network_drops_features(network, recorded):
    model = recorded(network.train())
    assert not torch.equal(model(IMAGES), model(IMAGES))


@pytest.mark.parametrize("recorded", [torch.jit.script, torch.fx.symbolic_trace])
def test_eval_switches_the_dropout_of_a_recorded_network_off(network, recorded):
    model = recorded(network.train()).eval()
    assert torch.equal(model(IMAGES), model(IMAGES))


def test_features_are_taken_by_the_layers_name(network):
    features = create_feature_extractor(network, {"features.12": "last"})(IMAGES)
    assert features["last"].shape == (2, 512, 3, 3)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file of weights in place of torchvision's, served from 127.0.0.1, and the folder it is fetched to."""
    served, home = tmp_path / "served", tmp_path / "home"
    served.mkdir()
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), served / "weights")
    digest = hashlib.sha256((served / "weights").read_bytes()).hexdigest()
    file = (served / "weights").rename(served / f"squeezenet1_1-{digest[:8]}.pth")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=served))
    threading.Thread(target=server.serve_forever).start()
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", f"http://127.0.0.1:{server.server_port}/{file.name}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(home))
    yield file, home / "hub" / "checkpoints" / file.name
    server.shutdown()
    server.server_close()


def test_fine_tuning_starts_from_the_published_features_and_new_logits(published, capsys):
    served, fetched = published
    theirs = torch.load(served, weights_only=True)
    ours = squeezenet_imagenet(num_classes=7)
    assert all(torch.equal(ours.features.state_dict()[name[9:]], theirs[name]) for name in list(theirs)[:-2])
    assert ours(IMAGES).shape == (2, 7)
    assert ours.eval()(IMAGES).min() < 0  # no ReLU on the logits
    assert fetched.exists() and capsys.readouterr() == ("", "")
    served.unlink()
    squeezenet_imagenet(num_classes=7)  # from what was fetched


def test_command_compares_fine_tuning_with_training_from_scratch(published, tmp_path, monkeypatch):
    study = STUDIES["finetune"]
    small = {"epochs": 1, "image_size": 32, "test_size": 0}
    study = replace(study, base=replace(study.base, **small), changes=study.changes[:1], seeds=1)
    monkeypatch.setitem(STUDIES, "finetune", study)
    folders = ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    assert main(["study", "finetune", "--data", str(MINICARS), *folders]) == 0
    runs = study.load(tmp_path / "runs")
    assert sorted(run.experiment.network for run in runs) == ["squeezenet", "squeezenet-imagenet"]
    assert {run.data["name"] for run in runs} == {"minicars-validation"}
    table = words.table(study.tables(runs)["finetune"]).set_index("Что изменено")
    assert table["Разность точности [95 %]"].astype(bool).tolist() == (table.index != study.title).tolist()


def test_damaged_weights_are_told_and_not_kept(published):
    served, fetched = published
    served.write_bytes(served.read_bytes()[:-1000])
    with pytest.raises(LabError, match="повреждённым") as told:
        squeezenet_imagenet(10)
    assert str(fetched) in str(told.value) and "\n" not in str(told.value)
    assert list(fetched.parent.iterdir()) == []


def test_weights_damaged_on_the_disk_are_fetched_anew(published):
    served, fetched = published
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(served.read_bytes()[:-1000])
    squeezenet_imagenet(10)
    assert fetched.read_bytes() == served.read_bytes()


def test_offline_the_missing_file_its_place_and_its_source_are_told(published, monkeypatch):
    _, fetched = published
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{fetched.name}"
        monkeypatch.setattr(weights.value, "url", url)
        with pytest.raises(LabError, match="ImageNet") as told:
            squeezenet_imagenet(10)
    assert str(fetched) in str(told.value) and url in str(told.value) and "\n" not in str(told.value)
    assert list(fetched.parent.iterdir()) == []
