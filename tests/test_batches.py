"""Batches are the data set's images and labels, decoded once, augmented whole, the same for the same seed."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from labnn.batches import Augment, Batches, Mix, decode_images, growing
from labnn.data import open_dataset
from labnn.kit.errors import LabError


@pytest.fixture
def dataset(tiny_root):
    return open_dataset(tiny_root, crop_to_box=True).train


def test_decoded_images_are_those_of_the_data_set(dataset, tmp_path):
    images = decode_images(dataset, 48, tmp_path)
    assert images.shape == (16, 48, 48, 3) and images.dtype == np.uint8
    for index in (0, 7, 15):
        expected = np.asarray(
            dataset.image(index).resize((48, 48), Image.Resampling.BICUBIC, reducing_gap=3.0)
        )
        assert np.array_equal(images[index], expected)


def test_images_are_decoded_once(dataset, tmp_path):
    first = decode_images(dataset, 48, tmp_path)
    dataset.image = None  # a second decoding would call it
    assert np.array_equal(decode_images(dataset, 48, tmp_path), first)
    assert len(list(tmp_path.glob("*.npy"))) == 1


@pytest.mark.parametrize("content", [lambda whole: whole[: len(whole) // 2], lambda whole: bytes(len(whole))])
def test_array_cut_or_emptied_by_a_power_cut_is_decoded_anew(dataset, tmp_path, content):
    expected = np.array(decode_images(dataset, 48, tmp_path))
    [file] = tmp_path.glob("*.npy")
    file.write_bytes(content(file.read_bytes()))
    assert np.array_equal(decode_images(dataset, 48, tmp_path), expected)


def test_changed_file_is_decoded_anew(dataset, tmp_path):
    before = np.array(decode_images(dataset, 48, tmp_path))
    Image.new("RGB", Image.open(dataset.paths[4]).size, "red").save(dataset.paths[4])
    os.utime(dataset.paths[4], ns=(1, 1))
    after = decode_images(dataset, 48, tmp_path)
    assert [index for index in range(16) if not np.array_equal(before[index], after[index])] == [4]


def test_broken_image_leaves_no_half_written_array(dataset, tmp_path):
    dataset.paths[9].write_bytes(b"not a picture")
    cache = tmp_path / "cache"
    with pytest.raises(LabError, match=dataset.paths[9].name):
        decode_images(dataset, 48, cache)
    assert [path.name for path in cache.iterdir()] == ["locks"]


def test_batches_cover_every_image_once_in_another_order_each_pass(dataset, tmp_path):
    batches = Batches(decode_images(dataset, 32, tmp_path), np.arange(16), 6, shuffle=True)
    passes = [torch.cat([labels for _, labels in batches]).tolist() for _ in range(2)]
    assert len(batches) == 3
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(16))
    assert passes[0] != passes[1] != list(range(16))


def test_images_are_normalised_and_belong_to_their_labels(dataset, tmp_path):
    images = decode_images(dataset, 32, tmp_path)
    for batch, indices in Batches(images, np.arange(16), 5, shuffle=True):
        assert batch.dtype == torch.float32 and batch.shape[1:] == (3, 32, 32)
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        expected = (torch.from_numpy(images[indices.numpy()]).float() - mean) / std
        torch.testing.assert_close(batch.permute(0, 2, 3, 1), expected)


def test_seed_and_pass_fix_order_and_augmentation(dataset, tmp_path):
    def make(seed):
        return Batches(
            decode_images(dataset, 40, tmp_path),
            dataset.labels,
            8,
            shuffle=True,
            augment=Augment(32),
            seed=seed,
        )

    first, again, other = make(1), make(1), make(2)
    second_pass = [list(first), list(first)][1]
    again.set_epoch(1)
    for (images, labels), (same_images, same_labels) in zip(second_pass, again, strict=True):
        assert torch.equal(images, same_images) and torch.equal(labels, same_labels)
    assert not torch.equal(second_pass[0][0], next(iter(other))[0])


@pytest.mark.parametrize(
    "start, end, sides",
    [
        (32, 64, [32, 32, 32, 32, 48, 48, 48, 48, 64, 64]),
        (40, 64, [40] * 6 + [56, 56, 64, 64]),
        (64, 64, [64] * 10),
    ],
)
def test_pictures_grow_by_16_pixels_and_end_at_full_size(start, end, sides):
    side = growing(start, end, 10)
    assert [side(epoch) for epoch in range(10)] == sides


def test_each_pass_has_the_side_of_its_epoch(dataset, tmp_path):
    batches = Batches(
        decode_images(dataset, 40, tmp_path), dataset.labels, 16, augment=Augment(growing(16, 32, 4))
    )
    assert [tuple(images.shape[2:]) for _ in range(4) for images, _ in batches] == [
        (16, 16),
        (16, 16),
        (16, 16),
        (32, 32),
    ]


def test_crop_and_flip_keep_flat_colours_and_mirror_half():
    generator = torch.Generator().manual_seed(0)
    flat = torch.full((4, 3, 40, 40), 77.0)
    torch.testing.assert_close(Augment(32)(flat, generator), torch.full((4, 3, 32, 32), 77.0))
    ramp = torch.arange(40.0).expand(400, 3, 40, 40)  # brightness grows to the right
    out = Augment(32)(ramp, generator)
    rising = (out[:, 0, 16, -1] > out[:, 0, 16, 0]).float().mean()
    assert 0.4 < rising < 0.6


def test_crops_keep_at_least_the_asked_area():
    plane = torch.stack(
        [torch.arange(64.0).expand(64, 64), torch.arange(64.0)[:, None].expand(64, 64), torch.zeros(64, 64)]
    )
    out = Augment(64, min_area=0.4)(plane.expand(500, 3, 64, 64), torch.Generator().manual_seed(0))
    width = (out[:, 0].amax(dim=(1, 2)) - out[:, 0].amin(dim=(1, 2)) + 1) / 64
    height = (out[:, 1].amax(dim=(1, 2)) - out[:, 1].amin(dim=(1, 2)) + 1) / 64
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


def test_decoding_tells_how_far_it_is(dataset, tmp_path):
    told = []
    for _ in range(2):  # the second finds the array: nothing to tell
        decode_images(dataset, 32, tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(16, 16)]


@pytest.mark.parametrize(
    "count, batch_size, sizes",
    [(9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (3, 1, [1, 1, 1]), (1, 4, [1])],
)
def test_last_image_of_a_training_pass_is_not_a_batch_alone(count, batch_size, sizes):
    images, labels = np.zeros((count, 8, 8, 3), np.uint8), np.arange(count)
    batches = Batches(images, labels, batch_size, shuffle=True)
    met = [labels.tolist() for _, labels in batches]
    assert [len(labels) for labels in met] == sizes and len(batches) == len(sizes)
    assert sorted(sum(met, [])) == list(range(count))


class RollAsOnCuda(TorchDispatchMode):
    """``roll`` gives back its result in contiguous memory whatever it was given, as its CUDA kernel does."""

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        out = call(*args, **(kwargs or {}))
        return out.contiguous() if call is torch.ops.aten.roll.default else out


def test_mixed_pictures_stay_in_channels_last_memory_on_cuda_too():
    images = torch.rand(8, 3, 20, 20).contiguous(memory_format=torch.channels_last)
    mix, random = Mix(8, share=1.0), np.random.default_rng(0)
    with RollAsOnCuda():
        mixed = [mix(images, torch.arange(8), random)[0] for _ in range(20)]
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in mixed)


def test_no_step_asks_the_device_for_a_number():
    """The device "meta" has none to give: an order or a random number drawn there, or a wait, would raise."""
    tools = {"augment": Augment(32, colour=0.1), "mix": Mix(16, share=1.0)}
    batches = Batches(
        np.zeros((16, 40, 40, 3), np.uint8), np.arange(16), 4, device="meta", shuffle=True, **tools
    )
    met = [(images.shape, targets.shape, images.device.type) for images, targets in batches]
    assert met == [((4, 3, 32, 32), (4, 16), "meta")] * 4
