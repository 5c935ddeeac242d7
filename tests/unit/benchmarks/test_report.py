"""The report's text, its file and its place in a README."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures import Figure, Part, Table
from benchmarks.report import BEGIN, END, Report, number, read_report, rendered, table, with_figures, write_report


def a_part(value: float = 12.0) -> Part:
    return Part(
        name="kernel",
        measured_at="2026-01-02 03:04 UTC",
        load_average=0.5,
        seconds=2.0,
        figures=(Figure(name="parse", unit="µs", value=value, lowest=1.0, highest=20.0, at_most=3.0),),
        tables=(Table(title="More", columns=("what", "how many"), rows=(("calls", 1234),)),),
        remarks=("All of them.",),
    )


def test_a_missed_goal_is_written_out() -> None:
    text = rendered({"cores": "2"}, [a_part(12.0)])
    [row] = [line for line in text.splitlines() if line.startswith("| parse")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "parse",
        "12.0",
        "1.00",
        "20.0",
        "µs",
        "at most 3.00",
        "NO",
    ]
    assert "| yes |" in rendered({}, [a_part(2.0)])


def test_the_report_names_machine_date_load_tables_and_remarks() -> None:
    text = rendered({"cores": "2", "Python": "3.11"}, [a_part()])
    for said in ("cores 2, Python 3.11", "2026-01-02 03:04 UTC", "load average before it: 0.50", "More:", "1,234"):
        assert said in text
    assert text.endswith("All of them.\n")


def test_tables_line_up_with_numbers_on_the_right() -> None:
    lines = table(("name", "n"), [("a", 1), ("longer", 1000)]).splitlines()
    assert lines == ["| name   |     n |", "| ------ | ----: |", "| a      |     1 |", "| longer | 1,000 |"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234, "0.12"), (12.34, "12.3"), (1234.5, "1,234"), (7, "7"), (-12.34, "-12.3"), (12_345, "12,345")],
)
def test_numbers_keep_three_digits_or_all_before_the_point(value: float, text: str) -> None:
    assert number(value) == text


def test_a_report_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    report = Report(machine={"cores": "2"}, parts={"kernel": a_part()})
    write_report(path, report)
    assert read_report(path) == report


def test_without_a_readable_report_there_is_none(tmp_path: Path) -> None:
    assert read_report(tmp_path / "report.json") is None
    (tmp_path / "report.json").write_text('{"machine": 1}')
    assert read_report(tmp_path / "report.json") is None


def test_figures_replace_only_what_stands_between_the_markers() -> None:
    readme = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = with_figures(readme, "new\n")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert with_figures(once, "new\n") == once


@pytest.mark.parametrize(
    "readme", ["none", f"{BEGIN} alone", f"{END} first {BEGIN}", f"{BEGIN}{END}{BEGIN}{END}", f"{BEGIN}{BEGIN}{END}"]
)
def test_a_readme_without_its_two_markers_is_refused(readme: str) -> None:
    with pytest.raises(ValueError, match="there must be one"):
        with_figures(readme, "new")


def test_the_readme_has_its_markers() -> None:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "README.md"
    assert "fresh figures" in with_figures(path.read_text(), "fresh figures")
