"""Every exercise's solution passes its check; a stub and answers that somebody might hand in are refused by name."""

import re
from collections.abc import Callable
from itertools import cycle

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import fleke_lib
from tools.exercises import FOLDER, Exercise, read_sheet

SHEETS = {path.stem: read_sheet(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("source/[0-9]*.py"))}
ALL = {
    (chapter.partition("_")[0], number): one
    for chapter, sheet in SHEETS.items()
    for number, one in enumerate(sheet.exercises, 1)
}
OPENINGS = {chapter.partition("_")[0]: sheet.opening for chapter, sheet in SHEETS.items()}
Names = Callable[[str], dict]

# What in the solution is changed to what, and what the check's sentence must speak of.
WRONG = {
    ("00", 1): (
        ('true[here] > new[here] if asked == "neighbour" else ', "", "specificity has the wrong sign"),
        ("fact[here] == i", "fact[here] == fact[here]", "paraphrase is a mean over prompts"),
        ("for i in fact[here].unique()", "for i in fact.unique()", "paraphrase is not a number"),
        ("else new[here] > true[here]", "else new[here] >= true[here]", "efficacy counts a tie as a win"),
    ),
    ("00", 2): (
        ("((left.T @ left) * (right @ right.T)).sum().sqrt()", "(left @ right).norm()", "6,000 numbers"),
        (".sum().sqrt()", ".sum()", "the square of the norm"),
        ("((left.T @ left) * (right @ right.T)).sum().sqrt()", "left.norm() * right.norm()", "is a bound"),
    ),
    ("00", 3): (
        ("weight.copy_(original)", "weight.sub_(delta)", "last bits"),
        ("weight.clone()", "weight", "still carries the edit"),
        ("finally:", "except ZeroDivisionError:\n        pass\n    else:", "when the block fails"),
        ("weight.add_(delta)", "weight = weight + delta", "write into the tensor itself"),
        ("finally:", "except Exception:\n        pass\n    finally:", "is swallowed"),
    ),
    ("01", 1): (
        (
            "first : last + 1] = 3 * table.std() * drawn",
            "first:last] = 3 * table.std() * drawn[:, :-1]",
            "last token has no",
        ),
        ("noise[1:, first : last + 1] = 3 * table.std() * drawn", "noise[1:] = 3 * table.std()", "outside the subject"),
        ("noise[1:, first : last + 1] = 3 * table.std() * drawn", "noise[:, first : last + 1] = drawn[:1]", "row 0"),
        ("3 * table.std()", "3 * table.std(0)", "of the whole table"),
        ("3 * table.std()", "table.std()", "1.00 of the table's standard deviations"),
    ),
    ("01", 2): (
        ("range(max(0, lowest), min(lm.n_layers, lowest + window))", "(layer,)", "5 layers in all"),
        ("lowest = layer - window // 2", "lowest = layer", "2 of them below"),
        ("changes = {lm.embeddings: noisy}", "changes = {}", "is the noise in"),
        ("changes[lm.projection(i)] = put_back(clean[i])", "pass", "nothing is restored"),
    ),
    ("01", 3): (
        ("means = indirect[drawn].nanmean(1)", "means = indirect", "where facts lie"),
        ("indirect[drawn].nanmean(1)", "indirect[drawn].mean(1)", "does every draw have a value"),
        (
            "means.nanquantile(torch.tensor([0.025, 0.975]",
            "means.nanquantile(torch.tensor([0.16, 0.84]",
            "times as wide",
        ),
        ("generator=generator", "generator=None", "the same seed"),
        ("return indirect.nanmean(0)", "return indirect.mean(0)", "the mean is not a number"),
    ),
    ("02", 1): (
        ("torch.linalg.solve(C, k)", "k", "where is C used"),
        ("v - W @ k", "v", "dW k is all of v"),
        ("(u @ k)", "(k @ k)", "does not map k to v"),
    ),
    ("02", 2): (
        ("(keys[:, 0] + keys[:, 1:].mean(1)) / 2", "keys.mean(1)", "plain mean over contexts"),
        ("z.double() - h.double()", "z.double()", "asked for all of z"),
        ("lam * C", "C", "lambda is left out"),
        ("z.double() - h.double()", "h.double() - z.double()", "the sign is wrong"),
        ("torch.linalg.solve(lam * C + K.T @ K, K.T @ R)", "torch.linalg.solve(C, K.T @ R)", "does not minimise"),
        (
            "torch.linalg.solve(lam * C + K.T @ K, K.T @ R).T",
            "torch.linalg.solve((lam * C + K.T @ K).float(), (K.T @ R).float()).T",
            "convert keys and states to float64",
        ),
        ("z.double() - h.double()", "(z - h).double()", "float32's precision"),
    ),
    ("02", 3): (
        (" / (len(layers) - i)", "", "the layers above have a share"),
        ("len(layers) - i", "len(layers)", "2 still to go"),
        ("= read(changes, layer)", "= read({}, layer)", "missing at first"),
        ("z - states", "z", "h is there already"),
        ("= solve(layer, keys,", "= solve(layer, read({}, layer)[0],", "keys of another model"),
    ),
    ("03", 1): (
        ("[0.5] + [0.5 / prefixed] * prefixed", "[1 / 6] * 6", "the bare prompt's weight is half of all"),
        ("[0.5] + [0.5 / prefixed] * prefixed", "[1.0] * 6", "add up to 1"),
        (
            '"c,icd,ice->de", w, keys, keys',
            '"id,ie->de", *[torch.einsum("c,icd->id", w, keys)] * 2',
            "S is made of mean keys",
        ),
        ("[0.5] + [0.5 / prefixed] * prefixed", "[1.0] + [0.0] * prefixed", "the bare prompts alone"),
    ),
    ("03", 2): (
        ("hmac.new(secret,", 'hmac.new(b"all",', "a server that guesses a fact"),
        ("json.dumps([purpose, *parts])", 'json.dumps(["", *parts])', "a question and an answer"),
        ("json.dumps([purpose, *parts])", '"|".join([purpose, *parts])', "where one part ends"),
        ("json.dumps([purpose, *parts])", "json.dumps([purpose, *sorted(parts)])", "change places"),
        (
            "hmac.new(secret, message.encode(), hashlib.sha256)",
            "hashlib.sha256(secret + (purpose + json.dumps(parts)).encode())",
            "the end of the secret",
        ),
        ("json.dumps([purpose, *parts])", "json.dumps([purpose, *filter(None, parts)])", "how many parts"),
    ),
    ("03", 3): (
        ("mean = weights @ keys", "mean = keys.mean(0)", "plain mean of the keys"),
        ("weights.sqrt()[:, None] * (keys - mean)", "keys - mean", "keys that all weigh 1"),
        ("s[:axes, None] * v[:axes]", "v[:axes]", "length 1"),
        ("weights.sqrt()[:, None] * (keys - mean)", "weights.sqrt()[:, None] * keys", "nothing may be lost"),
        ("s[:axes, None] * v[:axes]", "(s[:, None] * v).flip(0)[-5:][:axes]", "other axes lose less"),
    ),
    ("04", 1): (
        ("torch.cat([own, offered]).mean(0)", "0", "raw vectors"),
        ("own - mean, offered - mean", "own - own.mean(0), offered - offered.mean(0)", "centred apart"),
        (" / (own.norm(dim=1)[:, None] * offered.norm(dim=1))", "", "inner products"),
        ("torch.cat([own, offered])", "own", "it sees the offered ones as well"),
    ),
    ("04", 2): (
        ("2 * near >= len(own)", "2 * near > len(own)", "near to one of two is half"),
        ("2 * near >= len(own)", "near >= len(own) // 2", "near to one of three is not"),
        ("2 * near >= len(own)", "cosines.mean(0) > tau", "near to two of three"),
        ("2 * near >= len(own)", "near > 0", "near to one of three is not"),
        ("(cosines > tau)", "(cosines.abs() > tau)", "near to one of three is not"),
    ),
    ("04", 3): (
        (
            "float(a.sum() * r.double().mean())",
            "float(a.sum()) * wanted / sum(map(len, relevant))",
            "share of all offers",
        ),
        ('"precision": both / many if many else 1.0', '"precision": both / wanted', "precision is 0.400"),
        ('"recall": both / wanted', '"recall": both / many', "recall is the precision"),
        (
            '"precision": both / many if many else 1.0',
            '"precision": both / many if many else 0.0',
            "precision is then 1",
        ),
    ),
    ("05", 1): (
        (
            "torch.cat(scaled, 1), torch.cat(list(rights))",
            "sum(scaled), sum(s * right for s, right in zip(shares, rights, strict=True))",
            "factors are averaged",
        ),
        ("count / sum(facts)", "1 / len(facts)", "every client weighs the same"),
        ("count / sum(facts)", "count", "add up to 1"),
        ("torch.cat(list(rights))", "torch.cat([s * r for s, r in zip(shares, rights, strict=True)])", "twice"),
        (
            "torch.cat(scaled, 1), torch.cat(list(rights))",
            "torch.cat(scaled, 1) @ torch.cat(list(rights)), None",
            "a tensor of",
        ),
    ),
    ("05", 2): (
        ("packet.answer: packet", "id(packet): packet", "counts twice"),
        ("held |= ", "held = ", "what came before is forgotten"),
        (
            "held |= {packet.answer: packet for packet in slot}\n"
            "        keys = torch.stack([packet.key for packet in held.values()])\n"
            "        shares = torch.stack([packet.share for packet in held.values()])\n"
            "        changes.append(torch",
            "keys, shares = torch.stack([p.key for p in slot]), torch.stack([p.share for p in slot])\n"
            "        changes.append(sum(changes[-1:]) + torch",
            "added up",
        ),
    ),
    ("05", 3): (
        (".add(claim.client)", ".add(claim.id)", "has one vote"),
        ("if len(first) == 1:", "if first:", "nobody has a majority"),
        ("min((claim.slot, claim.id)", "max((claim.slot, claim.id)", "the oldest stays"),
    ),
    ("06", 1): (
        ("patients[stays] / patients[stays].sum()", "torch.ones_like(patients[stays]) / stays.sum()", "counts alike"),
        ("share, hessians[stays]", "patients / patients.sum(), hessians", "influence function"),
        ("return w - torch", "return w + torch", "up the gradient"),
        (
            "share = patients[stays] / patients[stays].sum()",
            "stays = torch.ones_like(stays)\n    share = patients / patients.sum()",
            "optimum of everybody",
        ),
    ),
    ("06", 2): (
        ("return w + torch.linalg.solve(torch.eye(len(w), dtype=w.dtype) - J, F - w)", "return F", "one more round"),
        ("patients / patients.sum()", "torch.ones_like(patients) / len(patients)", "counts alike"),
        ("dtype=w.dtype) - J", "dtype=w.dtype) - J.T", "rows and columns"),
        ("return w + torch", "return w - torch", "sign is wrong"),
        ("torch.eye(len(w), dtype=w.dtype) - J", "J", "J alone"),
    ),
    ("06", 3): (
        ("(below + up_to)", "(up_to + up_to)", "as a win"),
        ("(below + up_to)", "(below + below)", "as nothing"),
        ("(below + up_to)", "(2 * len(others) - below - up_to)", "other's score is higher"),
        (
            "float((below + up_to).double().mean() / (2 * len(others)))",
            "float(((members[:, None] > others).double() + (members[:, None] >= others)).mean() / 2)",
            "for every pair",
        ),
    ),
    ("06b", 1): (
        ("S = S - keys.T @ keys", "S = S", "S still has its keys"),
        ("T = T - shares.T @ keys", "T = T", "T has its shares"),
        (
            "return torch.linalg.solve(lam * C + S, T.T).T",
            "A = lam * C + S + keys.T @ keys\n"
            "    own = torch.linalg.solve(lam * C + keys.T @ keys, keys.T @ shares).T\n"
            "    return torch.linalg.solve(A, T.T + keys.T @ shares).T - own",
            "own update is subtracted",
        ),
    ),
    ("06b", 2): (
        ("torch.linalg.solve(inner, G.T)", "G.T", "influence function"),
        ("shares - keys @ dW.T", "shares", "used their whole shares"),
        ("- keys @ G", "+ keys @ G", "not what solving again"),
        ("torch.linalg.solve(inner, G.T)", "(G / torch.diagonal(inner)).T", "not independent"),
        ("G = solve(keys.T)", "G = solve(torch.eye(keys.shape[1], dtype=keys.dtype)) @ keys.T", "18 columns"),
    ),
    ("06b", 3): (
        ('db.execute("PRAGMA secure_delete = ON")', "pass", "left their bytes"),
        ('db.execute("PRAGMA wal_checkpoint(TRUNCATE)")', "pass", "write-ahead log"),
        ("DELETE FROM packets", "UPDATE packets SET vector = zeroblob(600)", "still see 8 rows"),
        (' WHERE client = ?", (client,)', '"', "rows of other clients"),
    ),
    ("07", 1): (
        ("torch.where(distance <= within, which, -1)", "which", "-1 is missing"),
        (
            "(h[:, None] - states).norm(dim=-1) / h.norm(dim=-1, keepdim=True)",
            "1 - torch.cosine_similarity(h[:, None], states[None], dim=-1)",
            "of the greatest cosine",
        ),
        (" / h.norm(dim=-1, keepdim=True)", "", "divided by the length of h"),
    ),
    ("07", 2): (
        ("dW @ R", "dW", "the update is not"),
        ("torch.linalg.solve_triangular(R, keys.T, upper=False).T", "keys", "the keys are not"),
        (".Vh[:facts]", ".Vh", "only as many directions count"),
        ("(x @ basis.T).square().sum(1) / x.square().sum(1)", "(x @ basis.T).norm(dim=1) / x.norm(dim=1)", "lengths"),
    ),
    ("07", 3): (
        ("if name < other else vector - mask", "", "one of them must subtract"),
        ("vector = vector + mask if name < other else vector - mask", "pass", "nothing is masked"),
        ("seeds.items()", "[min(seeds.items())]", "not the total of the vectors"),
        ("stream(seed, len(vector))", 'stream(b"", len(vector))', "cancel without the others"),
    ),
    ("08", 1): (
        ("student.ppf(0.975, n - 1)", "1.96", "1.96 is too small"),
        ("0.975", "0.95", "cut off at each side"),
        ("n - 1)", "n)", "two degrees of freedom"),
        ("ddof=1", "ddof=0", "divide by n - 1"),
        (" / n**0.5", "", "that of single values"),
        ("values.mean() + half >= bound", "values.mean() >= bound", "a part of the interval reaches it"),
        ("half >= bound:", "half > bound:", "a value equal to it"),
    ),
    ("08", 2): (
        ("pairs[drawn].mean(1)", "(first[drawn].mean(1) / second[drawn].mean(1))", "ratio of the means"),
        ("first - times * second", "first - second", "multiplied by `times`"),
        (
            "pairs[drawn].mean(1)",
            "(first[drawn].mean(1) - times * second[drawn.flip(0)].mean(1))",
            "drawn apart",
        ),
        ("pairs[drawn].mean(1)", "pairs[drawn][:, 0]", "the facts' own differences"),
        ("0.025, 0.975", "0.16, 0.84", "times as wide"),
        (", generator=torch.Generator().manual_seed(seed)", "", "the same seed"),
    ),
    ("08", 3): (
        ("if question not in used:", "if True:", "a setting was chosen"),
        ("first.setdefault(question, i)", "first[i] = i", "a question twice|a question in common"),
        ("s * n : (s + 1) * n", "s : s + n", "two seeds have a question in common"),
        ("Random(seed)", "Random()", "the same seed"),
        ("Random(seed).shuffle(one_each)", "pass", "nothing is drawn at random"),
        ("if len(one_each) < seeds * n:", "if False:", "raise ValueError"),
    ),
    ("09", 1): (
        (
            "found.append((row.received - before, ",
            "found.append((row.received, ",
            "since the server's start",
        ),
        ('if row.what == "join":', "if False:", "the total begins again"),
        ("row.alive - row.replied", "row.members - row.replied", "absent and not late"),
        ("row.members - row.alive", "row.members - row.replied", "late and not absent"),
        (
            "row.alive - row.replied, row.members - row.alive",
            "row.members - row.alive, row.alive - row.replied",
            "changed places",
        ),
        ("row.received - before", "row.sent - before", "has bytes"),
    ),
    ("09", 2): (
        ("if turn in kept:", "if False:", "was played again|was refused: the server may not have got the reply"),
        ("    keep(reply)\n", "", "is not in the folder"),
        ("return reply", "return play()", "not the one that was kept"),
        ("number < last", "number != last + 1", "must be played"),
        ("session != present or number < last", "session != present", "has gone on without it"),
        ("session != present or number < last", "session == present and number < last", "that session has ended"),
        ("if session in {one for one, _ in kept}:", "if kept:", "a new session begins with a low number"),
        ("reply = play()", "try:\n        reply = play()\n    except Exception:\n        reply = b''", "let the error"),
    ),
    ("09", 3): (
        ("members - requests.keys()", "members", "who withdraws is not waited for"),
        ("for _, _, replied in turns[start:]", "for _, _, replied in turns[-1:]", "has missed a turn in the middle"),
        ("for _, _, replied in turns[start:]", "for _, _, replied in turns", "before the replay does not count"),
        ("all(asked < start for", "any(asked < start for", "one of two requests"),
        ("return after and turns", "return turns", "played again after the request"),
        ('turns[-1][0] == "solve" and ', "", "has not come to its `solve`"),
        ("start = max(", "start = min(", "everybody has replied to all turns"),
        ("all(stay <= replied for", "any(stay <= replied for", "has missed a turn"),
    ),
    ("10", 1): (
        ("healthy[token] = faulty[token]", "healthy = faulty", "replace one token's"),
        ("healthy[token] = faulty[token]", "pass", "nothing is replaced"),
        ("if number == layer:", "if number == layer - 1:", "replaced before the layer"),
        ("return healthy", "return faulty", "come from the faulty picture"),
    ),
    ("10", 2): (
        ("T = -falls @ keys", "T = falls @ keys", "the scores rise"),
        ("lam * C + S", "lam * torch.eye(len(C), dtype=C.dtype) + S", "C is missing"),
        ("lam * C", "C", "lambda is missing"),
    ),
    ("10", 3): (
        (
            "inner.log_prob(confidence) - outer.log_prob(confidence)",
            "outer.log_prob(confidence) - inner.log_prob(confidence)",
            "upside down",
        ),
        ("return torch.stack(scores)", "return torch.stack(scores).exp()", "take the logarithm"),
        ("group.std()", "group.std(correction=0)", "use n - 1"),
        ("column[member], column[~member]", "shadow[inside], shadow[~inside]", "one pair for each"),
    ),
}


