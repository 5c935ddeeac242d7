"""From a file to a model, from a model to a serving endpoint, from decisions to figures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.options import iso_utc
from producers.file_columns import read_columns
from stream_features.errors import UsageError
from stream_features.feature_sets import feature_set

if TYPE_CHECKING:  # NumPy and XGBoost are loaded by the commands that need them
    from model.history_facts import HistoryFacts
    from model.training_run import TrainingPlan
    from model.training_set import TrainingSet
    from stream_features.vectorised.columns import HistoryColumns

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """An artefact on disk."""

    artifact_path: Path
    model_version: str
    training: dict[str, Any]
    thresholds: dict[str, float]

    def summary(self) -> str:
        rows, frauds = self.training["rows"], self.training["frauds"]
        review, decline = self.thresholds["review_from"], self.thresholds["decline_from"]
        return (
            f"{self.artifact_path}: {self.model_version}, {rows} rows, {frauds} frauds, "
            f"review from {review:.4f}, decline from {decline:.4f}"
        )

    def document(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "artifact": str(self.artifact_path),
            "model_version": self.model_version,
            "training": self.training,
            "thresholds": self.thresholds,
        }


def train_file(
    file: Path,
    mapping: str | None,
    feature_set_name: str,
    plan: TrainingPlan,
    *,
    out: Path,
    progress: Progress,
    label_delay_ms: int | None = None,
    report_folder: Path | None = None,
    review_capacity: int | None = None,
) -> Trained:
    """Train on `file` as planned and write the artefact into `out`; features come from the whole file.

    Args:
        file: the history.
        mapping: how its columns are named; None for Transaction's own names.
        feature_set_name: which features.
        plan: which rows, and how.
        out: folder of the artefact; made if absent.
        progress: told what is being done.
        label_delay_ms: labels are reported so long after their transaction (None: 5 days), as `publish` sends them.
        report_folder: where a report goes; None for no report.
        review_capacity: transactions a day that can be reviewed, for the report; None for the default.

    Raises:
        UsageError: the file, the times or a parameter cannot be used as asked.
        MalformedRecord: a row breaks the contract; names row, field and rule.
    """
    from model.training_run import run_training

    history, rows, delay_ms = _labelled_rows(file, mapping, feature_set_name, label_delay_ms, progress)
    _check_times(plan, rows)
    source = {"file": file.name, "sha256": _sha256(file), "mapping": mapping, "label_delay_ms": delay_ms}
    done = run_training(rows, plan, source, progress=progress)
    path = done.model.write(out)
    if report_folder is not None:
        from model.measures import REVIEW_CAPACITY
        from model.report import training_report

        report = training_report(
            done.model,
            done.training,
            done.validation,
            _history_facts(file, mapping, history),
            review_capacity=REVIEW_CAPACITY if review_capacity is None else review_capacity,
            progress=progress,
        )
        progress(f"report: {report.write(report_folder)}")
    manifest = done.model.manifest
    thresholds = {"review_from": manifest.thresholds.review_from, "decline_from": manifest.thresholds.decline_from}
    return Trained(path, manifest.model_version, done.model.artifact.provenance["training"], thresholds)


def _check_times(plan: TrainingPlan, rows: TrainingSet) -> None:
    """Say which times there are, where none of those asked for is among them; raises UsageError."""
    if not len(rows):
        raise UsageError("no row is a purchase with a label: is_fraud has to be there, and true or false, for some")
    first_ms, last_ms = int(rows.event_times_ms.min()), int(rows.event_times_ms.max())
    for option, at_ms, outside in (
        ("--until", plan.until_ms, plan.until_ms is not None and plan.until_ms <= first_ms),
        ("--from", plan.from_ms, plan.from_ms is not None and plan.from_ms > last_ms),
        ("--valid-from", plan.valid_from_ms, plan.valid_from_ms is not None and plan.valid_from_ms > last_ms),
    ):
        if outside and at_ms is not None:
            raise UsageError(
                f"{option} {iso_utc(at_ms)} leaves no row: the labelled purchases lie between {iso_utc(first_ms)} and "
                f"{iso_utc(last_ms)}"
            )


def _history_facts(file: Path, mapping: str | None, history: HistoryColumns) -> HistoryFacts:
    from model.exported import SEGMENT_COLUMNS
    from model.history_facts import HistoryFacts

    coded = read_columns(file, mapping).coded
    fields = {name: (coded[name].codes.to_numpy(), coded[name].values) for name in SEGMENT_COLUMNS}
    return HistoryFacts.of(history, {name.replace("_", " "): field for name, field in fields.items()})


def protocol_of_handbook(
    file: Path,
    mapping: str | None,
    feature_set_name: str | None,
    *,
    progress: Progress,
    label_delay_ms: int | None = None,
) -> dict[str, Any]:
    """The handbook's published protocol on `file`: figures as `model.handbook_protocol` describes them.

    Args:
        file: the transactions, from well before the first training day on.
        mapping: as for `train_file`; None: the handbook's own columns.
        feature_set_name: None: the handbook's 15 features.
        progress: told what is being done.
        label_delay_ms: as for `train_file`.

    Raises:
        UsageError: the file cannot be used, or covers no split of the protocol.
        MalformedRecord: a row breaks the contract; names row, field and rule.
    """
    from model.handbook_protocol import handbook_protocol

    _, rows, delay_ms = _labelled_rows(
        file, mapping or "handbook", feature_set_name or "handbook", label_delay_ms, progress
    )
    figures = handbook_protocol(rows, progress=progress)
    return {"file": file.name, "feature_set_id": rows.feature_set.feature_set_id, "label_delay_ms": delay_ms, **figures}


def _labelled_rows(
    file: Path, mapping: str | None, feature_set_name: str, label_delay_ms: int | None, progress: Progress
) -> tuple[HistoryColumns, TrainingSet, int]:
    """The history in `file`, its labelled purchases, and the label delay that their features assume."""
    from console.history_file import read_history
    from model.training_set import DEFAULT_LABEL_DELAY_MS, build_training_set

    delay_ms = DEFAULT_LABEL_DELAY_MS if label_delay_ms is None else label_delay_ms
    columns = read_history(file, mapping)
    progress(f"{len(columns)} transactions read")
    return columns, build_training_set(columns, feature_set(feature_set_name), label_delay_ms=delay_ms), delay_ms


def activate_artifact(artifact_path: Path, *, progress: Progress) -> None:
    """Serve the artefact from the running pipeline; returns when the endpoint answers with it.

    Raises:
        UsageError: nothing runs, or the model's feature set is not the running one.
        PipelineError: the stack or the endpoint failed.
    """
    from console.running import running_pipeline
    from local.activation import activate_model

    activate_model(running_pipeline().run, artifact_path, progress)


def evaluate_export(exported: Path, truth: Path, mapping: str | None) -> dict[str, Any]:
    """Figures of exported decisions against the labels of `truth`; nested figures have dotted names.

    Raises:
        UsageError: a file lacks what is needed.
    """
    from model.evaluate import evaluate_decisions

    columns = read_columns(truth, mapping)
    frauds = columns.coded["is_fraud"]
    known = {
        transaction_id: frauds.values[code]
        for transaction_id, code in zip(columns.transaction_ids.to_pylist(), frauds.codes.to_pylist(), strict=True)
        if frauds.values[code] is not None
    }
    return dict(_flat("", evaluate_decisions(exported, known)))


def _flat(prefix: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
