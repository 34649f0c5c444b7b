"""Turns and replies as bytes: what is read is what was written, and everything else is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_lib.federation.flower.turns import MOST_FIRST, Answer, Turn, TurnReply
from fleke_lib.federation.packets.messages import joined
from fleke_lib.federation.registry.admission import Refused

bodies = st.binary(max_size=20)
answers = st.lists(st.builds(Answer, bodies) | st.builds(Answer, refused=st.text(min_size=1, max_size=9)), max_size=4)
calls = st.lists(st.tuples(st.sampled_from(["put", "since", "deal"]), bodies), max_size=4)


@given(answers, answers, st.sampled_from(["join", "edit", "retrieve", "solve"]), st.integers(2, 9))
def test_a_turn_is_read_as_it_was_written(one, other, what, number):
    turn = Turn("ab12", number, what, 3, number - 1, tuple(one), tuple(other))
    assert Turn.read(turn.data) == turn


@given(calls, calls)
def test_a_reply_is_read_as_it_was_written(one, other):
    reply = TurnReply("ab12", 7, tuple(one), tuple(other))
    assert TurnReply.read(reply.data) == reply


@given(st.binary(max_size=60))
def test_noise_is_neither(data):
    for kind in (Turn, TurnReply):
        with pytest.raises(Refused, match="bytes are not"):
            kind.read(data)


GOOD = ["ab12", 2, "edit", 0, 1, 0, []]


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, ""), (0, 5), (1, 0), (1, True), (2, "format"), (3, -1), (3, "0"), (4, 2), (4, -1), (5, 1), (6, [0]), (6, {})],
)
def test_a_head_that_says_something_else_is_refused(place, value):
    assert Turn.read(joined([json.dumps(GOOD, separators=(",", ":")).encode()])).what == "edit"
    wrong = [value if i == place else given for i, given in enumerate(GOOD)]
    with pytest.raises(Refused, match="are not a turn"):
        Turn.read(joined([json.dumps(wrong, separators=(",", ":")).encode()]))


def test_a_node_asks_for_few_things_first_and_by_short_names():
    many = TurnReply("ab12", 1, (), (("since", b"0"),) * (MOST_FIRST + 1))
    for reply in (many, TurnReply("ab12", 1, (("p" * 17, b""),))):
        with pytest.raises(Refused, match="not the reply"):
            TurnReply.read(reply.data)
    assert TurnReply.read(TurnReply("ab12", 1, (), many.first[1:]).data)
    with pytest.raises(Refused, match="not the reply"):
        TurnReply.read(joined([b"[" * 100_000]))
