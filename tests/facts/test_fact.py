"""A fact as users type it: blanks, one text in place of a list, and two Unicode forms of one text."""

import json
import unicodedata
from dataclasses import replace

import pytest

from fleke_lib.facts.fact import Fact, Neighbour
from fleke_lib.facts.loading import load_facts
from fleke_lib.facts.prompts import bare_text
from tests.tiny import tiny

FRANCE = Fact("France", "The capital of {} is", "Rome", "Paris")


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3_text"])
def test_blanks_around_a_subject_do_not_move_the_key(kind):
    lm = tiny(kind)
    for subject in ("France ", " France", "France\n", "\u00a0France"):
        fact = replace(FRANCE, subject=subject)
        assert fact == FRANCE and fact.question == "The capital of France is"
        text = bare_text(lm, fact)
        assert lm.tokenizer.decode([text.ids[text.subject[1]]]).strip()


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("paraphrases", "France's capital is"),
        ("paraphrases", [None]),
        ("paraphrases", 5),
        ("generation_prompts", "France is"),
        ("neighbours", "The capital of Italy is"),
        ("neighbours", Neighbour("The capital of Italy is", "Rome")),
        ("neighbours", [("The capital of Italy is", "Rome")]),
    ],
)
def test_what_is_no_list_of_texts_or_neighbours_is_refused(field, given):
    with pytest.raises(ValueError, match=f"^{field} of .*'France' is .*: give a list of"):
        replace(FRANCE, **{field: given})


def test_a_target_that_is_the_truth_in_another_unicode_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the truth already"):
        replace(FRANCE, target_new=unicodedata.normalize("NFD", "Orléans"), target_true="Orléans")
    record = {"subject": "Ada", "src": "Where is Ada?", "loc": "Who?", "loc_ans": "He", "answers": ["Rome", "Orléans"]}
    texts = [record | {"alt": answer} for answer in (unicodedata.normalize("NFD", "Orléans"), "Oslo")]
    (tmp_path / "zsre.json").write_text(json.dumps(texts))
    with pytest.warns(UserWarning, match="is one of the true answers"):
        assert [fact.target_new for fact in load_facts(tmp_path / "zsre.json")] == ["Oslo"]


def test_the_model_reads_a_text_as_it_is_written():
    fact = replace(FRANCE, subject="Sa\u0303o Paulo")
    assert fact.question == "The capital of Sa\u0303o Paulo is"
