"""The playground's file holds the library's edits in fewer numbers, and its page is one file that loads nothing."""

import json
import re

import numpy as np
import pytest
import torch

import fleke_lib as fleke
from data.make_playground import packed, vectors_of
from fleke_lib.federation.packets import Compression, pack
from fleke_lib.ridge import LowRank
from tools import playground_data
from tools.links import dangling
from tools.pages import faults
from tools.playground import ALONE, CARD, alone
from tools.playground_data import FORMAT, change_hash, identities, packets, read, reduce, written

LAYERS, FACTS, D_MODEL, D_MLP = (1, 3), 4, 20, 50


@pytest.fixture(scope="module")
def made():
    """Trajectories of random numbers, C, and packets of them with one axis at full size."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    paths = []
    for _ in range(FACTS):
        first = normal(D_MODEL)
        keys = {layer: normal(1, D_MLP) + 0.1 * normal(3, D_MLP) for layer in LAYERS}
        shares = dict(zip(LAYERS, (first, first + 0.3 * normal(D_MODEL)), strict=True))
        own = fleke.Trajectory(keys, shares, "f" * 64, 2 * first, {layer: normal(2, D_MLP) for layer in LAYERS})
        bases = {
            layer: own.mean(layer).float() + (0.2 * normal(D_MLP) if layer != LAYERS[0] else 0) for layer in LAYERS
        }
        paths.append(fleke.Trajectory(keys, shares, "f" * 64, 2 * first, own.bystanders, bases))
    text = normal(300, D_MLP).double()
    moments = {layer: text.T @ text / len(text) for layer in LAYERS}
    tags = [{name: f"{i}{n}" * 32 for n, name in enumerate(("question", "answer"))} for i in range(FACTS)]
    mkvs = [fleke.Mkv(path.residual, torch.zeros(D_MODEL)) for path in paths]
    full = [
        pack(path, mkv, "c", 0, tag, Compression(1, "float32"))
        for path, mkv, tag in zip(paths, mkvs, tags, strict=True)
    ]
    return paths, moments, full


def lifted(reduction, edit):
    """An edit in the page's coordinates, at full size."""
    return {
        layer: reduction.P @ edit.delta(layer) @ torch.linalg.solve_triangular(L.T, Q, upper=True).T
        for layer, (Q, L) in reduction.bases.items()
    }


def furthest(found, edit):
    """The greatest relative difference over layers."""
    return max(float((found[i] - edit.delta(i)).norm() / edit.delta(i).norm()) for i in edit.layers)


@pytest.mark.parametrize("lam", [0.1, 10.0])
def test_an_edit_of_reduced_packets_is_the_edit_up_to_sixteen_bits(made, lam):
    paths, moments, full = made
    reduction, one = reduce(paths, moments), reduce([path_of(path, LAYERS[1:]) for path in paths], moments)
    data = {"layers": list(LAYERS), "facts": [None] * FACTS, **written([one, reduction])}
    small = packets(data, 2)
    found = lifted(reduction, fleke.edit.trajectory(small, identities(small[0]), lam))
    assert 0 < furthest(found, fleke.edit.trajectory(full, moments, lam)) < 2e-4
    part = lifted(reduction, fleke.edit.trajectory(small[1:3], identities(small[0]), lam))
    assert furthest(part, fleke.edit.trajectory(full[1:3], moments, lam)) < 2e-4


def path_of(path, layers):
    """A trajectory's last layers; only the form of the file is of interest."""
    some = (
        {layer: vectors[layer] for layer in layers} for vectors in (path.keys, path.shares, path.bystanders, path.bases)
    )
    keys, shares, others, bases = some
    return fleke.Trajectory(keys, shares, path.fingerprint, path.residual, others, bases)


def test_the_hash_of_a_change_sees_a_unit_and_no_rounding(made):
    paths, moments, _ = made
    edit = fleke.edit.trajectory(paths, moments, 1.0)
    near, far = (moved(edit, by) for by in (1e-13, 2 * playground_data.UNIT))
    assert change_hash(edit) == change_hash(near) != change_hash(far)


def moved(edit, by):
    changes = {layer: LowRank.of(edit.delta(layer) + by * (layer == LAYERS[0])) for layer in edit.layers}
    return fleke.Edit(changes, edit.fingerprint)


def test_the_file_is_small_and_whole():
    data = read()
    assert playground_data.FILE.stat().st_size < 400_000
    assert len(data["facts"]) == 24 and len(data["clients"]) == 4
    assert {fact["client"] for fact in data["facts"]} == {0, 1, 2, 3}
    for place, question in enumerate(data["questions"]):
        asked = [fact for fact in data["facts"] if fact["question"] == place]
        assert len(question["table"]) == len(data["steps"]) ** len(asked)
        assert question["says"][question["table"][0]] not in {fact["answer"] for fact in asked}
        for i, fact in enumerate(asked):  # u is 1 for this answer and 0 for the other one
            at = data["steps"].index(1.0) * len(data["steps"]) ** (len(asked) - 1 - i)
            assert question["says"][question["table"][at]] == fact["answer"]
    for count in range(1, len(data["layers"]) + 1):
        small = packets(data, count)
        numbers = [one.means[layer] for one in small for layer in one.means] + [small[0].residual]
        assert all(bool(vector.isfinite().all()) and float(vector.abs().max()) > 0 for vector in numbers)


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"format": "fleke-playground-0"}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"not the format {FORMAT}"):
        read(tmp_path / "other.json")


def test_the_page_alone_is_in_the_repository_as_the_tools_write_it():
    assert ALONE.read_text(encoding="utf-8") == alone(), "run python -m tools.playground"


def test_the_page_loads_nothing_and_its_links_lead_into_itself():
    html = ALONE.read_text(encoding="utf-8")
    assert faults(html) == [] and dangling([ALONE]) == []
    script = "".join(re.findall(r"<script>(.*?)</script>", html, re.DOTALL))
    assert not any(word in script for word in ("fetch(", "import(", "XMLHttpRequest", "http:", "https:", "crypto."))
    assert "<noscript>" in html and 'src="site.js"' not in html


@pytest.mark.model
@pytest.mark.slow
def test_the_page_has_the_librarys_edits_at_full_size(lm, capsys):
    data, moments, (facts, mkvs) = read(), fleke.second_moments(lm), vectors_of(lm)
    layers, inside = lm.preset.layers[-2:], [i for i, fact in enumerate(data["facts"]) if fact["client"] != 1]
    paths = fleke.trajectories(lm, facts, mkvs, layers=layers, batch=1)
    small = packets(data, 2)
    edit = fleke.edit.trajectory([small[i] for i in inside], identities(small[0]), data["lambda"])
    full = fleke.edit.trajectory([packed(paths[i], mkvs[i], i) for i in inside], moments, data["lambda"])
    difference = furthest(lifted(reduce(paths, moments), edit), full)
    with capsys.disabled():
        print(f"\nthe page's edit at full size: relative difference {difference:.1e}")
    assert difference < 1e-3
    assert [fact["answer"] for fact in data["facts"]] == [fact.target_new for fact in facts]
    assert np.isclose(data["lambda"], fleke.edit.closed_form.lambda_of(lm.preset))
    card = CARD.read_text(encoding="utf-8")
    assert (
        f"{lm.d_mlp:,}" in card
        and f"{lm.d_model}" in card
        and ", ".join(map(str, lm.preset.layers[:-1])) in " ".join(card.split())
    )
