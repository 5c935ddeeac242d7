"""The command line as a contract: names, examples, exit codes, times."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from console.cli import main
from console.options import DURATION, INSTANT, SPEED, iso_utc, parse_parameters
from stream_features.errors import UsageError


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that does something, as the words a user types."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name)


ALL = list(commands(main))


def run(*words: str, state: Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(words), env={"FRAUDSTREAM_STATE": str(state)})
    return result.exit_code, result.stdout, result.stderr


def test_the_contract_s_commands_are_there() -> None:
    names = {words[0] for words in ALL}
    assert names >= {"up", "down", "train", "bootstrap", "publish", "simulate", "status", "export", "evaluate"}
    assert names >= {"watch", "query", "explain", "quarantine", "rescore", "doctor", "demo"}


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_help_has_an_example_of_that_command(words: tuple[str, ...], tmp_path: Path) -> None:
    code, out, _ = run(*words, "--help", state=tmp_path)
    assert code == 0
    example = out.partition("\n  Example:\n")[2]  # on a line of its own, and its commands on theirs
    assert re.search(rf"^    (eval \$\()?fraudstream {' '.join(words)}", example, re.MULTILINE)


@pytest.mark.parametrize(
    "words",
    [
        ("publish",),
        ("publish", "--simulate", "0"),
        ("publish", "--simulate", "5", "--speed", "fast"),
        ("publish", "--simulate", "5", "--bad-share", "2"),
        ("publish", "--simulate", "5", "--from", "2018-01-01"),
        ("publish", "no-such-file.csv"),
        ("simulate", "many", "--out", "x.csv"),
        ("train", "no-such-file.csv", "--out", "x"),
        ("status",),
        ("explain", "t-1"),
        ("rescore", "--from", "yesterday"),
        ("quarantine", "replay"),
        ("quarantine", "replay", "--all", "transactions/s/1-0"),
        ("quarantine", "replay", "--all", "--field", "currency", "transactions/s/1-0"),
        ("quarantine", "fix", "transactions/s/1-0", "--reason", "r"),
        ("quarantine", "fix", "transactions/s/1-0", "--set", "currency=EUR"),
        ("quarantine", "list", "--state", "lost"),
        ("up", "--engine", "abacus"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_as_asked_exits_2_and_says_why(words: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = run(*words, state=tmp_path)
    assert code == 2
    assert out == ""
    assert "Error" in err


def test_without_a_pipeline_it_says_what_to_type(tmp_path: Path) -> None:
    assert "fraudstream up" in run("status", state=tmp_path)[2]


def test_simulate_writes_the_same_file_twice(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        code, out, _ = run(
            "simulate", "200", "--seed", "3", "--until", "2026-01-01", "--out", str(tmp_path / name), state=tmp_path
        )
        assert code == 0
        assert "200 transactions" in out
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("text", "epoch_ms"),
    [
        ("2018-08-08", 1_533_686_400_000),
        ("2018-08-08T12:00:00Z", 1_533_729_600_000),
        ("2018-08-08T12:00:00", 1_533_729_600_000),
        ("2018-08-08T14:00:00.250+02:00", 1_533_729_600_250),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_times_are_iso_8601_and_utc(text: str, epoch_ms: int) -> None:
    assert INSTANT.convert(text, None, None) == epoch_ms
    assert INSTANT.convert(iso_utc(epoch_ms), None, None) == epoch_ms


def test_durations_have_units() -> None:
    assert [DURATION.convert(text, None, None) for text in ("5d", "12h", "30m", "10s", "250ms")] == [
        432_000_000,
        43_200_000,
        1_800_000,
        10_000,
        250,
    ]
    for text in ("5", "d", "1.5d", "-1d"):
        with pytest.raises(click.BadParameter):
            DURATION.convert(text, None, None)


def test_speeds() -> None:
    assert [SPEED.convert(text, None, None) for text in ("max", "realtime", "60x", "0.5x")] == [None, 1.0, 60.0, 0.5]
    with pytest.raises(click.BadParameter):
        SPEED.convert("0x", None, None)


def test_parameters_are_names_with_values() -> None:
    assert parse_parameters(("a=1", "b=x=y", "a=2")) == {"a": "2", "b": "x=y"}
    with pytest.raises(UsageError, match="NAME=VALUE"):
        parse_parameters(("depth",))
