"""Known facts against one question at a time, and the errors."""

import pytest
import torch

from fleke_lib import known_facts
from fleke_lib.evaluation import evaluate
from fleke_lib.facts.fact import Fact
from fleke_lib.model.tokens import encode_for
from tests.federation.small import facts
from tests.tiny import tiny


def first_choices(lm, fact) -> bool:
    """Whether each token of the true answer is the argmax, one text at a time."""
    text = encode_for(lm, fact.question, fact.target_true)
    with torch.no_grad():
        said = lm.model(torch.tensor([text.ids])).logits[0].argmax(-1).tolist()
    return all(said[place - 1] == text.ids[place] for place in range(text.target, len(text.ids)))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_known_facts_are_those_of_one_question_at_a_time(kind):
    lm = tiny(kind)
    some = facts()
    for i in (0, 7):  # give the model two answers of its own, so that some facts are known
        ids = encode_for(lm, some[i].question, some[i].target_true)
        with torch.no_grad():
            word = lm.tokenizer.decode(lm.model(torch.tensor([ids.prompt_ids])).logits[0, -1].argmax()).strip()
        some[i] = Fact(some[i].subject, some[i].prompt, some[i].target_new, word or "a", some[i].relation)
    assert known_facts(lm, some) == tuple(fact for fact in some if first_choices(lm, fact))
    preferred = known_facts(lm, some, "preferred")
    efficacy = evaluate(lm, some).per_fact["efficacy"]
    assert preferred == tuple(fact for fact, new in zip(some, efficacy, strict=True) if not new)
    assert 0 < len(preferred) < len(some)


def test_bad_input_is_said():
    lm = tiny("llama")
    with pytest.raises(ValueError, match="no facts"):
        known_facts(lm, [])
    with pytest.raises(ValueError, match="give 'top1' or 'preferred'"):
        known_facts(lm, facts(), "certain")


@pytest.mark.model
def test_the_default_model_prefers_the_atlas(lm):
    """The atlas was made of facts that this model prefers; a choice that `known_facts` must find again."""
    import fleke_lib as fleke

    atlas = fleke.load_facts("atlas", 60)
    assert len(known_facts(lm, atlas, "preferred")) == 60
    assert 0 < len(known_facts(lm, atlas)) < 60
