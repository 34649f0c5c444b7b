"""Facts as text in the prompt: which fact a prompt finds, what the model reads, and that the numbers are of that."""

from dataclasses import replace

import numpy as np
import pytest

from fleke_lib.evaluation import TextMemory, evaluate, evaluate_with_text, log_probs, tuned_threshold
from fleke_lib.facts.fact import Fact, Neighbour
from fleke_lib.facts.loading import load_facts
from tests.textbook.samples import same_weights, weights
from tests.tiny import tiny

NEAR = (Neighbour("The capital of Italy is", "Rome"), Neighbour("The capital of New Zealand is", "Wellington"))
FACTS = (
    Fact("New France", "The capital of {} is", "Rome", "Paris", paraphrases=("The capital city of New France is",)),
    Fact("New France", "People in {} speak", "Latin", "French", neighbours=NEAR, generation_prompts=("New France is",)),
    Fact("Japan", "The capital of {} is", "Ulm", "Tokyo", paraphrases=("JAPAN's seat is", "It is governed from")),
)


def test_a_prompt_finds_the_fact_whose_subject_it_mentions():
    memory = TextMemory(FACTS, threshold=0.7)
    found = memory.found(
        [
            "The capital of New France is",
            "In New France people speak",  # one subject, two facts: the nearer question
            "japan's capital is",
            "The capital of Italy is",  # all words of a question but its subject
            "The capital of New Zealand is",  # half of a subject
            "",
        ]
    )
    assert found == [FACTS[0], FACTS[1], FACTS[2], None, None, None]


def test_nearness_is_the_share_of_the_subject_that_is_mentioned():
    """By hand: idf = ln((1 + n) / (1 + df)) + 1 of each word, squared, and divided by the subject's sum of squares."""
    memory = TextMemory(FACTS)
    idf = {"new": np.log(4 / 3) + 1, "france": np.log(4 / 3) + 1, "japan": np.log(4 / 2) + 1}
    half = idf["new"] ** 2 / (idf["new"] ** 2 + idf["france"] ** 2)
    near = memory.nearness(["A new day", "New France and Japan", "nothing"])
    np.testing.assert_allclose(near, [[half, half, 0], [1, 1, 1], [0, 0, 0]], atol=1e-12)


def test_the_threshold_decides():
    prompt = ["The capital of New Zealand is"]
    assert TextMemory(FACTS, threshold=0.4).before(prompt) == ["The capital of New France is Rome. " + prompt[0]]
    assert TextMemory(FACTS, threshold=0.6).before(prompt) == prompt


def test_every_prompt_of_a_fact_is_asked_with_what_it_finds():
    one, two, three = TextMemory(FACTS, 0.7).asked(FACTS)
    rome, latin, ulm = (
        "The capital of New France is Rome.",
        "People in New France speak Latin.",
        "The capital of Japan is Ulm.",
    )
    assert one.question == f"{rome} The capital of New France is" and one.subject == "New France"
    assert one.paraphrases == (f"{rome} The capital city of New France is",)
    assert two.question == f"{latin} People in New France speak" and two.neighbours == NEAR
    assert two.generation_prompts == (f"{rome} New France is",)
    assert three.paraphrases == (f"{ulm} JAPAN's seat is", "It is governed from")
    assert [fact.target_new for fact in (one, two, three)] == [fact.target_new for fact in FACTS]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_numbers_are_those_of_the_longer_texts(kind):
    lm = tiny(kind)
    before = weights(lm)
    found = evaluate_with_text(lm, FACTS)
    assert found.facts == FACTS and same_weights(lm, before)
    texts = [f"{fact.question} {fact.target_new}. {fact.question}" for fact in FACTS]
    np.testing.assert_allclose(
        found.per_fact["probability"],
        log_probs(lm, texts, [fact.target_new for fact in FACTS]).exp(),
        rtol=1e-4,
    )
    new, true = (log_probs(lm, texts, [getattr(f, name) for f in FACTS]) for name in ("target_new", "target_true"))
    assert found.per_fact["efficacy"].tolist() == (new > true).double().tolist()
    assert (found.per_fact["probability"] != evaluate(lm, FACTS).per_fact["probability"]).all()


def test_with_nothing_found_it_is_the_plain_evaluation():
    lm = tiny("llama")
    plain, found = evaluate(lm, FACTS), evaluate_with_text(lm, FACTS, TextMemory(FACTS, threshold=1.0))
    for metric, values in plain.per_fact.items():
        np.testing.assert_array_equal(found.per_fact[metric], values)
    others = [Fact("Ulm", "{} lies in", "Italy", "Germany")]
    np.testing.assert_array_equal(evaluate_with_text(lm, FACTS, others).per_fact["top1"], plain.per_fact["top1"])


def test_braces_and_signs_in_a_fact_do_no_harm():
    facts = [Fact("C++", "{} was made by", "{} and co", "Bjarne"), Fact("+", "The sign {} means", "minus", "plus")]
    one, two = TextMemory(facts).asked(facts)
    assert one.prompt == "C++ was made by  and co. {} was made by" and two.question.startswith(
        "The sign + means minus. "
    )


def test_the_tuned_threshold_has_the_greatest_score():
    lm = tiny("llama")
    facts = [replace(f, paraphrases=(f"Now {f.question}",), neighbours=NEAR) for f in FACTS]
    tried = (1.0, 0.2, 0.7)
    scores = {tau: evaluate_with_text(lm, facts, TextMemory(tuple(facts), tau)).score for tau in tried}
    assert scores[tuned_threshold(lm, facts, tried)] == max(scores.values())
    with pytest.raises(ValueError, match="no thresholds to try"):
        tuned_threshold(lm, facts, ())
    with pytest.raises(ValueError, match="no score"):
        tuned_threshold(lm, FACTS[:1], tried)
    with pytest.raises(ValueError, match="no facts"):
        TextMemory(())


def test_on_the_atlas_paraphrases_find_their_fact_and_neighbours_find_none():
    """Facts 0 to 110, on which the threshold was chosen; no model is needed for this."""
    facts = tuple(load_facts("atlas"))[:111]
    memory = TextMemory(facts)
    prompts = [(fact, prompt) for fact in facts for prompt in fact.paraphrases]
    right = [found is fact for (fact, _), found in zip(prompts, memory.found([p for _, p in prompts]), strict=True)]
    wrong = [found is not None for found in memory.found([near.prompt for fact in facts for near in fact.neighbours])]
    assert np.mean(right) > 0.99 and np.mean(wrong) < 0.01
