"""The Flink engine's virtual environment: the same bits from the same code."""

from __future__ import annotations

import subprocess

import pytest

from stream_features.feature_sets import FEATURE_SETS
from tests.golden.vectors import vectors_path
from tests.integration.flink_cluster import PYTHON, ROOT

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-flink: make setup-flink")

COMPUTE = """
import json, sys
from stream_features.feature_sets import feature_set
from tests.golden.vectors import vectors, vectors_path
features = feature_set(sys.argv[1])
header, *rows = map(json.loads, vectors_path(features).read_text(encoding="utf-8").splitlines())
assert header["feature_set_id"] == features.feature_set_id
found = list(vectors(features, [row["transaction"] for row in rows], header["labels"]))
different = [row["transaction"]["transaction_id"] for row, other in zip(rows, found, strict=True) if row != other]
print(len(found), different)
"""


@pytest.mark.parametrize("name", sorted(FEATURE_SETS))
def test_golden_vectors_have_the_same_bits_where_the_job_runs(name: str) -> None:
    done = subprocess.run(
        [PYTHON, "-c", COMPUTE, name], cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    rows = len(vectors_path(FEATURE_SETS[name]).read_text(encoding="utf-8").splitlines()) - 1
    assert done.stdout.split(maxsplit=1) == [str(rows), "[]\n"]
