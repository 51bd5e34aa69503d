"""Two answers that any network has to beat: the commonest class, and a look at thumbnails."""

from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch.utils.data import DataLoader

THUMBNAIL_SIDE = 16
MOST_COMPONENTS = 60
# a support-vector machine compares every two classes: of 1,500 that takes minutes
MOST_CLASSES = 300


def name_commonest(train: DataLoader, photos: DataLoader) -> np.ndarray:
    """Give every photo the commonest class of the training photos.

    Args:
        train: of `load_dataset`.
        photos: likewise, those to be named.

    Returns:
        (N, classes): 1 for the class that is named, else 0.
    """
    commonest = np.bincount(train.labels).argmax()
    named = np.full(len(photos.labels), commonest)
    return np.eye(len(train.names))[named]


def learn_thumbnails(train: DataLoader, photos: DataLoader) -> np.ndarray:
    """Name photos by a support-vector machine that learned the training photos' thumbnails.

    Arguments and result are those of `name_commonest`, with images of THUMBNAIL_SIDE pixels. The
    pixels are standardised and reduced to at most 60 whitened principal components. Of more than
    MOST_CLASSES classes a photo gets that of the most similar training photo.
    """
    pixels = flatten(train)
    components = min(MOST_COMPONENTS, *pixels.shape)
    classifier = SVC()
    if len(train.names) > MOST_CLASSES:
        classifier = KNeighborsClassifier(n_neighbors=1)
    classifier = make_pipeline(
        StandardScaler(),
        PCA(n_components=components, whiten=True, random_state=0),
        classifier,
    )
    classifier.fit(pixels, train.labels)
    named = classifier.predict(flatten(photos))
    return np.eye(len(train.names))[named]


def make_run(name: str, answer: Callable, train: DataLoader, test: DataLoader, seed: int) -> dict:
    """Return a baseline's answers to one split, with the names that a network's run has.

    Args:
        answer: `name_commonest`, `learn_thumbnails`, or another function of the same kind.
        seed: of the repeat.
    """
    remembered = answer(train, train).argmax(axis=1)
    return {
        "arm": name,
        "seed": seed,
        "names": test.names,
        "paths": test.paths,
        "labels": test.labels,
        "probabilities": answer(train, test),
        "train_accuracy": float((remembered == train.labels).mean()),
    }


def flatten(photos: DataLoader) -> np.ndarray:
    """Return the pixels (N, 3 × H × W) of all images, in the order of their labels."""
    images, _ = photos.dataset.tensors
    return images.reshape(len(images), -1).numpy().astype(float)
