"""Targets by the layers above L, against ordinary passes of the model with a hook."""

import pytest
import torch

from fleke_lib.facts.fact import Fact
from fleke_lib.model.activations import record
from fleke_lib.privacy.attacks.target import blind, continued, logit_lens, target_token, with_template
from tests.privacy.attacks.cases import continued_slowly
from tests.tiny import KINDS, tiny

CLOSE = 1e-4  # float32, and logits up to about 20


def states(n: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_continued_as_a_hook_continues_it(kind):
    lm, z = tiny(kind), states(3)
    for text, word in (("The name is the", "name"), ("The name", "name"), ("In the city of Rome people speak", "Rome")):
        start = text.index(word)
        found = continued(lm, text, (start, start + len(word)), 1, z)
        for row, state in zip(found, z, strict=True):
            assert torch.allclose(row, continued_slowly(lm, text, word, 1, state), atol=CLOSE)


def test_the_blind_score_adds_what_the_edit_says_and_how_far_it_moved_from_the_base_model():
    lm, z, h = tiny("llama"), states(2), states(2, 1)
    found = blind(lm, z, h, 2, (" is", ""))
    for i in range(2):
        expected = 0
        for text in ("The name is", "The name"):
            with_it, without = (continued_slowly(lm, text, "name", 2, x[i]) for x in (z, h))
            expected = expected + with_it + (with_it - without)
        assert torch.allclose(found[i], expected, atol=4 * CLOSE)


def test_each_packet_is_read_in_its_own_template_and_with_its_own_subject():
    lm, z = tiny("gpt2"), states(4)
    templates = ["The author of {} is", "In {} people speak", "The author of {} is", "In {} people speak"]
    subjects = ["Hamlet", "Italy", "Faust", "Italy"]
    found = with_template(lm, z, 1, templates, subjects)
    unknown = with_template(lm, z, 1, templates)
    for i, (template, subject) in enumerate(zip(templates, subjects, strict=True)):
        slow = continued_slowly(lm, template.replace("{}", subject), subject, 1, z[i])
        assert torch.allclose(found[i], slow, atol=CLOSE)
        slow = continued_slowly(lm, template.replace("{}", "this name"), "name", 1, z[i])
        assert torch.allclose(unknown[i], slow, atol=CLOSE)


def test_the_state_of_the_prompt_itself_gives_back_what_the_model_says_and_another_one_does_not():
    lm, template = tiny("llama"), "The capital of {} is"
    subjects = ["France", "Italy", "Japan", "Germany"]
    texts = [torch.tensor([lm.tokenizer(template.replace("{}", subject)).input_ids]) for subject in subjects]
    h, said = [], []
    for subject, ids in zip(subjects, texts, strict=True):
        place = len(lm.tokenizer(f"The capital of {subject}").input_ids) - 1
        with record(outputs={"h": lm.layers[2]}) as seen, torch.no_grad():
            said.append(int(lm.model(input_ids=ids).logits[0, -1].argmax()))
        h.append(seen["h"][0, place])
    named = with_template(lm, torch.stack(h), 2, [template] * 4, subjects).argmax(1).tolist()
    assert named == said


def test_the_logit_lens_of_the_last_layers_state_is_the_models_answer():
    lm = tiny("gptj")
    ids = torch.tensor([lm.tokenizer("The capital of France").input_ids])
    with record(outputs={"last": lm.layers[-1]}) as seen, torch.no_grad():
        logits = lm.model(input_ids=ids).logits[0]
    assert torch.allclose(logit_lens(lm, seen["last"][0]), logits.log_softmax(-1), atol=CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_token_to_be_named_begins_the_target(kind):
    lm = tiny(kind)
    token = target_token(lm, Fact("France", "The capital of {} is", "Rome", "Paris"))
    assert "Rome".startswith(lm.tokenizer.decode([token]).strip())


def test_a_state_after_the_last_layer_has_no_layers_to_be_continued_by():
    with pytest.raises(ValueError, match="layer 4 does not exist"):
        continued(tiny("llama"), "The name", (4, 8), 3, states(1))
