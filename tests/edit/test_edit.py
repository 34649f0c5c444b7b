"""An edit as data: applied, removed, saved, loaded and exported to peft; every weight of the model is compared."""

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from fleke_lib.edit import Edit
from fleke_lib.ridge.solve import LowRank
from tests.textbook.samples import relative, same_weights, weights
from tests.tiny import KINDS, TEXT, tiny

LAYERS = (1, 2)
by_peft = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21 asks for it


def made(lm, seed: int = 0, layers=LAYERS, rank: int = 3, size: float = 0.05) -> Edit:
    """A random edit, whose ranks differ from layer to layer."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return size**0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)

    changes = {
        layer: LowRank(random(lm.d_model, rank + i), random(rank + i, lm.d_mlp)) for i, layer in enumerate(layers)
    }
    return Edit(changes, lm.fingerprint(layers), "random", {"seed": str(seed)})


@torch.no_grad()
def logits(model, tokenizer) -> torch.Tensor:
    return model(tokenizer(TEXT.splitlines()[0], return_tensors="pt")["input_ids"]).logits


@pytest.mark.parametrize("kind", KINDS)
def test_apply_adds_delta_and_remove_gives_the_weights_back(kind):
    lm = tiny(kind)
    before, base = weights(lm), {layer: lm.weight(layer).clone() for layer in range(lm.n_layers)}
    edit = made(lm)
    undo = edit.apply(lm)
    for layer in range(lm.n_layers):
        wanted = base[layer].double() + (edit.delta(layer) if layer in LAYERS else 0)
        assert torch.equal(lm.weight(layer), wanted.float())
    assert sum(not torch.equal(value, before[name]) for name, value in lm.model.state_dict().items()) == len(LAYERS)
    assert [applied.edit for applied in lm.edits] == [edit]
    undo.remove()
    assert same_weights(lm, before)
    assert lm.edits == []


def test_remove_gives_the_weights_back_where_subtracting_would_not():
    lm = tiny("llama")
    before, edit = weights(lm), made(lm, size=10.0)
    edit.apply(lm)
    assert not torch.equal(lm.weight(1) - edit.delta(1).float(), before["model.layers.1.mlp.down_proj.weight"])
    edit.remove(lm)
    assert same_weights(lm, before)


def test_a_model_in_half_precision_gets_its_bits_back_too():
    lm = tiny("llama")
    lm.model.to(torch.bfloat16)
    before, edit = weights(lm), made(lm)
    with edit.applied(lm):
        assert relative(lm.weight(1), before["model.layers.1.mlp.down_proj.weight"].double() + edit.delta(1)) < 2**-8
    assert same_weights(lm, before)


def test_applied_undoes_even_after_an_error():
    lm = tiny("gpt2")
    before = weights(lm)
    with pytest.raises(KeyboardInterrupt), made(lm).applied(lm) as edited:
        assert edited is lm
        assert not same_weights(lm, before)
        raise KeyboardInterrupt
    assert same_weights(lm, before)


@pytest.mark.parametrize("interrupted", [1, 2])
def test_an_interrupted_removal_can_be_repeated(interrupted, monkeypatch):
    """Ctrl-C at the first or second layer's copy: the edit still counts as applied, and its originals are kept."""
    lm, copies, copy_ = tiny("llama"), [], torch.Tensor.copy_
    before, edit = weights(lm), made(lm)
    edit.apply(lm)

    def stopped(self, other, *rest):
        copies.append(other)
        if len(copies) == interrupted:
            raise KeyboardInterrupt
        return copy_(self, other, *rest)

    monkeypatch.setattr(torch.Tensor, "copy_", stopped)
    with pytest.raises(KeyboardInterrupt):
        edit.remove(lm)
    assert [applied.edit for applied in lm.edits] == [edit]
    assert torch.equal(lm.base_weight(1), before["model.layers.1.mlp.down_proj.weight"])
    lm.edits[-1].remove()
    assert same_weights(lm, before) and lm.edits == []


def test_an_interrupted_application_whose_undoing_is_interrupted_can_be_undone(monkeypatch):
    """Ctrl-C at the second layer, and again while the first is restored."""
    lm, copies, copy_ = tiny("llama"), [], torch.Tensor.copy_
    before, edit = weights(lm), made(lm)

    def stopped(self, other, *rest):
        copies.append(other)
        if len(copies) in (2, 3):
            raise KeyboardInterrupt
        return copy_(self, other, *rest)

    monkeypatch.setattr(torch.Tensor, "copy_", stopped)
    with pytest.raises(KeyboardInterrupt):
        edit.apply(lm)
    assert not same_weights(lm, before)
    edit.remove(lm)
    assert same_weights(lm, before) and lm.edits == []


