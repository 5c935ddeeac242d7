"""One process of the embedded AWS for the whole session; fresh names in it for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.harness import Aws, Harness, InMemory
from tests.contract.local_aws import missing, running_aws


@pytest.fixture(scope="session")
def aws_url() -> Iterator[str]:
    if reason := missing():
        pytest.skip(reason)
    with running_aws() as url:
        yield url


@pytest.fixture
def aws(aws_url: str) -> Aws:
    return Aws(aws_url)


@pytest.fixture(params=["in_memory", "aws"])
def ports(request: pytest.FixtureRequest) -> Harness:
    if request.param == "in_memory":
        return InMemory()
    return request.getfixturevalue("aws")  # type: ignore[no-any-return]
