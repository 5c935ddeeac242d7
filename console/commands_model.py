"""`train`, `evaluate`, `export`: from files to models and from decisions to figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from console.options import (
    DURATION,
    FEATURE_SET,
    INSTANT,
    MAPPING,
    exit_codes,
    parse_parameters,
    progress,
    require_folder_of,
    require_range,
)
from stream_features.errors import UsageError

REPORT = click.option(
    "--report",
    "report_folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Write report.html and report.json into this folder.",
)
REVIEW_CAPACITY = click.option(
    "--review-capacity", type=int, default=None, metavar="N", help="Transactions a day that can be reviewed (100)."
)


@click.command("train")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--mapping", type=MAPPING, default=None, help="handbook, sparkov or TOML: the columns of a foreign FILE.")
@click.option("--feature-set", "feature_set_name", type=FEATURE_SET, default=None, help="Which features (core).")
@click.option("--from", "from_ms", type=INSTANT, default=None, help="First event time of training rows, inclusive.")
@click.option("--until", "until_ms", type=INSTANT, default=None, help="End of training rows, exclusive.")
@click.option(
    "--valid-from", "valid_from_ms", type=INSTANT, default=None, help="Rows from here on are validation only."
)
@click.option("--label-delay", "label_delay_ms", type=DURATION, default=None, help="Delay of each row's label (5d).")
@click.option(
    "--valid-cards", type=float, default=None, metavar="SHARE", help="Keep whole cards (0.2: a fifth) for validation."
)
@click.option("--param", "parameters", multiple=True, metavar="K=V", help="An XGBoost parameter; repeats.")
@click.option("--class-weight", default=None, metavar="WEIGHT", help="How often a fraud counts: balanced or a number.")
@click.option(
    "--calibrate",
    type=click.Choice(["none", "isotonic"]),
    default="none",
    help="isotonic: make scores probabilities (5 more trainings).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of the artefact or of protocol.json.",
)
@REPORT
@REVIEW_CAPACITY
@click.option("--activate", is_flag=True, help="Serve it: return when the running endpoint answers with this model.")
@click.option(
    "--protocol", type=click.Choice(["handbook"]), default=None, help="Measure a published protocol; no model is made."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@exit_codes
def train_command(
    file: Path,
    mapping: str | None,
    feature_set_name: str | None,
    from_ms: int | None,
    until_ms: int | None,
    valid_from_ms: int | None,
    valid_cards: float | None,
    label_delay_ms: int | None,
    parameters: tuple[str, ...],
    class_weight: str | None,
    calibrate: str,
    out: Path | None,
    report_folder: Path | None,
    review_capacity: int | None,
    activate: bool,
    protocol: str | None,
    as_json: bool,
) -> None:
    r"""Train a model on FILE; features come from the whole file, rows from [--from, --until).

    With --report DIR: DIR/report.html and DIR/report.json say how good the model is, on whom, and why.
    With --protocol handbook: the splits of the fraud-detection handbook, measured beside the published values.

    \b
    Example:
      fraudstream train history.parquet --until 2018-08-01 --out models/first --activate
      fraudstream train history.parquet --valid-from 2018-08-01 --out models/second --report models/second
      fraudstream train handbook.parquet --protocol handbook
    """
    from console.training import activate_artifact, protocol_of_handbook, train_file

    if protocol is not None:
        chosen = (from_ms, until_ms, valid_from_ms, valid_cards, class_weight, report_folder, review_capacity)
        if activate or parameters or calibrate != "none" or any(value is not None for value in chosen):
            raise UsageError("--protocol fixes rows and parameters and serves no model: leave those options out")
        figures = protocol_of_handbook(
            file, mapping, feature_set_name, progress=progress, label_delay_ms=label_delay_ms
        )
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / "protocol.json").write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _show_protocol(figures, as_json)
        return
    require_range(from_ms, until_ms)
    if out is None:
        raise UsageError("--out FOLDER says where the artefact goes")
    from model.parameters import parse_class_weight
    from model.parameters import parse_parameters as typed_parameters
    from model.training_run import TrainingPlan

    plan = TrainingPlan(
        parameters=typed_parameters(f"{name}={value}" for name, value in parse_parameters(parameters).items()),
        from_ms=from_ms,
        until_ms=until_ms,
        valid_from_ms=valid_from_ms,
        valid_cards=valid_cards,
        class_weight=None if class_weight is None else parse_class_weight(class_weight),
        calibrate=calibrate == "isotonic",
    )
    capacity = _capacity(report_folder, review_capacity)
    if activate:
        from console.running import running_pipeline

        running_pipeline()  # a missing pipeline is said before minutes of training, not after
    trained = train_file(
        file,
        mapping,
        feature_set_name or "core",
        plan,
        out=out,
        progress=progress,
        label_delay_ms=label_delay_ms,
        report_folder=report_folder,
        review_capacity=capacity,
    )
    if not as_json:
        click.echo(trained.summary())
    if activate:
        activate_artifact(trained.artifact_path, progress=progress)
        if not as_json:
            click.echo(f"serving {trained.model_version}")
    if as_json:
        said = trained.document() | {"activated": activate}
        if report_folder is not None:
            said["report"] = str(report_folder)
        click.echo(json.dumps(said, sort_keys=True))


def _capacity(report_folder: Path | None, review_capacity: int | None) -> int:
    from model.measures import REVIEW_CAPACITY as DEFAULT_CAPACITY
    from model.report import check_capacity

    if review_capacity is None:
        return DEFAULT_CAPACITY
    if report_folder is None:
        raise UsageError("--review-capacity says what the report shows: give --report DIR as well")
    check_capacity(review_capacity)
    return review_capacity


def _show_protocol(figures: dict[str, Any], as_json: bool) -> None:
    from model.handbook_protocol import protocol_lines

    if as_json:
        click.echo(json.dumps(figures, sort_keys=True))
        return
    for line in protocol_lines(figures):
        click.echo(line)


@click.command("evaluate")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--truth", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True, help="Labelled FILE."
)
@click.option(
    "--mapping", type=MAPPING, default=None, help="handbook, sparkov or a TOML file: the columns of the truth."
)
@REPORT
@REVIEW_CAPACITY
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@exit_codes
def evaluate_command(
    file: Path,
    truth: Path,
    mapping: str | None,
    report_folder: Path | None,
    review_capacity: int | None,
    as_json: bool,
) -> None:
    r"""Compare exported decisions with the labels of a file: AUC, average precision, card precision@100.

    \b
    Example:
      fraudstream export decisions --out decisions.parquet
      fraudstream evaluate decisions.parquet --truth history.parquet --report reports/week-32
    """
    from console.training import evaluate_export

    capacity = _capacity(report_folder, review_capacity)
    figures = evaluate_export(file, truth, mapping)
    if report_folder is not None:
        _report_on_export(file, truth, mapping, report_folder, capacity)
    if as_json:
        click.echo(json.dumps(figures, sort_keys=True))
        return
    for name, value in figures.items():
        click.echo(f"{name:28} {value:.4f}" if isinstance(value, float) else f"{name:28} {value}")


def _report_on_export(file: Path, truth: Path, mapping: str | None, report_folder: Path, review_capacity: int) -> None:
    import numpy as np

    from model.exported import judged_decisions
    from model.report import decisions_report
    from model.scored_rows import first_times
    from producers.file_columns import read_columns

    columns = read_columns(truth, mapping)
    frauds, cards = columns.coded["is_fraud"], columns.coded["card_id"]
    known = {
        transaction_id: frauds.values[code]
        for transaction_id, code in zip(columns.transaction_ids.to_pylist(), frauds.codes.to_pylist(), strict=True)
        if frauds.values[code] is not None
    }
    codes = cards.codes.to_numpy()
    present, row = np.unique(codes, return_index=True)
    first_ms = first_times(codes, columns.event_times_ms.to_numpy())[row]
    first_seen_ms = {cards.values[code]: int(at_ms) for code, at_ms in zip(present, first_ms, strict=True)}
    judged = judged_decisions(file, known, first_seen_ms=first_seen_ms)
    source = {"decisions": file.name, "truth": truth.name}
    report = decisions_report(judged, source, review_capacity=review_capacity)
    progress(f"report: {report.write(report_folder)}")


@click.group("export")
def export_command() -> None:
    """Write what the pipeline decided to a file."""


@export_command.command("decisions")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A .parquet file.")
@exit_codes
def export_decisions_command(out: Path) -> None:
    r"""Write one row per transaction, features as columns f_<name>.

    \b
    Example:
      fraudstream export decisions --out decisions.parquet
    """
    from console.export import export_decisions
    from console.running import running_pipeline

    if out.suffix != ".parquet":
        raise UsageError(f"--out {out}: an export is Parquet, so its name ends in .parquet")
    require_folder_of(out)
    pipeline = running_pipeline()
    rows = export_decisions(pipeline.client("dynamodb"), pipeline.output("DecisionsTableName"), pipeline.features, out)
    click.echo(f"{out}: {rows} decisions")
