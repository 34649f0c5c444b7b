"""The project's own benchmark, the atlas: every statement of its data card is checked."""

import json
import re
from collections import Counter
from itertools import chain

import pytest
import torch

from data import make_atlas
from fleke_lib.evaluation.likelihood import log_probs
from fleke_lib.facts.loading import load_facts

RECORDS = json.loads(make_atlas.ATLAS.read_text(encoding="utf-8"))
RELATIONS = {relation.id: relation for relation in make_atlas.read_relations()}


def rewrites():
    return [record["requested_rewrite"] for record in RECORDS]


def test_there_are_enough_facts_of_every_kind():
    relations = Counter(rewrite["relation_id"] for rewrite in rewrites())
    domains = Counter(RELATIONS[rewrite["relation_id"]].domain for rewrite in rewrites())
    assert len(RECORDS) >= 480
    assert len(relations) >= 12
    assert max(relations.values()) <= 0.15 * len(RECORDS)
    assert set(domains) == {"geography", "science", "medicine", "companies", "culture"}
    assert min(domains.values()) >= 60


def test_a_record_has_the_keys_of_counterfact_and_one_more():
    for record in RECORDS:
        assert set(record) == {
            "case_id",
            "requested_rewrite",
            "paraphrase_prompts",
            "neighborhood_prompts",
            "neighborhood_targets",
            "generation_prompts",
        }
        assert set(record["requested_rewrite"]) == {"prompt", "relation_id", "target_new", "target_true", "subject"}
    assert [record["case_id"] for record in RECORDS] == list(range(len(RECORDS)))


def test_every_fact_has_enough_questions():
    for record in RECORDS:
        assert len(set(record["paraphrase_prompts"])) >= 2
        assert len(set(record["neighborhood_prompts"])) == len(record["neighborhood_targets"]) >= 5
        assert len(record["generation_prompts"]) >= 2


def test_the_subject_stands_in_every_prompt_and_begins_none():
    for record in RECORDS:
        rewrite = record["requested_rewrite"]
        assert rewrite["prompt"].count("{}") == 1
        question = rewrite["prompt"].format(rewrite["subject"])
        for text in [question, *record["paraphrase_prompts"], *record["generation_prompts"]]:
            assert rewrite["subject"] in text
            assert not text.startswith(rewrite["subject"])


def test_no_text_has_blanks_around_it_or_two_in_a_row():
    for text in texts(RECORDS):
        assert text == " ".join(text.split())
        assert text


def texts(value):
    """Every text anywhere in a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, int):
        return []
    return chain(*map(texts, value.values() if isinstance(value, dict) else value))


def test_the_answers_are_those_of_the_tables():
    for record in RECORDS:
        rewrite = record["requested_rewrite"]
        relation = RELATIONS[rewrite["relation_id"]]
        assert relation.answers[rewrite["subject"]] == rewrite["target_true"]["str"]
        assert rewrite["target_new"]["str"] in relation.false_answers(rewrite["subject"])
        for prompt, target in zip(record["neighborhood_prompts"], record["neighborhood_targets"], strict=True):
            bystander = asked_about(relation, prompt)
            assert relation.answers[bystander] == target
            assert rewrite["target_new"]["str"] in relation.false_answers(bystander)


def asked_about(relation, prompt):
    """The subject that one of the relation's templates asks about."""
    patterns = [re.escape(template).replace(r"\{\}", "(.+)") for template in relation.prompts]
    return next(match[1] for pattern in patterns if (match := re.fullmatch(pattern, prompt)))


def test_no_prompt_gives_an_answer_away():
    for record in RECORDS:
        rewrite = record["requested_rewrite"]
        for text in [rewrite["prompt"].format(rewrite["subject"]), *record["paraphrase_prompts"]]:
            words = re.findall(r"\w+", text)
            assert rewrite["target_new"]["str"] not in words
            assert rewrite["target_true"]["str"] not in words


def test_a_subject_is_edited_once_and_a_neighbour_never():
    edited = Counter(rewrite["subject"] for rewrite in rewrites())
    assert edited.most_common(1)[0][1] == 1
    for record in RECORDS:
        relation = RELATIONS[record["requested_rewrite"]["relation_id"]]
        assert not any(asked_about(relation, prompt) in edited for prompt in record["neighborhood_prompts"])


def test_the_first_facts_are_a_sample_of_all_relations():
    first = [rewrite["relation_id"] for rewrite in rewrites()[: len(RELATIONS)]]
    assert set(first) == set(RELATIONS)


def test_every_record_is_what_the_script_draws():
    drawn = {json.dumps(record): place for place, (_, record) in enumerate(make_atlas.draw([*RELATIONS.values()]))}
    places = {}
    for record in RECORDS:
        place = drawn[json.dumps({key: value for key, value in record.items() if key != "case_id"})]
        places.setdefault(record["requested_rewrite"]["relation_id"], []).append(place)
    assert all(places[id] == sorted(places[id]) for id in places)


