"""The commands that make a federation's files: keys of members, the list of members, and rules."""

import stat

import pytest

from fleke_lib.commands import rules
from fleke_lib.federation.__main__ import main
from fleke_lib.federation.flower.bounds import SumRules, load_rules, load_sum_rules
from fleke_lib.federation.flower.settings import load_group, load_identity
from fleke_lib.federation.registry.admission import Rules
from tests.federation.small import scenario


@pytest.fixture
def keys(tmp_path):
    """Three members' keys."""
    for name in ("bern", "genf", "zug"):
        assert main(["identity", "--name", name, "--folder", str(tmp_path)]) == 0
    return tmp_path


def grouped(folder, *words):
    return main(["group", "--to", str(folder / "group.json"), *(str(word) for word in words)])


def test_a_member_has_two_private_files_and_a_public_one(keys, capsys):
    for kind in ("identity", "key"):
        assert stat.S_IMODE((keys / f"bern.{kind}").stat().st_mode) == 0o600
    public = (keys / "bern.member").read_text()
    identity = load_identity(keys / "bern.identity")
    assert identity.signing.private_bytes_raw().hex() not in public and "PRIVATE" not in public
    assert load_group(keys / "bern.member")[0].members == {"bern": identity.member}
    assert main(["identity", "--name", "bern", "--folder", str(keys)]) == 2
    assert "keys are not written over" in capsys.readouterr().err
    assert main(["identity", "--name", "../bern", "--folder", str(keys)]) == 2


def test_the_list_has_every_members_public_keys_and_changes_with_them(keys, capsys):
    files = [keys / f"{name}.member" for name in ("bern", "genf", "zug")]
    assert grouped(keys, "--dealer", "genf", *files) == 0
    group, nodes = load_group(keys / "group.json")
    assert group.dealer == "genf" and group.epoch == 0 and list(sorted(group.members)) == ["bern", "genf", "zug"]
    assert all("BEGIN PUBLIC KEY" in key for key in nodes.values()) and len(set(nodes.values())) == 3
    assert grouped(keys, "--dealer", "genf", *files) == 2
    again = ["group", "--to", str(keys / "next.json"), "--from", str(keys / "group.json")]
    assert main([*again, str(files[0])]) == 2, "who is a member already does not join"
    assert main([*again, "--leaves", "genf"]) == 0
    left, nodes = load_group(keys / "next.json")
    assert left == group.left("genf") and set(nodes) == {"bern", "zug"} and left.dealer == "bern"
    capsys.readouterr()
    assert main(["group", "--to", str(keys / "x.json"), "--from", str(keys / "next.json"), str(files[1])]) == 2
    assert "was revoked" in capsys.readouterr().err


def test_a_new_list_needs_its_dealer(keys, capsys):
    assert grouped(keys, keys / "bern.member") == 2
    assert grouped(keys, "--dealer", "genf", keys / "bern.member") == 2
    assert "no file is of 'genf'" in capsys.readouterr().err


def test_rules_are_those_of_the_model(tmp_path, monkeypatch, capsys):
    lm = scenario()[0]
    monkeypatch.setattr(rules, "load_model", lambda name: {"tiny": lm}[name])
    assert main(["rules", "--to", str(tmp_path / "rules.json"), "--model", "tiny"]) == 0
    assert load_rules(tmp_path / "rules.json") == Rules.of(lm)
    assert Rules.of(lm).fingerprint[:12] in capsys.readouterr().out
    assert load_sum_rules(tmp_path / "rules.json") is None


def test_rules_of_summing_have_a_fixed_point_for_these_members_and_facts(tmp_path, monkeypatch, capsys):
    lm, _, moments = scenario()
    monkeypatch.setattr(rules, "load_model", lambda name: {"tiny": lm}[name])
    monkeypatch.setattr(rules, "second_moments", lambda model: {lm: moments}[model])
    file = tmp_path / "rules.json"
    call = ["rules", "--to", str(file), "--model", "tiny", "--protection", "summed"]
    assert main([*call, "--members", "4", "--facts", "9"]) == 0
    assert "of 4 members with 9 facts each" in capsys.readouterr().out
    wanted = SumRules.of(lm, Rules.of(lm), moments, members=4, facts=9)
    assert load_rules(file) == Rules.of(lm) and load_sum_rules(file).scales.products == wanted.scales.products
    for more, what in (
        (["--members", "2", "--facts", "9"], "two know each other's sums"),
        (["--members", "4", "--facts", "0"], "--facts 0"),
        (["--members", "4"], "give all three, or none"),
        (["--protection", "sealed", "--facts", "4"], "give all three, or none"),
    ):
        assert main([*call, *more]) == 2
        assert what in capsys.readouterr().err
