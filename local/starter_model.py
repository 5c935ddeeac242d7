"""The model a run begins with if nobody brings one: trained on a simulated history, the same on every machine.

python -m local.starter_model --feature-set core --out .fraudstream/models
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from local.activation import activate_model, serves
from local.run import CHECKOUT, RunFailed, RunState

_TRANSACTIONS: Final = 60_000
_SEED: Final = 20_260_101
_DAYS: Final = 45.0
_CACHE: Final = CHECKOUT / ".fraudstream" / "models"
_END_MS: Final = 1_767_225_600_000  # 2026-01-01: any fixed day, so that the same code gives the same model
_TRAINED_BY: Final = ("stream_features", "producers", "model", "local/starter_model.py", "requirements/default.lock")


def ensure_model(run: RunState, feature_set: str, progress: Callable[[str], None]) -> None:
    """Train and activate a starter model, unless the endpoint of `run` serves one already.

    Raises:
        RunFailed: training or activation failed.
    """
    if not serves(run):
        activate_model(run, starter_artifact(feature_set, progress), progress)


def starter_artifact(feature_set: str, progress: Callable[[str], None]) -> Path:
    """The starter model's `model.tar.gz`, trained now if this code never trained one in this checkout.

    Training runs in a process of its own: it takes a processor for some seconds and its libraries take memory.

    Raises:
        RunFailed: with the last line of what the training said.
    """
    folder = _CACHE / f"starter-{feature_set}-{_code_hash()}"
    artifact = folder / "model.tar.gz"
    if artifact.exists():
        return artifact
    progress(f"training a starter model on {_TRANSACTIONS:,} simulated transactions")
    done = subprocess.run(
        [sys.executable, "-m", "local.starter_model", "--feature-set", feature_set, "--out", str(folder)],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr, sep="\n", flush=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise RunFailed(f"training the starter model failed: {said[-1] if said else 'it said nothing'}")
    return artifact


def train_starter(feature_set_name: str, folder: Path) -> Path:
    """Simulate, train, write `model.tar.gz` into `folder`; return its path."""
    from model.train import train
    from model.training_set import build_training_set
    from producers.labels import DEFAULT_LABEL_DELAY_MS
    from producers.simulator import simulate
    from stream_features.feature_sets import feature_set

    history = simulate(_TRANSACTIONS, seed=_SEED, end_ms=_END_MS, days=_DAYS)
    rows = build_training_set(
        ((row.transaction, row.is_fraud) for row in history),
        feature_set(feature_set_name),
        label_delay_ms=DEFAULT_LABEL_DELAY_MS,
    )
    source = {
        "simulated": _TRANSACTIONS,
        "seed": _SEED,
        "days": _DAYS,
        "end_ms": _END_MS,
        "label_delay_ms": DEFAULT_LABEL_DELAY_MS,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # two runs may train at once; each file is whole
        trained = train(rows, provenance=source).write(Path(scratch))
        return trained.replace(folder / trained.name)


def _code_hash() -> str:
    digest = hashlib.sha256()
    for source in _TRAINED_BY:
        root = CHECKOUT / source
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(CHECKOUT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local.starter_model", description=__doc__)
    parser.add_argument("--feature-set", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for model.tar.gz")
    options = parser.parse_args()
    started_s = time.monotonic()
    path = train_starter(options.feature_set, options.out)
    print(f"wrote {path} after {time.monotonic() - started_s:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
