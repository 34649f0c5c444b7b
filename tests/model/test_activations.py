"""Layers that run again give the model's own states: ranges, row selections and prefixes against full passes."""

import functools

import pytest
import torch

from fleke_lib.model import activations as tracing
from fleke_lib.model.activations import layer_calls, prefix_of, record, rewrite
from fleke_lib.model.tokens import filler, pad
from tests.tiny import KINDS, tiny

TEXTS = ["The capital of France is Paris", "The author", "The mother tongue of Danielle Darrieux is not the one"]
CLOSE = {"atol": 1e-5, "rtol": 0}

model = functools.cache(tiny)  # these tests do not change it
each_kind = pytest.mark.parametrize("kind", KINDS)
each_side = pytest.mark.parametrize("side", ["left", "right"])


def batch(lm, side="right", texts=TEXTS):
    return pad([lm.tokenizer(text)["input_ids"] for text in texts], filler(lm.tokenizer), side)


@torch.no_grad()
def forward(lm, ids, mask, positions):
    """The body's last hidden state, after the final norm, in one ordinary pass."""
    return lm.body(ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state


@torch.no_grad()
def entering_states(lm, ids, mask, positions):
    """What enters each layer, as transformers itself returns it."""
    return lm.body(ids, attention_mask=mask, position_ids=positions, output_hidden_states=True).hidden_states[:-1]


def hooks(lm):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def close(got, wanted, mask):
    """Equal at every token that is not padding."""
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], **CLOSE)


@each_kind
@each_side
def test_a_run_is_the_ordinary_forward_pass(kind, side):
    lm = model(kind)
    ids, mask, positions = batch(lm, side)
    full = forward(lm, ids, mask, positions)
    states = entering_states(lm, ids, mask, positions)
    for start in range(lm.n_layers + 1):
        calls = layer_calls(lm, ids, mask, positions, start=start)
        assert len(calls.arguments) == lm.n_layers - start
        if start < lm.n_layers:
            close(calls.hidden, states[start], mask)
        close(lm.final_norm(calls.run(lm)), full, mask)


@each_kind
def test_a_run_without_mask_and_positions(kind):
    lm = model(kind)
    ids = batch(lm, texts=TEXTS[:1])[0]
    full = forward(lm, ids, None, None)
    torch.testing.assert_close(lm.final_norm(layer_calls(lm, ids).run(lm)), full, **CLOSE)


@each_kind
def test_stretches_of_layers(kind):
    """Stopping, going on from a later layer, and starting there give the states of the whole pass."""
    lm = model(kind)
    ids, mask, positions = batch(lm)
    states = entering_states(lm, ids, mask, positions)
    whole = layer_calls(lm, ids, mask, positions)
    for stop in range(lm.n_layers):
        close(whole.run(lm, stop=stop), states[stop], mask)
        later = whole.from_layer(lm, stop)
        assert later.start == stop
        close(later.hidden, states[stop], mask)
        close(later.run(lm), whole.run(lm), mask)
        close(whole.run(lm, states[stop], start=stop), whole.run(lm), mask)
        for start in range(stop + 1):
            part = layer_calls(lm, ids, mask, positions, start=start, stop=stop)
            assert len(part.arguments) == stop - start
            close(part.run(lm, stop=stop), states[stop], mask)


