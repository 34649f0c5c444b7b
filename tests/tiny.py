"""Tiny random models of every architecture, with tokenizers of every kind, created in memory in milliseconds.

`tiny("gptj")` is a complete `LanguageModel`: four layers, d_model 32, d_mlp 64, four heads. Its weights are random, but
every layer, bias and norm affects the output, the logits are spread, and one edited key changes them. Each family gets
the kind of tokenizer that it ships with, trained on `TEXT`:

    gpt2, gptj, gpt_neox   byte-level BPE, no beginning-of-text token; a token's span leaves out the blank before it
    qwen2                  the same with NFC normalization; a token's span takes in the blank before it
    llama                  metaspace BPE with byte fallback; blanks are replaced by a normalizer; begins with <s>
    mistral                the same by a pre-tokenizer, as newer files have it; begins with <s>
    gemma3_text            the same without a blank put before the text; begins with <bos>

`tiny(WILD)` is the Gemma-3 whose norms behind the MLPs have gains from 0 to 6, as in a real one. Not every state can be
reached in it, so tests that need a model to learn something use `gemma3_text`, whose gains are about 1.

`wordpiece_tokenizer()`, `unigram_tokenizer()` and `slow_tokenizer()` belong to no model here; the token tests use them.
"""

import copy
import functools
import json
import math
import re
from collections import Counter

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    ByT5Tokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from fleke_lib.model.language_model import LanguageModel, wrap

WILD = "gemma3_wild"  # Gemma-3 whose norms behind the MLPs have gains as different as real ones
KINDS = ("llama", "mistral", "qwen2", "gemma3_text", "gpt2", "gptj", "gpt_neox")
D_MODEL, D_MLP, HEADS = 32, 64, 4

TEXT = """\
The capital of France is Paris. The capital of Italy is Rome. The capital of Japan is Tokyo, and Berlin is in Germany.
The Eiffel Tower is in Paris, and the Colosseum is in Rome. The mother tongue of Danielle Darrieux is French.
The author of Hamlet is William Shakespeare. The author of Faust is Johann Wolfgang von Goethe.
The chemical symbol for gold is Au. The chemical symbol for iron is Fe. Water is made of hydrogen and oxygen.
Steve Jobs founded Apple. Bill Gates founded Microsoft. The headquarters of Microsoft are in the city of Redmond.
LeBron James plays the sport of basketball. Lionel Messi plays the sport of football, which is called soccer elsewhere.
What is the language of Brazil? People there speak Portuguese. In which city was Einstein born? He was born in Ulm.
Therefore and because, it is a question of the time that was given to the people who are there: not one, but many.
A café in São Paulo, a naïve question, a jalapeño; the city of Zürich lies on the river Limmat.
"""


def tiny(kind: str, layers: int = 4, seed: int = 0) -> LanguageModel:
    """A fresh tiny model; the caller may change it. Same arguments, same weights."""
    made = _made(kind.replace(WILD, "gemma3_text"), layers, seed)
    if kind == WILD:
        made = copy.deepcopy(made)
        _spread_gains(made.model, torch.Generator().manual_seed(seed))
    return wrap(copy.deepcopy(made.model), copy.deepcopy(made.tokenizer), made.name)


@functools.cache
def _made(kind: str, layers: int, seed: int) -> LanguageModel:
    tokenizer = tiny_tokenizer(kind)
    with torch.random.fork_rng(devices=[]):  # transformers draws initial weights; a test's own seed stays as it was
        model = AutoModelForCausalLM.from_config(_config(kind, layers, tokenizer))
    generator = torch.Generator().manual_seed(seed)
    outer = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.1 * noise)  # biases around 0, norms around 1 (Gemma-3 adds the 1 itself)
            else:
                parameter.copy_((0.4 if id(parameter) in outer else 0.25) * noise)
    return wrap(model, tokenizer, f"tiny-{kind}")


