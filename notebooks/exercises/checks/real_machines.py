"""Checks of the exercises on chapter 09; they need neither Flower nor a model."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from random import Random

from checks.algebra import dice
from checks.verdict import NotYet, Right, ask, expect
from fleke_lib.storage.files import DATA

LINE = re.compile(
    r"slot (\d+), (\w+): (\d+) of (\d+) nodes, (\d+) packets, (\d+) bytes from nodes, (\d+) to nodes, (\d+) alive"
)
THREE = frozenset({"hospital-0", "hospital-1", "hospital-2"})
FOUR = THREE | {"hospital-3"}
Turns = Sequence[tuple[str, int, frozenset[str]]]


@dataclass(frozen=True)
class Row:
    """One turn in the server's log; `received` and `sent` are bytes since the server was started."""

    slot: int
    what: str
    replied: int
    members: int
    packets: int
    received: int
    sent: int
    alive: int


def recorded() -> list[Row]:
    """The turns of chapter 09's recorded run: the server was started twice, the second time for a withdrawal."""
    steps = json.loads((DATA / "real_machines.json").read_text(encoding="utf-8"))
    lines = [line for name, seen in steps if name == "run" for line in seen]
    found = [match.groups() for line in lines if (match := LINE.fullmatch(line))]
    return [Row(int(slot), what, *map(int, numbers)) for slot, what, *numbers in found]


def check_told(told: Callable) -> Right:
    """Chapter 09's record, and drawn turns that are added up to a log."""
    record = recorded()
    drawn, wanted = _log(dice(0))
    _judge_told(ask(told, record), record, _by_start(record), "the record")
    _judge_told(ask(told, drawn), drawn, wanted, "a drawn log")
    by, late, absent = zip(*_by_start(record), strict=True)
    return Right(
        f"in the {len(record)} turns of the recorded run {sum(by) / 1e3:.0f} kB came, {sum(late)} reply was late, and "
        f"{sum(absent)} times somebody was absent."
    )


