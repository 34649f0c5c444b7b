"""The coupled solve against two oracles, in rounds, at its limits, and in models whose edited states are read."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fleke_lib.edit import from_sums, trajectory
from fleke_lib.edit.closed_form import coupling_of, from_rounds
from fleke_lib.edit.coupled import MOST, fraction
from fleke_lib.edit.trajectories import Trajectory, trajectories
from fleke_lib.facts.fact import Fact
from fleke_lib.facts.prompts import fact_texts
from fleke_lib.federation.packets.compression import Compression
from fleke_lib.federation.packets.packet import pack
from fleke_lib.mkv.mkv import Mkv
from fleke_lib.model.activations import record
from fleke_lib.ridge.sums import sums
from tests.textbook.coupled import fact_by_fact, from_gram, spread_of, stack
from tests.textbook.samples import relative
from tests.tiny import KINDS, TEXT, WILD, tiny

gains = st.sampled_from([1e-2, 0.3, 1.0, 10.0, 1e2])
couplings = st.sampled_from([0.0, 0.3, 1.0])


@st.composite
def problems(draw, most_layers=4, spread=True, based=True):
    """Trajectories of random numbers, C and lambda. Keys, base keys, shares and residuals have sizes of their own."""
    layers = [2 * i + 1 for i in range(draw(st.integers(2, most_layers)))]
    facts, d_model, d_mlp = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(2, 12))
    contexts, words = (draw(st.integers(1, 3)), draw(st.integers(0, 2))) if spread else (1, 0)
    size = {name: draw(gains) for name in ("keys", "bases", "shares", "residual")}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    def path():
        keys = {i: size["keys"] * normal(contexts, d_mlp) for i in layers}
        others = {i: size["keys"] * normal(words, d_mlp) for i in layers}
        bases = {i: keys[i].mean(0) + size["bases"] * normal(d_mlp) for i in layers} if based else {}
        shares = {i: size["shares"] * normal(d_model) for i in layers}
        return Trajectory(keys, shares, "f", size["residual"] * normal(d_model), others, bases)

    moments = {}
    for i in layers:
        root = normal(3 * d_mlp, d_mlp).double()
        moments[i] = torch.eye(d_mlp, dtype=torch.float64) + root.T @ root / len(root)
    lam = draw(st.sampled_from([0.1, 1.0, 10.0])) * max(size["keys"], size["bases"]) ** 2
    return [path() for _ in range(facts)], moments, lam


def close(edit, changes, most=1e-9):
    for layer, change in changes.items():
        assert relative(edit.delta(layer), change) < most, layer


@given(problems(), couplings)
def test_is_the_loop_over_facts(problem, coupling):
    paths, moments, lam = problem
    close(trajectory(paths, moments, lam, coupling=coupling), fact_by_fact(paths, moments, lam, coupling))


@given(problems(), couplings)
def test_follows_from_sums_over_facts(problem, coupling):
    """One matrix G = sum x x^T, the sum of D and the sum of tau for each layer: all parties' sums add up to these."""
    paths, moments, lam = problem
    cut = len(paths) // 2
    halves = [paths[:cut], paths[cut:]] if cut else [paths]
    G = sum(sum(torch.outer(stack(path), stack(path)) for path in half) for half in halves)
    spreads = {i: sum(sum(spread_of(path, i) for path in half) for half in halves) for i in moments}
    found = from_gram(G, spreads, dict.fromkeys(moments, 0.0), moments, lam, coupling)
    close(trajectory(paths, moments, lam, coupling=coupling), found)


def packed(path, axes, seed):
    tags = {name: f"{seed:0<64x}" for name in ("question", "answer")}
    h = torch.zeros(len(path.residual))
    return pack(path, Mkv(path.residual, h), "ada", 0, tags, Compression(axes, "float32"))


@given(problems(most_layers=3), st.integers(0, 2))
def test_what_packets_leave_out_is_a_sum_over_facts_too(problem, axes):
    paths, moments, lam = problem
    packets = [packed(path, axes, seed) for seed, path in enumerate(paths)]
    bare = [  # the same vectors as a trajectory, without a spread
        Trajectory({i: p.means[i][None] for i in moments}, p.shares, "f", p.residual, bases=p.bases) for p in packets
    ]
    spreads = {i: sum(p.axes[i].double().T @ p.axes[i].double() for p in packets) for i in moments}
    left = {i: sum(p.left[i] for p in packets) for i in moments}
    found = from_gram(sum(torch.outer(stack(b), stack(b)) for b in bare), spreads, left, moments, lam)
    close(trajectory(packets, moments, lam), found)
    if any(left.values()):
        without = from_gram(
            sum(torch.outer(stack(b), stack(b)) for b in bare), spreads, dict.fromkeys(moments, 0.0), moments, lam
        )
        first = min(moments)
        assert not torch.equal(without[first], found[first])