def test_layers_above_stop_are_not_run():
    lm = tiny("llama")  # its own, for the hooks
    ids, mask, positions = batch(lm)
    ran = []
    for number, layer in enumerate(lm.layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    layer_calls(lm, ids, mask, positions, start=1, stop=2)
    assert ran == [0, 1]


def test_layers_between_start_and_stop_are_noted_and_do_not_compute():
    lm = tiny("llama")
    ids, mask, positions = batch(lm)
    ran = []
    for number, layer in enumerate(lm.layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    calls = layer_calls(lm, ids, mask, positions, start=1, stop=4)
    assert ran == [0, 1] and len(calls.arguments) == 3
    calls.run(lm, stop=4)
    assert ran == [0, 1, 1, 2, 3]


def test_a_forward_that_stood_in_for_a_layers_own_stands_there_again():
    lm = tiny("llama")
    ids, mask, positions = batch(lm)
    mine = lm.layers[3].forward
    lm.layers[3].forward = mine  # as libraries that wrap layers do
    layer_calls(lm, ids, mask, positions)
    assert vars(lm.layers[3])["forward"] is mine
    assert "forward" not in vars(lm.layers[2])


@each_kind
@each_side
@pytest.mark.parametrize("index", [[0], [2, 0], [1, 1, 0, 2, 2]])
def test_rows_are_the_rows_of_the_batch(kind, side, index):
    """A selection, repeats included, runs as the batch of these rows does; also of a single row."""
    lm = model(kind)
    ids, mask, positions = batch(lm, side)
    index = torch.tensor(index, dtype=torch.long)
    calls = layer_calls(lm, ids, mask, positions, start=1)
    chosen = calls.rows(index)
    assert len(chosen.hidden) == len(index)
    close(chosen.run(lm), calls.run(lm)[index], mask[index])
    again = layer_calls(lm, ids[index], mask[index], positions[index], start=1)
    close(chosen.run(lm), again.run(lm), mask[index])
    alone = layer_calls(lm, ids[:1], mask[:1], positions[:1], start=1)
    zeros = torch.zeros(len(index), dtype=torch.long)
    close(alone.rows(zeros).run(lm), alone.run(lm)[zeros], mask[zeros])


@each_kind
def test_rows_of_a_square_batch(kind):
    """With as many rows as tokens, or as layers, rows are still distinguished from tokens."""
    lm = model(kind)
    for rows in (4, 6):
        ids, mask, positions = pad([[7 + row, 8, 9 + row, 10, 11, 12][: 6 - row % 2] for row in range(rows)], 0)
        calls = layer_calls(lm, ids, mask, positions)
        index = torch.arange(rows).flip(0)
        close(calls.rows(index).run(lm), calls.run(lm)[index], mask[index])


@each_kind
def test_a_prefix_gives_the_full_pass(kind):
    """Prefixes of different lengths, one of them empty, then the rest of each row: the states of the whole rows."""
    lm = model(kind)
    rows = [lm.tokenizer(text)["input_ids"] for text in TEXTS]
    cuts = [3, 0, len(rows[2]) - 2]
    before, before_mask, before_positions = pad([row[:cut] for row, cut in zip(rows, cuts, strict=True)], 0, "left")
    rest, rest_mask, rest_positions = pad([row[cut:] for row, cut in zip(rows, cuts, strict=True)], 0, "right")
    positions = rest_positions + torch.tensor(cuts)[:, None]
    prefix = prefix_of(lm, before, before_mask, before_positions)
    mask = torch.cat([before_mask, rest_mask], 1)
    full = forward(lm, *pad(rows, 0))

    for start in (0, 2, lm.n_layers):
        calls = layer_calls(lm, rest, mask, positions, prefix, start=start)
        for _ in range(2):  # the prefix has not grown
            got = lm.final_norm(calls.run(lm))
            for row, cut in enumerate(cuts):
                torch.testing.assert_close(got[row, : len(rows[row]) - cut], full[row, cut : len(rows[row])], **CLOSE)
        index = torch.tensor([2, 0, 2])
        close(calls.rows(index).run(lm), calls.run(lm)[index], rest_mask[index])


@each_kind
def test_a_prefix_of_one_row_serves_many(kind):
    lm = model(kind)
    ids, mask, positions = batch(lm, texts=TEXTS[:1])
    prefix = prefix_of(lm, ids[:, :2], mask[:, :2], positions[:, :2])
    calls = layer_calls(lm, ids[:, 2:], mask, positions[:, 2:], prefix)
    full = forward(lm, ids, mask, positions)[:, 2:]
    torch.testing.assert_close(
        lm.final_norm(calls.rows(torch.tensor([0, 0, 0])).run(lm)), full.expand(3, -1, -1), **CLOSE
    )


def test_no_prefix_where_there_are_no_tokens():
    lm = tiny("gpt2")
    empty = torch.zeros(2, 0, dtype=torch.long)
    assert prefix_of(lm, empty, empty, empty) is None


@each_kind
@torch.enable_grad()
def test_gradients_flow_through_a_run(kind):
    """The gradient at a state equals that of an ordinary pass into which this state is inserted."""
    lm = model(kind)
    ids, mask, positions = batch(lm)
    calls = layer_calls(lm, ids, mask, positions, start=2)
    assert not calls.hidden.requires_grad
    through_run, through_model = calls.hidden.clone().requires_grad_(), calls.hidden.clone().requires_grad_()

    lm.logits(calls.run(lm, through_run))[:, 1].log_softmax(-1)[:, 5].sum().backward()
    with rewrite({lm.layers[1]: lambda state: through_model}):
        logits = lm.model(ids, attention_mask=mask, position_ids=positions).logits
    logits[:, 1].log_softmax(-1)[:, 5].sum().backward()
    assert through_run.grad[:, :2].norm(dim=-1).min() > 1e-3  # at every token that the attention reads
    torch.testing.assert_close(through_run.grad, through_model.grad, **CLOSE)


@each_kind
def test_record_sees_what_enters_and_leaves(kind):
    lm = model(kind)
    ids, mask, positions = batch(lm)
    with record(
        inputs={"key": lm.projection(1), "in": lm.layers[1], "attention": _attention(lm, 1)},
        outputs={"mlp": lm.projection(1), "out": lm.layers[1]},
    ) as seen:
        lm.model(ids, attention_mask=mask, position_ids=positions)
    states = entering_states(lm, ids, mask, positions)
    assert set(seen) == {"key", "in", "attention", "mlp", "out"}
    assert seen["key"].shape == (*ids.shape, lm.d_mlp)
    assert seen["mlp"].shape == seen["attention"].shape == (*ids.shape, lm.d_model)
    close(seen["in"], states[1], mask)
    close(seen["out"], states[2], mask)
    torch.testing.assert_close(lm.projection(1)(seen["key"]), seen["mlp"], **CLOSE)
    assert not any(value.requires_grad for value in seen.values())


def _attention(lm, layer):
    path, _, _ = lm.arch.attention.rpartition(".")
    return lm.layers[layer].get_submodule(path)


@each_kind
def test_rewrite_replaces_what_a_module_returns(kind):
    lm = model(kind)
    ids, mask, positions = batch(lm)
    plain = forward(lm, ids, mask, positions)
    with rewrite({lm.layers[2]: lambda state: state}):
        close(forward(lm, ids, mask, positions), plain, mask)
    other = torch.randn(*ids.shape, lm.d_model, generator=torch.Generator().manual_seed(2))
    with rewrite({lm.layers[2]: lambda state: other, lm.projection(0): lambda out: 0 * out}):
        changed = forward(lm, ids, mask, positions)
    calls = layer_calls(lm, ids, mask, positions)
    close(changed, lm.final_norm(calls.run(lm, other, start=3)), mask)
    assert (changed - plain).abs().max() > 0.1
    close(forward(lm, ids, mask, positions), plain, mask)


def test_rewrite_keeps_the_rest_of_a_tuple():
    module = torch.nn.Identity()
    with rewrite({module: lambda state: state + 1}):
        assert module((1, "weights", None)) == (2, "weights", None)
        assert module(1) == 2
    assert module((1, "weights")) == (1, "weights")


def test_hooks_are_gone_after_the_block_and_after_an_error(monkeypatch):
    lm = tiny("gpt2")
    ids, mask, positions = batch(lm)
    layer_calls(lm, ids, mask, positions, start=1, stop=3)
    with pytest.raises(RuntimeError, match="mine"), record({0: lm.layers[0]}, {0: lm.layers[1]}):
        raise RuntimeError("mine")
    with pytest.raises(RuntimeError, match="mine"), rewrite({lm.layers[0]: lambda state: state}):
        raise RuntimeError("mine")
    with pytest.raises(IndexError):
        layer_calls(lm, ids + 10_000, mask, positions)
    assert hooks(lm) == 0
    monkeypatch.setattr(tracing, "_forward", None)
    with pytest.raises(TypeError):
        layer_calls(lm, ids, mask, positions)
    assert hooks(lm) == 0


@each_kind
def test_nothing_is_left_in_the_model(kind):
    """Recording calls and running prefixes changes neither the weights nor the model's results."""
    lm = model(kind)
    ids, mask, positions = batch(lm)
    weights = {name: value.clone() for name, value in lm.model.state_dict().items()}
    plain, hung = forward(lm, ids, mask, positions), hooks(lm)
    calls = layer_calls(lm, ids, mask, positions, start=1, stop=3)
    calls.run(lm, stop=3)
    layer_calls(lm, ids, torch.cat([mask, mask], 1), positions + 9, prefix_of(lm, ids, mask, positions)).run(lm)
    assert torch.equal(forward(lm, ids, mask, positions), plain)
    assert all(torch.equal(value, weights[name]) for name, value in lm.model.state_dict().items())
    assert hooks(lm) == hung
    assert not any("forward" in vars(layer) for layer in lm.layers)
