"""One training as asked for: which rows, with which options, and what the artefact says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from model.groups import check_share
from model.parameters import ClassWeight, Value
from model.train import TrainedModel, split_for_validation, train
from model.training_set import TrainingSet


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What may be asked for; the defaults train on all rows, without weights, calibration or validation.

    Attributes:
        parameters: overrides of `model.parameters.DEFAULTS`.
        from_ms: UTC epoch ms; see `model.train.split_for_validation`, as for the next three.
        until_ms: see `from_ms`.
        valid_from_ms: see `from_ms`.
        valid_cards: see `from_ms`; between 0 and 1.
        class_weight: how often a fraud counts.
        calibrate: whether scores are calibrated.
    """

    parameters: Mapping[str, Value] = field(default_factory=dict)
    from_ms: int | None = None
    until_ms: int | None = None
    valid_from_ms: int | None = None
    valid_cards: float | None = None
    class_weight: ClassWeight | None = None
    calibrate: bool = False

    def __post_init__(self) -> None:
        """Refuse what needs no rows to be refused.

        Raises:
            UsageError: `valid_cards` is no share.
        """
        if self.valid_cards is not None:
            check_share(self.valid_cards)

    def described(self) -> dict[str, Any]:
        """The times asked for, and the options that were used: an option left out leaves no trace."""
        used = {
            "valid_cards": self.valid_cards,
            "class_weight": self.class_weight,
            "calibrate": "isotonic" if self.calibrate else None,
        }
        times = {"from_ms": self.from_ms, "until_ms": self.until_ms, "valid_from_ms": self.valid_from_ms}
        return times | {name: value for name, value in used.items() if value is not None}


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A trained model and the rows it was trained and validated on."""

    model: TrainedModel
    training: TrainingSet
    validation: TrainingSet | None


def run_training(
    rows: TrainingSet,
    plan: TrainingPlan,
    source: Mapping[str, Any],
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> TrainingRun:
    """Train as planned.

    Args:
        rows: every labelled purchase of the history.
        plan: which of them, and how.
        source: where they come from; joins the artefact's provenance with the plan.
        progress: told what is being done.

    Raises:
        UsageError: as `model.train.train` and `split_for_validation`.
    """
    training, validation = split_for_validation(
        rows,
        from_ms=plan.from_ms,
        until_ms=plan.until_ms,
        valid_from_ms=plan.valid_from_ms,
        valid_cards=plan.valid_cards,
    )
    progress(f"training on {len(training)} of {len(rows)} labelled purchases")
    model = train(
        training,
        validation,
        parameters=plan.parameters,
        provenance={**source, **plan.described()},
        class_weight=plan.class_weight,
        calibrate=plan.calibrate,
    )
    return TrainingRun(model, training, validation)