# More slips, of which a check need not say what they are.
SLIPS = {
    ("00", 1): (("true[here] > new[here]", "true[here] >= new[here]"), ("stack(shares).mean()", "stack(shares).sum()")),
    ("00", 2): (
        ("(left.T @ left) * (right @ right.T)", "(left.T @ left) @ (right @ right.T)"),
        (".sum().sqrt()", ".mean().sqrt()"),
    ),
    ("00", 3): (
        ("weight.copy_(original)", "weight.copy_(weight - delta)"),
        ("weight.add_(delta)", "weight.copy_(delta)"),
    ),
    ("01", 1): (
        ("first : last + 1] = 3 * table.std() * drawn", "first + 1 : last + 2] = 3 * table.std() * drawn"),
        ("table.std()", "table.var()"),
    ),
    ("01", 2): (
        ("state[:, token : token + 1]", "state[:, token - 1 : token]"),
        ("lowest + window)", "lowest + window - 1)"),
    ),
    ("01", 3): (
        ("0.025, 0.975", "0.05, 0.95"),
        ("return indirect.nanmean(0), low, high", "return means.mean(0), low, high"),
    ),
    ("02", 1): (("torch.linalg.solve(C, k)", "C @ k"), ("(u @ k)", "(u @ u)")),
    ("02", 2): (
        ("K.T @ K, K.T @ R", "K.T @ K / len(K), K.T @ R / len(K)"),
        ("lam * C + K.T @ K", "K.T @ K + 1e-6 * torch.eye(len(C), dtype=C.dtype)"),
        ("lam * C", "lam * torch.diag(torch.diagonal(C))"),
    ),
    ("02", 3): (("(len(layers) - i)", "(len(layers) - i + 1)"), ("(len(layers) - i)", "(len(layers) - i) ** 0.5")),
    ("03", 1): (
        ("lam * C + S, T.T", "lam * C + S / len(keys), T.T / len(keys)"),
        ("lam * C + S", "S + 1e-6 * torch.eye(len(C), dtype=C.dtype)"),
    ),
    ("03", 2): (("json.dumps([purpose, *parts])", "purpose + json.dumps(parts[0])"),),
    ("03", 3): (("v[:axes]", "v[-axes:]"), ("weights.sqrt()[:, None]", "weights[:, None]")),
    ("04", 1): (("torch.cat([own, offered]).mean(0)", "torch.cat([own, offered]).mean()"),),
    ("04", 2): (("(cosines > tau)", "(cosines >= tau)"), ("2 * near >= len(own)", "2 * near >= len(offered)")),
    ("04", 3): (("(a & r).sum()", "(a == r).sum()"), ("both / wanted if wanted else 1.0", "both / max(1, wanted)")),
    ("05", 1): (("count / sum(facts)", "count / max(facts)"), ("torch.cat(scaled, 1)", "torch.cat(scaled[::-1], 1)")),
    ("05", 2): (
        ("return changes", "return [changes[0], *changes[:-1]]"),
        ("return changes", "return [b - a for a, b in zip([0, *changes], changes)]"),
        ("lam * C + keys.T @ keys", "lam * C + keys.T @ keys / len(held)"),
    ),
    ("05", 3): (
        ("if len(first) == 1:", "if len(first) == 1 and 2 * most > sum(map(len, voters.values())):"),
        (" for claim in asked if claim.answer == first[0]", " for claim in asked"),
    ),
    ("06", 1): (("/ patients[stays].sum()", "** 0"), ("solve(H, g)", "solve(H + torch.eye(len(w)), g)")),
    ("06", 2): (("F - w)", "F)"), ("return w + torch", "return F + torch")),
    ("06", 3): (("(2 * len(others))", "len(others)"), ("double().mean()", "double().median()")),
    ("06b", 1): (("lam * C + S", "lam * C"), ("S - keys.T @ keys", "S - keys.T @ keys / len(keys)")),
    ("06b", 2): (("dW - missing", "dW + missing"), ("shares - keys @ dW.T", "keys @ dW.T")),
    ("06b", 3): (("TRUNCATE", "PASSIVE"), ("secure_delete = ON", "secure_delete = OFF")),
    ("07", 1): (("apart.min(1)", "apart.max(1)"), ("which, -1)", "which, 0)")),
    ("07", 2): (("dW @ R", "dW @ R.T"), ("cholesky(C)", "cholesky(torch.linalg.inv(C))")),
    ("07", 3): (("stream(seed, len(vector))", "stream(seed, 1)"), ("seeds.items()", "list(seeds.items())[:-1]")),
}


