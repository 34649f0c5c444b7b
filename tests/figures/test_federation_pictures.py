"""The figures of chapters 03 to 05: their JSON files hold the given numbers, and the alt texts name them."""

import json

import numpy as np
import pytest
import torch

from fleke_lib.evaluation.results import METRICS, Evaluation
from fleke_lib.facts.fact import Fact
from fleke_lib.federation.ledger import Event, Ledger
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.retrieval.clusters import Clusters
from fleke_lib.federation.retrieval.precision import Retrieval
from fleke_lib.federation.retrieval.separation import Separation
from fleke_lib.figures import federation, retrieval, sharing


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEKE_FIGURES", str(tmp_path))


def measured(value: float, facts: int = 8) -> Evaluation:
    asked = tuple(Fact(f"S{i}", "The {} is", "a", "b") for i in range(facts))
    return Evaluation(asked, {name: np.full(facts, value) for name in METRICS})


def on_disk(picture) -> dict:
    words = json.loads(picture.path.with_suffix(".json").read_text())
    assert words["data"] == picture.data and picture.path.read_bytes().startswith(b"\x89PNG")
    assert words["alt"] == picture.alt and len(picture.alt) > 40
    return words["data"]


def test_costs_on_the_wire():
    picture = sharing.wire({"small": {"text": 50.0, "packet": 15000.0}, "large": {"text": 50.0, "packet": 1e6}})
    assert on_disk(picture)["costs"]["large"]["packet"] == 1e6
    assert "packet 15,000" in picture.alt


def test_a_model_from_a_folder_is_shown_without_the_path():
    picture = sharing.wire({"/home/somebody/models/small": {"text": 50.0, "packet": 15000.0}})
    assert on_disk(picture)["costs"].keys() == {"small"}
    assert "somebody" not in picture.path.with_suffix(".json").read_text() and "per fact. small:" in picture.alt


def test_compressions_mark_the_default():
    trials = [(Compression(0, "int8"), 15000, measured(0.8)), (Compression(1, "float16"), 47000, measured(0.9))]
    picture = sharing.compressions(trials, measured(0.91), Compression(0, "int8"))
    assert [row["score"] for row in on_disk(picture)["compressions"]] == pytest.approx([0.8, 0.9])
    assert "0 axes in int8, 15,000 bytes: 0.800" in picture.alt
    with pytest.raises(StopIteration):
        sharing.compressions(trials, measured(0.91), Compression(5, "float32"))


def test_two_edits_side_by_side():
    picture = sharing.compared({"one": measured(0.7), "other": measured(0.6)}, measured(0.1))
    data = on_disk(picture)["results"]
    assert data["one"]["efficacy"]["mean"] == pytest.approx(0.7) and data["before"]["score"]["mean"] == pytest.approx(
        0.1
    )
    assert "efficacy 0.600" in picture.alt


def test_redundancy_counts_what_was_never_optimised():
    def ledger(optimised, reused):
        made = [Event("optimised", 0, "a", f"{i}", steps=9) for i in range(optimised)]
        published = [Event("published", 0, "a", f"{i}", sent=500_000, received=32) for i in range(optimised)]
        again = [Event("reused", 1, "b", f"{i}", sent=32, received=250_000) for i in range(reused)]
        return Ledger((*made, *published, *again, Event("adopted", 1, "b", "0", received=9_000_000)))

    data = on_disk(picture := sharing.redundancy({0.0: ledger(4, 0), 0.5: ledger(4, 4)}, seconds=30.0))
    assert (data["optimised"], data["reused"]) == ([4, 4], [0, 4])
    assert data["wanted"] == [4, 8]
    assert data["seconds saved"] == [0, 15] and data["seconds of optimising"] == [30, 15]
    assert data["kilobytes sent"] == pytest.approx([500, 250.016], abs=1e-3)
    assert data["kilobytes received"] == pytest.approx([0.032, 125.016], abs=1e-3)  # what is adopted is not counted
    assert "50%: 4 optimised, 4 reused" in picture.alt


def test_similarities_are_densities_of_the_pairs():
    within, between = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.1, 0.0, -0.1, 0.5])
    picture = retrieval.similarities({"raw": Separation(within, between, 0.97, 1.0)})
    data = on_disk(picture)
    widths = np.diff(data["bins"])
    assert (np.array(data["raw"]["within"]) * widths).sum() == pytest.approx(1, abs=1e-3)
    assert data["raw"]["over tau"] == pytest.approx([1.0, 0.25]) and "AUC 0.97" in picture.alt


def test_the_plane_and_the_silhouettes():
    vectors = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    found = {"kmeans": Clusters(torch.arange(20) % 3, {2: 0.1, 3: 0.25})}
    picture = retrieval.map_of(vectors, [f"P{i % 4}" for i in range(20)], found)
    data = on_disk(picture)
    assert len(data["plane"]) == 20 and data["silhouettes"]["kmeans"] == {"2": 0.1, "3": 0.25}
    assert "best with 3 clusters, silhouette 0.250" in picture.alt


def test_precision_against_recall():
    picture = retrieval.trade_off({"k": [("1", Retrieval(10, 20, 5, 100)), ("2", Retrieval(30, 20, 15, 100))]})
    assert on_disk(picture)["k"][1] | {"f1": 0} == {
        "setting": "2", "precision": 0.5, "recall": 0.75, "f1": 0, "adopted": 30
    }  # fmt: skip
    assert "best at 2: precision 0.50, recall 0.75" in picture.alt


def test_labels_cover_neither_points_nor_each_other():
    points = np.array([[100.0, 100.0], [102.0, 101.0], [104.0, 88.0], [101.0, 112.0], [300.0, 40.0]])
    labels = ["0.2", "32", "16", "0.55", "8"]
    middles = points + np.array(retrieval.apart(points, labels))
    half = np.array([[2.6 * len(label), 4.5] for label in labels])
    for i, middle in enumerate(middles):
        assert not (np.abs(points - middle) < half[i]).all(1).any()
        assert not any((np.abs(middles[j] - middle) < half[i] + half[j]).all() for j in range(i))
    assert all(np.abs(middles - points).max(1) < 40)


def test_scores_over_slots():
    forms = {"cumulative": {0: measured(0.9), 6: measured(0.88)}, "sequential": {0: measured(0.9), 6: measured(0.4)}}
    picture = federation.over_slots(forms, {"cumulative": measured(0.87), "sequential": measured(0.5)})
    assert on_disk(picture)["sequential"]["first slot"][1]["score"] == pytest.approx(0.4)
    assert on_disk(picture)["sequential"]["first slot"][1]["slot"] == 7
    assert "0.90 after slot 1, 0.88 after slot 7, all facts 0.87" in picture.alt


def test_methods_in_rows():
    picture = federation.methods({"alone": measured(0.3), "FedEdit": measured(0.9)})
    assert on_disk(picture)["FedEdit"]["top1"]["mean"] == pytest.approx(0.9)
    assert "alone: score 0.30" in picture.alt


def test_work_is_counted_from_the_ledger():
    events = [Event("optimised", 0, "a", "p"), Event("published", 0, "a", "p", sent=2_000_000)]
    events += [Event("reused", 1, "b", "p", received=1_000_000), Event("adopted", 1, "c", "p", received=500_000)]
    picture = federation.work(Ledger(tuple(events)))
    data = on_disk(picture)
    assert data["counts"] == {"optimised": [1, 0], "reused": [0, 1]}
    assert data["megabytes"]["published"] == [2.0, 0] and data["megabytes"]["adopted"] == [0, 0.5]
    assert "1 optimised, 1 reused; 2.00 MB published" in picture.alt