def test_edits_nest():
    lm = tiny("llama")
    before, one, two = weights(lm), made(lm, 1), made(lm, 2, layers=(2, 3))
    with one.applied(lm):
        between = weights(lm)
        with two.applied(lm):
            assert [applied.edit for applied in lm.edits] == [one, two]
            assert torch.equal(lm.base_weight(2), before["model.layers.2.mlp.down_proj.weight"])
            assert torch.equal(lm.base_weight(3), before["model.layers.3.mlp.down_proj.weight"])
        assert same_weights(lm, between)
    assert same_weights(lm, before)


def test_the_same_edit_may_be_applied_twice():
    lm = tiny("llama")
    before, edit = weights(lm), made(lm)
    edit.apply(lm), edit.apply(lm)
    assert relative(lm.weight(1), before["model.layers.1.mlp.down_proj.weight"].double() + 2 * edit.delta(1)) < 1e-6
    edit.remove(lm), edit.remove(lm)
    assert same_weights(lm, before)


def test_edits_removed_in_the_wrong_order_are_refused():
    lm = tiny("llama")
    one, two = made(lm, 1), made(lm, 2)
    undo = one.apply(lm)
    two.apply(lm)
    now = weights(lm)
    for remove in (lambda: one.remove(lm), undo.remove):
        with pytest.raises(ValueError, match=r"not the last one applied to the model: .* reverse order\.$"):
            remove()
    assert same_weights(lm, now)
    assert [applied.edit for applied in lm.edits] == [one, two]


def test_an_edit_that_is_not_applied_cannot_be_removed():
    lm = tiny("llama")
    with pytest.raises(ValueError, match="not the last one applied"):
        made(lm).remove(lm)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_save_and_load_are_exact(kind, tmp_path):
    lm = tiny(kind)
    edit = made(lm)
    loaded = Edit.load(edit.save(tmp_path / "an edit.safetensors"))
    assert (loaded.layers, loaded.fingerprint, loaded.method, loaded.notes) == (
        edit.layers,
        edit.fingerprint,
        edit.method,
        edit.notes,
    )
    for layer in LAYERS:
        assert torch.equal(loaded.changes[layer].left, edit.changes[layer].left)
        assert torch.equal(loaded.changes[layer].right, edit.changes[layer].right)
    with edit.applied(lm):
        once = weights(lm)
    with loaded.applied(lm):
        assert same_weights(lm, once)


def test_saving_replaces_a_file_whole(tmp_path):
    lm = tiny("llama")
    path = tmp_path / "edit.safetensors"
    made(lm, 1).save(path)
    made(lm, 2).save(str(path))
    assert Edit.load(path).notes == {"seed": "2"}
    assert [file.name for file in tmp_path.iterdir()] == ["edit.safetensors"]


@by_peft
def test_saving_and_exporting_keep_a_folder_that_was_there(tmp_path):
    lm, mine = tiny("llama"), tmp_path / "results" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("weeks of work")
    with pytest.raises(ValueError, match=r"results is a folder, but a file .*: give the name of a file\.$"):
        made(lm).save(mine.parent)
    made(lm, 1).to_peft(lm, mine.parent)
    edit = made(lm, 2)
    assert edit.to_peft(lm, mine.parent) == mine.parent
    with edit.applied(lm):
        edited = lm.weight(2).clone()
    merged = PeftModel.from_pretrained(copy.deepcopy(lm.model), mine.parent).merge_and_unload()
    assert relative(merged.model.layers[2].mlp.down_proj.weight, edited.double()) < 1e-5
    assert mine.read_text() == "weeks of work" and len(list(mine.parent.iterdir())) == 3
    with pytest.raises(ValueError, match=r"txt is a file, but a folder .*: give the name of a folder\.$"):
        edit.to_peft(lm, mine)
    assert mine.read_text() == "weeks of work"


def test_an_edit_fits_a_fresh_copy_of_its_model_edited_or_not():
    lm, same = tiny("llama"), tiny("llama")
    edit = made(lm)
    with made(same, 5).applied(same):
        before = weights(same)
        with edit.applied(same):
            assert not same_weights(same, before)
        assert same_weights(same, before)