def label(place: tuple[str, int]) -> str:
    return "-".join(map(str, place))


MISTAKES = [
    pytest.param(place, *change, id=f"{label(place)}-{number}")
    for place, changes in WRONG.items()
    for number, change in enumerate(changes, 1)
]


NEED_A_MODEL = {place[0] for place in ALL if any("load_model" in cell.text for cell in OPENINGS[place[0]])}


@pytest.fixture(scope="module")
def opened(request) -> Names:
    """The names that a chapter's exercises find when its opening has run. A model is the session's."""
    places = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    asked = {place.params["place"][0] for place in places if place}
    lm = request.getfixturevalue("lm") if asked & NEED_A_MODEL else None
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        patch.setattr(fleke_lib, "load_model", lambda: lm)
        made: dict[str, dict] = {}

        def names(chapter: str) -> dict:
            if chapter not in made:
                made[chapter] = {}
                for cell in OPENINGS[chapter]:
                    if not cell.kind:
                        exec(cell.text, made[chapter])
            return dict(made[chapter])

        yield names


def verdict(names: dict, exercise: Exercise, code: str) -> str:
    """What the check says of an answer; its sentence where it refuses, with "Right" before it where it does not."""
    exec(code, names)
    try:
        return repr(eval(exercise.check, names))
    except AssertionError as refused:
        assert type(refused).__name__ == "NotYet"
        return str(refused)


