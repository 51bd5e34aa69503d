"""From a folder to batches: what is decoded, in which order it is shown, in which precision."""

import errno
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import fails, save_photo, tree
from numpy.testing import assert_allclose
from PIL import Image
from torchvision.datasets import ImageFolder

from data.notebook import devices
from data.notebook.loader import (
    MEAN,
    STD,
    EpochBatches,
    PhotoFolder,
    count_batches,
    decode_files,
    in_batches,
    load_dataset,
    normalize,
)


@pytest.fixture
def shades(tmp_path):
    """Two dark and one bright image of class a, four bright ones of class b."""
    for kind, greys in {"a": (10, 40, 200), "b": (180, 205, 220, 240)}.items():
        folder = tmp_path / "shades" / kind
        folder.mkdir(parents=True)
        for grey in greys:
            Image.new("RGB", (20, 20), (grey, grey, grey)).save(folder / f"{grey:03}.png")
    return tmp_path / "shades"


def greys_of(loader):
    """Return the grey value of each image of the next epoch."""
    batches = [images[:, 0, 0, 0] for images, _ in loader]
    return torch.cat(batches).tolist()


def test_the_loader_gives_every_image_once_with_its_label(shades):
    # hidden and empty folders are no classes, and what is hidden in one is no photo of it
    for hidden in (".ipynb_checkpoints", "a/.thumbnails", "b/@eaDir"):
        save_photo(shades / hidden / "a.png", 1)
    (shades / "empty").mkdir()
    loader = load_dataset(shades, image_size=16, batch_size=3)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert issubclass(PhotoFolder, ImageFolder)
    images, labels = zip(*loader, strict=True)
    assert [tuple(batch.shape) for batch in images] == [(3, 3, 16, 16), (4, 3, 16, 16)]
    assert {batch.dtype for batch in images} == {torch.uint8}
    assert torch.cat(labels).tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert greys_of(loader) == [10, 40, 200, 180, 205, 220, 240]
    assert loader.names == ["a", "b"]
    assert loader.paths[2:4] == ["a/200.png", "b/180.png"]
    assert loader.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_a_class_whose_name_is_decomposed_unicode_is_found(shades):
    (shades / "a").rename(shades / "Ka\u0308fer")
    loader = load_dataset(shades, 16)
    assert loader.names == ["K\u00e4fer", "b"]
    assert loader.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_an_image_that_cannot_be_read_is_one_line(shades):
    (shades / "a" / "bad.png").write_bytes(b"<html>")
    with fails("shades/a/bad.png: not an image: mend it or take it away"):
        load_dataset(shades, 16)


def test_images_beside_which_nothing_can_be_written_are_loaded(shades, monkeypatch):
    expected = greys_of(load_dataset(shades, 16))
    whole = tempfile.TemporaryFile

    def temporary_file(dir=None):
        if dir is not None:
            raise OSError(errno.EROFS, "Read-only file system")
        return whole()

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    assert greys_of(load_dataset(shades, 16)) == expected


def orders_of(folder, seed, epochs):
    loader = load_dataset(folder, 16, 3, seed=seed)
    orders = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        orders.append(greys_of(loader))
    return orders


def test_the_order_of_an_epoch_follows_from_seed_and_epoch_alone(shades):
    orders = orders_of(shades, seed=1, epochs=range(4))
    # nothing before is replayed
    assert orders[::-1] == orders_of(shades, seed=1, epochs=[3, 2, 1, 0])
    assert orders != orders_of(shades, seed=2, epochs=range(4))
    assert len({tuple(order) for order in orders}) == 4
    for order in orders:
        assert sorted(order) == [10, 40, 180, 200, 205, 220, 240]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [1]), (2, [2]), (4, [4]), (5, [5]), (6, [4, 2]), (9, [4, 5])],
)
def test_a_last_batch_of_one_joins_the_one_before(count, sizes):
    choices = np.arange(count).reshape(-1, 1)
    batches = EpochBatches(choices, batch_size=4, seed=1)
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == count_batches(count, 4) == len(sizes)


def test_images_are_squeezed_by_pillow_and_normalised_for_the_network(tmp_path):
    path = save_photo(tmp_path / "photos" / "a" / "1.jpg", 1, size=(90, 50))
    before = tree(tmp_path)
    ((images, _),) = load_dataset(tmp_path / "photos", 32)
    # what is mapped into memory leaves no file
    assert tree(tmp_path) == before
    with Image.open(path) as image:
        squeezed = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
    assert (images[0].permute(1, 2, 0).numpy() == squeezed).all()

    inputs = normalize(images)
    expected = (squeezed / 255 - np.array(MEAN)) / np.array(STD)
    assert_allclose(inputs[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    for tensor in (images, inputs):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_images_without_labels_come_in_batches():
    images = torch.arange(5 * 3 * 2 * 2).reshape(5, 3, 2, 2)
    batches = [batch for batch, _ in in_batches(images, batch_size=2)]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches), images)


@pytest.fixture
def photos_with_copies(tmp_path):
    """Six photos of grey 40, 80, …, in train/; their copies, 1 to 3 brighter, in train_aug/."""
    rows = []
    for number in range(1, 7):
        kind = "NA" if number < 4 else "b"
        source = f"{kind}/{number}.png"
        names = [f"{kind}/{number}_aug{copy}.png" for copy in range(3)]
        rows += [{"copy": name, "source": source} for name in names]
        files = [tmp_path / "train" / source]
        files += [tmp_path / "train_aug" / name for name in names]
        for brighter, file in enumerate(files):
            file.parent.mkdir(parents=True, exist_ok=True)
            grey = 40 * number + brighter
            Image.new("RGB", (8, 8), (grey, grey, grey)).save(file)
    shuffled = pd.DataFrame(rows).sample(frac=1, random_state=1)
    shuffled.to_csv(tmp_path / "train_aug" / "manifest.csv", index=False)
    return tmp_path


