"""Random faults, one slot after the other, as a seed orders them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, TypeVar

from tests.faults import victims
from tests.faults.catalogue import FAULTS
from tests.faults.injector import Injection
from tests.faults.setting import Run

T = TypeVar("T")

LONGEST_SLOT_S: Final = 4.0
SHORTEST_SLOT_S: Final = 1.5
MOST_SHARE: Final = 0.3  # of the calls of one kind at a time, so that something gets through
AT_ONCE: Final = 2
SURE_AFTER: Final = 3  # a kind that had its turn so often must have happened
FAILPOINTS: Final = ("before_commit", "after_commit", "after_publish")


@dataclass(frozen=True, slots=True)
class Blow:
    """Something done to the run's processes. `strike` answers how often it happened."""

    name: str
    strike: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Slot:
    """Some seconds of a soak: what the injector does, what is struck in their middle, whether a pause follows."""

    wire: tuple[Injection, ...]
    blow: Blow | None
    is_quiet_after: bool

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.wire] + ([self.blow.name] if self.blow is not None else [])


class Chaos:
    """Injects into `run` for some time; afterwards `counts` and `missing` tell."""

    def __init__(self, run: Run, chance: random.Random, say: Callable[[str], None]) -> None:
        if run.injector is None:
            raise ValueError("faults need an injector")
        self.error: BaseException | None = None
        self._run = run
        self._injector = run.injector
        self._chance = chance
        self._say = say
        self._turns: Counter[str] = Counter()
        self._blown: Counter[str] = Counter()

    def schedule(self) -> Iterator[Slot]:
        """What comes in which order, without end; the seed alone decides."""
        wire = self._cycle([_unlimited(one) for one in _injections(self._run)])
        blows = self._cycle(self._possible_blows())
        for number in count():
            chosen = {one.name: one for one in (next(wire) for _ in range(AT_ONCE))}
            blow = next(blows) if number % 3 == 2 else None
            yield Slot(tuple(chosen.values()), blow, is_quiet_after=self._chance.random() < 0.2)

    def cause(self, seconds: float) -> None:
        """One slot after the other, until `seconds` are over; the last one ends with them."""
        ends_at = time.monotonic() + seconds
        length_s = max(SHORTEST_SLOT_S, min(LONGEST_SLOT_S, seconds / 40))
        try:
            for number, slot in enumerate(self.schedule()):
                left_s = ends_at - time.monotonic()
                if left_s < 0.1:
                    return
                self._say(f"slot {number}: {', '.join(slot.names)}")
                self._slot(slot, min(left_s, length_s))
        except BaseException as error:
            self.error = error
        finally:
            self._injector.set_plan()
            (self._run.pipeline.state_dir / "failpoint").unlink(missing_ok=True)

    def counts(self) -> dict[str, int]:
        """Kind to how often it really happened; kinds that never did are left out."""
        return {name: count for name, count in sorted((self._injector.happened + self._blown).items()) if count}

    def missing(self) -> list[str]:
        """Kinds that had their turn and should have happened, as problems."""
        happened = self.counts()
        return [
            f"{name} never happened in {turns} turns"
            for name, turns in sorted(self._turns.items())
            if turns >= SURE_AFTER and not happened.get(name)
        ] + ([] if happened else ["nothing was injected"])

    def _slot(self, slot: Slot, length_s: float) -> None:
        self._turns.update(slot.names)
        self._injector.set_plan(*slot.wire)
        time.sleep(length_s / 2)
        if slot.blow is not None:
            self._blown[slot.blow.name] += slot.blow.strike()
        time.sleep(length_s / 2)
        if slot.is_quiet_after:  # what piled up is worked off
            self._injector.set_plan()
            time.sleep(length_s / 2)

    def _cycle(self, kinds: list[T]) -> Iterator[T]:
        """All of them in random order, again and again."""
        while True:
            yield from self._chance.sample(kinds, len(kinds))

    def _possible_blows(self) -> list[Blow]:
        pipeline, setting = self._run.pipeline, self._run.setting

        def kill_part(name: str) -> Callable[[], int]:
            return lambda: victims.kill(victims.part(pipeline, name))

        def hang() -> int:
            found = victims.endpoint_servers(pipeline)
            with victims.stopped(found):
                time.sleep(1.0)
            return len(found)

        def die_at(function: str, failpoint: str) -> Callable[[], int]:
            def strike() -> int:
                file = pipeline.state_dir / "failpoint"
                file.write_text(f"{function}{failpoint}")
                ends_at = time.monotonic() + 4.0
                while file.exists() and time.monotonic() < ends_at:
                    time.sleep(0.02)
                died = not file.exists()
                file.unlink(missing_ok=True)
                return int(died)

            return strike

        functions = [setting.scorer_failpoint, "record_labels:"]
        functions += ["update_entities:"] if setting.why_not(frozenset({"entity events"})) is None else []
        return [
            Blow("workers_killed", lambda: victims.kill(victims.workers(pipeline))),
            Blow("runner_killed", kill_part("mappings")),
            Blow("sagemaker_host_killed", kill_part("sagemaker")),
            Blow("endpoint_server_killed", lambda: victims.kill(victims.endpoint_servers(pipeline))),
            Blow("endpoint_server_hangs", hang),
            *(
                Blow(f"dies_at_{function}{failpoint}", die_at(function, failpoint))
                for function in functions
                for failpoint in FAILPOINTS
                if (function, failpoint) != ("update_entities:", "after_publish")  # reached by waiting labels only
            ),
        ]


def _injections(run: Run) -> list[Injection]:
    return [injection for fault in FAULTS if run.setting.why_not(fault.needs) is None for injection in fault.injections]


def _unlimited(injection: Injection) -> Injection:
    return replace(injection, most=None, share=min(injection.share, MOST_SHARE))
