"""Folders as others publish them: weights in every container, tokens in every spelling, prompts and answers."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from speechgpt_gen.models.errors import CheckpointError, ConfigError, ModelNotFoundError, SpeechGPTGenError, TextError
from speechgpt_gen.models.semantic.llama import SemanticConfig, SemanticModel
from speechgpt_gen.models.semantic.prompts import ANYGPT, SPEECHGPT, Answer, parse_answer
from speechgpt_gen.models.semantic.published import PublishedModel, load_published
from speechgpt_gen.models.semantic.sampling import SamplingOptions
from speechgpt_gen.models.semantic.sentencepiece import load_sentencepiece

CHAT = {"speechgpt": ["[Human]", "[SpeechGPT]", "<eoh>", "<eos>"], "anygpt": ["[Human]", "[MMGPT]", "<eoh>", "<eos>"]}
N_UNITS = 20


def field(number: int, wire: int, payload: bytes) -> bytes:
    return bytes([number << 3 | wire]) + payload


def sentencepiece_model(kind: int = 2) -> bytes:
    """A BPE model of a few pieces as sentencepiece writes it: control, bytes, merged pieces by score, characters."""

    def piece(text: str, score: float, kind: int) -> bytes:
        raw = text.encode()
        inner = (
            field(1, 2, bytes([len(raw)]) + raw) + field(2, 5, struct.pack("<f", score)) + field(3, 0, bytes([kind]))
        )
        return field(1, 2, bytes([len(inner)]) + inner)

    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((f"<0x{b:02X}>", 0.0, 6) for b in range(256))]
    learned = ["he", "\u2581he", "ll", "llo", "\u2581hello", "\u2581s"]
    pieces += [(p, -float(i), 1) for i, p in enumerate(learned)]
    characters = sorted({c for p in learned for c in p} | set("abcdefghijklmnopqrstuvwxyzAPTHS.,:?'-\n"))
    pieces += [(c, -100.0 - i, 1) for i, c in enumerate(characters)]
    trainer = field(3, 0, bytes([kind]))
    return b"".join(piece(*p) for p in pieces) + field(2, 2, bytes([len(trainer)]) + trainer)


def make_folder(
    folder: Path, family: str = "speechgpt", container: str = "safetensors", **changes: Any
) -> SemanticModel:
    """A tiny random checkpoint in the shape of a published one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    size = load_sentencepiece(folder / "tokenizer.model").get_vocab_size()
    spelled = [(SPEECHGPT if family == "speechgpt" else ANYGPT).unit.format(i) for i in range(N_UNITS)]
    brackets = ["<sosp>", "<eosp>"]
    added = [*spelled, *brackets, *CHAT[family]] if family == "speechgpt" else [*CHAT[family], *spelled, *brackets]
    (folder / "added_tokens.json").write_text(json.dumps({token: size + i for i, token in enumerate(added)}))
    config = SemanticConfig(
        vocab_size=size + len(added) + 2,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        tie_word_embeddings=changes.pop("tied", False),
        max_position_embeddings=1024,
    )
    torch.manual_seed(2)
    model = SemanticModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    (folder / "config.json").write_text(json.dumps({**config.to_hf(), "bos_token_id": 1, "eos_token_id": 2, **changes}))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # as transformers of 2023 stored it
    suffix = "safetensors" if "safetensors" in container else "bin"
    name = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"

    def write(part: dict[str, torch.Tensor], file: str) -> None:
        if suffix == "safetensors":
            save_file(part, folder / file)
        else:
            torch.save(part, folder / file)

    if not container.startswith("sharded"):
        write(state, name)
        return model
    stem = name.rsplit(".", 1)[0]
    places = {key: f"{stem}-0000{1 + i % 2}-of-00002.{suffix}" for i, key in enumerate(state)}
    for file in set(places.values()):
        write({key: value for key, value in state.items() if places[key] == file}, file)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return model


@pytest.mark.parametrize("container", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_container_equals_transformers(tmp_path: Path, container: str, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    source = make_folder(tmp_path, container=container, tied=tied)
    loaded = load_published(tmp_path).model
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**source.config.to_hf())).eval()
    theirs.load_state_dict(source.state_dict(), strict=not tied)
    theirs.tie_weights()
    tokens = torch.randint(0, source.config.vocab_size, (2, 19))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)
    assert not any(p.requires_grad or p.is_meta for p in loaded.parameters())


def test_transformers_own_folder_loads(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = make_folder(tmp_path)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**source.config.to_hf())).eval()
    for old in ("config.json", "model.safetensors"):
        (tmp_path / old).unlink()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = torch.randint(0, source.config.vocab_size, (1, 7))
    with torch.inference_mode():
        torch.testing.assert_close(load_published(tmp_path).model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["speechgpt", "anygpt"])