def test_an_edit_of_an_edited_model_fits_only_where_the_same_edits_are_applied(tmp_path):
    lm, same = tiny("llama"), tiny("llama")
    before, first, other = weights(lm), made(lm, 1), made(lm, 2)
    with first.applied(lm):
        second = made(lm, 3)
        with second.applied(lm):
            wanted = weights(lm)
        with pytest.raises(ValueError, match=r"computed on tiny-llama with edits applied, but an adapter .*\.$"):
            second.to_peft(lm, tmp_path / "adapter")
        assert first.to_peft(lm, tmp_path / "adapter").exists()  # of the base model, whatever is applied now
    refused = (
        r"^this edit was computed on another model than tiny-llama, or on this one with other edits .*: load .*\.$"
    )
    for edits in ((), (other,), (first, other), (first, first)):
        for edit in edits:
            edit.apply(lm)
        with pytest.raises(ValueError, match=refused):
            second.apply(lm)
        for edit in reversed(edits):
            edit.remove(lm)
    assert same_weights(lm, before)
    with first.applied(same), Edit.load(second.save(tmp_path / "second.safetensors")).applied(same):
        assert same_weights(same, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_whose_other_weights_changed_is_another_model(kind):
    """Attention, embeddings and norms; the edited projections are the same."""
    for part in (lambda lm: lm.attention_out(3), lambda lm: lm.embeddings, lambda lm: lm.final_norm):
        lm = tiny(kind)
        edit = made(lm)
        part(lm).weight.view(-1)[7] += 1e-3
        with pytest.raises(ValueError, match="fingerprints differ"):
            edit.apply(lm)
        assert lm.edits == []


@pytest.mark.parametrize(
    "other",
    [
        lambda: tiny("llama", seed=1),
        lambda: tiny("mistral"),
        lambda: tiny("gpt2"),
        lambda: tiny("llama", layers=2),
        lambda: tiny("llama", layers=5),
    ],
)
def test_another_model_refuses_the_edit_and_stays_as_it_is(other, tmp_path):
    edit, lm = made(tiny("llama")), other()
    before = weights(lm)
    for use in (edit.apply, lambda lm: edit.to_peft(lm, tmp_path / "adapter")):
        with pytest.raises(ValueError, match=r"^.*(fingerprints differ|does not exist).*: .*\.$"):
            use(lm)
    assert same_weights(lm, before)
    assert lm.edits == []
    assert not (tmp_path / "adapter").exists()


def test_a_model_with_one_changed_weight_is_another_model():
    lm, edit = tiny("llama"), made(tiny("llama"))
    lm.weight(1)[3, 5] += 1e-3
    with pytest.raises(ValueError, match="fingerprints differ"):
        edit.apply(lm)


def test_what_is_not_an_edit_is_refused(tmp_path):
    path = tmp_path / "edit.safetensors"
    whole = made(tiny("llama")).save(path).read_bytes()
    for data in (b"", b"not safetensors", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"edit\.safetensors.*: give .* Edit\.save wrote\.$"):
            Edit.load(path)
    save_file({"1.left": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match=r"edit\.safetensors is not an edit of this library: .*\.$"):
        Edit.load(path)
    with pytest.raises(FileNotFoundError):
        Edit.load(tmp_path / "nowhere.safetensors")


@by_peft
@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_the_adapter_on_the_untouched_model(kind, tmp_path):
    """LoRA computes W x + B (A x) where apply writes W + B A: equal logits to float32 rounding."""
    lm = tiny(kind)
    edit, base = made(lm), copy.deepcopy(lm.model)
    plain = logits(base, lm.tokenizer)
    with edit.applied(lm):
        wanted = logits(lm.model, lm.tokenizer)
    folder = edit.to_peft(lm, tmp_path / "adapter")
    found = logits(PeftModel.from_pretrained(base, folder), lm.tokenizer)
    assert (wanted - plain).abs().max() > 0.1
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@by_peft
def test_merging_the_adapter_is_applying_the_edit(tmp_path):
    lm = tiny("gpt2")
    edit, base = made(lm), copy.deepcopy(lm.model)
    merged = PeftModel.from_pretrained(base, edit.to_peft(lm, tmp_path / "adapter")).merge_and_unload()
    edit.apply(lm)
    assert torch.allclose(logits(merged, lm.tokenizer), logits(lm.model, lm.tokenizer), rtol=1e-4, atol=1e-4)


def test_an_edit_tells_what_it_is():
    assert repr(made(tiny("llama"))) == "Edit(random, layers [1, 2], rank [3, 4], 0.0 MB in float32)"