@given(problems(), st.lists(st.integers(0, 3), min_size=9, max_size=9), couplings)
def test_rounds_over_any_parties_give_the_same_edit(problem, owner, coupling):
    paths, moments, lam = problem
    named = list(zip(paths, owner, strict=False))
    parties = [own for name in range(4) if (own := [path for path, owned in named if owned == name])]
    whole = trajectory([path for party in parties for path in party], moments, lam, coupling=coupling)
    rounds = from_rounds(parties, moments, lam, coupling=coupling)
    assert (rounds.fingerprint, rounds.method, rounds.notes) == (whole.fingerprint, whole.method, whole.notes)
    close(rounds, {layer: whole.delta(layer) for layer in moments})


@given(problems())
def test_by_default_it_is_coupled_where_there_are_base_keys(problem):
    paths, moments, lam = problem
    bare = [replace(path, bases={}) for path in paths]
    for some, coupling in ((paths, 1.0), (bare, 0.0), ([*bare[:1], *paths[1:]], 0.0)):
        assert coupling_of(some, None) == coupling
        one, other = trajectory(some, moments, lam), trajectory(some, moments, lam, coupling=coupling)
        assert all(torch.equal(one.delta(i), other.delta(i)) for i in moments)
        one, other = from_rounds([some], moments, lam), from_rounds([some], moments, lam, coupling=coupling)
        assert all(torch.equal(one.delta(i), other.delta(i)) for i in moments)


@given(problems())
def test_without_coupling_each_layer_is_solved_from_what_was_recorded(problem):
    paths, moments, lam = problem
    recorded = from_sums({i: sums(paths, i) for i in moments}, moments, "f", lam)
    for edit in (
        trajectory(paths, moments, lam, coupling=0),
        trajectory([replace(path, bases={}) for path in paths], moments, lam),
        from_rounds([paths], moments, lam, coupling=0),
    ):
        close(edit, {i: recorded.delta(i) for i in moments}, most=1e-12)


@given(problems(based=False))
def test_where_every_share_is_delivered_the_coupling_changes_nothing(problem):
    """Few facts, no spread, lambda near 0: A = B, alpha = 1, and keys and shares are the recorded ones."""
    paths, moments, _ = problem
    layers, d_model = sorted(moments), len(paths[0].residual)
    generator = torch.Generator().manual_seed(len(paths))
    basis = torch.linalg.qr(torch.randn(24, 24, generator=generator))[0]
    single = [
        replace(
            path,
            keys={layer: (n + 1) * basis[n][None] for n, layer in enumerate(layers, i)},
            bystanders={},
            residual=path.shares[layers[0]],  # of the size of the shares: what is missing counts with weight lambda
            bases={layer: torch.randn(24, generator=generator) for layer in layers},
        )
        for i, path in enumerate(paths)
    ]
    moments = {layer: torch.eye(24, dtype=torch.float64) for layer in layers}
    whole, apart = (trajectory(single, moments, 1e-8, coupling=coupling) for coupling in (1, 0))
    close(whole, {i: apart.delta(i) for i in layers}, most=1e-4)
    for i in layers:
        for path in single:
            delivered = whole.delta(i) @ path.mean(i)
            assert relative(delivered, path.shares[i]) < 1e-4 and delivered.shape == (d_model,)


def test_alpha_has_bounds():
    """Of <A, B> and <B, B>; 1 before the first layer, and where no share was asked for."""
    cases = {(0.0, 0.0): 1.0, (3.0, 4.0): 0.75, (4.0, 4.0): 1.0, (-1.0, 4.0): 0.0, (8.0, 4.0): MOST, (4.4, 4.0): 1.1}
    for products, alpha in cases.items():
        assert fraction(torch.tensor(products, dtype=torch.float64)) == pytest.approx(alpha, rel=1e-15)


def test_few_facts_have_few_factors():
    """Of more facts than d_model, the matrix itself is smaller."""
    generator = torch.Generator().manual_seed(0)
    keys, moments = torch.randn(9, 2, 1, 12, generator=generator), {i: torch.eye(12) for i in (0, 1)}
    paths = [
        Trajectory(
            {0: k[0], 1: k[1]}, {0: k[0, 0, :5], 1: k[1, 0, :5]}, "f", k[0, 0, 5:10], bases={0: k[1, 0], 1: k[0, 0]}
        )
        for k in keys
    ]
    for count, rank in ((3, 3), (5, 5), (9, 5)):
        assert [change.rank for change in trajectory(paths[:count], moments, 1.0).changes.values()] == [rank, rank]


def two(**changes):
    path = Trajectory(
        {0: torch.ones(1, 3), 1: torch.ones(1, 3)},
        {0: torch.ones(2), 1: torch.ones(2)},
        "f",
        torch.ones(2),
        bases={0: torch.ones(3), 1: torch.zeros(3)},
    )
    return [path, replace(path, **changes)]


NAN = float("nan")


