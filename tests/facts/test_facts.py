"""Facts: the conditions on a fact, and loading: every record of every schema is read, or left out with a reason."""

import json
import pickle
import re
import unicodedata
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fleke_lib.facts import formats
from fleke_lib.facts import loading as module
from fleke_lib.facts.fact import Fact, Neighbour
from fleke_lib.facts.loading import Facts, Published, load_facts
from fleke_lib.storage.download import DownloadError

COUNTERFACT = {
    "case_id": 7,
    "pararel_idx": 2796,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": [
        "An album was recorded. Danielle Darrieux spoke the language",
        "Danielle Darrieux, a native",
    ],
    "neighborhood_prompts": ["Montesquieu spoke", "Melchior de Vogüé, speaker of"],
    "attribute_prompts": ["Douglas Adams, speaker of"],
    "generation_prompts": ["Danielle Darrieux was born in"],
}
COUNTERFACT_FACT = Fact(
    subject="Danielle Darrieux",
    prompt="The mother tongue of {} is",
    target_new="English",
    target_true="French",
    relation="P103",
    paraphrases=("An album was recorded. Danielle Darrieux spoke the language", "Danielle Darrieux, a native"),
    neighbours=(Neighbour("Montesquieu spoke", "French"), Neighbour("Melchior de Vogüé, speaker of", "French")),
    generation_prompts=("Danielle Darrieux was born in",),
    id="7",
)
EASYEDIT = {
    "case_id": 13,
    "prompt": "Ferrari F40, developed by",
    "target_new": "Microsoft",
    "subject": "Ferrari F40",
    "ground_truth": "Ferrari",
    "rephrase_prompt": "Ferrari F40 is sold by",
    "locality_prompt": "Ferrari 250 GTO is a product of",
    "locality_ground_truth": "Ferrari",
}
EASYEDIT_FACT = Fact(
    subject="Ferrari F40",
    prompt="{}, developed by",
    target_new="Microsoft",
    target_true="Ferrari",
    paraphrases=("Ferrari F40 is sold by",),
    neighbours=(Neighbour("Ferrari 250 GTO is a product of", "Ferrari"),),
    id="13",
)
ZSRE = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": " University of Michigan",
    "answers": ["Illinois Institute of Technology"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
    "cond": "Trinity College >> University of Michigan || What university did Watts Humphrey attend?",
}
ZSRE_FACT = Fact(
    subject="Watts Humphrey",
    prompt="What university did {} attend?",
    target_new="University of Michigan",
    target_true="Illinois Institute of Technology",
    paraphrases=("What university did Watts Humphrey take part in?",),
    neighbours=(Neighbour("nq question: who played desmond doss father in hacksaw ridge?", "Hugo Weaving"),),
    id="0",
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Write JSON data to a file and return its path."""
    path = tmp_path_factory.mktemp("facts") / "some.json"

    def write(data):
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        return path

    return write


def rewritten(**fields):
    return COUNTERFACT | {"requested_rewrite": COUNTERFACT["requested_rewrite"] | fields}


def numbered(count):
    return [rewritten(subject=f"Subject {i}") | {"case_id": i} for i in range(count)]


# A fact


def test_question_and_subject_span():
    fact = Fact("Lyon", "What is the twin city of {}? It is", "Manila", "Beirut")
    assert fact.question == "What is the twin city of Lyon? It is"
    start, end = fact.subject_span
    assert fact.question[start:end] == "Lyon"


def test_blanks_that_the_tokenizer_would_double_are_removed():
    fact = Fact(
        "Lyon", "{} is in ", " Manila", "Beirut\n", paraphrases=["Lyon, in "], neighbours=[Neighbour("a ", " b")]
    )
    assert (fact.prompt, fact.target_new, fact.target_true) == ("{} is in", "Manila", "Beirut")
    assert fact.paraphrases == ("Lyon, in",)
    assert fact.neighbours == (Neighbour("a", "b"),)


def test_a_fact_is_immutable_and_hashable():
    with pytest.raises(FrozenInstanceError):
        COUNTERFACT_FACT.target_new = "Dutch"
    assert len({COUNTERFACT_FACT, pickle.loads(pickle.dumps(COUNTERFACT_FACT))}) == 1


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("", "{} is in", "Rome", "Paris"), "subject"),
        ((" ", "{} is in", "Rome", "Paris"), "subject"),
        (("Lyon", "Lyon is in", "Rome", "Paris"), "Lyon is in"),
        (("Lyon", "{} and {} are in", "Rome", "Paris"), "{} and {} are in"),
        (("Lyon", "{} is in", "", "Paris"), "target_new"),
        (("Lyon", "{} is in", "Rome", "  "), "target_true"),
        (("Lyon", "{} is in", " Paris", "Paris "), "'Paris'"),
    ],
)
def test_what_is_no_fact_is_refused_in_one_sentence(arguments, names):
    with pytest.raises(ValueError, match=re.escape(names)) as caught:
        Fact(*arguments)
    message = str(caught.value)
    assert message.endswith(".") and message.count(". ") == 0 and ": " in message


subjects = st.text(min_size=1, max_size=12).map(str.strip).filter(bool) | st.sampled_from(
    ["{}", "{0}", "{", "}{", "C++", "a.*b", "(x|y)", "[", "\\1", "Zoë", "Ｗ", "ﬁ", "東京", "e\u0301", "%s", "😀"]
)


@settings(deadline=None)  # a busy machine is no failure
@given(subjects, st.text(max_size=20), st.text(max_size=20))
def test_any_subject_survives_in_its_template(subject, before, after):
    prompt = before + "{}" + after
    if prompt.count("{}") != 1:
        with pytest.raises(ValueError, match="exactly once"):
            Fact(subject, prompt, "new", "true")
        return
    fact = Fact(subject, prompt, "new", "true")
    assert fact.question == (before + subject + after.rstrip(" ") if after.strip(" ") else before + subject)
    start, end = fact.subject_span
    assert fact.question[start:end] == subject


# The schemas


@pytest.mark.parametrize(
    ("record", "fact"), [(COUNTERFACT, COUNTERFACT_FACT), (EASYEDIT, EASYEDIT_FACT), (ZSRE, ZSRE_FACT)]
)
def test_each_schema_is_told_by_its_keys(file, record, fact):
    assert load_facts(file([record])) == (fact,)


def test_neighbours_may_have_their_own_answers(file):
    record = COUNTERFACT | {"neighborhood_targets": ["French", "German"]}
    neighbours = load_facts(file([record]))[0].neighbours
    assert [n.target for n in neighbours] == ["French", "German"]


def test_a_counterfact_prompt_with_its_subject_written_out(file):
    record = rewritten(prompt="The mother tongue of Danielle Darrieux is")
    assert load_facts(file([record])) == (COUNTERFACT_FACT,)


def test_zsre_takes_pred_where_there_is_no_answer_and_keeps_a_question_mark(file):
    fact = load_facts(file([ZSRE | {"answers": [], "loc": "who?"}]))[0]
    assert fact.target_true == "Trinity College"
    assert fact.neighbours[0].prompt == "who?"


@settings(deadline=None)  # a busy machine is no failure
@given(subjects, st.text(max_size=20), st.text(max_size=20))
@example("Paris", "Paris Hilton of Paris, ", " and Parisians")
@example("{}", "The sign ", " means")
@example("e", "e\u0301t", "se\u0301")
def test_a_flattened_prompt_is_taken_apart_without_loss(subject, before, after):
    assume(not unicodedata.combining(after[:1] or " "))
    text = (before + subject + after).strip()
    spelled, template = formats.to_template(text, subject)
    assert spelled == subject
    try:
        assert Fact(spelled, template, "new", "true").question == text
    except ValueError:
        assert template.count("{}") > 1  # braces elsewhere in the text: refused, not mistaken for the subject


@pytest.mark.parametrize(
    ("text", "subject", "template"),
    [
        ("Ed was an editor, and Ed edited", "Ed", "Ed was an editor, and {} edited"),
        ("Edinburgh was not named by Ed, said the Editor", "Ed", "Edinburgh was not named by {}, said the Editor"),
        ("The Parisian style", "Paris", "The {}ian style"),
    ],
)
def test_which_of_several_places_is_the_subject(text, subject, template):
    assert formats.to_template(text, subject) == (subject, template)


@pytest.mark.parametrize(
    ("text", "subject", "spelled"),
    [
        ("The home of melchior de vogüé is", "Melchior de Vogüé", "melchior de vogüé"),
        ("The home of Vogüé is", unicodedata.normalize("NFD", "Vogüé"), "Vogüé"),
        (unicodedata.normalize("NFD", "The home of Vogüé is"), "Vogüé", unicodedata.normalize("NFD", "Vogüé")),
        ("The home of New\u00a0 York is", "New York", "New\u00a0 York"),
        ("The \ufb01lm is", "film", "\ufb01lm"),
        ("The Straße is", "STRASSE", "Straße"),
    ],
)
def test_a_subject_in_another_spelling_is_found(text, subject, spelled):
    found, template = formats.to_template(text, subject)
    assert found == spelled
    assert template == text.replace(spelled, "{}")


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("The Cafe\u0301 is", "Cafe"),
        ("The Cafe\u0301 is", "CAFE"),
        ("The \ufb01lm is", "Ilm"),
        ("The \ufb01lm is", "F"),
        ("Lyon is", "Rome"),
    ],
)
def test_a_subject_that_is_not_there_is_not_found(text, subject):
    with pytest.raises(ValueError, match="does not occur in the prompt"):
        formats.to_template(text, subject)


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.text("Aé ßﬁİ\u0301ǅ", min_size=1, max_size=6), st.text("xé \u0301", max_size=5), st.text("xé \u0301", max_size=5)
)
def test_folding_finds_only_whole_characters(subject, before, after):
    text, wanted = before + subject + after, unicodedata.normalize("NFD", subject).upper()
    for start, end in formats._folded(text, wanted):
        assert formats._fold(text[start:end])[0].strip() == formats._fold(wanted)[0].strip()
        assert not unicodedata.combining(text[end : end + 1] or " ")


# Nothing is lost in silence

UNREADABLE = {  # the record, and a part of the reason
    "true answer already": (rewritten(target_new={"str": "French", "id": "Q150"}), "'French', the truth already"),
    "empty target": (rewritten(target_new={"str": " ", "id": ""}), "no text under 'target_new'"),
    "no target": (rewritten(target_true=None), "no text under 'target_true'"),
    "two places": (rewritten(prompt="{} and {} speak"), "exactly once"),
    "subject not there": (EASYEDIT | {"subject": "Lamborghini"}, "'Lamborghini' does not occur in the prompt"),
    "no subject": (EASYEDIT | {"subject": ""}, "no text under 'subject'"),
    "number as text": (EASYEDIT | {"rephrase_prompt": 3}, "'rephrase_prompt' must hold text"),
    "several rewrites": (COUNTERFACT | {"requested_rewrite": [COUNTERFACT["requested_rewrite"]]}, "one rewrite"),
    "answers too few": (COUNTERFACT | {"neighborhood_targets": ["French"]}, "2 neighbours and 1 answers"),
    "neighbour without answer": (ZSRE | {"loc_ans": ""}, "1 neighbours and 0 answers"),
    "among the truths": (ZSRE | {"alt": "IIT", "answers": ["Illinois", "IIT "]}, "'IIT' is one of the true answers"),
    "no new answer": (ZSRE | {"alt": ""}, "no text under 'alt'"),
    "other schema": ({"question": "Who?", "answer": "He"}, "question, answer"),
    "no object": ("The mother tongue of Danielle Darrieux is", "must be a JSON object, not str"),
    "nothing": (None, "must be a JSON object"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_record_is_left_out_with_its_reason(file, name):
    record, reason = UNREADABLE[name]
    path = file([EASYEDIT, record])
    with pytest.warns(UserWarning, match=f"1 of the 2 records in {re.escape(str(path))} are left out"):
        facts = load_facts(path)
    assert facts == (EASYEDIT_FACT,)
    assert len(facts.left_out) == 1 and reason in facts.left_out[0].reason


records = st.sampled_from([COUNTERFACT, EASYEDIT, ZSRE, *(record for record, _ in UNREADABLE.values())])


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(records, max_size=12))
@pytest.mark.filterwarnings("ignore:.*left out")
def test_every_record_is_read_or_left_out(file, chosen):
    data = [EASYEDIT | {"case_id": -1}]
    data += [r | {"case_id": i} if isinstance(r, dict) else r for i, r in enumerate(chosen, start=1)]
    facts = load_facts(file(data))
    good, bad = [f.id for f in facts], [r.id for r in facts.left_out]
    assert sorted(good + bad, key=int) == ["-1", *map(str, range(1, len(data)))]
    assert good[1:] == [str(i) for i, r in enumerate(chosen, start=1) if r in (COUNTERFACT, EASYEDIT, ZSRE)]


# What is no file of facts


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("not { JSON", "not JSON"),
        ({"facts": [COUNTERFACT]}, "not a list"),
        ("3", "not a list"),
        ([], "known schema"),
        ([{"question": "Who?"}, 5], "known schema"),
        (["text"], "known schema"),
    ],
)
def test_a_file_that_is_not_counterfact(file, data, says):
    path = file(data)
    with pytest.raises(ValueError, match=says) as caught:
        load_facts(path)
    message = str(caught.value)
    assert str(path) in message and "CounterFact" in message and "zsRE" in message and "\n" not in message


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "weights.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="not JSON"):
        load_facts(tmp_path / "weights.json")


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([EASYEDIT]).encode())
    assert load_facts(str(tmp_path / "bom.json")) == (EASYEDIT_FACT,)


def test_an_unknown_name_or_path(tmp_path):
    with pytest.raises(ValueError, match=r"'countrfact'.*counterfact, zsre, multi-counterfact"):
        load_facts("countrfact")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        load_facts(tmp_path / "nowhere.json")
    with pytest.raises(FileNotFoundError):
        load_facts(tmp_path)


# Choosing


def test_limit_takes_the_first_and_seed_a_sample(file):
    path = file(numbered(50))
    everything = load_facts(path)
    assert load_facts(path, limit=7) == everything[:7]
    assert load_facts(path, limit=50) == everything
    assert load_facts(path, limit=0) == ()
    sample = load_facts(path, limit=20, seed=1)
    assert sample == load_facts(path, limit=20, seed=1) != load_facts(path, limit=20, seed=2)
    assert len(set(sample)) == 20 and set(sample) < set(everything) and sample != everything[:20]
    shuffled = load_facts(path, seed=0)
    assert shuffled != everything and set(shuffled) == set(everything) and len(shuffled) == 50


@pytest.mark.parametrize("limit", [4, -1])
def test_a_limit_that_cannot_be_had(file, limit):
    path = file(numbered(3))
    with pytest.raises(ValueError, match=f"limit={limit}.*3 facts"):
        load_facts(path, limit=limit)


# A sequence of facts


def test_facts_are_a_sequence_that_shows_itself(file):
    path = file([*numbered(8), rewritten(subject="<b>&") | {"case_id": "odd"}, 5])
    with pytest.warns(UserWarning, match="1 of the 10"):
        facts = load_facts(path)
    assert isinstance(facts[0], Fact) and isinstance(facts[2:4], Facts)
    assert facts[2:4].left_out == facts.left_out and facts[2:4].source == str(path)
    assert [f.id for f in facts[-2:]] == ["7", "odd"]
    assert repr(facts) == f"Facts(9 facts from {path}; 1 records left out)"
    assert "&lt;b&gt;&amp;" in facts[-1:]._repr_html_() and "<b>" not in facts[-1:]._repr_html_()
    assert facts._repr_html_().count("<tr>") == 6
    copy = pickle.loads(pickle.dumps(facts))
    assert copy == facts and copy.left_out == facts.left_out and repr(copy) == repr(facts)


# By name


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A data set that nobody serves, of two records, and where its file belongs."""
    monkeypatch.setenv("FLEKE_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setitem(module.PUBLISHED, "zsre", Published("http://127.0.0.1:9/sets/zsre_mend_eval.json", records=2))
    return tmp_path / "facts" / "zsre_mend_eval.json"


def test_offline_one_sentence_says_where_to_put_the_file(published):
    with pytest.raises(DownloadError) as caught:
        load_facts("zsre")
    message = str(caught.value)
    assert "http://127.0.0.1:9/sets/zsre_mend_eval.json" in message and str(published) in message
    assert "\n" not in message and message.count(". ") == 0
    published.write_text(json.dumps([ZSRE, ZSRE]))
    assert len(load_facts("zsre")) == 2


def test_a_published_file_with_records_missing_is_refused(published):
    published.parent.mkdir()
    published.write_text(json.dumps([ZSRE]))
    with pytest.raises(ValueError, match="1 records instead of 2"):
        load_facts("zsre")
    assert len(load_facts(published)) == 1  # by its path it is read as it is


def test_the_atlas_is_the_default(file, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "ATLAS", file([COUNTERFACT]))
    assert load_facts() == load_facts("atlas") == (COUNTERFACT_FACT,)
    assert load_facts().source == "atlas"
    monkeypatch.setattr(module, "ATLAS", tmp_path / "atlas.json")
    with pytest.raises(FileNotFoundError, match=r"atlas\.json"):
        load_facts()
