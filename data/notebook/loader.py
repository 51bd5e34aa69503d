"""From a folder with one folder per class to batches for a network."""

import errno
import math
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import torch
from PIL.Image import Resampling
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from data.files import InputError
from data.images import find_images, load_image

# of ImageNet's images, per channel
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


class PhotoFolder(ImageFolder):
    """An ImageFolder of what `find_images` finds: nothing hidden, no class without images."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        names = [name for name, files in find_images(directory).items() if files]
        labels = {name: label for label, name in enumerate(names)}
        return names, labels

    @staticmethod
    def make_dataset(
        directory: str, class_to_idx: dict[str, int], *_others, **_options
    ) -> list[tuple[str, int]]:
        samples = []
        for name, files in find_images(directory).items():
            for file in files:
                samples.append((str(file), class_to_idx[name]))
        return samples


class EpochBatches:
    """The batches of an epoch: one index of every row of `choices`, rows in random order.

    Both follow from (seed, epoch) alone, so that a run that goes on replays nothing. With seed None
    the rows keep their order. A last batch of one, too little for batch normalisation, joins the
    one before.

    Args:
        choices: (photos, alternatives) indices: a photo, and what may be shown in its place.
    """

    def __init__(self, choices: np.ndarray, batch_size: int, seed: int | None):
        self.choices = choices
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self):
        return count_batches(len(self.choices), self.batch_size)

    def __iter__(self):
        count, alternatives = self.choices.shape
        generator = np.random.default_rng(np.random.SeedSequence([self.seed or 0, self.epoch]))
        if self.seed is None:
            rows = np.arange(count)
        else:
            rows = generator.permutation(count)
        shown = self.choices[rows, generator.integers(alternatives, size=count)]
        starts = range(self.batch_size, count - 1, self.batch_size)
        return iter(np.split(shown, starts))


def count_batches(count: int, batch_size: int) -> int:
    """Return the number of batches of an epoch of so many images."""
    return max(1, math.ceil((count - 1) / batch_size))


def decode_image(path: str | Path, size: int) -> np.ndarray:
    """Return an image as (size, size, 3) uint8, squeezed to a square."""
    _, image = load_image(path)
    return np.asarray(image.resize((size, size), Resampling.BILINEAR))


def load_dataset(
    folder: str | Path,
    image_size: int = 224,
    batch_size: int = 32,
    seed: int | None = None,
    copies: str | Path | None = None,
) -> DataLoader:
    """Return a DataLoader of (images (B, 3, H, W) uint8, labels (B,) int64) of a folder.

    It has three attributes beside: `paths` of the photos below the folder, `labels` (N,) int64, and
    the classes' `names`. The last batch may be smaller, or larger by one.

    Args:
        seed: of the epochs' order; None: that of the files.
        copies: folder of altered copies: an epoch then shows each photo or one of its copies.

    Raises:
        InputError: an image cannot be read, or has no copies in that folder.
    """
    photos = PhotoFolder(folder)
    files = [Path(path) for path, _ in photos.samples]
    paths = [file.relative_to(folder).as_posix() for file in files]
    labels = list(photos.targets)
    choices = np.arange(len(files)).reshape(-1, 1)

    if copies is not None:
        copies_of = list_copies(Path(copies), paths)
        for names, label in zip(copies_of, photos.targets, strict=True):
            files.extend(Path(copies, name) for name in names)
            labels.extend([label] * len(names))
        altered = np.arange(len(paths), len(files)).reshape(len(paths), -1)
        choices = np.hstack([choices, altered])

    pixels = decode_files(files, image_size, workspace=Path(folder).parent)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    dataset = TensorDataset(images, torch.tensor(labels))
    # what the sampler yields is a whole batch, so that the loader has none to collate
    loader = DataLoader(
        dataset,
        sampler=EpochBatches(choices, batch_size, seed),
        batch_size=None,
    )
    loader.paths = paths
    loader.labels = np.array(photos.targets)
    loader.names = list(photos.class_to_idx)
    return loader


def list_copies(folder: Path, paths: list[str]) -> list[list[str]]:
    """Return the copies of each photo, by their paths in a folder that augment.py filled.

    Args:
        paths: of the photos, below the folder that the copies were made from.

    Raises:
        InputError: a photo has no copies there, or fewer than others.
    """
    cure = "make the copies of these photos with augment.py"
    try:
        manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False)
    except OSError as error:
        raise InputError(f"{folder / 'manifest.csv'}: {error.strerror}: {cure}") from error
    by_source = manifest.groupby("source")["copy"].agg(list)
    copies = [by_source.get(path, []) for path in paths]
    most = max(len(names) for names in copies)
    for path, names in zip(paths, copies, strict=True):
        if not names or len(names) < most:
            raise InputError(f"{folder}: {len(names)} copies of {path}: {cure}")
    return copies


def decode_files(files: list[Path], image_size: int, workspace: Path) -> np.ndarray:
    """Decode images once for all epochs; return (N, H, W, 3) uint8.

    They lie in a file that is mapped into memory: the system keeps in memory what there is room
    for. The file has no name, and goes with the array.

    Raises:
        InputError: an image cannot be read, or there is no room on the disk.
    """
    shape = (len(files), image_size, image_size, 3)
    pixels = make_room(shape, workspace)

    def decode(index: int) -> None:
        # at once, as images that wait to be written would pile up in memory
        try:
            pixels[index] = decode_image(files[index], image_size)
        except OSError as error:
            raise InputError(f"{files[index]}: {error}: mend it or take it away") from error

    # Pillow decodes outside Python's lock
    with ThreadPoolExecutor() as threads:
        # to raise what a thread raised
        list(threads.map(decode, range(len(files))))
    return pixels


def make_room(shape: tuple[int, ...], workspace: Path) -> np.ndarray:
    """Return an empty uint8 array in a file without a name, mapped into memory.

    Where the file system cannot be mapped, it lies in memory itself.

    Raises:
        InputError: there is no room on the disk.
    """
    size = math.prod(shape)
    with open_nameless(workspace) as file:
        # a file with holes would fail later, at the first write into one, without a message
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise InputError(
                        f"{workspace}: no room for {size / 1e6:.0f} MB of decoded images: lower "
                        "image_size, or choose another data_dir"
                    ) from error
        try:
            return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
        except OSError:
            print(f"{workspace} cannot be mapped into memory: {size / 1e6:.0f} MB are held there")
            return np.empty(shape, dtype=np.uint8)


def open_nameless(workspace: Path) -> IO[bytes]:
    """Open a file without a name in a folder, or in the system's for such files if need be."""
    try:
        return tempfile.TemporaryFile(dir=workspace)
    except OSError:
        # a folder that may only be read, such as Kaggle's
        return tempfile.TemporaryFile()


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Return images (B, 3, H, W) uint8 as float32, normalised by ImageNet's mean and deviation.

    That is a convention; no weights of ImageNet are used. The result lies channels last in memory,
    but on mps, where that is not known to work.
    """
    scaled = v2.functional.to_dtype(images, torch.float32, scale=True)
    normalized = v2.functional.normalize(scaled, MEAN, STD)
    if images.device.type == "mps":
        return normalized
    return normalized.contiguous(memory_format=torch.channels_last)


def in_batches(images: torch.Tensor, batch_size: int = 32) -> list[tuple[torch.Tensor, None]]:
    """Return images (N, 3, H, W) as batches without labels, as a loader would give them."""
    return [(batch, None) for batch in images.split(batch_size)]
