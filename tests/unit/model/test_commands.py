"""`train` and `evaluate` as typed: the options of the report, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from console.commands_model import evaluate_command, train_command
from console.training import train_file
from model.artifact import read_artifact
from model.training_run import TrainingPlan
from producers.file_writer import write_transactions
from producers.simulator import simulate

QUICK = ("--param", "n_estimators=5")
END_MS = 1_700_000_000_000  # 2023-11-14


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "history.parquet"
    write_transactions(path, simulate(6_000, seed=3, end_ms=END_MS, days=60))
    return path


@pytest.fixture(scope="module")
def decisions(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export without a pipeline: the file's own fields under random scores."""
    table = pyarrow.parquet.read_table(history)
    columns = ("transaction_id", "card_id", "event_time_ms", "amount_minor", "currency", "channel", "country")
    kept = table.select([*columns, "merchant_category"])
    scores = np.random.default_rng(0).random(len(kept))
    made = np.select([scores > 0.95, scores > 0.8], ["decline", "review"], "approve")
    path = tmp_path_factory.mktemp("export") / "decisions.parquet"
    pyarrow.parquet.write_table(
        kept.append_column("score", pa.array(scores)).append_column("decision", pa.array(made.tolist())), path
    )
    return path


def run(command, *arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_training_writes_the_report_where_it_is_told(history, tmp_path):
    options = ["--valid-from", "2023-10-20", "--report", tmp_path / "report", "--review-capacity", "7", "--json"]
    code, out, _ = run(train_command, history, *QUICK, "--out", tmp_path / "model", *options)
    assert code == 0
    said = json.loads(out)
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    assert said["report"] == str(tmp_path / "report")
    assert document["model"]["model_version"] == said["model_version"]
    assert document["measured"]["at_review_capacity"]["per_day"] == 7
    segments = document["measured"]["segments"]
    assert list(segments) == ["amount", "card age", "channel", "country", "merchant category"]  # sorted as all of it is
    assert {group["group"] for group in segments["channel"]} >= {"pos", "ecom"}
    assert (tmp_path / "report" / "report.html").read_text().startswith("<!doctype html>")
    assert not (tmp_path / "model" / "report.html").exists()


def test_without_the_option_there_is_no_report_and_the_artefact_is_the_same(history, tmp_path):
    for name, options in (("plain", []), ("told", ["--report", tmp_path / "told"])):
        assert run(train_command, history, *QUICK, "--out", tmp_path / name, *options)[0] == 0
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["model.tar.gz"]
    artefacts = [(tmp_path / name / "model.tar.gz").read_bytes() for name in ("plain", "told")]
    assert artefacts[0] == artefacts[1]


def test_the_command_trains_what_the_other_commands_train(history, tmp_path):
    assert run(train_command, history, *QUICK, "--out", tmp_path / "typed")[0] == 0
    plan = TrainingPlan(parameters={"n_estimators": 5})
    called = train_file(history, None, "core", plan, out=tmp_path / "called", progress=lambda _: None)
    typed = (tmp_path / "typed" / "model.tar.gz").read_bytes()
    assert hashlib.sha256(typed).digest() == hashlib.sha256(called.artifact_path.read_bytes()).digest()


def test_the_options_reach_the_artefact(history, tmp_path):
    options = ["--valid-cards", "0.4", "--class-weight", "balanced", "--calibrate", "isotonic"]
    assert run(train_command, history, *QUICK, *options, "--out", tmp_path)[0] == 0
    artifact = read_artifact(tmp_path / "model.tar.gz")
    source = artifact.provenance["source"]
    assert (source["valid_cards"], source["class_weight"], source["calibrate"]) == (0.4, "balanced", "isotonic")
    assert artifact.manifest.calibration is not None
    assert artifact.provenance["parameters"]["scale_pos_weight"] > 10
    assert artifact.provenance["training"]["rows"] < artifact.provenance["validation"]["rows"] * 4


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--class-weight", "heavy"], "--class-weight takes balanced or a number above 0, not 'heavy'"),
        (["--class-weight", "2", "--param", "scale_pos_weight=2"], "give one of them"),
        (["--valid-cards", "2"], "--valid-cards takes a share of the cards between 0 and 1, not 2"),
        (["--valid-cards", "many"], "--valid-cards"),
        (["--calibrate", "platt"], "--calibrate"),
        (["--review-capacity", "10"], "give --report DIR as well"),
        (["--report", "r", "--review-capacity", "0"], "at least 1 transaction a day"),
        (["--protocol", "handbook", "--report", "r"], "leave those options out"),
        (["--protocol", "handbook", "--calibrate", "isotonic"], "leave those options out"),
        (["--protocol", "handbook", "--valid-cards", "0.2"], "leave those options out"),
        (["--protocol", "handbook", "--class-weight", "2"], "leave those options out"),
    ],
)
def test_bad_options_exit_with_2_and_say_why(history, tmp_path, options, reason):
    code, out, error = run(
        train_command, history, *QUICK[: 0 if "--protocol" in options else None], *options, "--out", tmp_path
    )
    assert (code, out) == (2, "")
    assert reason in " ".join(error.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_evaluation_writes_the_report_and_prints_the_same_figures(history, decisions, tmp_path):
    plain = run(evaluate_command, decisions, "--truth", history, "--json")
    told = run(evaluate_command, decisions, "--truth", history, "--json", "--report", tmp_path)
    assert (plain[0], told[0]) == (0, 0)
    assert plain[1] == told[1]
    figures = json.loads(told[1])
    document = json.loads((tmp_path / "report.json").read_text())
    measured = document["measured"]
    for name in ("auc", "average_precision", "rows", "frauds"):
        assert measured[name] == figures[name]
    assert measured["calibration"]["log_loss"] == figures["log_loss"]
    assert measured["decline"]["recall"] == figures["decline.recall"]
    assert document["counts"]["decisions"] == figures["decisions"]
    assert document["source"] == {"decisions": "decisions.parquet", "truth": "history.parquet"}
    assert {group["group"] for group in measured["segments"]["card age"]} > {"first day", "30 to 90 days"}
    assert "Decisions report" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--review-capacity", "10"], "give --report DIR as well"),
        (["--report", "r", "--review-capacity", "-1"], "at least 1 transaction a day"),
    ],
)
def test_a_report_that_cannot_be_made_exits_with_2(history, decisions, options, reason):
    code, out, error = run(evaluate_command, decisions, "--truth", history, *options)
    assert (code, out) == (2, "")
    assert reason in " ".join(error.replace("│", " ").split())
