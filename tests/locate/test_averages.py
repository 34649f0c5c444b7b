"""Averages of causal traces against values computed by hand."""

import pytest
import torch

from fleke_lib.locate.averages import average_traces, critical_layers, mediated
from fleke_lib.locate.tracing import CLASSES, CausalTrace, token_classes


def made(scores, subject, kind="mlp", corrupted=0.0, clean=1.0, window=1, severed=""):
    scores = torch.as_tensor(scores, dtype=torch.float)
    return CausalTrace(
        kind, tuple("abcdefgh"[: len(scores)]), subject, "answer", clean, corrupted, window, severed, scores
    )


@pytest.mark.parametrize(
    ("tokens", "subject", "classes"),
    [
        (8, (1, 4), {"first subject": [1], "middle subject": [2, 3], "last subject": [4], "first further": [5],
                     "further": [6], "last": [7]}),
        (5, (2, 3), {"first subject": [2], "last subject": [3], "last": [4]}),
        (4, (0, 0), {"last subject": [0], "first further": [1], "further": [2], "last": [3]}),
        (3, (1, 2), {"first subject": [1], "last subject": [2]}),
    ],
)  # fmt: skip
def test_every_token_from_the_subject_on_has_one_class(tokens, subject, classes):
    found = token_classes(tokens, subject)
    assert found == {name: classes.get(name, []) for name in CLASSES}


def test_averages_by_hand():
    one = made([[9, 9], [1, 2], [3, 6], [0, 1]], (1, 1), corrupted=0.5, clean=0.9)
    two = made([[1, 1], [3, 4], [1, 1]], (0, 1), corrupted=0.0, clean=0.6)
    average = average_traces([one, two])
    assert (average.kind, average.facts) == ("mlp", 2)
    assert dict(zip(CLASSES, average.counts, strict=True)) == {
        "first subject": 1, "middle subject": 0, "last subject": 2, "first further": 1, "further": 0, "last": 2,
    }  # fmt: skip
    means = dict(zip(CLASSES, average.mean.tolist(), strict=True))
    assert means["first subject"] == [1, 1]
    assert means["last subject"] == pytest.approx([(0.5 + 3) / 2, (1.5 + 4) / 2])
    assert means["first further"] == pytest.approx([2.5, 5.5])
    assert means["last"] == pytest.approx([(-0.5 + 1) / 2, (0.5 + 1) / 2])
    assert average.mean[CLASSES.index("middle subject")].isnan().all()
    assert average.total.mean == pytest.approx((0.4 + 0.6) / 2)
    assert average.row("last subject")[0].tolist() == means["last subject"]


def test_several_middle_tokens_count_once():
    long = made([[0.0], [1.0], [3.0], [0.0], [0.0]], (0, 3))
    short = made([[0.0], [8.0], [0.0], [0.0]], (0, 2))
    assert average_traces([long, short]).row("middle subject")[0].item() == pytest.approx((2 + 8) / 2)


def test_bands_cover_the_mean_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(200, 30, generator=generator)
    covered = 0
    for facts in drawn:
        average = average_traces([made([[x], [0.0]], (0, 0)) for x in facts], draws=400)
        _, low, high = average.row("last subject")
        covered += bool(low <= 0 <= high)
    assert 0.89 <= covered / 200 <= 0.98  # 95% at 30 facts, less what the bootstrap loses, within binomial error


def test_bands_are_repeatable_and_hold_the_mean():
    traces = [made(torch.rand(4, 3, generator=torch.Generator().manual_seed(i)), (0, 1)) for i in range(9)]
    one, same = average_traces(traces, seed=1), average_traces(traces, seed=1)
    torch.testing.assert_close((one.low, one.high), (same.low, same.high), atol=0, rtol=0, equal_nan=True)
    mean, low, high = one.row("last")
    assert ((low <= mean) & (mean <= high)).all()


def test_averages_refuse_what_does_not_belong_together():
    with pytest.raises(ValueError, match="no traces"):
        average_traces([])
    with pytest.raises(ValueError, match="one sort"):
        average_traces([made([[0.0]], (0, 0)), made([[0.0]], (0, 0), kind="hidden")])
    with pytest.raises(ValueError, match="one sort"):
        average_traces([made([[0.0]], (0, 0)), made([[0.0]], (0, 0), window=2)])
    with pytest.raises(ValueError, match="one model"):
        average_traces([made([[0.0]], (0, 0)), made([[0.0, 0.0]], (0, 0))])


def hidden(*effects, severed=""):
    """Traces of facts whose subject is their first token, with these effects there."""
    return [made([rows, [0.0] * len(rows)], (0, 0), kind="hidden", severed=severed) for rows in effects]


def test_mediation_is_what_severing_costs():
    whole, severed = hidden([0.5, 0.6, 0.4], [0.3, 0.2, 0.0]), hidden([0.1, 0.4, 0.4], [0.3, 0.0, 0.0], severed="mlp")
    mean, low, high = mediated(whole, severed)
    torch.testing.assert_close(mean, torch.tensor([0.2, 0.2, 0.0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(high - low, torch.tensor([0.4, 0.0, 0.0]).double(), atol=1e-6, rtol=0)  # fact by fact


def test_critical_layers_are_the_middle_of_the_fall():
    gap = mediated(hidden([0.8, 1.0, 0.9, 0.6, 0.4, 0.2, 0.0]), hidden([0.0] * 7, severed="mlp"))
    assert critical_layers(gap) == (3, 4, 5)  # 0.6 is the first under 0.75, 0.2 the first under 0.25
    assert critical_layers(gap, middle=0.1) == (4,)
    assert critical_layers(gap, middle=0.9) == (2, 3, 4, 5, 6)


def test_critical_layers_refuse_what_they_cannot_read():
    whole, severed = hidden([0.5, 0.1]), hidden([0.0, 0.1], severed="mlp")
    with pytest.raises(ValueError, match="give these two"):
        mediated(severed, whole)
    with pytest.raises(ValueError, match="same facts"):
        mediated(whole, severed * 2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        critical_layers(mediated(whole, severed), middle=1.0)
    with pytest.raises(ValueError, match="costs nothing"):
        critical_layers(mediated(hidden([0.0, 0.1]), hidden([0.1, 0.1], severed="mlp")))


def test_tokens_that_were_not_restored_are_left_out():
    nothing = [torch.nan, torch.nan]
    average = average_traces([made([[1.0, 2.0], nothing], (0, 0))])
    assert average.counts == (0, 0, 1, 0, 0, 0)
    assert average.row("last").mean.isnan().all()


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="'middle'"):
        average_traces([made([[1.0]], (0, 0))]).row("middle")


def test_an_average_shows_itself():
    shown = average_traces([made([[1.0, 2.0], [0.0, 0.5]], (0, 0))])._repr_html_()
    assert "last subject" in shown and "first subject" not in shown
