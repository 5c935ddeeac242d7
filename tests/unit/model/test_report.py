"""The report: honest notes, valid JSON, one page that needs nothing else, the same bytes for the same input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from model.exported import JudgedDecisions
from model.history_facts import HistoryFacts
from model.report import Report, check_capacity, decisions_report, training_report
from model.report_page import page
from model.scored_rows import NOT_GIVEN, by_text
from model.train import TrainedModel, split_for_validation, train
from model.training_set import TrainingSet, build_training_set
from stream_features.errors import UsageError
from stream_features.feature_sets import feature_set
from stream_features.vectorised.columns import history_columns
from tests.unit.model.history import DAY_MS, START_MS, a_history
from tests.unit.model.scored import random_rows

CORE = feature_set("core")
CHECKOUT = Path(__file__).resolve().parents[3]
FEW_ROUNDS = {"n_estimators": 15}
HOSTILE = '<script>alert("x")</script> $\\frac{1}{2}$ & more'

# the whole way, with every option, in a process of its own
PROGRAM = """
import sys
from pathlib import Path
from model.history_facts import HistoryFacts
from model.report import training_report
from model.training_run import TrainingPlan, run_training
from model.training_set import build_training_set
from stream_features.feature_sets import feature_set
from stream_features.vectorised.columns import history_columns
from tests.unit.model.history import DAY_MS, START_MS, a_history
history = history_columns(a_history(cards=100))
plan = TrainingPlan(parameters={"n_estimators": 15, "subsample": 0.8}, valid_from_ms=START_MS + 20 * DAY_MS,
                    valid_cards=0.4, class_weight="balanced", calibrate=True)
run = run_training(build_training_set(history, feature_set("core")), plan, {"file": "x"})
facts = HistoryFacts.of(history, {})
training_report(run.model, run.training, run.validation, facts).write(Path(sys.argv[1]))
run.model.write(Path(sys.argv[1]))
"""


class Elements(HTMLParser):
    """Every tag with its attributes, and whether tags are closed in the order they were opened."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.mismatched: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        expected = self.open.pop() if self.open else None
        if expected != tag:
            self.mismatched.append((tag, expected))


@pytest.fixture(scope="module")
def split() -> tuple[TrainingSet, TrainingSet]:
    training, validation = split_for_validation(
        build_training_set(a_history(), CORE), from_ms=None, until_ms=None, valid_from_ms=START_MS + 27 * DAY_MS
    )
    assert validation is not None
    return training, validation


@pytest.fixture(scope="module")
def facts() -> HistoryFacts:
    history = history_columns(a_history())
    return HistoryFacts.of(history, {"shop": (history.merchants % 2, ["plain", HOSTILE])})


@pytest.fixture(scope="module")
def trained(split) -> TrainedModel:
    return train(*split, parameters=FEW_ROUNDS, calibrate=True)


@pytest.fixture(scope="module")
def report(trained, split, facts) -> Report:
    return training_report(trained, *split, facts)


@pytest.fixture(scope="module")
def html(report) -> str:
    return page(report)


def test_the_report_measures_the_models_own_scores_on_validation_rows(report, trained, split):
    measured, artifact = report.document["measured"], trained.artifact.metrics["validation"]
    for name in ("rows", "frauds", "auc", "average_precision"):
        assert measured[name] == artifact[name]
    assert measured["card_precision"]["mean"] == artifact["card_precision_at_100"]
    for rule in ("review_or_decline", "decline"):
        assert {name: measured[rule][name] for name in artifact[rule]} == artifact[rule]
    assert report.document["assessed"] == "validation"
    assert report.document["shap"]["frauds"] == int(split[1].labels.sum())
    assert report.document["model"]["calibration"]["scores"] == list(trained.manifest.calibration.scores)
    assert report.document["uncalibrated"]["brier_score"] != measured["calibration"]["brier_score"]


def test_amounts_and_card_ages_are_those_of_the_chosen_rows(report, split, facts):
    by_id = {transaction.transaction_id: transaction for transaction, _ in a_history()}
    chosen = [by_id[transaction_id] for transaction_id in split[1].transaction_ids.tolist()]
    frauds = [row.amount_minor for row, label in zip(chosen, split[1].labels, strict=True) if label]
    assert report.document["measured"]["fraud_amount"] == sum(frauds)
    first: dict[str, int] = {}
    for transaction, _ in a_history():
        first.setdefault(transaction.card_id, transaction.event_time_ms)
    older = sum(row.event_time_ms - first[row.card_id] >= 30 * DAY_MS for row in chosen)
    ages = {group["group"]: group["rows"] for group in report.document["measured"]["segments"]["card age"]}
    assert ages["30 to 90 days"] == older