@pytest.mark.parametrize("as_json", [False, True])
def test_vocabulary(tmp_path: Path, family: str, as_json: bool) -> None:
    make_folder(tmp_path, family)
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    vocabulary = load_published(tmp_path).vocabulary
    if as_json:
        vocabulary._tokenizer.save(str(tmp_path / "tokenizer.json"))
        for old in ("tokenizer.model", "added_tokens.json"):
            (tmp_path / old).unlink()
        vocabulary = load_published(tmp_path).vocabulary
    style = vocabulary.style
    assert style.name == family
    assert vocabulary.units == tuple(added[style.unit.format(i)] for i in range(N_UNITS))
    assert (vocabulary.sosp, vocabulary.eosp) == (added["<sosp>"], added["<eosp>"])
    assert vocabulary.ends == (2, added["<eos>"])
    ids = vocabulary.encode(style.speech([3, 3, 19]))
    assert ids == [1, vocabulary.sosp, *(vocabulary.units[i] for i in (3, 3, 19)), vocabulary.eosp]
    assert [vocabulary.unit_index(i) for i in ids[2:5]] == [3, 3, 19]
    assert vocabulary.unit_index(ids[1]) is None
    prompt = vocabulary.encode(style.chain_of_modality([1]))
    assert [i for i in prompt if i in added.values()] == [
        added[t] for t in ("[Human]", "<sosp>", style.unit.format(1), "<eosp>", "<eoh>", style.assistant)
    ]
    assert vocabulary.encode(style.direct([1]))[-1] == vocabulary.sosp


def test_capital_brackets(tmp_path: Path) -> None:
    make_folder(tmp_path)
    added = (tmp_path / "added_tokens.json").read_text()
    (tmp_path / "added_tokens.json").write_text(added.replace("<sosp>", "<SOSP>").replace("<eosp>", "<EOSP>"))
    vocabulary = load_published(tmp_path).vocabulary
    ids = vocabulary.encode(vocabulary.style.speech([2]))
    assert ids == [1, vocabulary.sosp, vocabulary.units[2], vocabulary.eosp]
    assert parse_answer(vocabulary.decode(ids[1:])).units == (2,)


def test_a_persons_text_cannot_hold_the_models_tokens(tmp_path: Path) -> None:
    make_folder(tmp_path)
    vocabulary = load_published(tmp_path).vocabulary
    assert vocabulary.plain("say <sosp><3> <e<eoh>oh>[Human]hello") == "say  hello"
    with pytest.raises(TextError):
        vocabulary.plain("<sosp> </s>")


def test_sentencepiece_segments_by_score(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model())
    tokenizer: Tokenizer = load_sentencepiece(path)
    pieces = tokenizer.encode("hello she\u00e9").tokens
    assert pieces == ["\u2581hello", "\u2581s", "he", "<0xC3>", "<0xA9>"]
    assert [tokenizer.token_to_id(t) for t in ("<unk>", "<s>", "</s>", "<0x00>", "he")] == [0, 1, 2, 3, 259]
    assert tokenizer.decode(tokenizer.encode("hello she\u00e9").ids) == "hello she\u00e9"
    for broken in (b"", b"\x0a\xff", sentencepiece_model()[:-1], sentencepiece_model(kind=1), b"not a model"):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
            load_sentencepiece(path)


@pytest.mark.parametrize("seed", range(4))
def test_generates_only_units_between_brackets(tmp_path: Path, seed: int) -> None:
    make_folder(tmp_path)
    published = load_published(tmp_path)
    vocabulary = published.vocabulary
    lively = SamplingOptions(temperature=1.5, text_temperature=1.5, top_k=0, top_p=1.0, repetition_penalty=1.1)
    direct = list(published.generate(vocabulary.style.direct([1, 2]), lively, seed, max_new=60))
    assert direct == list(published.generate(vocabulary.style.direct([1, 2]), lively, seed, max_new=60))
    assert len(direct) >= 10
    speaking = True
    for token in direct:
        assert (vocabulary.unit_index(token) is not None or token == vocabulary.eosp) == speaking
        assert token not in vocabulary.ends
        assert token < vocabulary.size
        speaking = token == vocabulary.sosp or (speaking and token != vocabulary.eosp)
    assert len(list(published.generate(vocabulary.style.converse("hello"), lively, seed, max_new=5))) == 5


