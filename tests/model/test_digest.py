"""A model's digest and fingerprint: all weights count, unchanged weights are hashed once, edits have their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fleke_lib.edit import Edit
from fleke_lib.model import digest
from fleke_lib.model.digest import weights_digest
from fleke_lib.model.language_model import load_model
from fleke_lib.ridge.solve import LowRank
from tests.tiny import KINDS, tiny


@pytest.fixture
def hashed(monkeypatch):
    """A list that grows by one whenever a model is hashed in full."""
    calls, whole = [], digest._hash_all
    monkeypatch.setattr(digest, "_hash_all", lambda weights: calls.append(weights) or whole(weights))
    return calls


def exchange(weight):
    one, other = weight[0, 0].clone(), weight[1, 1].clone()
    weight[0, 0], weight[1, 1] = other, one


def through_numpy(weight):
    weight.numpy()[3, 2] *= np.float32(1.5)


CHANGES = {
    "a number": lambda weight: weight[1, 2].add_(1e-3),
    "the last bit": lambda weight: weight.view(torch.int32)[-1, -1].bitwise_xor_(1),
    "behind the version counter": lambda weight: weight.data[2].mul_(2),
    "through numpy": through_numpy,
    "two numbers exchanged": exchange,
    "two rows exchanged": lambda weight: weight.copy_(weight[[1, 0, *range(2, len(weight))]]),
    "all signs": lambda weight: weight.neg_(),
    "an even number of signs": lambda weight: weight[:2].neg_(),
    "all doubled": lambda weight: weight.mul_(2),
    "all far greater": lambda weight: weight.mul_(2.0**8),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_weight_that_changed_in_place_is_noticed(kind, change, hashed):
    lm = tiny(kind)
    base = weights_digest(lm)
    assert weights_digest(lm) == base and weights_digest(replace(lm, name="the same model")) == base
    assert len(hashed) == 1
    weight = lm.projection(2).weight.detach()
    before = weight.clone()
    with torch.no_grad():
        CHANGES[change](weight)
    assert weights_digest(lm) != base and len(hashed) == 2
    with torch.no_grad():
        weight.copy_(before)
    assert weights_digest(lm) == base


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_counts(kind):
    """Norms, biases and embeddings too; so does a weight that was replaced by another tensor."""
    lm = tiny(kind)
    seen = {weights_digest(lm)}
    parameters = list(lm.model.parameters())
    for weight in parameters:
        with torch.no_grad():
            weight.view(-1)[0] += 1
        seen.add(weights_digest(lm))
    assert len(seen) == len(parameters) + 1
    lm.projection(0).weight = torch.nn.Parameter(lm.projection(0).weight * 2, requires_grad=False)
    assert weights_digest(lm) not in seen


def test_in_half_precision_too():
    lm = tiny("llama")
    lm.model.to(torch.bfloat16)
    base = weights_digest(lm)
    lm.weight(1).view(torch.int16)[0, 0].bitwise_xor_(1)
    assert weights_digest(lm) != base


def test_an_applied_edit_is_never_taken_for_the_base_even_one_that_changes_nothing(monkeypatch, hashed):
    lm = tiny("llama")
    base = weights_digest(lm)
    some, none = torch.ones(lm.d_model, 1), torch.zeros(lm.d_model, 1)
    right = torch.ones(1, lm.d_mlp)
    with Edit({1: LowRank(some, right)}, lm.fingerprint((1,))).applied(lm):
        assert weights_digest(lm) != base
        monkeypatch.setattr(digest, "checksum", lambda weights: "the same for all weights")
        assert weights_digest(lm) != base
    monkeypatch.undo()
    with Edit({1: LowRank(none, right)}, lm.fingerprint((1,))).applied(lm):
        assert weights_digest(lm) == base  # the same weights
    assert weights_digest(lm) == base


# Fingerprints


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "through numpy"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_fingerprint_notices_it_as_well(kind, change, hashed):
    lm = tiny(kind)
    base = lm.fingerprint((1,))
    assert lm.fingerprint((1,)) == base and replace(lm, name="the same model").fingerprint((1,)) == base
    weight = lm.attention_out(2).weight.detach()
    before = weight.clone()
    with torch.no_grad():
        CHANGES[change](weight)
    assert lm.fingerprint((1,)) != base and len(hashed) == 2
    with torch.no_grad():
        weight.copy_(before)
    assert lm.fingerprint((1,)) == base


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_counts_in_a_fingerprint(kind):
    lm = tiny(kind)
    seen = {lm.fingerprint((1,))}
    for weight in lm.model.parameters():
        weight.numpy().reshape(-1)[0] += 1  # the version counter stays
        seen.add(lm.fingerprint((1,)))
    assert len(seen) == len(list(lm.model.parameters())) + 1


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("llama", "rms_norm_eps", 1e-3),
        ("llama", "rope_parameters", {"rope_theta": 5e5, "rope_type": "default"}),
        ("mistral", "sliding_window", 4),
        ("gpt2", "activation_function", "relu"),
        ("gemma3_text", "query_pre_attn_scalar", 2),
    ],
)
def test_the_configuration_counts(kind, name, value):
    lm = tiny(kind)
    before = lm.fingerprint((1,))
    setattr(lm.model.config, name, value)
    assert lm.fingerprint((1,)) != before


def test_what_does_not_change_a_models_output_does_not_count(tmp_path):
    lm = tiny("llama")
    before = lm.fingerprint((1,))
    lm.model.config.use_cache, lm.model.config.pad_token_id = False, 0
    assert lm.fingerprint((1,)) == before
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path).fingerprint((1,)) == before


def small_edit(lm, seed=0, layers=(1, 2)) -> Edit:
    """A random edit, computed on the model as it is now."""
    generator = torch.Generator().manual_seed(seed)
    sides = [(lm.d_model, 2), (2, lm.d_mlp)]
    factors = {layer: LowRank(*(0.1 * torch.randn(side, generator=generator) for side in sides)) for layer in layers}
    return Edit(factors, lm.fingerprint(layers))


@pytest.mark.parametrize("kind", KINDS)
def test_applied_edits_change_the_fingerprint_and_their_removal_restores_it(kind, hashed):
    lm, same = tiny(kind), tiny(kind)
    base, one, two = lm.fingerprint((1, 2)), small_edit(lm, 1), small_edit(lm, 2, (2, 3))
    seen = [base]
    for edit in (one, two):
        edit.apply(lm)
        seen.append(lm.fingerprint((1, 2)))
        assert lm.fingerprint((1, 2), base=True) == base
    assert len(set(seen)) == 3
    one.apply(same), two.apply(same)
    assert same.fingerprint((1, 2)) == seen[2]  # by content: another model with the same edits
    for edit, before in ((two, seen[1]), (one, seen[0])):
        edit.remove(lm)
        assert lm.fingerprint((1, 2)) == before
    assert len(hashed) == 2  # one for each model


def test_weights_that_change_under_an_applied_edit_are_noticed():
    lm = tiny("gpt2")
    edit = small_edit(lm)
    with edit.applied(lm):
        now, base = lm.fingerprint((1,)), lm.fingerprint((1,), base=True)
        lm.weight(2)[0, 0] += 1  # an edited weight, restored when the edit is removed
        assert lm.fingerprint((1,)) != now and lm.fingerprint((1,), base=True) == base
        lm.layers[3].ln_1.bias[0] += 1
        assert lm.fingerprint((1,), base=True) != base
    with pytest.raises(ValueError, match="fingerprints differ"):
        edit.apply(lm)


def test_applying_and_removing_edits_reads_unchanged_weights_only_once(monkeypatch):
    """Of the full checksums, which are slow, only those of the edited layers are computed again."""
    lm, sums, checksum = tiny("llama"), [], digest.checksum
    edit = small_edit(lm)
    monkeypatch.setattr(digest, "checksum", lambda weights: sums.append(1) or checksum(weights))
    for _ in range(5):
        with edit.applied(lm):
            lm.fingerprint((1,))
    assert len(sums) <= 5 * 2 * len(edit.layers)
