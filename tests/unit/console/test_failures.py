"""Errors at the command line: a message, what to do next, an exit code; never a stack trace."""

from __future__ import annotations

import errno
from pathlib import Path

import click
import pytest
from botocore.exceptions import EndpointConnectionError
from click.testing import CliRunner

from console.cli import main
from console.failures import as_click_error, next_step
from console.options import exit_codes
from console.wait import NotSettled
from lambdas.policy import InvalidPolicy
from local.run import RunFailed
from stream_features.errors import (
    ContractMismatch,
    MalformedRecord,
    PipelineError,
    PortFailure,
    StateCorrupt,
    UsageError,
)


def said(error: Exception) -> tuple[int, str]:
    """Exit code and output of a command that fails with `error`."""

    @click.command("probe")
    @exit_codes
    def probe() -> None:
        raise error

    result = CliRunner().invoke(probe, [])
    return result.exit_code, result.output


def every_kind() -> list[type[PipelineError]]:
    kinds, found = [PipelineError], []
    while kinds:
        kind = kinds.pop()
        found.append(kind)
        kinds += kind.__subclasses__()
    return found


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (MalformedRecord("amount_minor", "type", "must be an integer"), "--mapping"),
        (PortFailure("table decisions: no answer"), "fraudstream doctor"),
        (StateCorrupt("bad checksum"), "fraudstream doctor"),
        (ContractMismatch("another feature set"), "fraudstream train"),
        (InvalidPolicy(["policy_version is empty"]), "fraudstream policy validate"),
        (NotSettled("3 records in flight", None), "fraudstream status"),  # type: ignore[arg-type]
        (RunFailed("aws ended"), "fraudstream up"),
        (TimeoutError("too slow"), "fraudstream doctor"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x/y.csv"), "check the path"),
        (FileNotFoundError("Failed to open local file 'x/y.parquet'"), "check the path"),
        (PermissionError(errno.EACCES, "Permission denied", "y.csv"), "another place"),
        (OSError(errno.ENOSPC, "No space left on device", "y.csv"), "free some space"),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), "fraudstream doctor"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "fraudstream doctor"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_failure_says_what_happened_and_what_to_do_next(error: Exception, step: str) -> None:
    code, output = said(error)
    assert code == 1
    what, _, following = output.partition("\nNext: ")
    assert what.startswith("Error: ")
    assert len(what) > len("Error: ")
    assert step in following
    assert "Traceback" not in output


def test_a_usage_error_exits_2_and_points_at_the_help() -> None:
    code, output = said(UsageError("give either a FILE or --simulate N"))
    assert code == 2
    assert "Try 'probe --help'" in output
    assert "give either a FILE or --simulate N" in output


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: kind.__name__)
def test_every_error_of_ours_has_a_next_step(kind: type[PipelineError]) -> None:
    assert next_step(kind.__new__(kind))


def test_a_bug_leaves_its_stack_trace_in_a_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_STATE", str(tmp_path))
    code, output = said(KeyError("shard"))
    log = tmp_path / "logs" / "commands.log"
    assert code == 1
    assert "Traceback" not in output
    assert "unexpected KeyError: 'shard'" in output
    assert str(log) in output
    assert "KeyError: 'shard'" in log.read_text()
    assert "in probe" in log.read_text()


def test_whoever_asks_for_the_trace_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_STATE", str(tmp_path))
    monkeypatch.setenv("FRAUDSTREAM_TRACE", "1")
    assert "Traceback" in said(ZeroDivisionError("division by zero"))[1]


def test_a_state_folder_that_cannot_be_written_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("FRAUDSTREAM_STATE", str(blocked))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert "fraudstream-commands.log" in said(KeyError("shard"))[1]
    assert "KeyError" in (tmp_path / "fraudstream-commands.log").read_text()


def test_a_bug_outside_a_command_is_told_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.cli._COMMANDS", {"status": ("console.no_such_module", "")})
    result = CliRunner().invoke(main, ["status"], env={"FRAUDSTREAM_STATE": str(tmp_path)})
    assert result.exit_code == 1
    assert "unexpected ModuleNotFoundError" in result.output
    assert "Traceback" not in result.output