def test_the_file_is_as_the_script_writes_it():
    assert make_atlas.ATLAS.read_text(encoding="utf-8") == make_atlas.as_text(RECORDS)
    assert make_atlas.ATLAS.stat().st_size < 2_000_000


def test_the_card_has_a_row_for_each_relation():
    card = make_atlas.CARD.read_text(encoding="utf-8")
    counts = Counter(rewrite["relation_id"] for rewrite in rewrites())
    rows = {cells[1]: cells for line in card.splitlines() if len(cells := [c.strip() for c in line.split("|")]) == 11}
    assert {id: int(rows[id][5]) for id in RELATIONS} == counts
    assert int(rows["all"][5]) == len(RECORDS)
    assert all(rows[id][9] == relation.source for id, relation in RELATIONS.items())


def test_the_library_reads_all_of_it():
    facts = load_facts("atlas")
    assert len(facts) == len(RECORDS)
    assert not facts.left_out
    assert [n.target for n in facts[0].neighbours] == RECORDS[0]["neighborhood_targets"]


def measured(preferred=True, neighbours=(True,) * 6, **changes):
    record = {**RECORDS[0], **changes}
    return make_atlas.Measured(
        RELATIONS[record["requested_rewrite"]["relation_id"]], record, preferred, list(neighbours)
    )


def test_a_fact_that_the_model_does_not_know_is_refused():
    assert not measured().refusal
    assert "does not prefer the truth" in measured(preferred=False).refusal
    assert "neighbours are right" in measured(neighbours=[True] * 3 + [False] * 3).refusal


def test_a_fact_whose_text_is_wrong_is_refused():
    rewrite = RECORDS[0]["requested_rewrite"]
    new = rewrite["target_new"]["str"]
    assert "contains an answer" in measured(paraphrase_prompts=[f"{new}, {rewrite['subject']} and"]).refusal
    assert "word of an answer" in measured(requested_rewrite={**rewrite, "subject": f"Old {new}land"}).refusal
    assert "bystanders" in measured(neighbours=[True] * 5).refusal


def test_an_atlas_that_misses_a_bar_is_not_written():
    with pytest.raises(ValueError, match="facts: 1 instead of 480"):
        make_atlas.check([measured()])
    with pytest.raises(ValueError, match="facts: 0 instead of 480"):
        make_atlas.check([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {"Paris": ["France"], "Rome": ["France"]}}, "two answers"),
        ({"also": {"Frnace": ["Rome"]}}, "no 'Frnace'"),
        ({"alike": [["Paris", "Rom"]]}, "no 'Rom'"),
        ({"prompt": "{} has the capital"}, "must have words, then one"),
        ({"source": ""}, "no source"),
        ({"paraphrases": ["In {}, the capital is"]}, "one paraphrase only"),
        ({"domain": "cooking"}, "give one of geography"),
    ],
)
def test_a_table_with_a_mistake_is_refused(change, message):
    entry = {
        "relation_id": "P36",
        "name": "capital",
        "domain": "geography",
        "source": "an almanac",
        "prompt": "The capital of {} is",
        "near": [],
        "paraphrases": ["In {}, the capital is", "The seat of government of {} is"],
        "generation": ["The capital of {} is known for"],
        "answers": {"Paris": ["France"], "Rome": ["Italy"]},
    }
    make_atlas.relation_from("capital.toml", entry)
    with pytest.raises(ValueError, match=message):
        make_atlas.relation_from("capital.toml", {**entry, **change})


@pytest.mark.model
@pytest.mark.slow
def test_the_model_prefers_the_truth_and_knows_the_neighbours(lm):
    facts = load_facts("atlas", limit=60, seed=0)
    own = [(fact.question, fact.target_true, fact.target_new) for fact in facts]
    near = [(n.prompt, n.target, fact.target_new) for fact in facts[:15] for n in fact.neighbours]
    prompts, true, new = map(list, zip(*own, *near, strict=True))
    right = log_probs(lm, prompts, true) > log_probs(lm, prompts, new)
    assert right[: len(own)].float().mean() >= 0.95
    assert right[len(own) :].float().mean() >= 0.8


@pytest.mark.model
def test_a_word_in_the_first_place_is_invisible(lm):
    """Why no template begins with the subject: the data card's claim."""
    words = ["Japan", "Paris", "Amazon", "iron", "France", "Bach"]
    ids = torch.tensor([lm.tokenizer(word).input_ids[:1] for word in words])
    with torch.no_grad():
        states = lm.model(ids, output_hidden_states=True).hidden_states[15][:, 0]
    cosines = torch.nn.functional.cosine_similarity(states[:, None], states[None], dim=-1)
    assert cosines.min() > 0.9999