def _log(draw: Random) -> tuple[list[Row], list[tuple[int, int, int]]]:
    """Three starts of a server with five members, and what each turn brought."""
    rows, wanted = [], []
    for turns in (draw.randrange(3, 7) for _ in range(3)):
        what = ["join", *(("edit", "retrieve")[i % 2] for i in range(turns))]
        brought = [draw.randrange(100, 100_000) for _ in what]
        alive = [draw.randrange(6) for _ in what]
        replied = [draw.randrange(some + 1) for some in alive]
        for i, total in enumerate(accumulate(brought)):
            rows.append(Row(i // 2, what[i], replied[i], 5, i, total, 2 * total, alive[i]))
            wanted.append((brought[i], alive[i] - replied[i], 5 - alive[i]))
    return rows, wanted


def _by_start(rows: Sequence[Row]) -> list[tuple[int, int, int]]:
    """What each turn brought, one start of the server after the other."""
    starts = [i for i, row in enumerate(rows) if row.what == "join"]
    found = []
    for one, other in zip(starts, [*starts[1:], len(rows)], strict=True):
        totals = [row.received for row in rows[one:other]]
        brought = [totals[0], *(high - low for low, high in pairwise(totals))]
        late = [row.alive - row.replied for row in rows[one:other]]
        absent = [row.members - row.alive for row in rows[one:other]]
        found += zip(brought, late, absent, strict=True)
    return found


def _judge_told(
    found: Sequence[tuple[int, int, int]], rows: Sequence[Row], wanted: list[tuple[int, int, int]], where: str
) -> None:
    expect(len(found) == len(rows), f"{where} has {len(rows)} turns, and you return {len(found)}: one for each row.")
    columns = zip(*found, strict=True), zip(*wanted, strict=True)
    (brought, late, absent), right = ([list(map(int, column)) for column in some] for some in columns)
    not_there = [row.members - row.replied for row in rows]
    expect(
        brought != [row.received for row in rows],
        "these are the bytes since the server's start: subtract what had come before the turn.",
    )
    expect(min(brought) >= 0, "a turn has fewer than 0 bytes: the total begins again with every `join`.")
    expect(
        late == right[1] or late != not_there,
        "a member that was not alive when the turn began was sent nothing: it is absent and not late.",
    )
    expect(
        absent == right[2] or absent != not_there,
        "a member that was sent the turn and did not reply is late and not absent.",
    )
    expect((late, absent) != (right[2], right[1]) or late == absent, "late and absent have changed places.")
    for name, own, other in zip(("bytes", "late", "absent"), (brought, late, absent), right, strict=True):
        wrong = next((i for i, (a, b) in enumerate(zip(own, other, strict=True)) if a != b), None)
        if wrong is not None:
            raise NotYet(f"turn {wrong} of {where} has {name} {other[wrong]}, not {own[wrong]}.")


class _Killed(Exception):
    """The node is killed."""


@dataclass
class _Node:
    """A node whose rule is the reader's.

    plays: how often it has worked. dies: "play" or "keep" if it is killed there at the next turn.
    """

    rule: Callable
    draw: Random
    kept: dict[tuple[str, int], bytes] = field(default_factory=dict)
    plays: int = 0
    dies: str = ""

    def deliver(self, turn: tuple[str, int]) -> bytes:
        def play() -> bytes:
            self.plays += 1
            self._die("play")
            return self.draw.randbytes(16)

        def keep(reply: bytes) -> None:
            self._die("keep")
            expect(
                isinstance(reply, bytes), f"what is kept is a {type(reply).__name__}: keep the reply, which is bytes."
            )
            self.kept[turn] = reply

        return ask(self.rule, turn, dict(self.kept), play, keep)

    def _die(self, where: str) -> None:
        if self.dies == where:
            self.dies = ""
            raise _Killed


def check_reply_to(reply_to: Callable) -> Right:
    """A node with named faults, and then many deliveries drawn at random beside a node that counts."""
    node = _Node(reply_to, dice(0))
    a, b = "first start", "second start"
    _plays(node, (a, 1), "a new turn must be played")
    _same(node, (a, 1), "a turn came twice")
    _plays(node, (a, 4), "a node that was off has missed turns 2 and 3: turn 4 is the next one, and must be played")
    _refused(node, (a, 3), "turn 3 came after turn 4: the server has gone on without it, so refuse it")
    for where in ("play", "keep"):
        _killed(node, (a, 5), where)
    _plays(node, (a, 5), "a node that was killed before it had kept the turn must play it when it comes again")
    _plays(node, (b, 1), "the server was started again: a new session begins with a low number, and must be played")
    _refused(node, (a, 6), "a turn of the session before came late: that session has ended, so refuse it")
    _same(node, (a, 4), "a kept turn of the session before came again")
    _plays(node, (b, 2), "the second turn of a session must be played")
    often = _drawn(node, dice(1))
    return Right(f"{often} more deliveries were replied to or refused as they should be, and no turn was kept twice.")


def _drawn(node: _Node, draw: Random) -> int:
    """Turns of three more sessions, in order, again, late and with kills; returns their number."""
    deliveries = 0
    for session in (f"start {draw.randrange(10**6)}-{i}" for i in range(3)):
        last = 0
        for _ in range(40):
            deliveries += 1
            fate = draw.random()
            if fate < 0.4 or not last:
                last += draw.randrange(1, 4)
                if draw.random() < 0.3:
                    _killed(node, (session, last), draw.choice(("play", "keep")))
                _plays(node, (session, last), "a new turn must be played")
            elif fate < 0.7:
                _same(node, draw.choice(list(node.kept)), "a turn came again")
            else:
                old = draw.choice([one for one in node.kept if one != (session, 1)] or [(session, 2)])
                late = (old[0], old[1] - 1)
                if late in node.kept:
                    _same(node, late, "a turn came again")
                elif late[1] > 0:
                    _refused(node, late, "an earlier turn came late: refuse it")
    return deliveries


def _plays(node: _Node, turn: tuple[str, int], why: str) -> None:
    plays, kept = node.plays, len(node.kept)
    try:
        reply = node.deliver(turn)
    except ValueError as error:
        raise NotYet(f"{turn} was refused ({str(error)[:30]}): {why}.") from None
    expect(node.plays > plays, f"{turn} was not played: {why}.")
    expect(len(node.kept) == kept + 1, f"{turn} is not in the folder when the reply is made: keep it first.")
    expect(
        reply == node.kept[turn], f"the reply to {turn} is not the one that was kept: play once, keep and return it."
    )
    expect(node.plays == plays + 1, f"{turn} was played {node.plays - plays} times: play it once.")


def _same(node: _Node, turn: tuple[str, int], what: str) -> None:
    plays = node.plays
    try:
        reply = node.deliver(turn)
    except ValueError:
        raise NotYet(
            f"{what}, and {turn} was refused: the server may not have got the reply, so give it again."
        ) from None
    expect(node.plays == plays, f"{what}, and {turn} was played again: give the kept reply.")
    expect(reply == node.kept[turn], f"{what}, and {turn} got another reply than before.")


def _refused(node: _Node, turn: tuple[str, int], why: str) -> None:
    plays, kept = node.plays, len(node.kept)
    try:
        node.deliver(turn)
    except ValueError:
        unchanged = (plays, kept) == (node.plays, len(node.kept))
        expect(unchanged, f"{turn} was refused after it was played: refuse first.")
        return
    raise NotYet(f"{turn} got a reply: {why}.")


def _killed(node: _Node, turn: tuple[str, int], where: str) -> None:
    node.dies, kept = where, len(node.kept)
    try:
        node.deliver(turn)
    except _Killed:
        expect(len(node.kept) == kept, f"{turn} is in the folder before it was played.")
        return
    except ValueError:
        raise NotYet(f"{turn} was refused: a new turn must be played.") from None
    done = "played" if where == "play" else "kept"
    raise NotYet(f"{turn} got a reply, but the node was killed before it was {done}: let the error through.")


def _turns(*replied: frozenset[str], slots: int = 2) -> Turns:
    """A replay of some slots with these replies; shorter if there are fewer replies."""
    names = [(what, slot) for slot in range(slots) for what in ("edit", "retrieve")] + [("solve", slots - 1)]
    return tuple((*name, who) for name, who in zip(names, replied, strict=False))


def _cases() -> Iterator[tuple[Turns, frozenset[str], Mapping[str, int], bool, str]]:
    """Logs, members, requests, whether they may be closed, and the sentence for another answer."""
    leaver = {"hospital-2": 4}
    stayed, two, run = THREE - {"hospital-2"}, THREE - {"hospital-1"}, _turns(*[THREE] * 5)
    yield (*run, *_turns(*[THREE] * 5)), THREE, leaver, True, "everybody has replied to all turns of the replay"
    yield (*run, *_turns(*[stayed] * 5)), THREE, leaver, True, "who withdraws is not waited for"
    yield run, THREE, leaver, False, "the slots were not played again after the request"
    late = (THREE, THREE, two, THREE, THREE)
    yield (*run, *_turns(*late)), THREE, leaver, False, "hospital-1 has missed a turn in the middle of the replay"
    yield (*run, *_turns(*[THREE] * 4)), THREE, leaver, False, "the replay has not come to its `solve`"
    yield (*_turns(*late), *run), THREE, leaver, True, "what was missed before the replay does not count"
    yield (*run, *run), THREE, {"hospital-2": 6}, False, "the request came in the middle of the replay"
    both = {"hospital-2": 4, "hospital-3": 6}
    yield (*run, *run), FOUR, both, False, "one of two requests came in the middle of the replay"
    none = THREE - {"hospital-0"}
    yield (*run, *_turns(*[none] * 5)), THREE, leaver, False, "hospital-0 has replied to no turn of the replay"
    yield (*run, *_turns(*late), *run), THREE, leaver, True, "only the last replay counts"
    yield (*run, *run, *_turns(*late)), THREE, leaver, False, "only the last replay counts, and it has a late member"


def check_may_close(may_close: Callable) -> Right:
    """Named logs, and drawn ones beside a server that notes after each turn who is still there."""
    for turns, members, requests, wanted, why in _cases():
        _judge_close(may_close, turns, members, requests, wanted, why)
    draw, closed = dice(0), 0
    for _ in range(300):
        turns, members, requests, wanted = _drawn_log(draw)
        closed += wanted
        why = "follow one drawn log turn by turn: who has replied to every turn since the last `edit` of slot 0"
        _judge_close(may_close, turns, members, requests, wanted, why)
    return Right(f"of 300 drawn logs, {closed} let the server close all requests.")


def _judge_close(
    may_close: Callable, turns: Turns, members: frozenset[str], requests: Mapping[str, int], wanted: bool, why: str
) -> None:
    found = ask(may_close, turns, members, dict(requests))
    expect(isinstance(found, bool), f"the answer is a {type(found).__name__}: return True or False.")
    expect(found == wanted, f"{why}: the requests {'may be closed' if wanted else 'must stay pending'}.")


def _drawn_log(draw: Random) -> tuple[Turns, frozenset[str], Mapping[str, int], bool]:
    """A log in which some are late and some withdraw, and whether its requests may be closed."""
    slots, names = draw.randrange(1, 4), [f"member {draw.randrange(10**6)}" for _ in range(4)]
    members, whole = frozenset(names), len(_turns(*[frozenset()] * 7, slots=slots))
    turns: list = []
    for _ in range(draw.randrange(2, 4)):
        turns += _turns(*[frozenset(one for one in names if draw.random() < 0.95) for _ in range(whole)], slots=slots)
    turns = turns[: len(turns) - (draw.random() < 0.2)]
    requests = {
        name: draw.randrange(len(turns) if draw.random() < 0.3 else whole) for name in names[: draw.randrange(1, 3)]
    }
    here, pending, new = set(members), set(), False
    for i, (what, slot, replied) in enumerate(turns):
        if (what, slot) == ("edit", 0):
            here, new = set(members), False
        here &= replied
        asked = {name for name, place in requests.items() if place == i}
        pending, new = pending | asked, new or bool(asked)
    return tuple(turns), members, requests, turns[-1][0] == "solve" and not new and here | pending == set(members)
