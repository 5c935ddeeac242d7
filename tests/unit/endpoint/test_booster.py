"""The one thing that differs between the XGBoosts that read our models. The real old one: test_script_mode."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost

from endpoint import booster
from endpoint.booster import bracketed_base_score, library_version, load_booster
from model.boosting import fit
from model.parameters import complete
from tests.unit.endpoint.models import CORE, some_rows


def a_model(base_score: float) -> bytes:
    rows = some_rows(300).astype(np.float32)
    labels = (np.nan_to_num(rows[:, 0]) > 0).astype(np.uint8)
    parameters = complete({"n_estimators": 3, "nthread": 1, "max_depth": 2, "base_score": base_score})
    return bytes(fit(rows, labels, CORE.names, parameters).save_raw("ubj"))


@pytest.mark.parametrize("base_score", [0.5, 0.1, 0.0123, 0.999])
def test_the_base_score_is_read_out_of_the_file(base_score):
    found = bracketed_base_score(a_model(base_score))
    assert found is not None
    assert float(found) == pytest.approx(base_score, rel=1e-6)


def test_a_file_of_an_older_xgboost_needs_no_help():
    older = a_model(0.1).replace(b"\x06[1E-1]", b"\x041E-1")
    assert bracketed_base_score(older) is None


def test_restating_the_base_score_changes_nothing_where_it_was_understood(monkeypatch):
    rows = some_rows(20).astype(np.float32)
    as_it_is = load_booster(a_model(0.1)).inplace_predict(rows, validate_features=False)
    monkeypatch.setattr(booster, "_FIRST_WITH_BRACKETS", (99, 0))
    restated = load_booster(a_model(0.1)).inplace_predict(rows, validate_features=False)
    np.testing.assert_array_equal(as_it_is, restated)


def test_versions_are_compared_as_numbers():
    assert library_version("3.0.5") < (3, 1) <= library_version("3.10.0-dev")
    assert library_version(xgboost.__version__) >= (3, 1)
