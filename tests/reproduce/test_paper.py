"""What a run is made of: recipes, who holds what, pieces on disk, the estimate. The whole path: test_rehearsal.py."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fleke_lib.facts.fact import Fact
from fleke_lib.facts.loading import load_facts
from fleke_lib.mkv.mkv import compute_mkvs
from fleke_lib.model.language_model import load_model
from fleke_lib.reproduce.__main__ import main
from fleke_lib.reproduce.paper import read_texts
from fleke_lib.reproduce.papers.estimates import Shape, estimate
from fleke_lib.reproduce.papers.parts import check_dataset, choose, limited, parts_of, remaining
from fleke_lib.reproduce.papers.pieces import kept
from fleke_lib.reproduce.papers.presets import RECIPES, recipe
from fleke_lib.reproduce.papers.tiny import write_tiny

PUBLISHED = {  # parameters, as the model cards or the papers count them
    "gpt-j": 6_050_882_784,
    "gpt-neox": 20_554_567_680,
    "llama-3-8b": 8_030_261_248,
    "gpt2-xl": 1_557_611_200,
    "smollm2": 134_515_008,
}


def fact(i: int, relation: str, mark: str = "") -> Fact:
    return Fact(f"Subject{i}", f"The {relation} of {{}} is{mark}", "new", "old", relation, id=str(i))


def counterfact(folder, facts):
    """A file as CounterFact is published."""
    records = [
        {
            "case_id": i,
            "requested_rewrite": {
                "subject": f.subject,
                "prompt": f.prompt,
                "relation_id": f.relation,
                "target_new": {"str": f.target_new},
                "target_true": {"str": f.target_true},
            },
        }
        for i, f in enumerate(facts)
    ]
    (folder / "facts.json").write_text(json.dumps(records))
    return folder / "facts.json"


@pytest.mark.parametrize("short", PUBLISHED)
def test_a_model_is_counted_as_it_is_published(short):
    assert Shape.of(recipe(f"{short}-zsre").config).parameters == PUBLISHED[short]


def test_every_run_is_the_papers_federation_and_bad_names_get_all_good_ones():
    assert {(r.clients, r.slots, r.tau, r.facts) for r in RECIPES.values()} == {(8, 10, 0.4, 10_000)}
    assert recipe("gpt-j-zsre").memit.layers == (3, 4, 5, 6, 7, 8) and recipe("gpt-j-zsre").lam == 15000
    assert recipe("gpt-neox-counterfact").memit.layers == (6, 7, 8, 9, 10)
    with pytest.raises(ValueError, match="gpt2-xl-zsre"):
        recipe("gpt-4")


def test_counterfact_gives_a_client_one_relation_the_first_ones_with_more_than_800():
    sizes = {"small": 700, "a": 801, "exactly": 800, "b": 805, "c": 900}
    facts = [fact(i, relation) for relation, n in sizes.items() for i in range(n)]
    parts = parts_of(facts, "counterfact", 2, 10, labels=list)
    assert [{f.relation for f in part.facts} for part in parts] == [{"a"}, {"b"}]
    parts = parts_of(facts, "counterfact", 4, 10, labels=list)  # no four have as many
    assert [next(iter(part.facts)).relation for part in parts] == ["c", "b", "a", "exactly"]


def test_slots_are_cut_from_the_lexicographic_order_of_the_numbers():
    facts = [fact(i, "a") for i in range(12)] + [fact(i, "b") for i in range(3)]
    one, other = parts_of(facts, "counterfact", 2, 5, labels=list)
    assert [[f.id for f in slot] for slot in one.slots] == [
        ["0", "1", "10"],
        ["11", "2", "3"],
        ["4", "5"],
        ["6", "7"],
        ["8", "9"],
    ]
    assert [len(slot) for slot in other.slots] == [1, 1, 1, 0, 0]


def test_zsre_gives_a_client_one_cluster():
    facts = [fact(i, "a") for i in range(6)]
    parts = parts_of(facts, "zsre", 8, 2, labels=lambda: [1, 0, 1, 1, 0, 3])
    assert [{f.id for f in part.facts} for part in parts] == [{"1", "4"}, {"0", "2", "3"}, {"5"}]


def test_a_limit_takes_as_many_of_each_relation_or_the_first_ones():
    facts = [fact(i, relation) for i in range(20) for relation in ("a", "b", "c", "d")]
    taken = limited(facts, "counterfact", 8, 8)
    assert [f.relation for f in taken] == ["a"] * 2 + ["b"] * 2 + ["c"] * 2 + ["d"] * 2
    assert limited(facts, "zsre", 8, 5) == tuple(facts[:5])
    with pytest.raises(ValueError, match="3 facts are too few"):
        limited(facts, "zsre", 8, 3)


def test_what_is_left_out_is_counted_and_clients_without_facts_go():
    facts = [fact(0, "a"), replace(fact(0, "a"), target_new="other"), fact(1, "a"), fact(2, "b")]
    chosen = choose(facts, facts[:3])
    assert (chosen.facts, chosen.repeated, chosen.not_shareable) == ((facts[0], facts[2]), 1, 1)
    parts = parts_of([facts[0], facts[2], facts[3]], "counterfact", 2, 1, labels=list)
    assert [part.facts for part in remaining(parts, [facts[3]])] == [(facts[0], facts[2])]


def test_a_file_of_the_other_data_set_is_refused(tmp_path):
    facts = load_facts(counterfact(tmp_path, [fact(i, "a", "?" if i else "") for i in range(4)]))
    with pytest.raises(ValueError, match=r"3 of the 4 prompts .* ends in -zsre"):
        check_dataset(facts, "counterfact")
    check_dataset(facts, "zsre")


def test_text_for_C_is_lines_or_paragraphs(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "One."}\n\n{"text": "Two."}\n')
    (tmp_path / "a.txt").write_text("One\nline.\n\n\n\nTwo.\n")
    assert read_texts(tmp_path / "a.jsonl") == ("One.", "Two.")
    assert read_texts(tmp_path / "a.txt") == ("One\nline.", "Two.")
    (tmp_path / "b.jsonl").write_text('{"words": 1}')
    with pytest.raises(ValueError, match="write one a line"):
        read_texts(tmp_path / "b.jsonl")
    (tmp_path / "b.txt").write_text("\n")
    with pytest.raises(ValueError, match="holds no text"):
        read_texts(tmp_path / "b.txt")


def test_small_things_are_drawn_once(tmp_path):
    assert kept(tmp_path / "kept" / "labels-a.json", lambda: [1, 2]) == [1, 2]
    assert kept(tmp_path / "kept" / "labels-a.json", lambda: [3]) == [1, 2]
    assert kept(tmp_path / "kept" / "labels-b.json", lambda: [3]) == [3]
    (tmp_path / "kept" / "labels-b.json").write_text("[3")
    with pytest.raises(ValueError, match=r"labels-b\.json is not a whole JSON file .*: delete it and run again\.$"):
        kept(tmp_path / "kept" / "labels-b.json", lambda: [3])


@pytest.mark.parametrize("short", PUBLISHED)
def test_a_tiny_model_is_of_the_same_class_and_can_be_edited(short, tmp_path):
    facts, config = load_facts("atlas", limit=3), recipe(f"{short}-zsre").config
    lm = load_model(write_tiny(config, facts, tmp_path / "model"))
    assert type(lm.model.config) is type(config) and sum(p.numel() for p in lm.model.parameters()) < 100_000
    assert lm.model.config.tie_word_embeddings == config.tie_word_embeddings
    begins = lm.tokenizer("A").input_ids[0] == lm.tokenizer.bos_token_id
    assert begins == (config.model_type == "llama")
    assert all(mkv.residual.norm() > 0 for mkv in compute_mkvs(lm, facts, contexts=("",)))


@pytest.mark.parametrize("short", ["gpt2-xl", "gpt-j", "gpt-neox", "llama-3-8b"])
def test_a_token_costs_two_operations_a_weight_of_the_layer(short, tmp_path):
    lm = load_model(write_tiny(recipe(f"{short}-zsre").config, load_facts("atlas", limit=3), tmp_path / "model"))
    tokens, layer = 7, Shape.of(lm.model.config).layer
    with FlopCounterMode(display=False) as counter:
        lm.body(torch.zeros(1, tokens, dtype=torch.long))
    products = [
        n for op, n in counter.get_flop_counts()["Global"].items() if op in (torch.ops.aten.mm, torch.ops.aten.addmm)
    ]
    weights = sum(p.numel() for p in lm.layers[0].parameters() if p.ndim == 2)
    assert sum(products) == 2 * tokens * weights * lm.n_layers
    assert weights <= layer < 1.05 * weights  # norms and biases are counted too


def test_an_estimate_grows_with_facts_and_shrinks_with_speed():
    facts, run = load_facts("atlas", limit=20), recipe("gpt-j-counterfact")
    one, two = (estimate(run, facts, n, device="cuda") for n in (1000, 2000))
    assert [b / a for a, b in zip(one.steps["MKVs"], two.steps["MKVs"], strict=True)] == pytest.approx([2, 2])
    assert two.disk["MKVs and trajectories"] == 2 * one.disk["MKVs and trajectories"]
    assert one.memory["weights"] == pytest.approx(6.05 * 4, rel=1e-3)
    assert one.disk["C"] == pytest.approx(6 * 16384**2 * 8 / 1e9)
    assert one.hours[0] < one.hours[1]
    slow, fast = (estimate(run, facts, 1000, device="cuda", flops=flops).hours for flops in (1e12, 1e13))
    assert slow[1] == pytest.approx(10 * fast[1])


def test_the_estimate_is_printed_and_nothing_is_loaded(tmp_path, capsys):
    file = counterfact(tmp_path, [fact(i, "a") for i in range(9)])
    calls = ["paper", "gpt-neox-counterfact", "--facts", str(file), "--estimate", "--device", "cuda"]
    assert main([*calls, "--to", str(tmp_path / "to")]) == 0
    said = capsys.readouterr().out
    assert "gpt-neox-counterfact, 9 facts on cuda" in said and "weights 82.2" in said and "assumed" in said
    assert not (tmp_path / "to").exists()
    assert main(["paper", "gpt-neox-zsre", *calls[2:]]) == 2
    assert "the name of the run that ends in -counterfact" in capsys.readouterr().err
