"""The files that a node is told of: what is read is what was written, and a node follows from their paths."""

import stat
from dataclasses import replace

import pytest

from fleke_lib.federation.flower import settings
from fleke_lib.federation.flower.bounds import SumRules, load_rules, save_rules
from fleke_lib.federation.flower.settings import (
    by_slot,
    load_group,
    load_identity,
    node_from,
    save_group,
    save_identity,
)
from fleke_lib.federation.flower.summing_node import SummingNode
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.retrieval.policies import TopK
from tests.commands.site import set_up
from tests.federation.sealing.members import GROUP, IDENTITIES
from tests.federation.small import facts, scenario


def test_keys_members_and_rules_are_read_as_they_were_written(tmp_path):
    path = save_identity(IDENTITIES["ada"], tmp_path / "ada.key")
    assert load_identity(path).member == IDENTITIES["ada"].member and stat.S_IMODE(path.stat().st_mode) == 0o600
    left = GROUP.left("bob")
    assert load_group(save_group(left, {"ada": "PEM"}, tmp_path / "group")) == (left, {"ada": "PEM", "cleo": ""})
    rules = Rules.of(scenario()[0])
    assert load_rules(save_rules(rules, tmp_path / "rules")) == rules
    for load, file in ((load_identity, "group"), (load_group, "rules"), (load_rules, "group")):
        with pytest.raises(ValueError, match="give the file that"):
            load(tmp_path / file)


def test_a_node_follows_from_what_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "load_model", lambda name: {"tiny": scenario()[0]}[name])
    set_up(tmp_path)
    save_identity(IDENTITIES["ada"], tmp_path / "ada.key"), save_group(GROUP, {}, tmp_path / "group")
    files = {"folder": "memory", "facts": "bern.json", "identity": "ada.key", "group": "group", "secret": "secret.bin"}
    told = {name: str(tmp_path / file) for name, file in files.items()} | {"per-slot": [1], "model": "tiny"}
    node = node_from(told | {"policy": "top:2"})
    assert node.client.name == "ada" and node.client.config.policy == TopK(2)
    assert [len(slot) for slot in node.settings.slots] == [1, 1] and (tmp_path / "memory" / "rules.json").exists()
    with pytest.raises(ValueError, match=r"per-slot is \[0\]"):
        node_from(told | {"per-slot": [0]})
    rules = Rules.of(scenario()[0])
    summed = SumRules.of(scenario()[0], rules, scenario()[2], members=3, facts=2)
    file = save_rules(rules, tmp_path / "summed.json", summed)
    assert isinstance(node_from(told | {"rules": str(file)}), SummingNode) and not isinstance(node, SummingNode)
    with pytest.raises(ValueError, match="is for sealed packets"):
        node_from(told | {"rules": str(save_rules(rules, tmp_path / "sealed.json"))})
    other = save_rules(replace(rules, state=1.0), tmp_path / "other.json", summed)
    with pytest.raises(ValueError, match="rules are of another model"):
        node_from(told | {"rules": str(other)})
    with pytest.raises(ValueError, match="has no 'secret'"):
        node_from({name: value for name, value in told.items() if name != "secret"})


def test_facts_become_due_as_many_as_each_slot_has():
    some = facts()[:7]
    assert [len(slot) for slot in by_slot(some, [2])] == [2, 2, 2, 1]
    assert [len(slot) for slot in by_slot(some, [0, 3, 1])] == [0, 3, 1, 1, 1, 1]
    assert [fact for slot in by_slot(some, [1, 4]) for fact in slot] == some
    for wrong in ([], [1, 0], [-1, 2]):
        with pytest.raises(ValueError, match="per-slot is"):
            by_slot(some, wrong)
