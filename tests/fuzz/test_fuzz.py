"""Readers of foreign bytes refuse as they declare, or read what they would write. The corpus first, then new inputs.

`make fuzz SECONDS=60 SEED=2` gives every target more time and other inputs. What breaks a reader is kept in
`tests/fuzz/corpus/`, smallest form, and is tried for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz.inputs import inputs
from tests.fuzz.rounds import CORPUS, fuzz, kept
from tests.fuzz.targets import TARGETS, Target

# NumPy warns where it takes a header for one of Python 2, and reads it; the container's log holds the warning.
pytestmark = pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")

CASES = [(target, name) for target in TARGETS for name in kept(CORPUS / target.name)]
named = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@pytest.mark.parametrize(("target", "name"), CASES, ids=[f"{target.name}/{name}" for target, name in CASES])
def test_the_corpus_is_accepted_or_refused(target: Target, name: str) -> None:
    target.check((CORPUS / target.name / name).read_bytes())


@named
def test_the_corpus_reaches_both_sides(target: Target) -> None:
    """Seeds that are all refused would let nothing of a reader be reached: a new codec version needs new ones."""
    assert {target.check(data) for data in kept(CORPUS / target.name).values()} == {True, False}


@named
def test_new_inputs_are_accepted_or_refused(target: Target, record_property: Callable[[str, object], None]) -> None:
    folder = CORPUS / target.name
    tried = fuzz(target.check, inputs(list(kept(folder).values()), target.repair), folder)
    record_property("inputs", tried)
    assert tried >= 40


def test_the_corpus_has_no_folder_without_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == {target.name for target in TARGETS}


def test_what_breaks_a_reader_is_kept_in_its_smallest_form(tmp_path: Path) -> None:
    def breaks(data: bytes) -> None:
        if b"\xff" in data:
            raise KeyError("found")

    with pytest.raises(KeyError):
        fuzz(breaks, st.binary(max_size=50), tmp_path / "reader", seconds=20)
    assert list(kept(tmp_path / "reader").values()) == [b"\xff"]
