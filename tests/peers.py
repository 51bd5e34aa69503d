"""How other libraries train a ResNet-50 from a folder of images, each as its documentation does.

    python tests/peers.py LIBRARY FOLDER [--steps 4] [--batch 32] [--size 224]

FOLDER holds `train` and `valid`, both with a folder per class. Prints as JSON when the first step
ended (seconds since 1970) and the mean seconds of the steps after it. The libraries choose
device, precision and layout of memory themselves; nothing is made faster than they come.

`tests/benchmark.py --only peers` calls this for one after the other. They want an environment of
their own:

    python3 -m venv peers
    peers/bin/pip install -r tests/requirements.txt fastai lightning accelerate timm keras grain
    peers/bin/python tests/benchmark.py --only peers --rounds 3
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path


class Clock:
    """Notes when the first step ended, and the last that is timed."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.count = 0
        self.moments = []

    def tick(self, *_, **__) -> None:
        """Be told that a step has ended."""
        import torch

        self.count += 1
        if self.count not in (1, self.steps + 1):
            return
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.moments.append(time.time())

    def report(self) -> dict:
        first, last = self.moments
        return {"first": first, "seconds": (last - first) / self.steps}


def count_epochs(clock: Clock, batches: int) -> int:
    """Return how many epochs hold the steps to be timed and the one before them."""
    return math.ceil((clock.steps + 1) / batches)


