"""Checks of the exercises to chapter 01."""

from collections.abc import Callable
from functools import cache

import torch

from checks.algebra import normal
from checks.verdict import NotYet, Right, ask, expect, judge, near
from fleke_lib.facts import Fact
from fleke_lib.locate import CausalTrace, causal_trace
from fleke_lib.model import LanguageModel, encode, record
from fleke_lib.model.tokens import answer_start

NORMAL = 1.96  # 95% of a normal distribution lie within this many standard deviations
WINDOW = 5


def check_corrupted(corrupted: Callable) -> Right:
    """Compare with the definition: noise on the right tokens, of the right size."""
    table = (normal(500, 8, seed=0) * torch.linspace(0.5, 3, 8)).float()
    embedded, drawn, (first, last) = normal(4, 9, 8, seed=1).float(), normal(3, 3, 8, seed=2).float(), (3, 5)
    found = ask(corrupted, embedded, table, (first, last), drawn)
    expect(found.shape == embedded.shape, f"the shape is {tuple(found.shape)}, but should be {tuple(embedded.shape)}.")
    added = found - embedded
    expect(not added[0].any(), "row 0 has noise in it, but should be the clean run.")
    expect(added[1:, last].any(), "the subject's last token has no noise: its position is part of the subject.")
    expect(added[1:, first].any(), "the subject's first token has no noise.")
    outside = added[:, [token for token in range(9) if not first <= token <= last]]
    expect(not outside.any(), "a token outside the subject has noise: the rest of the question stays readable.")
    sizes = (added[1:, first : last + 1] / drawn).double() / table.double().numpy().std()
    expect(
        sizes.std() < 1e-3,
        "the noise is not a single multiple of `drawn`: use one standard deviation, of the whole table.",
    )
    size = float(sizes.mean())
    expect(abs(size - 3) < 0.02, f"the noise has {size:.2f} of the table's standard deviations; ROME uses 3.")
    return Right("three rows of noise, three standard deviations, on the subject only.")


def check_restored(restored: Callable, lm: LanguageModel, fact: Fact) -> Right:
    """Compare with the library's trace with the same noise, which runs only layers and tokens that can change."""
    text = encode(lm.tokenizer, fact.question, fact.target_true, fact.subject_span)
    start, (first, last) = answer_start(lm.tokenizer, text), text.subject
    ids = torch.tensor([text.ids[:start]])
    drawn = torch.randn((1, last + 1 - first, lm.d_model), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), record(outputs={i: lm.projection(i) for i in range(lm.n_layers)}) as clean:
        lm.model(ids)

    def noisy(embedded):
        noise = torch.zeros_like(embedded)
        noise[:, first : last + 1] = 3 * lm.embeddings.weight.std() * drawn
        return embedded + noise

    for layer in (1, lm.n_layers - 1, lm.n_layers // 6):  # the first two windows extend beyond the model
        answer = float(ask(restored, lm, ids, noisy, clean, layer, last, WINDOW)[text.ids[start]])
        trace = _traced(lm, fact)
        _check_probability(answer, layer, float(trace.scores[last, layer]), trace)
    return Right(
        f"P is {answer:.3f} with {WINDOW} MLPs restored around layer {layer}, {trace.corrupted:.3f} with none."
    )


@cache  # a reader may run the check several times
def _traced(lm: LanguageModel, fact: Fact) -> CausalTrace:
    return causal_trace(lm, fact, "mlp", samples=1, window=WINDOW, classes=("last subject",), seed=0)


def _check_probability(found: float, layer: int, wanted: float, trace: CausalTrace) -> None:
    """1% is far above float32's rounding, and far below the effect of one MLP more or less."""
    if abs(found - wanted) < 0.01 * wanted:
        return
    bare = abs(found - trace.corrupted) < 0.01 * trace.corrupted
    expect(not bare, f"around layer {layer} nothing is restored: P is the corrupted run's.")
    clean = abs(found - trace.clean) < 0.1 * trace.clean
    expect(not clean, f"around layer {layer} P is nearly the clean run's: is the noise in, is only one token restored?")
    raise NotYet(
        f"around layer {layer} P is {found:.4f} instead of {wanted:.4f}: restore one token, in {WINDOW} layers in all, "
        f"{WINDOW // 2} of them below, without those that the model does not have."
    )


def check_average(average: Callable) -> Right:
    """Compare with the normal approximation, which needs no draws; 10% is five times the random error of 4000 draws."""
    indirect = 0.3 + normal(80, 5, seed=3) * torch.tensor([0.1, 0.2, 0.05, 0.1, 0.1], dtype=torch.float64)
    indirect[:, 4] = indirect[:, 0]
    indirect[::8] = torch.nan
    known = indirect[~indirect[:, 0].isnan()].numpy()
    mean, low, high = ask(average, indirect, 4000, 0)
    expect(not mean.isnan().any(), "the mean is not a number: leave out facts without such a token.")
    judge("the mean", mean, torch.from_numpy(known.mean(0)), {}, "the mean is not the mean of the facts with a value.")
    finite = not (low.isnan() | high.isnan()).any()
    expect(finite, "an end of the interval is not a number: a draw may contain facts without a value.")
    expect(
        (low < mean).all() and (mean < high).all(),
        "the interval has no width, or the mean is outside it: does every draw have a value?",
    )
    spread = torch.from_numpy(known.std(0))
    _check_widths((high - low) / 2, spread, len(known))
    same = torch.equal(low[0], low[4]) and torch.equal(high[0], high[4])
    expect(same, "two layers with equal numbers have different intervals: draw facts, each with all its layers.")
    again = ask(average, indirect, 4000, 0)
    expect(near(again[1], low, 0) and near(again[2], high, 0), "the same seed gives another interval the second time.")
    return Right("the intervals agree to 10% with the normal approximation, 1.96 standard deviations of the mean.")


def _check_widths(half: torch.Tensor, spread: torch.Tensor, facts: int) -> None:
    """Compare half the width of each layer's interval with the standard deviation of its mean."""
    wanted = NORMAL * spread / facts**0.5
    ratio = float((half / wanted).mean())
    expect(
        ratio < 3,
        f"the interval is {ratio:.0f} times too wide: it shows where facts lie, but should show where their mean lies.",
    )
    close = ((half - wanted).abs() < 0.1 * wanted).all()
    expect(close, f"the interval is {ratio:.2f} times as wide as it should be: it must hold 95% of the drawn means.")
