"""`python -m tests.integration.mapping_page`: docs/event-source-mappings.md, from the table of cases.

The tests hold the table to what is seen, so the page needs no run.
"""

from __future__ import annotations

from typing import Final

from local.run import CHECKOUT
from tests.integration.mapping_cases import CASES, Case, Implementation, Seen

PAGE: Final = CHECKOUT / "docs" / "event-source-mappings.md"
_HEAD: Final = """# Event source mappings: AWS's documentation, our runner, LocalStack

Written by `python -m tests.integration.mapping_page` from `tests/integration/mapping_cases.py`.
`tests/integration/test_mapping_cases.py` carries every case out on `local/mappings` (before the embedded AWS) and on
LocalStack's own mappings, with real streams, functions and queues, and compares calls, their order, and what the
on-failure destination is told with this table. AWS itself was not asked; *as documented* means equal to what its
documentation says, in our words here.

| case | AWS says | our runner | LocalStack 4.9.2 | who is right |
| --- | --- | --- | --- | --- |
"""
_TAIL: Final = """
Parents before children: a shard that a split or merge made is read when its parents are done. Our runner does it
(`tests/integration/test_mapping_reshard.py`, on a Kinesis that reshards). LocalStack cannot be asked here: the only
Kinesis it has without Docker and downloads is moto's, which moves records to the children, so resharding is refused;
its poller has no order of shards, and its source says that resharding is still to be done.

Where retries ran out, the document for the on-failure destination has AWS's fields on both sides.
"""


def rendered() -> str:
    """The whole page."""
    return _HEAD + "".join(f"{_line(case)}\n" for case in CASES) + _TAIL


def _line(case: Case) -> str:
    settings = ", ".join(f"`{name}`" for name in case.settings if name not in ("BatchSize",))
    name = f"{case.name} ({settings})" if settings else case.name
    says = f"[{case.says}]({case.page})"
    return f"| {name} | {says} | {_cell(case, 'ours')} | {_cell(case, 'localstack')} | {case.right} |"


def _cell(case: Case, implementation: Implementation) -> str:
    found = case.expected(implementation)
    if found == case.aws:
        return "as documented"
    if implementation == "ours" and found == Seen():
        return "mapping refused, with the setting's name"
    return _said(found)


def _said(found: Seen) -> str:
    calls = " ".join(f"`[{', '.join(call)}]`" for call in found.calls) or "no call"
    gone = "".join(f"; gives up `{one.first}` to `{one.last}` ({one.condition})" for one in found.discarded)
    return calls + gone + ("" if found.overlapped else ", one after the other" if len(found.calls) > 1 else "")


if __name__ == "__main__":
    PAGE.write_text(rendered())
