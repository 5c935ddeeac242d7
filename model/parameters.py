"""What `--param name=value` may say, and what holds where it says nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

from numpy.typing import NDArray

from stream_features.errors import UsageError

Value = int | float | str
ClassWeight = float | Literal["balanced"]

# 100 trees, 0.1, depth 3: the setting with the best average precision and card precision of the handbook's prequential
# study (0.694 and 0.304; with XGBoost's own 0.3 and depth 6: 0.659 and 0.285), and shallow trees are cheaper to train
# and to explain. Fixed, not tuned to anybody's data. Two of XGBoost 3's defaults cost up to 0.11 of average precision
# on rare fraud and are set back: a base score estimated from the class share, and 256 bins. Seed and number of threads
# are fixed so that the same input gives the same model bytes; one thread, because two of them wait for each other on a
# busy machine of 2 cores (measured there on 40,000 rows: 5.1 s with two, 1.2 s with one).
DEFAULTS: Final[Mapping[str, Value]] = {
    "n_estimators": 100,
    "learning_rate": 0.1,
    "max_depth": 3,
    "base_score": 0.5,
    "max_bin": 4096,
    "tree_method": "hist",
    "seed": 0,
    "nthread": 1,
}
_TYPES: Final[Mapping[str, Callable[[str], Value]]] = {
    "n_estimators": int,
    "learning_rate": float,
    "max_depth": int,
    "max_leaves": int,
    "grow_policy": str,
    "min_child_weight": float,
    "max_delta_step": float,
    "gamma": float,
    "subsample": float,
    "colsample_bytree": float,
    "colsample_bylevel": float,
    "colsample_bynode": float,
    "reg_lambda": float,
    "reg_alpha": float,
    "scale_pos_weight": float,
    "base_score": float,
    "max_bin": int,
    "tree_method": str,
    "seed": int,
    "nthread": int,
}
_ALIASES: Final[Mapping[str, str]] = {
    "num_boost_round": "n_estimators",
    "eta": "learning_rate",
    "lambda": "reg_lambda",
    "alpha": "reg_alpha",
    "min_split_loss": "gamma",
    "random_state": "seed",
    "n_jobs": "nthread",
}


def parse_parameters(assignments: Iterable[str]) -> dict[str, Value]:
    """Typed overrides from `name=value` texts, under the names of `DEFAULTS`; a repeated name's last value holds.

    Raises:
        UsageError: no `=`, an unknown name, or a value of the wrong type.
    """
    parameters: dict[str, Value] = {}
    for assignment in assignments:
        name, separator, text = (part.strip() for part in assignment.partition("="))
        if not separator:
            raise UsageError(f"--param takes name=value, not {assignment!r}")
        name = _ALIASES.get(name, name)
        if name not in _TYPES:
            raise UsageError(f"--param {name}: unknown; known are {', '.join(sorted({*_TYPES, *_ALIASES}))}")
        try:
            parameters[name] = _TYPES[name](text)
        except ValueError as error:
            raise UsageError(f"--param {name}: {text!r} is not {_TYPES[name].__name__}") from error
    return parameters


def parse_class_weight(text: str) -> ClassWeight:
    """`balanced`, or how many times a fraud counts.

    Raises:
        UsageError: neither that nor a finite number above 0.
    """
    if text == "balanced":
        return "balanced"
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0.0 < weight < math.inf:
        raise UsageError(f"--class-weight takes balanced or a number above 0, not {text!r}")
    return weight


def weighted(
    overrides: Mapping[str, Value], class_weight: ClassWeight | None, labels: NDArray[Any]
) -> dict[str, Value]:
    """`overrides` with the weight of frauds; `balanced` makes both classes of `labels` (both present) weigh the same.

    Raises:
        UsageError: `overrides` already hold a weight.
    """
    if class_weight is None:
        return dict(overrides)
    if "scale_pos_weight" in overrides:
        raise UsageError("--class-weight and --param scale_pos_weight say the same: give one of them")
    if class_weight == "balanced":
        frauds = int((labels == 1).sum())
        class_weight = (len(labels) - frauds) / frauds
    return {**overrides, "scale_pos_weight": class_weight}


def complete(overrides: Mapping[str, Value]) -> dict[str, Value]:
    """The defaults with `overrides` in their place.

    Raises:
        UsageError: a name this project does not pass on, or no round at all.
    """
    if unknown := sorted(set(overrides) - set(_TYPES)):
        raise UsageError(f"unknown training parameters: {', '.join(unknown)}")
    parameters = {**DEFAULTS, **overrides}
    if int(parameters["n_estimators"]) < 1:
        raise UsageError("--param n_estimators: at least 1")
    return parameters
