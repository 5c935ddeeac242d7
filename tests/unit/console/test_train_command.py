"""`fraudstream train`: what it needs, what it refuses, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from console.commands_model import train_command
from model.artifact import read_artifact
from producers.file_writer import write_transactions
from producers.simulator import simulate


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train") / "history.parquet"
    write_transactions(path, simulate(4_000, seed=3, end_ms=1_700_000_000_000))
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(train_command, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("feature_set", ["core", "handbook"])
def test_json_says_what_was_trained_and_the_artefact_says_with_which_label_delay(history, tmp_path, feature_set):
    options = ["--feature-set", feature_set, "--label-delay", "2d", "--param", "n_estimators=3", "--json"]
    code, out, _ = run(history, *options, "--out", tmp_path)
    assert code == 0
    said = json.loads(out)
    artifact = read_artifact(Path(said["artifact"]))
    assert said["model_version"] == artifact.manifest.model_version
    assert artifact.manifest.feature_set == feature_set
    assert artifact.provenance["source"]["label_delay_ms"] == 2 * 86_400_000
    assert said["training"]["rows"] == artifact.provenance["training"]["rows"] > 3_000


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "--out"),
        (["--protocol", "handbook", "--param", "max_depth=2"], "--protocol"),
        (["--protocol", "handbook", "--activate"], "--protocol"),
        (["--protocol", "other"], "other"),
        (["--feature-set", "none", "--out", "x"], "none"),
    ],
)
def test_what_cannot_be_done_as_asked_exits_with_2(history, options, reason):
    code, out, error = run(history, *options)
    assert (code, out) == (2, "")
    assert reason in error


def test_the_protocol_reads_the_handbooks_own_columns_unless_told_otherwise(history):
    code, _, error = run(history, "--protocol", "handbook")
    assert code == 2
    assert "TX_DATETIME" in error


def test_the_protocol_says_so_when_the_file_has_none_of_its_days(history, tmp_path):
    mapping = tmp_path / "own.toml"
    fields = ("transaction_id", "card_id", "merchant_id", "amount_minor", "currency", "is_fraud")
    lines = [f'{name} = "{name}"' for name in fields] + [
        'event_time_ms = {column = "event_time_ms", time = "epoch_ms"}'
    ]
    mapping.write_text("\n".join(["[columns]", *lines]))
    code, _, error = run(history, "--protocol", "handbook", "--mapping", mapping)
    assert code == 2
    assert "covers no split" in error