def test_mixed_shows_each_photo_once_as_itself_or_as_one_of_its_copies(photos_with_copies):
    loader = load_dataset(
        photos_with_copies / "train",
        image_size=8,
        batch_size=4,
        seed=1,
        copies=photos_with_copies / "train_aug",
    )
    shown = np.zeros((7, 4), int)
    epochs = set()
    for epoch in range(400):
        loader.sampler.set_epoch(epoch)
        greys = sorted(greys_of(loader))
        photos = [grey // 40 for grey in greys]
        alternatives = [grey % 40 for grey in greys]
        assert photos == [1, 2, 3, 4, 5, 6]
        shown[photos, alternatives] += 1
        epochs.add(tuple(greys))
    # drawn anew each epoch, each alternative as often: 100 of 400, within four deviations
    assert len(epochs) > 350
    assert np.abs(shown[1:] - 100).max() < 4 * (400 * 0.25 * 0.75) ** 0.5
    for images, labels in loader:
        of_b = images[:, 0, 0, 0] // 40 > 3
        assert of_b.int().tolist() == labels.tolist()


def test_photos_without_copies_or_with_fewer_than_others_are_one_line(photos_with_copies):
    train = photos_with_copies / "train"
    copies = photos_with_copies / "train_aug"
    manifest = pd.read_csv(copies / "manifest.csv", keep_default_na=False)
    for lacking, number in (("b/5_aug1.png", 2), ("b/5", 0)):
        kept = manifest[~manifest["copy"].str.startswith(lacking)]
        kept.to_csv(copies / "manifest.csv", index=False)
        with fails(f"{copies}: {number} copies of b/5.png: make the copies of these photos with"):
            load_dataset(train, 8, copies=copies)
    (copies / "manifest.csv").unlink()
    with fails("manifest.csv: No such file or directory: make the copies of these photos"):
        load_dataset(train, 8, copies=copies)


def test_precision_is_the_lowest_that_the_device_does_not_only_emulate(monkeypatch):
    for new, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, new=new: new
        )
        assert devices.fast_dtype(torch.device("cuda")) == expected
    for features, expected in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx2": True}, torch.float32),
        ({}, torch.float32),
    ):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda features=features: features, raising=False
        )
        assert devices.fast_dtype(torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen", "names"),
    [
        (True, True, "cuda", ["auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps"]),
        (False, True, "mps", ["auto", "cpu", "mps"]),
        (False, False, "cpu", ["auto", "cpu"]),
    ],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, chosen, names):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.mps, "device_count", lambda: int(mps))
    assert devices.choose_device("auto").type == chosen
    assert devices.choose_device("cuda:1") == torch.device("cuda", 1)
    assert devices.list_devices() == names


def test_on_mps_it_computes_in_float32():
    assert devices.fast_dtype(torch.device("mps")) == torch.float32


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="files are allocated on POSIX only")
def test_a_disk_without_room_for_the_decoded_images_is_one_line(shades, monkeypatch):
    def posix_fallocate(file, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", posix_fallocate)
    with fails(r"no room for 0 MB of decoded images: lower image_size, or choose another data_dir"):
        load_dataset(shades, 16)


def test_where_files_cannot_be_mapped_images_are_held_in_memory(shades, monkeypatch, capsys):
    expected = greys_of(load_dataset(shades, 16))

    def memmap(*arguments, **options):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(np, "memmap", memmap)
    assert greys_of(load_dataset(shades, 16)) == expected
    assert "cannot be mapped into memory" in capsys.readouterr().out


def test_on_a_slow_disk_decoded_images_do_not_pile_up(tmp_path, monkeypatch):
    decoded = []
    written = []
    waiting = []

    class SlowDisk(np.ndarray):
        def __setitem__(self, index, image):
            waiting.append(len(decoded) - len(written))
            time.sleep(0.001)
            super().__setitem__(index, image)
            written.append(index)

    def decode_image(path, size):
        decoded.append(path)
        return np.full((size, size, 3), int(path.name), dtype=np.uint8)

    room = np.zeros((200, 4, 4, 3), dtype=np.uint8).view(SlowDisk)
    monkeypatch.setattr("data.notebook.loader.make_room", lambda shape, workspace: room)
    monkeypatch.setattr("data.notebook.loader.decode_image", decode_image)
    files = [Path(str(number)) for number in range(200)]
    pixels = decode_files(files, image_size=4, workspace=tmp_path)
    assert pixels[:, 0, 0, 0].tolist() == list(range(200))
    # one in each thread, of which there are at most 32
    assert max(waiting) <= 32


def test_a_lack_of_memory_is_one_line_and_another_error_is_not_hidden():
    for problem in ("CUDA out of memory. Tried to allocate", "can't allocate memory: tried"):
        with (
            fails(r"no memory: lower batch_size or image_size \(64\)"),
            devices.memory_for_training(64),
        ):
            raise RuntimeError(problem)
    with pytest.raises(RuntimeError, match="sizes do not match"), devices.memory_for_training(64):
        raise RuntimeError("sizes do not match")
