"""Kill the notebook again and again, let it finish, and compare with a run that was left alone.

    python tests/kills.py [--kills 100] [--seed 0]

The cells run in a process of their own, forked from one that has imported everything, in the
folders of the last attempt. After one to four kills (SIGKILL or SIGINT in turn, at a random moment
of the whole run) an attempt is left alone: its figures, predictions, weights and images have to be
those of the undisturbed run, and nothing half-written may be left. Exit code 1: they were not.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from conftest import define_notebook, make_pool, run_page, tree

from data.notebook import runs

SMALL = {"IMAGE_SIZE": "33", "NUM_EPOCHS": "3", "COPIES": "2", "DEVICE": "cpu", "BATCH_SIZE": "8"}
SMALL |= {"MODEL": "resnet18", "ARMS": "original,mixed,augmented"}


def run_cells(folder: Path, pool: Path) -> None:
    """Run the notebook's code as a script would, with a checkpoint after every epoch."""
    places = {"DATASET": pool, "DATA_DIR": folder / "data", "RESULTS_DIR": folder / "results"}
    os.environ |= SMALL | {name: str(path) for name, path in places.items()}
    runs.SECONDS_BETWEEN_STATES = 0
    run_page()


def attempt(folder: Path, pool: Path, kill: signal.Signals | None = None, after: float = 0) -> int:
    """Run the cells in a fork, killed `after` seconds; return its exit code, 0 if it finished."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException), open(folder / "output", "a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            try:
                run_cells(folder, pool)
                code = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.stdout.flush()
        os._exit(code)
    deadline = time.monotonic() + after
    while kill and time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return 0
        time.sleep(0.005)
    if kill:
        os.kill(child, kill)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(folder: Path) -> dict:
    """All that a run leaves behind, but for its durations, places and log."""
    results = folder / "results"
    metrics = json.loads((results / "metrics.json").read_text(encoding="utf-8"))
    for run in (run for arm in metrics["arms"].values() for run in arm["runs"]):
        del run["seconds"]
    del metrics["config"]["data_dir"], metrics["config"]["results_dir"]
    kept = {name: data for name, data in tree(folder).items() if name.startswith("data/")}
    kept |= {name: data for name, data in tree(results).items() if name.endswith((".csv", ".png"))}
    names = sorted(set(tree(results)) - {"run.log"})
    return {"metrics": metrics, "files": kept, "names": names, "weights": weights_of(results)}


def weights_of(results: Path) -> dict:
    import torch

    saved = {file.name: torch.load(file, weights_only=True) for file in results.glob("*.pt")}
    return {
        name: {key: tensor.numpy().tobytes() for key, tensor in content["state_dict"].items()}
        for name, content in saved.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, done, wrong = random.Random(options.seed), 0, 0
    define_notebook()  # imports everything, computes nothing
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        pool = make_pool(Path(work, "pool"), 12)
        alone = Path(work, "alone")
        alone.mkdir()
        start = time.monotonic()
        if attempt(alone, pool):
            raise SystemExit((alone / "output").read_text())
        length, expected = time.monotonic() - start, outcome(alone)
        while done < options.kills:
            folder = Path(work, f"killed{done}")
            folder.mkdir()
            moments = [rng.uniform(0, length) for _ in range(rng.randint(1, 4))]
            for moment in moments:
                done += 1
                kill = (signal.SIGKILL, signal.SIGINT)[done % 2]
                attempt(folder, pool, kill, moment)
            code = attempt(folder, pool)
            found = {} if code else outcome(folder)
            if different := [key for key in expected if found.get(key) != expected[key]]:
                wrong += 1
                print(f"killed at {moments}: exit code {code}, other {', '.join(different)}")
                # at once, as a run that is stopped must not keep to itself what it found
                print((folder / "output").read_text()[-2000:], flush=True)
            shutil.rmtree(folder)
    print(f"{done} kills within {length:.1f} s each; {wrong} outcomes differed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
