"""A whole run on a tiny model: every file is there and whole, it goes on after a stop, and twice is the same."""

import json

import numpy as np
import pytest

from fleke_lib.evaluation.results import Evaluation
from fleke_lib.federation import Ledger
from fleke_lib.reproduce.__main__ import main
from fleke_lib.reproduce.papers import rehearsal
from fleke_lib.reproduce.papers.methods import NEIGHBOUR, OWNER

METHODS = (
    "before",
    "MEMIT in one place, with text",
    "FedEdit, everything",
    "FedEdit, published rule",
    "alone",
    "FedAvg",
)


def pieces(folder):
    return {path: path.stat().st_mtime_ns for part in ("made", "scores") for path in (folder / part).iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gpt2-xl-counterfact", "float32"),
        ("llama-3-8b-zsre", "float32"),
        ("gpt-j-zsre", "bfloat16"),
        ("gpt-neox-counterfact", "bfloat16"),
    ],
)
def test_a_rehearsal_runs_everything_and_a_second_one_makes_nothing_new(name, dtype, tmp_path, capsys):
    call = ["paper", name, "--dry-run", "--dtype", dtype, "--to", str(tmp_path)]
    assert main(call) == 0
    out, err = capsys.readouterr()
    assert err.count("stopped on purpose") == 2
    before, result = pieces(tmp_path), json.loads((tmp_path / "result.json").read_text())
    assert not [path for path in tmp_path.rglob(".half*")]

    assert tuple(result["table"]) == METHODS
    for by in result["table"].values():
        assert [by[who]["facts"] for who in (OWNER, NEIGHBOUR)] == [rehearsal.FACTS] * 2
        assert all(
            0 <= by[OWNER][m]["low"] <= by[OWNER][m]["mean"] <= by[OWNER][m]["high"] <= 1 for m in ("top1", "says")
        )
    assert result["federation"]["adoptions"]["everything"] == (rehearsal.CLIENTS - 1) * rehearsal.FACTS
    for rule, count in result["federation"]["adoptions"].items():
        ledger = Ledger.load(tmp_path / f"ledger-{rule.replace(' ', '-')}.jsonl")
        assert len(ledger.select("adopted")) == count
        assert len(ledger.select("published")) == rehearsal.FACTS
    assert len(result["model"]["fingerprint"]) == len(result["facts"]["sha256"]) == 64
    assert result["seconds"]["MKVs and trajectories"] > 0
    report = (tmp_path / "result.md").read_text()
    assert report.strip() in out and all(f"| {method} |" in report for method in METHODS)

    assert main(call) == 0
    assert pieces(tmp_path) == before
    again = json.loads((tmp_path / "result.json").read_text())
    assert again["table"] == result["table"] and again["facts"] == result["facts"]


def test_an_edit_that_changes_no_answer_is_an_error():
    def asked(*probability):
        return {OWNER: Evaluation((), {"probability": np.array(probability)})}

    found = {"before": asked(0.1, 0.2), "FedAvg": asked(0.1, 0.3)}
    rehearsal.check_edits(found)
    with pytest.raises(RuntimeError, match="after the edit of 'alone' the model says what it said before"):
        rehearsal.check_edits(found | {"alone": asked(0.1, 0.2)})
