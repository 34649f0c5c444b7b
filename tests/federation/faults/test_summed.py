"""Hospitals that add up sums on Flower: one is killed before it sends its masked sums, then another one withdraws.

Three hospitals with a fact each. The edits of those who stay are, bit for bit, those of one process in which the same
one is gone, and of one that the other has never joined. Killed is the process of the node, by SIGKILL. Its SuperNode
lives on and says so at once; a machine that is silent is in `test_killed` and in `tests/federation/flower`.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from fleke_lib.edit.edit import Edit
from fleke_lib.edit.moments import second_moments
from fleke_lib.federation.client import ClientConfig
from fleke_lib.federation.flower.bounds import SumRules, save_rules
from fleke_lib.federation.flower.processes import end
from fleke_lib.federation.provider import StoredProvider
from fleke_lib.federation.registry.admission import Rules
from fleke_lib.federation.retrieval.policies import Nobody
from fleke_lib.federation.rounds import run_fedit
from fleke_lib.federation.summing import Summing, total
from fleke_lib.unlearn.edits.withdrawal import withdraw
from tests.federation.faults.hospitals import SECRET, Holds, hospitals, tiny_model, until
from tools.federation.comparison import edits_of, equal, one_thread

pytestmark = [pytest.mark.flower, pytest.mark.slow]
STAYS, LEAVES, KILLED = "hospital-0", "hospital-1", "hospital-2"


@dataclass
class Outcome:
    """The edits after each run of the server and in one process, and the desk's lines."""

    killed: dict[str, Edit] = field(default_factory=dict)
    withdrawn: dict[str, Edit] = field(default_factory=dict)
    wanted: dict[str, Edit] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    left: list[Path] = field(default_factory=list)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The whole story, once."""
    folder, found = tmp_path_factory.mktemp("summed"), Outcome()
    site = hospitals(folder, 3, 1)
    site.summed, lm = True, tiny_model(folder / "tiny")
    moments, rules = second_moments(lm), Rules.of(lm)
    summed = SumRules.of(lm, rules, moments, members=3, facts=4)
    save_rules(rules, folder / "rules.json", summed)
    holds, first = Holds(folder), min(rules.layers)
    try:
        holds.at("desk-reveal-0"), holds.patience(600)
        site.start(), site.start_server(1, 600.0)
        holds.wait("desk-reveal-0")
        holds.at("desk-masked-0"), holds.free("desk-reveal-0")
        holds.wait("desk-masked-0")
        site.processes.running[KILLED].kill()
        site.processes.running.pop(KILLED).wait()
        holds.free("desk-masked-0")
        until(lambda: site.processes.running["server"].poll() is not None, 600, "the server has ended")
        found.lines += [text for kind, text in site.progress.read() if kind == "line"]
        found.killed = edits_of(folder, [STAYS, LEAVES])

        site.start_node(KILLED), site.withdraw(LEAVES)  # it ends the SuperNode that was left behind
        found.lines += site.run(1, 600.0, 1200.0, say=lambda *_: None)
        found.withdrawn = edits_of(folder, [STAYS, KILLED])
        found.left = [path for path in (folder / "hub").rglob("*") if path.name.startswith("registry")]
    finally:
        site.processes.stop()
        left_behind(folder / f"{KILLED}.memory" / "supernode.pid")
    with one_thread():
        config, provider = ClientConfig(Nobody()), StoredProvider(lm, folder / "one-process")
        how = {"provider": provider, "secret": SECRET, "rules": rules, "protection": Summing(summed.scales)}
        run = run_fedit(lm, site.parts, config, **how)
        found.wanted["killed"] = total(run, moments, gone={first: [KILLED]}).edit
        found.wanted["whole"] = total(run, moments).edit
        found.wanted["withdrawn"] = total(withdraw(run, client=LEAVES), moments).edit
        never = run_fedit(lm, [part for part in site.parts if part.name != LEAVES], config, **how)
        found.wanted["never"] = total(never, moments).edit
    return found


def left_behind(mark):
    """End the SuperNode of a node that was killed, if it is still there."""
    with contextlib.suppress(OSError, psutil.Error):
        end(psutil.Process(int(mark.read_text().split()[0])))


def test_who_is_killed_before_it_sends_its_masked_sums_is_out_and_the_others_have_one_edit(outcome):
    assert any(line.startswith("slot 0, share: 3 of 3 nodes") for line in outcome.lines), "it had dealt its keys"
    assert any(line.startswith("slot 0, masked: 2 of 3 nodes, sums of layer") for line in outcome.lines)
    assert equal(outcome.killed, dict.fromkeys(outcome.killed, outcome.wanted["killed"])) == [STAYS, LEAVES]
    assert not equal(outcome.killed, dict.fromkeys(outcome.killed, outcome.wanted["whole"]))


def test_a_withdrawal_gives_the_never_joined_edit_and_who_was_killed_is_back(outcome):
    assert f"{LEAVES} withdrawn: the total is without it" in outcome.lines
    wanted = dict.fromkeys(outcome.withdrawn, outcome.wanted["withdrawn"])
    assert equal(outcome.withdrawn, wanted) == equal(wanted, dict.fromkeys(wanted, outcome.wanted["never"]))
    assert equal(outcome.withdrawn, wanted) == [STAYS, KILLED]


def test_the_server_keeps_nothing(outcome):
    assert outcome.left == []