def test_what_is_written_is_json_that_everybody_reads_and_the_page(report, html, tmp_path):
    assert report.write(tmp_path / "new" / "folder").read_text(encoding="utf-8") == html
    text = (tmp_path / "new" / "folder" / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == report.document


def test_the_page_needs_nothing_but_itself(html):
    assert "://" not in html
    elements = Elements(html)
    assert not {tag for tag, _ in elements.seen} & {"script", "link", "iframe", "object", "embed", "img", "base"}
    for _, attributes in elements.seen:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"@import|url\((?!#)", html)


def test_the_page_is_well_formed_and_its_ids_are_its_own(html):
    elements = Elements(html)
    assert (elements.mismatched, elements.open) == ([], [])
    ids = [attributes["id"] for _, attributes in elements.seen if "id" in attributes]
    assert len(ids) == len(set(ids)) > 100
    used = re.findall(r'(?:href="|url\()#([^")]+)', html)
    assert used
    assert set(used) <= set(ids)


def test_every_figure_says_what_it_shows(html):
    figures = [attributes for tag, attributes in Elements(html).seen if tag == "svg"]
    assert len(figures) == 9
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)


def test_texts_of_the_data_are_shown_not_obeyed(html):
    assert "<script" not in html
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; $\\frac{1}{2}$ &amp; more" in html


def test_the_same_input_gives_the_same_bytes_with_every_option(tmp_path):
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / name], cwd=CHECKOUT, check=True)
    for name in ("report.json", "report.html", "model.tar.gz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_without_validation_the_report_says_so(split, facts):
    training, _ = split
    document = training_report(train(training, parameters=FEW_ROUNDS), training, None, facts).document
    assert document["assessed"] == "training"
    assert "no validation rows" in document["notes"][0]
    assert document["learning"]["by_cards"] is None
    assert document["measured"]["rows"] == len(training)
    assert "training rows themselves" in page(Report(document, training_report_rows(training, facts)))


def training_report_rows(training: TrainingSet, facts: HistoryFacts):
    return training_report(train(training, parameters=FEW_ROUNDS), training, None, facts).explained


def test_other_cards_at_the_same_time_are_no_future(facts):
    rows = build_training_set(a_history(), CORE)
    times = {"from_ms": None, "until_ms": None, "valid_from_ms": None}
    training, validation = split_for_validation(rows, **times, valid_cards=0.4)
    notes = training_report(train(training, validation, parameters=FEW_ROUNDS), training, validation, facts).document[
        "notes"
    ]
    assert any("other cards in the same time" in note for note in notes)


@pytest.mark.parametrize(("calibrate", "warned"), [(False, True), (True, False)])
def test_weighted_scores_are_called_no_probabilities_unless_calibrated(split, facts, calibrate, warned):
    weighted = train(*split, parameters=FEW_ROUNDS, class_weight=20.0, calibrate=calibrate)
    notes = training_report(weighted, *split, facts).document["notes"]
    assert any("counted 20 times" in note for note in notes) == warned


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_page_of_one_class_can_be_drawn(share):
    judged = JudgedDecisions(random_rows(30, share=share), {"decisions": 30}, {}, True)
    text = page(decisions_report(judged, {"decisions": "x.parquet"}))
    assert "needs both fraud and legitimate rows" in text
    assert "nan" not in re.sub(r'base64,[^"]*', "", text).lower()


def test_a_page_of_a_single_row_can_be_drawn():
    judged = JudgedDecisions(random_rows(1), {"decisions": 1}, {"model_version": {"m": 1}}, True)
    assert "Decisions report" in page(decisions_report(judged, {}))


def test_a_field_that_no_row_has_is_named_instead_of_shown():
    nothing = by_text("channel", np.zeros(30, dtype=np.int64), [None])
    judged = JudgedDecisions(random_rows(30, segmentations=(nothing,)), {"decisions": 30}, {}, True)
    text = page(decisions_report(judged, {}))
    assert "Not in the data: channel." in text
    assert NOT_GIVEN not in text


@pytest.mark.parametrize("capacity", [0, -5])
def test_a_capacity_below_one_is_a_usage_error(capacity):
    with pytest.raises(UsageError, match="--review-capacity takes at least 1"):
        check_capacity(capacity)


def test_missing_values_and_constant_columns_are_drawn(trained, split, facts):
    validation = split[1]
    features = validation.features.copy()
    features[:, 0] = np.nan
    features[:, 1] = 7.0
    changed = TrainingSet(
        **{name: getattr(validation, name) for name in TrainingSet.__slots__} | {"features": features}
    )
    report = training_report(trained, split[0], changed, facts)
    assert "SHAP" in page(report)
    json.dumps(report.document, allow_nan=False)
