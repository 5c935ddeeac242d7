"""Prefix expressions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.firehose.prefixes import PrefixTemplate
from stream_features.errors import UsageError

LAST_MS_OF_THE_YEAR = 1_798_761_599_999  # 2026-12-31T23:59:59.999Z


@given(st.integers(min_value=0, max_value=4_102_444_800_000))
@settings(max_examples=200)
def test_date_and_hour_are_those_of_the_arrival_in_utc(arrival_ms: int) -> None:
    at = datetime.fromtimestamp(arrival_ms // 1000, UTC)
    template = PrefixTemplate("raw/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/")
    assert template.expand(arrival_ms) == f"raw/dt={at:%Y-%m-%d}/hour={at:%H}/"


def test_the_hour_changes_at_its_last_millisecond() -> None:
    template = PrefixTemplate("!{timestamp:yyyy/MM/dd/HH}/")
    assert template.expand(LAST_MS_OF_THE_YEAR) == "2026/12/31/23/"
    assert template.expand(LAST_MS_OF_THE_YEAR + 1) == "2027/01/01/00/"


def test_fine_patterns_are_not_rounded() -> None:
    template = PrefixTemplate("!{timestamp:HH-mm-ss.SSS}")
    assert template.expand(LAST_MS_OF_THE_YEAR) == "23-59-59.999"
    assert template.expand(LAST_MS_OF_THE_YEAR - 1) == "23-59-59.998"


def test_quoted_text_and_single_letters_follow_java() -> None:
    assert PrefixTemplate("!{timestamp:'day='d'T'H''}").expand(5 * 3_600_000) == "day=1T5'"


def test_the_kind_of_failure_stands_in_the_error_prefix() -> None:
    template = PrefixTemplate("errors/!{firehose:error-output-type}/!{timestamp:yyyy}/")
    assert template.expand(0, "format-conversion-failed") == "errors/format-conversion-failed/1970/"


def test_a_prefix_without_time_gets_the_default_one() -> None:
    assert PrefixTemplate("all/").expand(3_600_000) == "all/1970/01/01/01/"


def test_a_time_zone_moves_the_date() -> None:
    template = PrefixTemplate("!{timestamp:yyyy-MM-dd-HH-mm}", time_zone="Asia/Kathmandu")  # UTC+5:45
    assert template.expand(1_795_176_000_000) == "2026-11-20-17-45"


@pytest.mark.parametrize(
    "template",
    ["!{timestamp:YYYY}", "!{timestamp:yyyy-QQ}", "!{firehose:random-string}/", "!{partitionKeyFromQuery:card}/"],
)
def test_an_expression_that_is_not_supported_is_named(template: str) -> None:
    with pytest.raises(UsageError, match="not supported"):
        PrefixTemplate(template)