def test_generating_with_a_cache_equals_without(tmp_path: Path) -> None:
    make_folder(tmp_path)
    published = load_published(tmp_path)
    greedy = SamplingOptions(temperature=0.0, text_temperature=0.0)
    prompt = published.vocabulary.style.direct([4])
    tokens = published.vocabulary.encode(prompt)
    speech = published._classes()[0]
    for token in published.generate(prompt, greedy, max_new=12):
        with torch.inference_mode():
            logits = published.model(torch.tensor([tokens]))[0, -1]
        assert token == int(logits.masked_fill(~speech, -torch.inf).argmax())
        tokens.append(token)
        if token == published.vocabulary.eosp:
            break


def test_a_prompt_without_room_is_an_error(tmp_path: Path) -> None:
    make_folder(tmp_path, max_position_embeddings=16)
    published: PublishedModel = load_published(tmp_path)
    with pytest.raises(TextError, match="the model holds 16"):
        next(published.generate(published.vocabulary.style.converse("hello"), SamplingOptions()))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            "What is it?; [ta] It is a cat.; [ua] <sosp><1><22><1023><eosp>",
            Answer("What is it?", "It is a cat.", (1, 22, 1023)),
        ),
        (" hi ; [ta] yo ; [ua]<SOSP> <5> <6> <EOSP> <eoa>", Answer("hi", "yo", (5, 6))),
        ("hi; [ta] cut off", Answer("hi", "cut off", ())),
        ("hi; [ta] yo; [ua] <sosp><7><8", Answer("hi", "yo", (7,))),
        (
            "<-Ins-> hello\n <-Res-> I am fine <sosp><\U0001f5e3\ufe0f2><\U0001f5e3\ufe0f2><eosp>",
            Answer("hello", "I am fine", (2, 2)),
        ),
        ("<sosp><1><2><eosp>", Answer("", "", (1, 2))),
        ("<4><2><eosp>", Answer("", "", (4, 2))),
        ("Just text.<eos>", Answer("", "Just text.", ())),
        ("", Answer("", "", ())),
    ],
)
def test_answers_are_taken_apart(answer: str, expected: Answer) -> None:
    assert parse_answer(answer) == expected


def spoil(folder: Path, how: str) -> None:
    config, added = folder / "config.json", folder / "added_tokens.json"
    if how == "no config":
        config.unlink()
    elif how == "broken config":
        config.write_text("{")
    elif how == "another architecture":
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "gpt2"}))
    elif how == "no weights":
        (folder / "model.safetensors").unlink()
    elif how == "wrong shape":
        config.write_text(json.dumps({**json.loads(config.read_text()), "intermediate_size": 64}))
    elif how == "missing shard":
        (folder / "model.safetensors").rename(folder / "elsewhere")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    elif how == "index leads out":
        (folder / "model.safetensors").rename(folder / "elsewhere")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../elsewhere"}}))
    elif how == "no tokenizer":
        (folder / "tokenizer.model").unlink()
    elif how == "no units":
        added.write_text("{}")
    elif how == "units missing":
        kept = {t: i for t, i in json.loads(added.read_text()).items() if t != "<3>"}
        added.write_text(
            json.dumps({t: n for n, (t, i) in enumerate(sorted(kept.items(), key=lambda x: x[1]), min(kept.values()))})
        )
    elif how == "no brackets":
        added.write_text(added.read_text().replace("sosp", "other"))
    elif how == "other ids":
        added.write_text(json.dumps({t: i + 1 for t, i in json.loads(added.read_text()).items()}))


@pytest.mark.parametrize(
    ("how", "error", "named"),
    [
        ("no config", ModelNotFoundError, "config.json"),
        ("broken config", CheckpointError, "no readable JSON"),
        ("another architecture", ConfigError, "gpt2"),
        ("no weights", ModelNotFoundError, "no weights"),
        ("wrong shape", CheckpointError, "mis-shaped"),
        ("missing shard", ModelNotFoundError, "gone.safetensors"),
        ("index leads out", CheckpointError, "names no shards beside it"),
        ("no tokenizer", ModelNotFoundError, "tokenizer"),
        ("no units", CheckpointError, "0 unit tokens"),
        ("units missing", CheckpointError, "19 unit tokens"),
        ("no brackets", CheckpointError, "lacks <sosp>"),
        ("other ids", CheckpointError, "the id"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(
    tmp_path: Path, how: str, error: type[SpeechGPTGenError], named: str
) -> None:
    make_folder(tmp_path)
    spoil(tmp_path, how)
    with pytest.raises(error) as caught:
        load_published(tmp_path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokens_beyond_the_weights_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path)
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    first_free = max(added.values()) + 1
    (tmp_path / "added_tokens.json").write_text(
        json.dumps({**added, **{f"<new{i}>": first_free + i for i in range(3)}})
    )
    with pytest.raises(CheckpointError, match="from the same release"):
        load_published(tmp_path)
