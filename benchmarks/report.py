"""The report: as text to read, as JSON to keep, and between two markers of a README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.figures import Cell, Figure, Part

BEGIN = "<!-- figures: begin -->"
END = "<!-- figures: end -->"
_FIGURE_COLUMNS = ("figure", "value", "lowest", "highest", "unit", "goal", "met")


class Report(msgspec.Struct, kw_only=True):
    """The latest measurement of every part, by the part's name."""

    machine: dict[str, str]
    parts: dict[str, Part]


def read_report(path: Path) -> Report | None:
    """The report kept at `path`; None if there is none, or one of another version."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_report(path: Path, report: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def rendered(machine: Mapping[str, str], parts: Iterable[Part]) -> str:
    """Markdown that reads well as plain text too: columns are padded."""
    blocks = [_machine_line(machine)]
    for part in parts:
        blocks.append(
            f"### {part.name}\n\nMeasured {part.measured_at} in {part.seconds:.0f} s; "
            f"load average before it: {part.load_average:.2f}."
        )
        blocks.append(table(_FIGURE_COLUMNS, [_figure_row(figure) for figure in part.figures]))
        blocks += [f"{one.title}:\n\n{table(one.columns, one.rows)}" for one in part.tables]
        blocks += part.remarks
    return "\n\n".join(blocks) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A Markdown table; numbers stand on the right."""
    body = [list(row) for row in rows]
    cells = [[number(cell) if isinstance(cell, int | float) else cell for cell in row] for row in body]
    on_the_right = [any(isinstance(row[place], int | float) for row in body) for place in range(len(columns))]
    widths = [max(3, *(len(row[place]) for row in [list(columns), *cells])) for place in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, on_the_right, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, on_the_right, strict=True)
    ]
    return "\n".join([line(columns), line(rule), *(line(row) for row in cells)])


def number(value: float) -> str:
    """Three digits or all before the point, whichever is more."""
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def with_figures(readme: str, figures: str) -> str:
    """`readme` with `figures` between the markers.

    Raises:
        ValueError: the markers do not stand there once each, in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"there must be one {BEGIN} and after it one {END}")
    return f"{before}{BEGIN}\n{figures.strip()}\n{END}{after}"


def _machine_line(machine: Mapping[str, str]) -> str:
    return "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()) + "."


def _figure_row(figure: Figure) -> tuple[Cell, ...]:
    goal = "" if figure.at_most is None else f"at most {number(figure.at_most)}"
    met = {True: "yes", False: "NO", None: ""}[figure.goal_met]
    lowest = "" if figure.lowest is None else number(figure.lowest)
    highest = "" if figure.highest is None else number(figure.highest)
    return (figure.name, figure.value, lowest, highest, figure.unit, goal, met)
