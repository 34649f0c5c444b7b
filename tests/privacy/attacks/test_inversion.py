"""Tokens of subjects found again from the states of tiny models, which one ordinary pass gives."""

from dataclasses import replace

import pytest
import torch

from fleke_lib.model.activations import record
from fleke_lib.privacy.attacks.inversion import Effort, invert, vocabulary
from fleke_lib.privacy.attacks.public import Views
from fleke_lib.privacy.attacks.subject import CERTAIN
from tests.privacy.attacks.cases import LAYERS
from tests.tiny import tiny

BEFORE = "The capital of "
KINDS = ["llama", "gpt2"]


@torch.no_grad()
def states(lm, before: str, tokens: list[int]) -> Views:
    """h and the key of the last token, in 16 bits as a packet has them."""
    ids = torch.tensor([[*lm.tokenizer(before.rstrip(" ")).input_ids, *tokens]])
    with record(inputs={"k": lm.projection(1)}, outputs={"h": lm.layers[2]}) as seen:
        lm.model(input_ids=ids)
    return Views(*(seen[name][:, -1].half().float() for name in ("h", "k")))


@torch.no_grad()
def order(lm, before: str, tokens: list[int]) -> list[int]:
    """The vocabulary from the most to the least probable next token, by one ordinary pass."""
    opening = [lm.tokenizer.convert_tokens_to_ids("<|endoftext|>")] if "gpt2" in lm.name else []
    ids = torch.tensor([[*opening, *lm.tokenizer(before.rstrip(" ")).input_ids, *tokens]])
    return lm.model(input_ids=ids).logits[0, -1].argsort(descending=True).tolist()


def together(*shown: Views) -> Views:
    return Views(torch.cat([one.h for one in shown]), torch.cat([one.key for one in shown]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_is_every_token_behind_one_word(kind):
    lm = tiny(kind)
    known = vocabulary(lm, LAYERS)
    assert known.views[0].h.shape == (len(lm.tokenizer), lm.d_model)
    for token in (0, 7, 255, 300, len(lm.tokenizer) - 1):
        alone = states(lm, "The", [token])
        assert torch.allclose(known.views[0].h[token], alone.h[0], rtol=2e-3, atol=1e-3)
        assert torch.allclose(known.views[0].key[token], alone.key[0], rtol=2e-3, atol=1e-3)


def telling(known, shown: Views, lasts: list[int]):
    """The dictionary in which each packet's last token is surely the first: it has the packet's own views."""
    h, key = known.views[0].h.clone(), known.views[0].key.clone()
    h[lasts], key[lasts] = shown.h, shown.key
    return replace(known, views=(Views(h, key),))


@pytest.mark.parametrize("kind", KINDS)
def test_subjects_of_one_to_three_tokens_are_found_and_proved(kind):
    lm = tiny(kind)
    first = order(lm, BEFORE, [])[40]
    second = order(lm, BEFORE, [first])[2]
    true = [[300], [first, 301], [first, second, 302]]
    shown = together(*(states(lm, BEFORE, tokens) for tokens in true))
    known = telling(vocabulary(lm, LAYERS), shown, [300, 301, 302])
    found = invert(lm, shown, [BEFORE] * 3, known, LAYERS, Effort(2, 50, 3, 50, 3))
    assert [list(one.tokens) for one in found] == true
    assert all(one.certain and one.distance < 1e-3 for one in found)


def test_the_vocabulary_itself_has_the_only_token_first():
    lm = tiny("llama")
    shown = together(*(states(lm, BEFORE, [token]) for token in (300, 310, 320)))
    found = invert(lm, shown, [BEFORE] * 3, vocabulary(lm, LAYERS, BEFORE.strip()), LAYERS, Effort(longest=1))
    assert [one.tokens for one in found] == [(300,), (310,), (320,)]


def test_a_subject_at_the_start_of_a_text_is_found():
    lm = tiny("llama")
    true = [order(lm, "", [])[5], 301]
    shown = states(lm, "", true)
    found = invert(lm, shown, [""], telling(vocabulary(lm, LAYERS), shown, [301]), LAYERS, Effort(2, 10))
    assert found[0].certain and list(found[0].tokens) == true


def test_what_the_search_does_not_reach_is_not_claimed():
    lm = tiny("llama")
    known, likely = vocabulary(lm, LAYERS), order(lm, BEFORE, [])
    for first, effort, reached in (
        (likely[9], Effort(2, 10, longest=2), True),
        (likely[10], Effort(2, 10, longest=2), False),  # not among the likely first tokens
        (likely[9], Effort(2, 10, longest=1), False),  # longer than the search
    ):
        shown = states(lm, BEFORE, [first, 301])
        found = invert(lm, shown, [BEFORE], telling(known, shown, [301]), LAYERS, effort)[0]
        assert found.certain == reached == (list(found.tokens) == [first, 301])
        assert reached or found.distance > 10 * CERTAIN


def test_only_the_nearest_prefixes_go_on():
    lm = tiny("llama")
    pool = order(lm, BEFORE, [])[:30]
    second = order(lm, BEFORE, [pool[3]])[0]
    shown = states(lm, BEFORE, [pool[3], second, 302])
    known = telling(vocabulary(lm, LAYERS), shown, [302])
    far = [float((states(lm, BEFORE, [one, 302]).h - shown.h).norm()) for one in pool]
    place = sorted(range(30), key=far.__getitem__).index(3)
    assert 0 < place < 29

    def certain(kept: int) -> bool:
        return invert(lm, shown, [BEFORE], known, LAYERS, Effort(1, 30, 1, kept, 3))[0].certain

    assert certain(place + 1) and not certain(place)


def test_vectors_that_are_no_states_prove_nothing():
    lm = tiny("llama")
    generator = torch.Generator().manual_seed(0)
    real = states(lm, BEFORE, [300])
    h = torch.randn(5, lm.d_model, generator=generator)
    shown = Views(h / h.norm(dim=1, keepdim=True) * real.h.norm(), torch.randn(5, lm.d_mlp, generator=generator))
    found = invert(lm, shown, [BEFORE] * 5, vocabulary(lm, LAYERS), LAYERS, Effort(4, 20, 3, 5, 2))
    assert not any(one.certain for one in found) and min(one.distance for one in found) > 0.1
