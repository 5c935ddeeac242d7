"""Every `fraudstream` and `make` line of the pages is one that this code takes: names, options, values, arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import click
import pytest

from console.cli import main

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "producers" / "README.md"])
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OPERATORS = re.compile(r"^(?:[|;&()<>]+|\d>)$")
ASSIGNED = re.compile(r"^[A-Z_]+=")


class NotTaken(Exception):
    """A documented line that the command line would refuse, and why."""


def code_lines(page: str) -> Iterator[str]:
    """Lines of fenced and of indented code, continued ones joined."""
    lines = page.replace("\\\n", " ").splitlines()
    fenced = False
    for line in lines:
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def inline_code(page: str) -> Iterator[str]:
    """Spans of code in running text."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        if not line.startswith("    "):
            yield from re.findall(r"`([^`]+)`", line)


def invocations(line: str, program: str) -> Iterator[list[str]]:
    """The words after `program` of each of its calls in a line; `a · b` are two calls of it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&()<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = list(lexer)
    current: list[str] | None = None
    begins = True
    for word in words:
        if OPERATORS.match(word) and not (current and word == "|" and _is_choice(line)):
            if current is not None:
                yield current
            current, begins = None, True
        elif word == "·" and current is not None:
            yield current
            current = []
        elif current is not None:
            current.append(word)
        elif begins and Path(word.removeprefix("$")).name == program:
            current = []
        else:
            begins = begins and bool(ASSIGNED.match(word) or word == "eval")
    if current is not None:
        yield current


def _is_choice(line: str) -> bool:
    """Whether `|` stands between words without spaces, as in `show|validate`, and is no pipe."""
    return " | " not in line


def spelt_out(words: list[str]) -> list[list[str]]:
    """Every way to read `[--json]`, `show|validate` and the like."""
    joined: list[str] = []
    glue = False
    for word in words:
        if word == "|":
            glue = True
        elif glue:
            joined[-1] += f"|{word}"
            glue = False
        else:
            joined.append(word)
    readings = [_readings(word) for word in joined]
    return [[word for part in choice for word in part] for choice in product(*readings)]


def _readings(word: str) -> list[list[str]]:
    if word.startswith("[") and word.endswith("]"):
        return [[], *_readings(word[1:-1])]
    if re.fullmatch(r"[a-zA-Z-]+(\|[a-zA-Z-]+)+", word):
        return [[choice] for choice in word.split("|")]
    return [[word]]


def check_call(words: list[str], *, whole: bool = True) -> None:
    """Hold one call to the real command; files need not exist.

    Args:
        words: what follows `fraudstream`.
        whole: whether all required arguments have to be there.

    Raises:
        NotTaken: with the reason.
    """
    command: click.Command = main
    context = click.Context(main, info_name="fraudstream")
    left = list(words)
    while isinstance(command, click.Group):
        if not left or left[0].startswith("-"):
            if left and left[0] in ("--help", "-h", "--version"):
                return
            raise NotTaken(f"{' '.join(words)}: no command")
        name = left.pop(0)
        found = command.get_command(context, name)
        if found is None:
            raise NotTaken(f"{' '.join(words)}: there is no command {name!r}")
        command = found
        context = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group) and not left and not whole:
            return
    try:
        values, extra, _ = command.make_parser(context).parse_args(list(left))
    except click.UsageError as error:
        raise NotTaken(f"{' '.join(words)}: {error.format_message()}") from error
    if values.get("help"):
        return
    if extra:
        raise NotTaken(f"{' '.join(words)}: unexpected {' '.join(map(str, extra))}")
    for parameter in command.params:
        value = values.get(parameter.name or "")
        if not isinstance(value, str | list | tuple) or not value:
            if whole and parameter.required and not isinstance(value, bool | int):
                raise NotTaken(f"{' '.join(words)}: {parameter.name} is missing")
            continue
        if isinstance(parameter.type, click.Path | click.File) or (isinstance(value, str) and value.isupper()):
            continue  # files of the reader's; placeholders
        try:
            parameter.type_cast_value(context, value)
        except click.UsageError as error:
            raise NotTaken(f"{' '.join(words)}: {error.format_message()}") from error


def check_any_reading(words: list[str], *, whole: bool) -> None:
    """At least one reading is taken as a whole, and every reading names a command that exists."""
    refused: list[NotTaken] = []
    readings = spelt_out(words)
    for reading in readings:
        try:
            check_call(reading, whole=whole)
        except NotTaken as error:
            refused.append(error)
    unknown = [error for error in refused if "there is no command" in str(error)]
    if unknown or len(refused) == len(readings):
        raise (unknown or refused)[0]


def faults_of(page: str) -> list[str]:
    """What is wrong with the calls of a page."""
    faults = []
    checked = [(line, True) for line in code_lines(page)] + [(span, False) for span in inline_code(page)]
    for line, whole in checked:
        try:
            calls = list(invocations(line, "fraudstream"))
            makes = list(invocations(line, "make"))
        except ValueError:
            continue  # no shell: a program, a document
        for words in calls:
            if not words and not whole:
                continue  # the command's name
            try:
                check_any_reading(words, whole=whole)
            except NotTaken as error:
                faults.append(str(error))
        for words in makes:
            faults += [f"make {w}: no such target" for w in words if re.fullmatch(r"[a-z-]+", w) and w not in TARGETS]
    return faults


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_documented_command_is_one_that_is_taken(page: Path) -> None:
    assert faults_of(page.read_text(encoding="utf-8")) == []


def test_the_role_pages_are_looked_at() -> None:
    for name in ("data-scientist.md", "analyst.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        calls = [words for line in code_lines(text) for words in invocations(line, "fraudstream")]
        assert len(calls) >= 15, name


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("fraudstream stauts", "no command 'stauts'"),
        ("fraudstream policy actvate p.json", "no command 'actvate'"),
        ("fraudstream publish x.csv --fast", "--fast"),
        ("fraudstream publish x.csv --speed quick", "speed"),
        ("fraudstream train x.csv --until 2018-13-01 --out o", "ISO 8601"),
        ("fraudstream up --engine abacus", "abacus"),
        ("fraudstream label", "transaction_id is missing"),
        ("fraudstream status now", "unexpected now"),
        ("X=1 .venv/bin/fraudstream up --nope   # comment", "--nope"),
        ("eval $(.venv/bin/fraudstream environment)", "no command 'environment'"),
        ("cat x | fraudstream query --jsn", "--jsn"),
        ("fraudstream status [--jsom] · watch · explian ID", "no command 'explian'"),
        ("fraudstream policy show|validat FILE", "no command 'validat'"),
        ("make demmo", "make demmo"),
    ],
)
def test_a_line_that_would_be_refused_is_found(line: str, fault: str) -> None:
    assert fault in "\n".join(faults_of(f"Text.\n\n    {line}\n"))
    assert fault in "\n".join(faults_of(f"```bash\n{line}\n```\n"))


@pytest.mark.parametrize(
    "line",
    [
        "fraudstream up --target localstack --foreground",
        "fraudstream publish x.csv --from 2018-08-08 --speed 60x --label-delay 5d --lockstep --wait",
        "fraudstream status [--json] · watch · query NAME|SQL · explain TRANSACTION_ID · quarantine list",
        "fraudstream policy show|validate|test FILE · policy rollback",
        "fraudstream train FILE --param max_depth=3 --param eta=0.1 --out DIR  # two",
        "make setup && fraudstream doctor --json | head -3 > x.json",
        "make soak DURATION=60 SEED=2",
        "cp fraudstream.txt elsewhere",
        "aws kinesisanalyticsv2 start-application --application-name fraudstream",
    ],
)
def test_a_line_that_would_be_taken_is_left_alone(line: str) -> None:
    assert faults_of(f"    {line}\n") == []


def test_spans_in_running_text_name_commands_and_options() -> None:
    assert faults_of("Type `fraudstream policy activate`, then `fraudstream explain --jason`.\n") != []
    assert faults_of("Type `fraudstream policy activate`, then `fraudstream explain --json`.\n") == []
