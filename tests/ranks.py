"""One process of a training by several, started by torchrun from test_distributed.py.

    torchrun … tests/ranks.py IMAGES OUTPUT [EPOCH]

Trains a small network without batch normalisation, and one with it, on the images of a folder.
Every process writes what it saw and the weights it ended with to OUTPUT. With EPOCH, the second
process ends without a word after that epoch, but only if OUTPUT/died is not there yet.
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import define_notebook  # noqa: E402


def small_net(norm: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def train(folder: Path, output: Path, norm: bool, die_after: int | None = None) -> None:
    """Train, and write weights, losses and the images of every step to OUTPUT."""
    nb, seen = define_notebook(), []
    nb.globals.update(CHECKPOINT_SECONDS=0, precision=lambda device: torch.float32)
    images = nb.DecodedImages(folder, 16)
    loader = nb.load_dataset(images, batch_size=4, shuffle=True, seed=3)
    whole = nb.to_device

    def to_device(batch, device):
        seen.append(batch.flatten(1).float().mean(1).tolist())
        return whole(batch, device)

    nb.globals["to_device"] = to_device
    model, mark = small_net(norm), output / "died"

    def progress(done, total, losses):
        if nb.RANK == 1 and len(losses) == die_after and not mark.exists():
            mark.touch()
            os._exit(7)

    state = nb.Checkpoint(output / f"state{norm}.pt", "key")
    losses = nb.train_model(model, loader, 6, 0.01, progress=progress, checkpoint=state)
    result = {"losses": losses, "seen": seen, "state": model.state_dict(), "per_epoch": len(loader)}
    torch.save(result, output / f"rank{nb.RANK}-{norm}.pt")


if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        distributed.init_process_group("gloo")
    for norm in (False, True):
        die_after = int(sys.argv[3]) if len(sys.argv) > 3 and norm else None
        train(Path(sys.argv[1]), Path(sys.argv[2]), norm, die_after)
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
