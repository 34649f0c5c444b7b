"""Token positions against the tokenizer's own decoding, for random texts, paddings and kinds of tokenizer."""

import functools
import unicodedata

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fleke_lib.model.tokens import beginning, encode, filler, pad
from tests.tiny import KINDS, slow_tokenizer, tiny, tiny_tokenizer, unigram_tokenizer, wordpiece_tokenizer

# What these decode is the text again; Qwen-2's normalizes it before (NFC).
LOSSLESS = {
    "gpt2": lambda: tiny_tokenizer("gpt2"),
    "qwen2": lambda: tiny_tokenizer("qwen2"),
    "llama": lambda: tiny_tokenizer("llama"),
    "mistral": lambda: tiny_tokenizer("mistral"),
    "gemma3_text": lambda: tiny_tokenizer("gemma3_text"),
    "unigram": lambda: unigram_tokenizer(byte_fallback=True),
    "slow": slow_tokenizer,
    "slow-replacing": lambda: slow_tokenizer(errors="replace"),
}
LOSSY = {"wordpiece": wordpiece_tokenizer, "unigram-unk": lambda: unigram_tokenizer(byte_fallback=False)}

WORDS = [
    "Paris",
    "The",
    "is",
    "capital",
    "São",
    "Tomé",
    "日本",
    "鷗外",
    "e\u0301cole",
    "👍🏽",
    "a",
    "x7",
    "Zürich.",
    "«",
    "l'eau",
]
word = st.one_of(
    st.sampled_from(WORDS), st.text("abT éß日👍\u0301-,'", min_size=1, max_size=4).map(str.strip).filter(bool)
)
phrase = st.lists(word, min_size=1, max_size=3).map(" ".join)
around = st.one_of(st.just(""), phrase)
glue = st.sampled_from([" ", " ", " ", "", "'"])


@functools.cache
def tokenizer_of(name):
    return (LOSSLESS | LOSSY)[name]()


def decoded(name, ids):
    return tokenizer_of(name).decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def as_read(name, text):
    return unicodedata.normalize("NFC", text) if name == "qwen2" else text


def has_come_past(name, ids, text):
    """Whether these tokens decode to the whole of a text, or to more of it."""
    return decoded(name, ids).startswith(as_read(name, text))


@pytest.mark.parametrize("name", LOSSLESS)
@given(before=around, left=glue, subject=phrase, right=glue, after=around, target=phrase)
@example(before="Paris, Paris and", left=" ", subject="Paris", right=" ", after="is Paris", target="Paris")
@example(before="", left="", subject="鷗", right="", after="外は", target="森")
@example(before="The", left=" ", subject="👍🏽", right="", after="", target="👍")
def test_subject_and_target_are_where_the_decoded_text_says(name, before, left, subject, right, after, target):
    before += left if before else ""
    prompt = before + subject + (right + after if after else "")
    end = len(before) + len(subject)
    for cut in (len(before), end):  # a letter composed across the subject's edge leaves no text to compare with
        assume(as_read(name, prompt[:cut]) + as_read(name, prompt[cut:]) == as_read(name, prompt))
    code = encode(tokenizer_of(name), prompt, target, (len(before), end))
    first, last = code.subject
    assert has_come_past(name, code.ids[: last + 1], prompt[:end])
    assert not has_come_past(name, code.ids[:last], prompt[:end])
    assert len(decoded(name, code.ids[:first])) <= len(as_read(name, before))
    if before.endswith(" "):  # else one token may hold the end of what comes before and the subject's start
        assert has_come_past(name, code.ids[:first], before.rstrip())
    assert last < code.target
    assert decoded(name, code.ids) == as_read(name, f"{prompt} {target}")
    assert decoded(name, code.prompt_ids) == as_read(name, prompt)
    special = set(tokenizer_of(name).all_special_ids)
    assert not special & set(code.target_ids)
    assert encode(tokenizer_of(name), prompt).ids == code.prompt_ids
    assert encode(tokenizer_of(name), prompt).target == len(code.prompt_ids)


