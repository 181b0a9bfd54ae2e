"""What callers may use, each and all together. A caller who wants more is told how much there is, and when to try again."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from bridge.access.incoming_bytes import Arriving
from bridge.caller import Caller
from bridge.errors import TooMany
from bridge.settingsfile import Bounds, InAll
from bridge.settingsfile import Limits as LimitWords

Kind: TypeAlias = Literal["calls", "results", "sessions", "streams"]

UNBOUNDED: Final = LimitWords.model_validate(
    {"inAll": InAll(calls=None, results=None, sessions=None, streams=None)}
)
"""For stdio, whose one client has started the process."""

_TOLD: Final[Mapping[Kind, tuple[str, int]]] = {
    "calls": ("calls at a time", 1),
    "results": ("bytes of results that wait to be read", 10),
    "sessions": ("sessions", 60),
    "streams": ("streams", 60),
}
"""What is bounded, and the seconds after which there may be room again."""
_IN_ALL: Final = "in all"
_BURST: Final = 6
"""The part of a minute whose requests may come at once."""
_MIN_TRACKED_CALLERS: Final = 1000
"""Callers from which on those are forgotten that use nothing."""


@dataclass(slots=True)
class _Taken:
    """What one caller has, or all; by ``even`` the last request would have come, had they come evenly."""

    now: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(_TOLD, 0))
    even: float = 0.0


_Sides: TypeAlias = tuple[tuple[_Taken, Bounds, str], ...]
"""What a caller and all have, what they may have, and who that is, in words."""


class Limits:
    """``words`` are the bounds; ``now`` is in seconds. Callers without a name are all one."""

    def __init__(self, words: LimitWords | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.words = words or LimitWords()
        self.arriving = Arriving(self.words.body)
        self._in_all, self._per_caller = self.words.in_all, self.words.per_caller
        written = self._per_caller.written
        self._of_nameless = None if written == Bounds() else written
        self._has_rate = bool(self._in_all.rate or self._per_caller.rate)
        self._now = now
        self._all = _Taken()
        self._of_all: _Sides = ((self._all, self._in_all, _IN_ALL),)
        self._each: dict[tuple[str | None, str | None], _Taken] = {}
        self._most_tracked = _MIN_TRACKED_CALLERS

    def count_request(self, caller: Caller) -> None:
        """Count a request of any kind; raises ``TooMany``, and does not count it, past the rate."""
        if not self._has_rate:
            return
        now, sides = self._now(), self._sides(caller)
        for taken, bounds, whom in sides:
            if bounds.rate and (wait := taken.even - now - _slack(bounds.rate)) > 0:
                most = f"{bounds.rate} {whom}, {_at_once(bounds.rate)} of them at once"
                raise _too_many("requests in a minute", most, math.ceil(wait), in_all=whom == _IN_ALL)
        for taken, bounds, _ in sides:
            if bounds.rate:
                taken.even = max(taken.even, now) + 60 / bounds.rate

    def begin_call(self, caller: Caller) -> None:
        """Count a call, which ends with ``add("calls", caller, -1)``; raises ``TooMany``."""
        sides = self._sides(caller)
        _require_room("results", sides)
        _require_room("calls", sides)
        for taken, *_ in sides:
            taken.now["calls"] += 1

    def check(self, kind: Kind, caller: Caller) -> None:
        """Raises ``TooMany`` where there may be no more of it."""
        _require_room(kind, self._sides(caller))

    def add(self, kind: Kind, caller: Caller, number: int) -> None:
        """There are ``number`` more of it, or less, whatever the bounds."""
        for taken, *_ in self._sides(caller):
            taken.now[kind] += number

    @property
    def now(self) -> Mapping[Kind, int]:
        """What all have at the moment."""
        return {kind: self._all.now[kind] for kind in _TOLD}

    def _sides(self, caller: Caller) -> _Sides:
        if caller.name is None and self._of_nameless is None:
            return self._of_all
        bounds = self._of_nameless if caller.name is None else self._per_caller
        assert bounds
        who = (caller.issuer, caller.name)
        taken = self._each.get(who)
        if taken is None:
            if len(self._each) >= self._most_tracked:
                self._forget()
            taken = self._each[who] = _Taken()
        return ((taken, bounds, "for each caller"), *self._of_all)

    def _forget(self) -> None:
        """Forget callers who use nothing. The next time is when there are twice as many, so that this stays cheap."""
        now = self._now()
        kept = {
            who: taken for who, taken in self._each.items() if any(taken.now.values()) or taken.even > now
        }
        self._each = kept
        self._most_tracked = max(_MIN_TRACKED_CALLERS, 2 * len(kept))


def _require_room(kind: Kind, sides: _Sides) -> None:
    for taken, bounds, whom in sides:
        bound = getattr(bounds, kind)
        if bound is not None and taken.now[kind] >= bound:
            told, wait = _TOLD[kind]
            raise _too_many(told, f"{bound} {whom}", wait, in_all=whom == _IN_ALL)


def _at_once(rate: int) -> int:
    return max(rate // _BURST, 1)


def _slack(rate: int) -> float:
    """How far calls may be ahead of an even flow, in seconds (the generic cell rate algorithm)."""
    return (_at_once(rate) - 1) * 60 / rate


def _too_many(what: str, most: str, wait: int, *, in_all: bool) -> TooMany:
    seconds = f"{wait} second{'' if wait == 1 else 's'}"
    text = f"Too many {what}: at most {most}. Try again in {seconds}."
    return TooMany("too-many-calls", text, wait, in_all=in_all)