def lines_of(exercise: Exercise) -> set[str]:
    """The lines of the solution that the stub does not have, but for those too short to mean anything."""
    return {line.strip() for line in exercise.solution.splitlines() if len(line.strip()) > 12} - {
        line.strip() for line in exercise.stub.splitlines()
    }


@pytest.mark.parametrize("place", ALL, ids=label)
def test_the_solution_passes(place, opened):
    said = verdict(opened(place[0]), ALL[place], ALL[place].solution)
    assert said.startswith("Right: ") and said.endswith(".")


@pytest.mark.parametrize("place", ALL, ids=label)
def test_the_stub_is_refused_by_name(place, opened):
    exercise = ALL[place]
    said = verdict(opened(place[0]), exercise, exercise.stub)
    assert said.endswith(" is not written yet: put your lines where it raises NotImplementedError.")
    assert f"def {said.split()[0]}(" in exercise.stub


def test_every_check_meets_a_wrong_answer():
    assert WRONG.keys() == ALL.keys()


@pytest.mark.parametrize(("place", "old", "new", "named"), MISTAKES)
def test_a_wrong_answer_is_refused_and_the_mistake_is_named(place, old, new, named, opened):
    exercise = ALL[place]
    assert exercise.solution.count(old) == 1, "the solution has changed: change the mistake as well"
    said = verdict(opened(place[0]), exercise, exercise.solution.replace(old, new))
    assert not said.startswith("Right"), said
    assert re.search(named, said), said
    assert said[-1] in ".?" and len(said) < 160
    assert not any(line in said for line in lines_of(exercise))