def load_folder(options: argparse.Namespace):
    """Return torchvision's loader, as in PyTorch's tutorial on transfer learning."""
    import torch
    from torchvision import datasets, transforms

    steps = transforms.Compose(
        [
            transforms.Resize((options.size, options.size)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = datasets.ImageFolder(options.folder / "train", steps)
    return torch.utils.data.DataLoader(
        images, batch_size=options.batch, shuffle=True, num_workers=2
    )


def run_notebook(options: argparse.Namespace, clock: Clock) -> None:
    """The notebook's own cells."""
    from conftest import define_notebook

    from data.notebook.devices import choose_device, memory_for_training, move_to
    from data.notebook.loader import load_dataset

    page = define_notebook()
    loader = load_dataset(options.folder / "train", options.size, options.batch)
    model = page.initialize_model(2)
    move_to(model, choose_device("auto"))
    steps = clock.steps + 1

    def report(done, _, losses):
        # an epoch's end reports its last step once more
        if done > len(losses) * len(loader):
            clock.tick()

    with memory_for_training(options.size):
        page.train_model(model, loader, steps, report=report)


def run_tutorial(options: argparse.Namespace, clock: Clock) -> None:
    """PyTorch's tutorial on transfer learning, its weights random and its optimiser Adam."""
    import torch
    from torchvision import models

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = load_folder(options)
    model = models.resnet50(weights=None, num_classes=2).to(device)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    model.train()
    for _ in range(count_epochs(clock, len(loader))):
        running_loss = 0.0
        for images, labels in loader:
            images = images.to(device)
            labels = labels.to(device)
            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * images.size(0)
            clock.tick()


def run_bare_step(options: argparse.Namespace, clock: Clock) -> None:
    """One batch in memory again and again, with every flag that makes a step fast."""
    import torch
    from conftest import ROOT  # noqa: F401, puts the project on the path
    from torchvision import models

    from data.notebook.devices import autocast, choose_device, memory_for_training

    device = choose_device("auto")
    layout = torch.channels_last
    model = models.resnet50(weights=None, num_classes=2).to(device, memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    images, labels = next(iter(load_folder(options)))
    images = images.to(device, memory_format=layout)
    labels = labels.to(device)
    model.train()
    with memory_for_training(options.size):
        for _ in range(clock.steps + 1):
            with autocast(device):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clock.tick()


def run_fastai(options: argparse.Namespace, clock: Clock) -> None:
    """https://docs.fast.ai/tutorial.vision.html, with its Adam."""
    from fastai.vision.all import Callback, ImageDataLoaders, Resize, resnet50, vision_learner

    loaders = ImageDataLoaders.from_folder(
        options.folder, item_tfms=Resize(options.size), bs=options.batch
    )
    learner = vision_learner(loaders, resnet50, pretrained=False)

    class Tick(Callback):
        def after_batch(self):
            if self.training:
                clock.tick()

    learner.fit(count_epochs(clock, len(loaders.train)), 0.001, cbs=Tick())


def run_lightning(options: argparse.Namespace, clock: Clock) -> None:
    """https://lightning.ai/docs/pytorch/stable/starter/introduction.html."""
    import lightning
    import torch
    from torchvision import models

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = models.resnet50(weights=None, num_classes=2)

        def training_step(self, batch, batch_idx):
            images, labels = batch
            loss = torch.nn.functional.cross_entropy(self.model(images), labels)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.001)

        def on_train_batch_end(self, outputs, batch, batch_idx):
            clock.tick()

    loader = load_folder(options)
    epochs = count_epochs(clock, len(loader))
    trainer = lightning.Trainer(max_epochs=epochs, default_root_dir=options.folder / "lightning")
    trainer.fit(Classifier(), loader)


def run_accelerate(options: argparse.Namespace, clock: Clock) -> None:
    """https://huggingface.co/docs/accelerate/quicktour."""
    import torch
    from accelerate import Accelerator
    from torchvision import models

    accelerator = Accelerator()
    model = models.resnet50(weights=None, num_classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    model, optimizer, loader = accelerator.prepare(model, optimizer, load_folder(options))
    model.train()
    for _ in range(count_epochs(clock, len(loader))):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            accelerator.backward(loss)
            optimizer.step()
            clock.tick()


def run_timm(options: argparse.Namespace, clock: Clock) -> None:
    """https://huggingface.co/docs/timm: its data set, loader, network and optimiser."""
    import timm
    import torch
    from timm.optim import create_optimizer_v2

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = timm.data.create_dataset("", root=options.folder / "train")
    loader = timm.data.create_loader(
        images,
        input_size=(3, options.size, options.size),
        batch_size=options.batch,
        is_training=True,
        num_workers=2,
        device=device,
        use_prefetcher=device.type == "cuda",
    )
    model = timm.create_model("resnet50", pretrained=False, num_classes=2).to(device)
    optimizer = create_optimizer_v2(model, opt="adam", lr=0.001)
    model.train()
    for _ in range(count_epochs(clock, len(loader))):
        for batch, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(batch.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clock.tick()


def run_keras(options: argparse.Namespace, clock: Clock) -> None:
    """https://keras.io/examples/vision/image_classification_from_scratch, on torch.

    Its ResNet-50 of `keras.applications` has 6 % less arithmetic than torchvision's. Images come
    by grain, as tf.data needs TensorFlow.
    """
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    images = keras.utils.image_dataset_from_directory(
        str(options.folder / "train"),
        image_size=(options.size, options.size),
        batch_size=options.batch,
        format="grain",
    )
    shape = (options.size, options.size, 3)
    model = keras.applications.ResNet50(weights=None, classes=2, input_shape=shape)
    model.compile(
        optimizer=keras.optimizers.Adam(0.001),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    tick = keras.callbacks.LambdaCallback(on_train_batch_end=clock.tick)
    count = len(list((options.folder / "train").glob("*/*")))
    epochs = count_epochs(clock, math.ceil(count / options.batch))
    model.fit(images, epochs=epochs, callbacks=[tick])


LIBRARIES = {
    "notebook": run_notebook,
    "tutorial": run_tutorial,
    "fastai": run_fastai,
    "Lightning": run_lightning,
    "accelerate": run_accelerate,
    "timm": run_timm,
    "Keras": run_keras,
    "bare step": run_bare_step,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4, help="to be timed, after one that is not")
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    options = parser.parse_args()
    clock = Clock(options.steps)
    # what a library prints must not be taken for the answer
    with contextlib.redirect_stdout(sys.stderr):
        LIBRARIES[options.library](options, clock)
    print(json.dumps(clock.report()))


if __name__ == "__main__":
    main()