@pytest.mark.parametrize(
    "contributions, coupling, words",
    [
        (two(), -0.1, "coupling is -0.1: give a number from 0 to 1"),
        (two(), 1.1, "coupling is 1.1: give a number from 0 to 1"),
        (two(), NAN, "coupling is nan: give a number from 0 to 1"),
        (two(bases={}), 1, "some contributions carry no base keys: give 0, or leave it out"),
        (two(residual=torch.tensor([1, NAN])), None, "contribution 1 has a residual or shares that are not finite"),
        (two(residual=torch.tensor([1, torch.inf])), 0, "contribution 1 has a residual or shares that are not finite"),
        (two(shares={0: torch.ones(2), 1: torch.tensor([1, NAN])}), None, "contribution 1 has a residual or shares"),
        (two(bases={0: torch.ones(3), 1: torch.tensor([NAN, 0, 0])}), None, "not finite"),
        (two(keys={0: torch.ones(1, 3), 1: torch.tensor([[NAN, 0, 0]])}), None, "not finite"),
    ],
)
def test_bad_input_gets_one_sentence(contributions, coupling, words):
    moments = {0: torch.eye(3), 1: torch.eye(3)}
    for solve in (trajectory, lambda some, *rest, **named: from_rounds([some[:1], some[1:]], *rest, **named)):
        with pytest.raises(ValueError, match=words) as error:
            solve(contributions, moments, 1.0, coupling=coupling)
        assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_party_without_contributions_gets_one_sentence():
    with pytest.raises(ValueError, match="1 parties have no contributions: leave them out"):
        from_rounds([two(), []], {0: torch.eye(3), 1: torch.eye(3)})
    with pytest.raises(ValueError, match="no contributions to edit with"):
        from_rounds([], {0: torch.eye(3)})


LAYERS, L = (0, 1, 2), 2


def dense(kind, count=40):
    """More facts than half of d_mlp, whose subjects' last tokens differ, and wanted states in random directions.

    The layers' matrices are shorter than in other tests: in a trained model, too, a layer changes the state by a small
    part, so that what a layer delivers reaches L almost unchanged.
    """
    lm, facts = tiny(kind), {}
    for block in lm.layers:
        for parameter in block.parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(0.3)
    for word in sorted(set(re.findall("[A-Za-z]+", TEXT))):
        fact = Fact(word, "The time of {} is", "Rome", "Paris")
        (text,) = fact_texts(lm, fact, ("",))
        facts.setdefault(text.ids[text.subject[1]], fact)
    facts = [*facts.values()][:count]
    assert len(facts) == count > lm.d_mlp / 2
    states, generator = states_at(lm, facts), torch.Generator().manual_seed(1)
    ways = torch.randn(states.shape, generator=generator)
    wanted = states + 0.2 * states.norm(dim=1, keepdim=True) * ways / ways.norm(dim=1, keepdim=True)
    mkvs = [Mkv(z, h) for z, h in zip(wanted, states, strict=True)]
    paths = trajectories(lm, facts, mkvs, ("",), LAYERS)
    return lm, facts, wanted, paths, moments_before(lm, facts[0])


@torch.no_grad()
def moments_before(lm, fact):
    """A C that forbids changes at the tokens before the subject, which all facts share."""
    (text,) = fact_texts(lm, fact, ("",))
    with record(inputs={layer: lm.projection(layer) for layer in LAYERS}) as seen:
        lm.model(torch.tensor([text.ids[: text.subject[1]]]))
    keys = {layer: seen[layer][0].double() for layer in LAYERS}
    return {i: torch.eye(lm.d_mlp, dtype=torch.float64) + 1e6 * k.T @ k for i, k in keys.items()}


@torch.no_grad()
def states_at(lm, facts):
    """Each fact's state after the last edited layer at its subject's last token: one whole pass a fact."""
    found = []
    for fact in facts:
        (text,) = fact_texts(lm, fact, ("",))
        with record(outputs={"h": lm.layers[L]}) as seen:
            lm.model(torch.tensor([text.ids[: text.subject[1] + 1]]))
        found.append(seen["h"][0, -1].clone())
    return torch.stack(found)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("gemma3")])
def test_states_come_nearer_to_what_is_wanted(kind):
    """Read from the edited model. Where facts are dense, layers deliver less than their shares."""
    lm, facts, wanted, paths, moments = dense(kind)
    missing, lam = {}, 0.003 * float(torch.stack([path.mean(L) for path in paths]).norm(dim=1).mean()) ** 2
    for coupling in (0, 1):
        with trajectory(paths, moments, lam, coupling=coupling).applied(lm):
            missing[coupling] = float((states_at(lm, facts) - wanted).norm())
    start = float(torch.stack([path.residual for path in paths]).norm())
    assert missing[1] < 0.9 * missing[0] < 0.5 * start


@pytest.mark.parametrize("kind", ["gemma3_text", WILD])
def test_behind_a_norm_there_is_no_coupling(kind):
    """What a share brings after the norm is not a sum over layers, so that no base keys are recorded."""
    _, _, _, paths, moments = dense(kind)
    assert all(path.bases == {} for path in paths) and coupling_of(paths, None) == 0
    one, other = trajectory(paths, moments, 1.0), trajectory(paths, moments, 1.0, coupling=0)
    assert all(torch.equal(one.delta(i), other.delta(i)) for i in LAYERS)
    with pytest.raises(ValueError, match="some contributions carry no base keys"):
        trajectory(paths, moments, 1.0, coupling=0.5)