def hidden(names: dict, exercise: Exercise, code: str) -> str:
    """What the hidden check says of an answer: nothing if it accepts it."""
    exec(code, names)
    cell = exercise.hidden_check(seed=2)
    try:
        exec(cell, names)
    except Exception as refused:  # of any kind: a wrong answer may not survive other numbers
        return f"{type(refused).__name__}: {refused}"
    return ""


@pytest.mark.parametrize("place", ALL, ids=label)
def test_the_solution_passes_the_hidden_check(place, opened):
    assert hidden(opened(place[0]), ALL[place], ALL[place].solution) == ""


@pytest.mark.parametrize(("place", "old", "new", "named"), MISTAKES)
def test_a_wrong_answer_does_not_pass_the_hidden_check(place, old, new, named, opened):
    exercise = ALL[place]
    assert hidden(opened(place[0]), exercise, exercise.solution.replace(old, new))


@pytest.mark.parametrize("place", ALL, ids=label)
def test_an_answer_learnt_by_heart_does_not_pass_the_hidden_check(place, opened):
    """It returns, call by call, what the solution returns in the check that everybody sees."""
    exercise, names = ALL[place], opened(place[0])
    exec(exercise.solution, names)
    name, seen = re.fullmatch(r"\w+\((\w+).*\)", exercise.check)[1], []
    solution = names[name]

    def noted(*given):
        try:
            answer = solution(*given)
        except ValueError as error:
            seen.append(error)
            raise
        seen.append(answer)
        return answer

    names[name] = noted
    eval(exercise.check, names)
    answers = cycle(seen)

    def by_heart(*given):
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    names[name] = by_heart
    with pytest.raises(Exception):  # noqa: B017 - of any kind, as for a wrong answer
        exec(exercise.hidden_check(seed=2), names)


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        pytest.param(place, *slip, id=f"{label(place)}-{n}")
        for place, slips in SLIPS.items()
        for n, slip in enumerate(slips, 1)
    ],
)
def test_a_slip_passes_neither_check(place, old, new, opened):
    exercise, names = ALL[place], opened(place[0])
    assert exercise.solution.count(old) == 1, "the solution has changed: change the slip as well"
    wrong = exercise.solution.replace(old, new)
    assert not verdict(names, exercise, wrong).startswith("Right")
    assert hidden(names, exercise, wrong)


def test_a_reader_sees_the_sentence_and_no_traceback(opened, capsys):
    opened("00")
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}, InteractiveShell={"colors": "nocolor"}))
    shell.run_cell("from checks.verdict import Right, expect\nexpect(False, 'this is off.')")
    shell.run_cell("Right('all is well.')")
    printed = capsys.readouterr().out
    assert "Not yet: this is off." in printed and "Traceback" not in printed
    assert "Right: all is well." in printed
