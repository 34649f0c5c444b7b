"""What a record has besides the fields of its schema: it is read, or a warning names it."""

import json

import pytest

from fleke_lib.facts.fact import Neighbour
from fleke_lib.facts.loading import load_facts

KNOWEDIT = {
    "subject": "Alder Lake",
    "prompt": "Which firm made Alder Lake?",
    "target_new": "AMD",
    "ground_truth": [["Intel", "Intel Corporation"]],
    "rephrase": ["Alder Lake was made by"],
    "locality": {
        "Relation_Specificity": [{"prompt": "Alder Lake's country is", "ground_truth": [["USA", "America"]]}],
        "Forgetfulness": [{"prompt": "Its kind, which is not soup, is", "ground_truth": ["chip"]}],
    },
    "portability": {},
}
NEIGHBOURS = (Neighbour("Alder Lake's country is", "USA"), Neighbour("Its kind, which is not soup, is", "chip"))
COUNTERFACT = {
    "requested_rewrite": {
        "prompt": "{} is in",
        "subject": "Lyon",
        "target_new": {"str": "Chile"},
        "target_true": "France",
    }
}
ZSRE = {"subject": "Ada", "src": "Where is Ada?", "alt": "Rome", "answers": ["Oslo"], "loc": "who?", "loc_ans": "he"}


@pytest.fixture
def file(tmp_path):
    def write(*records):
        (tmp_path / "some.json").write_text(json.dumps(records))
        return tmp_path / "some.json"

    return write


def test_paraphrases_and_neighbours_of_knowedit_are_read(file):
    (fact,) = load_facts(file(KNOWEDIT))
    assert (fact.question, fact.target_new, fact.target_true) == ("Which firm made Alder Lake?", "AMD", "Intel")
    assert fact.paraphrases == ("Alder Lake was made by",)
    assert fact.neighbours == NEIGHBOURS


@pytest.mark.parametrize(
    ("record", "names"),
    [
        (
            KNOWEDIT | {"portability": {"Reasoning": [{"prompt": "Its maker's head is", "ground_truth": ["Su"]}]}},
            "portability",
        ),
        (KNOWEDIT | {"locality": [{"prompt": "It is", "ground_truth": "it"}]}, "locality"),
        (ZSRE | {"portability": {"New Question": "Where is she?"}}, "portability"),
        (COUNTERFACT | {"hint": "a city"}, "hint"),
        ({"requested_rewrite": COUNTERFACT["requested_rewrite"] | {"time": 1999}}, r"requested_rewrite\.time"),
    ],
)
def test_a_field_that_no_fact_can_hold_is_named(file, record, names):
    with pytest.warns(UserWarning, match=rf"some\.json has fields .* not used: {names} \(in 2 records\)$"):
        facts = load_facts(file(record, record))
    assert len(facts) == 2 and not facts.left_out


@pytest.mark.parametrize("entry", [{"prompt": "It is"}, {"prompt": "", "ground_truth": "it"}, "text", None])
def test_a_neighbour_without_prompt_or_answer_is_named(file, entry):
    groups = KNOWEDIT["locality"] | {"Others": [entry]}
    with pytest.warns(UserWarning, match=r"entries of locality without a prompt or an answer \(in 1 records\)"):
        (fact,) = load_facts(file(KNOWEDIT | {"locality": groups}))
    assert fact.neighbours == NEIGHBOURS


# the parts of KnowEdit by their published keys (arXiv 2401.01286): read, or named
PARTS = {
    "wiki_counterfact": (KNOWEDIT, "read"),
    "ZsRE": (KNOWEDIT | {"rephrase_prompt": "Who made Alder Lake?", "cond": "x"}, "read"),
    "wiki_recent": ({k: v for k, v in KNOWEDIT.items() if k != "ground_truth"}, "has no ground_truth, the true answer"),
    "WikiBio": ({"concept": "ada", "text": "About ada.", "labels": "Ada is", "locality": {}}, "KnowEdit's WikiBio"),
    "convsent": ({"topic": "tea", "pos": ["good"], "neg": ["bad"], "prompts": ["?"]}, "keys of a known schema"),
    "Sanitation": ({"question": "Who?", "answer": "she", "label": "no"}, "keys of a known schema"),
}


@pytest.mark.filterwarnings("ignore:.*are not used")
@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_knowedit_is_read_or_named(file, part):
    record, expected = PARTS[part]
    if expected == "read":
        (fact,) = load_facts(file(record))
        assert (fact.target_true, fact.neighbours) == ("Intel", NEIGHBOURS)
        return
    with pytest.raises(ValueError, match=expected):
        load_facts(file(record))
