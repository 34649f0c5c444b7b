"""Tables: each row is what its method gives by another way, and is measured once for what it depends on."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from fleke_lib.evaluation import difference, evaluate
from fleke_lib.facts.loading import TUNED_ON
from fleke_lib.federation import Compression, lora
from fleke_lib.reproduce.__main__ import main
from fleke_lib.reproduce.tables import command
from fleke_lib.reproduce.tables import summary as summaries
from fleke_lib.reproduce.tables.catalogue import TABLES, Table, named, rows_of
from fleke_lib.reproduce.tables.results import KEPT, Bench
from fleke_lib.reproduce.tables.rows import PACKED, RANK, ROWS, USES
from fleke_lib.reproduce.tables.settings import Settings, load, save, settings_for
from fleke_lib.reproduce.tables.summary import markdown, summary
from tests.reproduce.test_scenario import small

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(6, memit_lam=0.5, step=2.0, adapter_step=3.0, factor_step=4.0)
CHEAP = ("before", "FedEdit from vectors", "the same with coupling 0", "MEMIT in one place, with text", "plain sum")


@pytest.fixture(scope="module")
def scenario():
    return small()


def bench(scenario, folder, settings=SETTINGS) -> Bench:
    made = Bench(scenario, settings, folder)
    made.__dict__["harm"] = None  # a tiny model answers none of its questions
    return made


def test_rows_are_what_their_methods_give(scenario, tmp_path):
    here, lm = bench(scenario, tmp_path), scenario.lm
    for name, edit in (
        ("before", None),
        ("FedEdit from vectors", scenario.fedit),
        ("the same from whole trajectories", scenario.whole),
        ("plain sum", scenario.plain_sum),
        ("last client", scenario.local[-1]),
    ):
        with edit.applied(lm) if edit else nullcontext():
            wanted = evaluate(lm, scenario.facts)
        found = here.row(name).evaluation(scenario)
        for column in KEPT:
            np.testing.assert_allclose(found.per_fact[column], wanted.per_fact[column], atol=1e-6)


def test_steps_multiply_the_clients_mean(scenario):
    shares = [len(part.facts) / len(scenario.facts) for part in scenario.parts]
    adapters = [lora.adapter(edit, RANK) for edit in scenario.local]
    for name, edits, step in (
        ("FedAvg, plain mean", scenario.local, 1.0),
        ("FedAvg, tuned step", scenario.local, SETTINGS.step),
        ("FedAvg of adapters, tuned step", adapters, SETTINGS.adapter_step),
    ):
        found = ROWS[name](scenario, SETTINGS)
        for layer in found.layers:
            by_hand = step * sum(s * edit.delta(layer) for s, edit in zip(shares, edits, strict=True))
            torch.testing.assert_close(found.delta(layer), by_hand)


def test_a_row_is_measured_once_and_again_when_what_it_depends_on_changes(scenario, tmp_path):
    here = bench(scenario, tmp_path)
    first = here.row("FedAvg, tuned step")
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": {"edit": -1.0}}))
    assert here.row("FedAvg, tuned step").seconds == {"edit": -1.0}, "it was read"
    other = Settings(6, 0.5, 5.0, 3.0, 4.0)
    again = bench(scenario, tmp_path, other).row("FedAvg, tuned step")
    assert again.seconds["edit"] >= 0 and again.conditions != first.conditions
    for name in CHEAP:
        same = here.conditions(name) == bench(scenario, tmp_path, other).conditions(name)
        assert same == ("step" not in USES.get(name, ()))


def test_without_settings_the_rows_that_use_none_are_measured(scenario, tmp_path):
    here = bench(scenario, tmp_path, None)
    assert here.row("plain sum").conditions == bench(scenario, tmp_path).conditions("plain sum")
    with pytest.raises(AttributeError):
        here.row("FedAvg, tuned step")
    assert len([*tmp_path.iterdir()]) == 1


def test_rows_of_packets_depend_on_the_default_compression(scenario, tmp_path, monkeypatch):
    here = bench(scenario, tmp_path)
    before = {name: here.conditions(name) for name in CHEAP}
    monkeypatch.setattr(Compression.__init__, "__defaults__", (1, "int8", True))
    assert {name for name in CHEAP if here.conditions(name) != before[name]} == set(CHEAP) & set(PACKED)


def test_a_summary_compares_in_pairs(scenario, tmp_path):
    here = bench(scenario, tmp_path)
    table = Table("t", "a title", "atlas", 0, 6, CHEAP)
    rows = [here.row(name) for name in CHEAP]
    found = summary(table, here, rows)
    one, other = rows[1].evaluation(scenario), rows[3].evaluation(scenario)
    assert found["rows"][CHEAP[1]]["against the reference"]["top1"] == difference(one, other, "top1")
    assert found["rows"][CHEAP[3]]["against the reference"] == {}
    assert found["settings"] == {"MEMIT in one place, with text": {"memit_lam": 0.5}}
    text = markdown(found)
    assert f"| {CHEAP[1]} | {one.efficacy:.3f} | {one.top1:.3f} [" in text
    assert text.count("\n| ") == 2 * len(CHEAP) and "in pairs of the same facts" in text


def test_kept_tables_go_between_their_marks(tmp_path, monkeypatch):
    monkeypatch.setattr(summaries, "FOLDER", tmp_path)
    (tmp_path / "atlas-100.json").write_text(json.dumps({"reference": "a", "rows": {}}))
    begin, end = (mark.format("atlas-100") for mark in (command.BEGIN, command.END))
    text = command.spliced(f"before\n{begin}\nold\n{end}\nafter\n")
    assert (
        text.startswith(f"before\n{begin}\n|  | efficacy") and text.endswith(f"|\n{end}\nafter\n") and "old" not in text
    )
    assert command.spliced("no marks") == "no marks"


@pytest.mark.parametrize("page", ["README.md", "docs/tables.md"])
def test_pages_show_the_tables_that_are_kept(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- table " in text and command.spliced(text) == text


def test_settings_are_those_of_the_nearest_number_of_facts(tmp_path):
    path = tmp_path / "tuned.json"
    with pytest.raises(ValueError, match="has no settings: tune the opponents first"):
        settings_for(100, path)
    some = {n: Settings(n, 1.0, float(n), 1.0, 1.0) for n in (100, 480, 840)}
    save(some, path)
    assert load(path) == some
    assert [settings_for(n, path).facts for n in (50, 200, 300, 620, 995)] == [100, 100, 480, 480, 840]


def test_tables_are_of_facts_that_tuned_nothing():
    for table in TABLES.values():
        assert set(table.rows) <= set(ROWS) and table.reference in table.rows
        assert table.source != "atlas" or table.first >= TUNED_ON
        assert table.source != "counterfact" or table.last <= 1000
    assert len(TABLES["atlas-100"].facts(None)) == 100
    with pytest.raises(ValueError, match="needs a file of counterfact records: give --facts FILE"):
        named("counterfact-100").facts(None)
    with pytest.raises(ValueError, match="there is no table 'x'"):
        named("x")
    with pytest.raises(ValueError, match="there is no row 'x'"):
        rows_of(TABLES["atlas-100"], ("x",))
    assert rows_of(TABLES["atlas-100"], ("plain sum", "before")) == ("before", "plain sum")


def test_the_command_lists_tables_and_says_what_is_missing(capsys):
    assert main(["tables"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TABLES)
    assert main(["tables", "nothing"]) == 2 and "there is no table 'nothing'" in capsys.readouterr().err