def test_ends_that_are_no_errors_stay_what_they_are() -> None:
    for error in (click.exceptions.Exit(0), click.Abort(), BrokenPipeError(errno.EPIPE, "Broken pipe")):
        assert as_click_error(error) is error


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "other.csv").write_text("a,b\n1,2\n")
    (folder / "broken.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    (folder / "binary.csv").write_bytes(b"PAR1\x00\x01\xff\xfe,\x00\n")
    (folder / "bad.toml").write_text("[columns\n")
    (folder / "unknown.toml").write_text('[columns]\nvolume = "b"\n')
    (folder / "bad-row.csv").write_text(
        "transaction_id,event_time_ms,card_id,merchant_id,amount_minor,currency\n"
        "t-1,1700000000000,c-1,m-1,100,USD\nt-2,1700000000000,c-1,m-1,-5,USD\n"
    )
    columns = "transaction_id,event_time_ms,card_id,merchant_id,amount_minor,currency"
    row = "t-1,1700000000000,c-1,m-1,100,USD"
    (folder / "row.csv").write_text(f"{columns},is_fraud\n{row},1\n")
    (folder / "unlabelled.csv").write_text(f"{columns}\n{row}\n")
    (folder / "policy.json").write_text('{"policy_version": "p", "review_from": 0.5, "decline_from": 0.9}')
    return folder


@pytest.mark.parametrize(
    ("words", "code", "message", "step"),
    [
        ("train {f}/missing.csv --out o", 2, "does not exist", "--help"),
        ("train {f} --out o", 2, "is a directory", "--help"),
        ("train {f}/other.csv --out o", 2, "transaction_id", "docs/mappings.md"),
        ("train {f}/other.csv --mapping handbook --out o", 2, "TX_DATETIME", "docs/mappings.md"),
        ("train {f}/binary.csv --out o", 2, "lacks columns", "docs/mappings.md"),
        ("train {f}/broken.parquet --out o", 2, "cannot be read as parquet", "--help"),
        ("train {f}/other.csv --mapping {f}/bad.toml --out o", 2, "cannot read mapping", "--help"),
        ("train {f}/other.csv --mapping {f}/unknown.toml --out o", 2, "no field 'volume'", "merchant_category"),
        ("train {f}/other.csv --mapping {f}/none.toml --out o", 2, "cannot read mapping", "--help"),
        ("train {f}/other.csv --mapping kaggle --out o", 2, "no mapping kaggle", "sparkov"),
        ("train {f}/bad-row.csv --out o", 1, "amount_minor", "mend that row"),
        ("train {f}/other.csv --until 2018-13-01 --out o", 2, "not an ISO 8601 date", "2018-08-08T12:00:00Z"),
        ("train {f}/other.csv --until yesterday --out o", 2, "not an ISO 8601 date", "2018-08-08"),
        ("train {f}/other.csv --label-delay 5 --out o", 2, "not a duration", "5d"),
        ("train {f}/other.csv --feature-set kore --out o", 2, "kore", "handbook"),
        ("train {f}/other.csv", 2, "--out FOLDER", "--help"),
        ("train {f}/row.csv --until 2023-01-01 --out o", 2, "leaves no row", "between 2023-11-14T22:13:20.000Z and"),
        ("train {f}/row.csv --from 2024-01-01 --out o", 2, "leaves no row", "between 2023-11-14"),
        ("train {f}/row.csv --valid-from 2024-01-01 --out o", 2, "--valid-from 2024-01-01", "between 2023-11-14"),
        ("train {f}/unlabelled.csv --out o", 2, "no row is a purchase with a label", "is_fraud"),
        *[
            (f"{words} --from 2024-02-01 --until 2024-01-01", 2, "is not before --until", "the first one left out")
            for words in (
                "train {f}/row.csv --out o",
                "publish {f}/row.csv",
                "consistency",
                "policy backtest {f}/policy.json",
                "policy thresholds {f}/policy.json --reviews-per-day 5 --version p --out p.json",
            )
        ],
        ("bootstrap {f}/other.csv --until 2018-02-30", 2, "not an ISO 8601 date", "2018-08-08"),
        ("publish {f}/other.csv", 2, "nothing is running here", "fraudstream up"),
        ("publish --simulate 5 --speed fast", 2, "speed", "--help"),
        ("evaluate {f}/broken.parquet --truth {f}/bad-row.csv", 1, "amount_minor", "mend that row"),
        ("simulate 5 --out {f}/no/such/x.csv", 2, "there is no folder", "mkdir -p"),
        ("simulate 5 --out {f}/x.xlsx", 2, "unknown format", ".parquet"),
        ("export decisions --out {f}/x.csv", 2, "ends in .parquet", "--help"),
        ("export decisions --out {f}/no/x.parquet", 2, "there is no folder", "mkdir -p"),
        ("policy validate {f}/other.csv", 1, "malformed", "fraudstream policy validate"),
        ("query no_such_query", 2, "no query named", "decisions_by_outcome"),
        *[
            (words, 2, "nothing is running here", "fraudstream up")
            for words in (
                "status",
                "watch --seconds 1",
                "explain t-1",
                "label t-1 --fraud",
                "consistency",
                "env",
                "query decisions_by_outcome",
                "quarantine list",
                "quarantine show k",
                "policy show",
                "policy rollback",
                "lists show",
                "switch-engine flink",
                "export decisions --out x.parquet",
                "publish --simulate 5",
                "bootstrap {f}/bad-row.csv",
                "train {f}/bad-row.csv --out o --activate",
            )
        ],
    ],
)
def test_what_a_user_gets_wrong_is_said_with_the_way_out(
    words: str, code: int, message: str, step: str, files: Path, tmp_path: Path
) -> None:
    typed = [word.replace("{f}", str(files)) for word in words.split()]
    result = CliRunner().invoke(main, typed, env={"FRAUDSTREAM_STATE": str(tmp_path)})
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert message in result.stderr
    assert step in result.stderr
    assert "Traceback" not in result.output
    assert all(sign.isprintable() or sign == "\n" for sign in result.stderr)