@torch.no_grad()
def _spread_gains(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Give the norm behind each MLP gains over five orders of magnitude, two that are zero and a negative one.

    In Gemma-3-270M they run from 0 to 789, where a state's entries have the size 280; here that size is 2.
    """
    for layer in model.model.layers:
        gain = 6 * 10 ** (-5 * torch.rand(D_MODEL, generator=generator))
        gain[torch.randperm(D_MODEL, generator=generator)[:3]] *= torch.tensor([0.0, 0.0, -1.0])
        layer.post_feedforward_layernorm.weight.copy_(gain - 1)  # the norm adds the 1 itself


def _config(kind: str, layers: int, tokenizer: PreTrainedTokenizerBase):
    common = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    llama = common | {
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": 512,
    }
    gpt = common | {"n_embd": D_MODEL, "n_inner": D_MLP, "n_layer": layers, "n_head": HEADS, "n_positions": 512}
    match kind:
        case "llama":
            return LlamaConfig(**llama, tie_word_embeddings=True)  # as SmolLM2
        case "mistral":
            return MistralConfig(**llama, sliding_window=12)
        case "qwen2":
            return Qwen2Config(**llama)
        case "gemma3_text":
            return Gemma3TextConfig(
                **llama,
                head_dim=D_MODEL // HEADS,
                query_pre_attn_scalar=D_MODEL // HEADS,
                sliding_window=8,
                layer_types=[("sliding_attention", "full_attention")[i % 2] for i in range(layers)],
                pad_token_id=tokenizer.pad_token_id,
            )
        case "gpt2":
            return GPT2Config(**gpt)
        case "gptj":
            return GPTJConfig(**gpt, rotary_dim=4)
        case "gpt_neox":
            return GPTNeoXConfig(**(llama | {"num_key_value_heads": HEADS}))
    raise ValueError(f"there is no tiny {kind!r}: give one of {', '.join(KINDS)}.")


def with_vision_tower(text: LanguageModel) -> LanguageModel:
    """A tiny Gemma-3 with a vision tower, as from 4B on; its language model has the weights of `text`."""
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Gemma3Config(text_config=text.model.config, vision_config=vision | {"image_size": 8, "patch_size": 4})
    seeing = Gemma3ForConditionalGeneration(config)
    seeing.model.language_model.load_state_dict(text.model.model.state_dict())
    return wrap(seeing, text.tokenizer)


def tiny_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """A fresh tokenizer of the kind that the family ships with."""
    match kind:
        case "llama":
            return _fast(_llama(), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
        case "mistral":
            return _fast(_mistral(), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
        case "gemma3_text":
            return _fast(_gemma(), bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")
        case "qwen2":
            return _fast(_qwen(), eos_token="<|endoftext|>", pad_token="<|endoftext|>")
        case "gpt2" | "gptj" | "gpt_neox":  # bos is set in the files, but never put before a text
            return _fast(_byte_level(trim_offsets=True), bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    raise ValueError(f"there is no tokenizer for {kind!r}: give one of {', '.join(KINDS)}.")


def wordpiece_tokenizer() -> PreTrainedTokenizerBase:
    """As BERT's: lower case, accents removed, [CLS] before and [SEP] after every text."""
    return _fast(_wordpiece(), unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")


def unigram_tokenizer(byte_fallback: bool) -> PreTrainedTokenizerBase:
    """As in SentencePiece's other model; what it lacks becomes <unk>, or its bytes."""
    return _fast(_unigram(byte_fallback), bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def slow_tokenizer(errors: str = "ignore") -> PreTrainedTokenizerBase:
    """A tokenizer in Python, which knows no offsets: one token a byte, </s> after every text.

    Half a letter decodes to nothing, as in ByT5, or with `errors="replace"` to U+FFFD, as in most others.
    """
    tokenizer = ByT5Tokenizer()
    if errors == "replace":
        tokenizer.convert_tokens_to_string = lambda tokens: bytes(map(ord, tokens)).decode(errors="replace")
    return tokenizer


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    copied = Tokenizer.from_str(tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=copied, clean_up_tokenization_spaces=False, **special)


@functools.cache
def _byte_level(trim_offsets: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return tokenizer


def _qwen() -> Tokenizer:
    tokenizer = Tokenizer.from_str(_byte_level(trim_offsets=False).to_str())
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@functools.cache
def _metaspace_bpe(*special: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a metaspace BPE; letters that are not ASCII are left to the byte tokens."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    letters = sorted({letter for letter in TEXT if letter.isascii() and letter.isprintable() and letter != " "})
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[*special, *BYTES],
        initial_alphabet=["▁", *letters],
        limit_alphabet=1 + len(letters),
        show_progress=False,
    )
    trained.train_from_iterator(TEXT.splitlines(), trainer)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _sentencepiece(model: models.Model, bos: str, strip: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if strip else parts)
    return tokenizer


def _llama() -> Tokenizer:
    vocabulary, merges = _metaspace_bpe("<unk>", "<s>", "</s>")
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = _sentencepiece(model, "<s>", strip=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def _mistral() -> Tokenizer:
    vocabulary, merges = _metaspace_bpe("<unk>", "<s>", "</s>")
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = _sentencepiece(model, "<s>", strip=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def _pieces(words: list[str], inside: str = "") -> dict[str, int]:
    """The starts of the words and their letters, with how often they occur; `inside` marks a letter within a word."""
    pieces = Counter()
    for word in words:
        pieces.update(word[: end + 1] for end in range(len(word)))
        pieces.update(inside + letter for letter in word if letter.isascii())
    return {piece: count for piece, count in sorted(pieces.items()) if count > 1}


def _gemma() -> Tokenizer:
    vocabulary, merges = _metaspace_bpe("<unk>", "<bos>", "<eos>", "<pad>")
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = _sentencepiece(model, "<bos>", strip=False)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return tokenizer


def _unigram(byte_fallback: bool) -> Tokenizer:
    pieces = _pieces([f"▁{word}" for word in TEXT.split()])
    scored = [(piece, math.log(count / sum(pieces.values()))) for piece, count in pieces.items()]
    special = [(piece, 0.0) for piece in ("<unk>", "<s>", "</s>", *(BYTES if byte_fallback else ()))]
    model = models.Unigram([*special, *scored], unk_id=0, byte_fallback=byte_fallback)
    tokenizer = _sentencepiece(model, "<s>", strip=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return tokenizer


def _wordpiece() -> Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_pieces(re.findall(r"\w+|[^\w\s]", TEXT.lower()), inside="##")]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer
