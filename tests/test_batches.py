"""Batches are the data set's images and labels, decoded once, augmented whole, the same for the same seed."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from labnn import LabError, open_dataset
from labnn.batches import Augment, Batches, Mix, growing
from labnn.kit.decoding import decode_images


@pytest.fixture
def dataset(tiny_root):
    return open_dataset(tiny_root, crop_to_box=True).train


def decoded(dataset, size: int, cache) -> np.ndarray:
    return np.load(decode_images(dataset, size, cache))


def test_images_are_decoded_once_as_those_of_the_data_set(dataset, tmp_path, capsys):
    images = decoded(dataset, 48, tmp_path)
    assert images.shape == (16, 48, 48, 3) and images.dtype == np.uint8
    for index in (0, 7, 15):
        squashed = dataset.image(index).resize((48, 48), Image.Resampling.BICUBIC, reducing_gap=3.0)
        assert np.array_equal(images[index], np.asarray(squashed))
    assert "16 из 16" in capsys.readouterr().out
    assert np.array_equal(decoded(dataset, 48, tmp_path), images) and not capsys.readouterr().out


@pytest.mark.parametrize("content", [lambda whole: whole[: len(whole) // 2], lambda whole: bytes(len(whole))])
def test_array_cut_or_emptied_by_a_power_cut_is_decoded_anew(dataset, tmp_path, content):
    file = decode_images(dataset, 48, tmp_path)
    expected = np.load(file)
    file.write_bytes(content(file.read_bytes()))
    assert np.array_equal(decoded(dataset, 48, tmp_path), expected)


def test_changed_photo_or_box_is_decoded_anew(dataset, tmp_path):
    before = decoded(dataset, 48, tmp_path)
    times = dataset.paths[4].stat().st_mtime_ns
    Image.new("RGB", Image.open(dataset.paths[4]).size, "red").save(dataset.paths[4])
    os.utime(dataset.paths[4], ns=(times, times))
    dataset.boxes[9] += 1
    after = decoded(dataset, 48, tmp_path)
    assert [index for index in range(16) if not np.array_equal(before[index], after[index])] == [4, 9]


def test_broken_image_leaves_no_half_written_array(dataset, tmp_path):
    dataset.paths[9].write_bytes(b"not a picture")
    with pytest.raises(LabError, match=dataset.paths[9].name):
        decode_images(dataset, 48, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["locks"]


PICTURES = np.random.default_rng(0).integers(0, 256, (16, 40, 40, 3), dtype=np.uint8)


def test_each_pass_has_every_image_once_in_another_order_normalised_with_its_label():
    batches, orders = Batches(PICTURES, np.arange(16), 6, shuffle=True), []
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    for _ in range(2):
        for images, labels in batches:
            expected = (torch.from_numpy(PICTURES[labels.numpy()]).float() - mean) / std
            torch.testing.assert_close(images.permute(0, 2, 3, 1), expected)
            orders.extend(labels.tolist())
    assert len(batches) == 3 and sorted(orders[:16]) == sorted(orders[16:]) == list(range(16))
    assert orders[:16] != orders[16:] and orders[:16] != list(range(16))


@pytest.mark.parametrize(
    "count, batch_size, sizes",
    [(9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (3, 1, [1, 1, 1]), (1, 4, [1])],
)
def test_last_image_of_a_training_pass_is_not_a_batch_alone(count, batch_size, sizes):
    batches = Batches(PICTURES[:count], np.arange(count), batch_size, shuffle=True)
    met = [labels.tolist() for _, labels in batches]
    assert [len(labels) for labels in met] == sizes and len(batches) == len(sizes)
    assert sorted(sum(met, [])) == list(range(count))


def test_seed_and_pass_fix_order_and_augmentation():
    tools = {"shuffle": True, "augment": Augment(32, colour=0.1), "mix": Mix(16, share=1.0)}
    first, again, other = (Batches(PICTURES, np.arange(16), 8, seed=seed, **tools) for seed in (1, 1, 2))
    second_pass = [list(first), list(first)][1]
    again.set_epoch(1)
    for (images, labels), (same_images, same_labels) in zip(second_pass, again, strict=True):
        assert torch.equal(images, same_images) and torch.equal(labels, same_labels)
    assert not torch.equal(second_pass[0][0], next(iter(other))[0])


def test_pictures_grow_by_16_pixels_and_end_at_full_size():
    sides = [list(map(growing(start, end, 10), range(10))) for start, end in ((32, 64), (40, 64), (64, 64))]
    assert sides == [[32] * 4 + [48] * 4 + [64] * 2, [40] * 6 + [56, 56, 64, 64], [64] * 10]
    batches = Batches(PICTURES, np.arange(16), 16, augment=Augment(growing(16, 32, 4)))
    assert [images.shape[2] for _ in range(4) for images, _ in batches] == [16, 16, 16, 32]


def test_crop_and_flip_keep_flat_colours_and_mirror_half():
    generator = torch.Generator().manual_seed(0)
    flat = torch.full((4, 3, 40, 40), 77.0)
    torch.testing.assert_close(Augment(32)(flat, generator), torch.full((4, 3, 32, 32), 77.0))
    ramp = torch.arange(40.0).expand(400, 3, 40, 40)  # brightness grows to the right
    out = Augment(32)(ramp, generator)
    assert 0.4 < (out[:, 0, 16, -1] > out[:, 0, 16, 0]).float().mean() < 0.6


def test_crops_keep_at_least_the_asked_area():
    x = torch.arange(64.0).expand(64, 64)
    plane = torch.stack([x, x.T, torch.zeros(64, 64)]).expand(500, 3, 64, 64)
    out = Augment(64, min_area=0.4)(plane, torch.Generator().manual_seed(0))
    width, height = ((out[:, i].amax(dim=(1, 2)) - out[:, i].amin(dim=(1, 2)) + 1) / 64 for i in (0, 1))
    area = width * height
    assert area.min() > 0.36 and area.max() <= 1.01  # a pixel's width short at the edges
    assert (width / height).max() < 1.4


def test_whole_unmirrored_picture_passes_unchanged():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    out = Augment(32, min_area=1.0, mirror=False)(images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(out, images, rtol=0, atol=0.01)


def test_colour_changes_brightness_and_contrast_within_the_asked_share():
    ramp = torch.linspace(50, 150, 32).expand(300, 3, 32, 32)
    out = Augment(32, min_area=1.0, mirror=False, colour=0.3)(ramp, torch.Generator().manual_seed(0))
    means = out.mean(dim=(1, 2, 3)) / ramp[0].mean()
    contrasts = out.std(dim=(1, 2, 3)) / ramp[0].std() / means
    for factors in (means, contrasts):
        assert 0.69 < factors.min() < 0.75 and 1.25 < factors.max() < 1.31


def test_mixed_labels_are_the_shares_of_the_two_pictures():
    """Picture k is all k, so that the mean of a mixed picture tells the shares of its two."""
    values = torch.arange(8.0)
    images, labels = values.view(8, 1, 1, 1).expand(8, 3, 20, 20).contiguous(), torch.arange(8)
    random, mixed = np.random.default_rng(0), 0
    for _ in range(50):
        out, shares = Mix(8, share=0.5)(images, labels, random)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(8))
        torch.testing.assert_close(out.mean(dim=(1, 2, 3)), shares @ values, rtol=1e-4, atol=1e-4)
        mixed += not torch.equal(out, images)
    assert 15 <= mixed <= 35
    assert torch.equal(images[3], torch.full((3, 20, 20), 3.0))  # the batch that was given is left as it was