@pytest.mark.parametrize("name", LOSSY)
@given(before=around, subject=phrase, after=around, target=phrase)
def test_positions_in_tokenizers_that_lose_letters(name, before, subject, after, target):
    """Cut the text at a blank, and the parts come to the tokens before, of, and after the subject."""
    tokenizer = tokenizer_of(name)

    def count(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    prompt = " ".join(part for part in (before, subject, after) if part)
    start = len(before) + bool(before)
    assume(count(subject) and count(target) and not unicodedata.combining(subject[0]))
    code = encode(tokenizer, prompt, target, (start, start + len(subject)))
    lead = len(tokenizer("a")["input_ids"]) - len(tokenizer("a", add_special_tokens=False)["input_ids"])
    lead = 1 if lead else 0
    if name == "wordpiece":
        assert code.subject == (lead + count(before), lead + count(before) + count(subject) - 1)
    assert code.subject[1] == lead + count(f"{before} {subject}".strip()) - 1
    assert code.target == lead + count(prompt)
    assert len(code.ids) == lead + count(f"{prompt} {target}")


@pytest.mark.parametrize(
    ("name", "text"),
    [("gpt2", "<|endoftext|>"), ("llama", "<s>"), ("gemma3_text", "<bos>"), ("wordpiece", "[CLS]"), ("slow", "</s>")],
)
def test_special_tokens_stand_at_the_front_only(name, text):
    tokenizer = tokenizer_of(name)
    special = tokenizer.convert_tokens_to_ids(text)
    begins = name in ("llama", "gemma3_text", "wordpiece")
    code = encode(tokenizer, "The capital of France is", "Paris", (15, 21))
    assert [i for i, token in enumerate(code.ids) if token == special] == ([0] if begins else [])


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_a_subject_that_occurs_twice_is_the_one_that_the_span_names(name):
    prompt = "Paris is a city, and Paris is in France"
    one = encode(tokenizer_of(name), prompt, subject=(0, 5))
    two = encode(tokenizer_of(name), prompt, subject=(21, 26))
    assert one.ids == two.ids
    assert one.subject[1] < two.subject[0]


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize(
    ("prompt", "target", "span", "message"),
    [
        ("Paris is in", "", (0, 0), r"subject's span \(0, 0\).*'Paris is in'"),
        ("Paris is in", "", (3, 2), "give start < end"),
        ("Paris is in", "", (-1, 2), "give start < end"),
        ("Paris is in", "", (9, 12), "give start < end"),
        ("Paris is in", "  ", (0, 5), "target '  ' comes to no token"),
    ],
)
def test_bad_spans_and_targets_get_one_sentence(name, prompt, target, span, message):
    with pytest.raises(ValueError, match=message) as error:
        encode(tokenizer_of(name), prompt, target, span)
    assert "\n" not in str(error.value)


def test_a_subject_or_target_without_a_token_gets_one_sentence():
    tokenizer = wordpiece_tokenizer()  # drops control characters
    with pytest.raises(ValueError, match=r"subject '\\x01' comes to no token: give visible text"):
        encode(tokenizer, "the \x01 is", subject=(4, 5))
    with pytest.raises(ValueError, match=r"target '\\x01' comes to no token"):
        encode(tokenizer, "the capital is", "\x01")


def test_the_end_of_text_that_stands_in_a_prompt_is_kept():
    tokenizer = tokenizer_of("gpt2")
    assert encode(tokenizer, "Paris<|endoftext|>").ids[-1] == tokenizer.eos_token_id


@given(rows=st.lists(st.lists(st.integers(1, 99), max_size=5), max_size=4), side=st.sampled_from(["left", "right"]))
def test_pad_keeps_every_row_in_order(rows, side):
    ids, mask, positions = pad(rows, filler=0, side=side)
    assert ids.shape == mask.shape == positions.shape == (len(rows), max(map(len, rows), default=0))
    for row, got, marked, place in zip(rows, ids, mask.bool(), positions, strict=True):
        assert got[marked].tolist() == row
        assert place[marked].tolist() == list(range(len(row)))
        assert (got[~marked] == 0).all()
        assert marked.tolist() == sorted(marked.tolist(), reverse=side == "right")


def test_pad_to_a_length():
    ids, mask, _ = pad([[7], [8, 9]], filler=1, length=4)
    assert ids.tolist() == [[7, 1, 1, 1], [8, 9, 1, 1]]
    assert mask.sum(1).tolist() == [1, 2]


def test_filler_is_always_an_id():
    assert filler(tokenizer_of("gemma3_text")) == tokenizer_of("gemma3_text").pad_token_id
    assert filler(tokenizer_of("llama")) == tokenizer_of("llama").eos_token_id
    bare = tiny_tokenizer("gpt2")
    bare.eos_token = None
    assert filler(bare) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_at_the_subject(kind):
    """Left, right or no padding: the same logits at the last subject token, as the row alone gives."""
    lm = tiny(kind)
    prompts = ["Paris is in", "People say that the capital of Paris is the language of", "The Eiffel Tower, in Paris,"]
    codes = [encode(lm.tokenizer, text, subject=(text.index("Paris"), text.index("Paris") + 5)) for text in prompts]
    alone = [lm.model(torch.tensor([code.ids])).logits[0, code.subject[1]] for code in codes]
    width = max(len(code.ids) for code in codes)
    for side in ("left", "right"):
        ids, mask, positions = pad([code.ids for code in codes], filler(lm.tokenizer), side)
        logits = lm.model(ids, attention_mask=mask, position_ids=positions).logits
        for row, code in enumerate(codes):
            at = code.subject[1] + (width - len(code.ids) if side == "left" else 0)
            torch.testing.assert_close(logits[row, at], alone[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_tokenizer_puts_before_a_text(kind):
    tokenizer = tiny_tokenizer(kind)
    assert beginning(tokenizer) == ([tokenizer.bos_token_id] if kind in ("llama", "mistral", "gemma3_text") else [])


def test_what_a_tokenizer_puts_behind_a_text_does_not_count():
    tokenizer = wordpiece_tokenizer()
    assert beginning(tokenizer) == [tokenizer.cls_token_id] and beginning(slow_tokenizer()) == []
