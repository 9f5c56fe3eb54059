"""Text of an image: its bytes in a file, how it reaches encoder and decoder, and errors if nothing reads
it.
"""

import hashlib
import io
import json
import random
import re
import sys
import tracemalloc
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import trifocal
import trifocal.pillow
from helpers.cli import is_one_sentence, run
from helpers.codecs import small_codec
from helpers.images import random_rgb
from helpers.text import VowelEncoder, text_codec
from trifocal.container import Bitstream, Header, Layer, Tag
from trifocal.container.text import (
    MAX_TEXT,
    dictionary,
    embedded_text,
    normalise_text,
    text_from_bytes,
    text_layer,
    text_to_bytes,
)
from trifocal.errors import (
    Damaged,
    FormatError,
    OptionError,
    PresetError,
    Unsupported,
    WeightsError,
)
from trifocal.pictures import Picture
from trifocal.presets import PRESETS, check_text, find, load, shared_codec
from trifocal.text_conditioning import condition_for, read_texts
from trifocal.weights import write_weights

GOLDEN = Path(__file__).parent / "golden" / "container-text.tri"
LAW = Path(__file__).parent.parent / "trifocal/container/FORMAT.md"
DOG = "a brown dog catches a red frisbee"
CAPTIONS = (
    DOG,
    "Two children are playing in the snow next to a wooden fence.",
    "a bowl of soup and a spoon on a kitchen table",
    "An old man with a hat is reading a newspaper on a park bench",
    "several boats in the harbour of a small town at night",
)


# ── bytes ──


@pytest.mark.parametrize("text", CAPTIONS)
def test_captions_are_compressed(text: str) -> None:
    data = text_to_bytes(text)
    assert len(data) <= 0.75 * len(text)
    assert text_from_bytes(data) == text


@given(st.text(max_size=200))
@settings(max_examples=40, deadline=None)
def test_any_text_round_trips_normalised_with_one_byte_overhead(text: str) -> None:
    data = text_to_bytes(text)
    assert text_from_bytes(data) == normalise_text(text) == normalise_text(normalise_text(text))
    assert len(data) <= len(normalise_text(text).encode()) + 1


def test_text_normalisation() -> None:
    assert normalise_text(" a\n\tdog \x1b[2J ") == "a dog [2J"
    assert normalise_text("cafe\u0301") == "caf\u00e9"
    assert normalise_text("") == normalise_text(" \0 ") == ""
    with pytest.raises(OptionError, match="Unicode"):
        normalise_text("half \ud83d of a letter")


@pytest.mark.parametrize("letter", ["a", "\u72d7"])
def test_long_texts_are_refused(letter: str) -> None:
    most = MAX_TEXT // len(letter.encode())
    assert text_from_bytes(text_to_bytes(letter * most)) == letter * most
    with pytest.raises(OptionError, match=f"{(most + 1) * len(letter.encode())} bytes, above .* {MAX_TEXT}"):
        text_to_bytes(letter * (most + 1))


def deflated(text: bytes) -> bytes:
    deflate = zlib.compressobj(9, wbits=-15, zdict=dictionary())
    return b"\x01" + deflate.compress(text) + deflate.flush()


def test_inflated_text_size_is_bounded() -> None:
    bomb = deflated(bytes(1 << 25))
    tracemalloc.start()
    with pytest.raises(Damaged, match=str(MAX_TEXT)):
        text_from_bytes(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


@pytest.mark.parametrize(
    ("data", "kind", "word"),
    [
        (b"", Damaged, "empty"),
        (b"\x07dog", Unsupported, "number 7"),
        (b"\x00\xff\xfe", Damaged, "UTF-8"),
        (b"\x00" + bytes(MAX_TEXT + 1), Damaged, str(MAX_TEXT)),
        (deflated(b"\xff"), Damaged, "UTF-8"),
        (deflated(DOG.encode())[:-2], Damaged, "end"),
        (deflated(DOG.encode()) + b"!", Damaged, "end"),
        (b"\x01\xff\xff", Damaged, "inflated"),
        (b"\x01", Damaged, "end"),
    ],
)
def test_invalid_text_layers_raise(data: bytes, kind: type[FormatError], word: str) -> None:
    with pytest.raises(kind, match=word) as caught:
        text_from_bytes(data)
    assert is_one_sentence(str(caught.value))


def test_random_damage_gives_a_text_or_an_error() -> None:
    rng = random.Random(4)
    kinds: set[type] = set()
    for turn in range(3000):
        data = bytearray(text_to_bytes(CAPTIONS[turn % len(CAPTIONS)]))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data) or 1)
            data[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        try:
            text = text_from_bytes(bytes(data))
            assert len(text.encode()) <= MAX_TEXT
            kinds.add(str)
        except FormatError as error:
            assert is_one_sentence(str(error))
            kinds.add(type(error))
    assert kinds == {str, Damaged, Unsupported}


def test_golden_file_is_read_unchanged() -> None:
    stream = Bitstream.open(GOLDEN)
    assert stream.to_bytes() == GOLDEN.read_bytes()
    assert embedded_text(stream) == DOG
    assert stream.header == Header(640, 480, preset_id=3, level=400, fingerprint=0xCAFE, version=1)


def test_format_md_explains_the_golden_file_and_the_dictionary() -> None:
    law = LAW.read_text("utf-8")
    section = law.split(f"### `{GOLDEN.name}`")[1].split("###")[0]
    rows = re.findall(r"^\| `([0-9A-F ]+)` \|", section, re.MULTILINE)
    assert b"".join(map(bytes.fromhex, rows)) == GOLDEN.read_bytes()
    assert hashlib.sha256(dictionary()).hexdigest() in law
    assert f"{len(dictionary())} bytes of ASCII" in law and dictionary().isascii()


def test_text_layer_is_intact_or_raises() -> None:
    stream = Bitstream.open(GOLDEN)
    assert embedded_text(replace(stream, layers=stream.layers[:1])) is None
    assert embedded_text(stream.with_layer(text_layer(""))) == ""
    with pytest.raises(Damaged, match="text"):
        embedded_text(stream.with_layer(Layer(Tag.TEXT, (None,))))


# ── small presets that read words ──


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of three small presets' weights: `plain`, `early` (its encoder reads text), `late` (its
    decoder does).
    """
    made = []
    for number, (name, reads) in enumerate((("plain", ""), ("early", "encoder"), ("late", "decoder"))):
        write_weights(text_codec(reads).network, tmp_path / f"{name}.safetensors")
        changes: dict[str, Any] = {"id": 60 + number, "weights": f"{name}.safetensors", "text_used_by": reads}
        changes["build"] = partial(text_codec, reads)
        made.append(replace(PRESETS[0], name=name, text_encoder="letters", **changes))
    monkeypatch.setattr("trifocal.presets.PRESETS", tuple(made))
    monkeypatch.setattr("trifocal.weights.WEIGHTS_FOLDER", tmp_path)
    monkeypatch.setattr("trifocal.text.encoder.load_text_encoder", lambda name, device: VowelEncoder())
    return tmp_path


@pytest.fixture
def rgb() -> np.ndarray:
    return random_rgb(100, 70)


@pytest.fixture
def photo(folder: Path, rgb: np.ndarray) -> Path:
    Image.fromarray(rgb).save(folder / "dog.png")
    return folder / "dog.png"


# ── the Python API ──


def test_text_for_the_encoder_is_not_needed_to_decode(folder: Path, rgb: np.ndarray) -> None:
    plain, dog, cat = (trifocal.encode(rgb, "early", text=text) for text in (None, DOG, "aaa"))
    assert len({stream.layers[0].chunks for stream in (plain, dog, cat)}) == 3
    assert all(len(stream.layers) == 1 for stream in (plain, dog, cat))
    codec = load("early")
    assert dog == codec.encode(Picture(rgb), condition=condition_for(find("early"), [DOG]))
    assert np.array_equal(trifocal.decode(dog).picture.rgb, codec.decode(dog).picture.rgb)
    with pytest.raises(PresetError, match="The decoder of early needs no text"):
        trifocal.decode(dog, text=DOG)


def test_text_reaches_the_decoder_in_the_file_or_out_of_band(folder: Path, rgb: np.ndarray) -> None:
    notes: list[str] = []
    kept = trifocal.encode(rgb, "late", text=DOG, notify=notes.append)
    assert notes == [
        (
            "The text is not stored in the file; send it (--send-text), or give it again when you decode the "
            "file."
        )
    ]
    assert kept == trifocal.encode(rgb, "late")
    sent = trifocal.encode(rgb, "late", text=f"  {DOG}\n", send_text=True)
    assert embedded_text(sent) == DOG
    with_words = trifocal.decode(sent).picture.rgb
    assert np.array_equal(with_words, trifocal.decode(kept, text=DOG).picture.rgb)
    assert not np.array_equal(with_words, trifocal.decode(sent, text="zzz").picture.rgb)
    without = trifocal.decode(kept, notify=notes.append).picture.rgb
    assert not np.array_equal(with_words, without)
    assert notes[1:] == ["Decoded without text: the file has none, and none was given."]
    empty = trifocal.decode(trifocal.encode(rgb, "late", text="", send_text=True), notify=notes.append)
    assert np.array_equal(empty.picture.rgb, without) and len(notes) == 2  # no vowels, and yet words


def test_sent_text_counts_as_bytes_of_the_file(folder: Path, rgb: np.ndarray) -> None:
    plain, sent = trifocal.encode(rgb, "late"), trifocal.encode(rgb, "late", text=DOG, send_text=True)
    assert sent.layers[0] == plain.layers[0]
    assert sent.size == len(sent.to_bytes()) > plain.size + len(text_to_bytes(DOG))
    tight = trifocal.encode(rgb, "late", text=DOG, send_text=True, max_bytes=plain.size)
    assert tight.size <= plain.size and embedded_text(tight) == DOG


def test_text_that_the_encoder_ignores_is_a_notice(folder: Path, rgb: np.ndarray) -> None:
    notes: list[str] = []
    trifocal.encode(rgb, "early", text="dog " * 9, notify=notes.append)
    assert notes == ["The text has 9 words; the first 8 count."]


@pytest.mark.parametrize(
    ("preset", "options", "kind", "said"),
    [
        ("plain", {"text": DOG}, PresetError, "plain takes no text; early and late do."),
        ("plain", {"send_text": True}, PresetError, "plain takes no text; early and late do."),
        ("early", {"text": DOG, "send_text": True}, PresetError, "The decoder of early reads no text"),
        ("late", {"send_text": True}, OptionError, "no text to send"),
        ("late", {"text": "a" * (MAX_TEXT + 1), "send_text": True}, OptionError, "65537 bytes"),
        ("early", {"text": "\ud83d"}, OptionError, "Unicode"),
    ],
)
def test_text_that_nothing_reads_is_refused(
    folder: Path, rgb: np.ndarray, preset: str, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        trifocal.encode(rgb, preset, **options)
    assert is_one_sentence(str(caught.value))


def test_presets_that_take_text_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, early, late = list(trifocal.presets.PRESETS)
    for others, said in (
        ((), "no preset does"),
        ((late,), "late does"),
        ((early, late), "early and late do"),
    ):
        monkeypatch.setattr("trifocal.presets.PRESETS", (plain, *others))
        with pytest.raises(PresetError, match=rf"^plain takes no text; {said}\.$"):
            check_text(plain, True)


@pytest.mark.parametrize("name", ["plain", "early"])
def test_text_in_a_file_is_ignored_if_the_decoder_reads_none(
    folder: Path, rgb: np.ndarray, name: str
) -> None:
    plain = trifocal.encode(rgb, name)
    notes: list[str] = []
    for layer in text_layer(DOG), Layer(Tag.TEXT, (b"\x07",)):
        decoded = trifocal.decode(plain.with_layer(layer), notify=notes.append)
        assert np.array_equal(decoded.picture.rgb, trifocal.decode(plain).picture.rgb)
    assert notes == [f"The file has text, which the decoder of {name} does not read."] * 2


@pytest.mark.parametrize("chunk", [None, b"\x07", b"\x01\xff\xff"])
def test_damaged_text_is_an_error_unless_best_effort(
    folder: Path, rgb: np.ndarray, chunk: bytes | None
) -> None:
    stream = trifocal.encode(rgb, "late").with_layer(Layer(Tag.TEXT, (chunk,)))
    with pytest.raises(FormatError, match="text of this file"):
        trifocal.decode(stream)
    notes: list[str] = []
    trifocal.decode(stream, best_effort=True, notify=notes.append)
    assert len(notes) == 1 and notes[0].endswith("The image was decoded without the text.")
    trifocal.decode(stream, text=DOG)


# ── custom weights ──


def test_custom_weights_are_needed_to_decode(folder: Path, rgb: np.ndarray) -> None:
    own = folder / "runs.safetensors"
    write_weights(text_codec("encoder", seed=1).network, own)
    stream = trifocal.encode(rgb, "early", weights=own)
    assert stream.header.fingerprint != load("early").fingerprint
    assert trifocal.decode(stream, weights=str(own)).picture.rgb.shape == rgb.shape
    with pytest.raises(WeightsError, match=r"here are .*\. Name its weights with --weights"):
        trifocal.decode(stream)
    assert shared_codec("early", weights=own) is shared_codec("early", weights=own)
    write_weights(text_codec("encoder", seed=2).network, own)
    with pytest.raises(WeightsError, match="--weights"):
        trifocal.decode(stream, weights=own)


def test_missing_weights_are_an_error(folder: Path, rgb: np.ndarray) -> None:
    (folder / "late.safetensors").unlink()
    with pytest.raises(WeightsError, match="late has no trained weights; train it with `trifocal train late"):
        trifocal.encode(rgb, "late")
    with pytest.raises(WeightsError, match="no weights at none.safetensors"):
        trifocal.encode(rgb, "late", weights="none.safetensors")
    with pytest.raises(WeightsError, match="do not fit"):
        write_weights(small_codec().network.analysis, folder / "part.safetensors")
        trifocal.encode(rgb, "late", weights=folder / "part.safetensors")


# ── the command line ──


def test_text_option_of_the_command_line(photo: Path) -> None:
    file = photo.with_suffix(".tri")
    done = run("encode", photo, "--preset", "late", "--text", DOG, "--send-text")
    assert done.exit_code == 0 and done.stdout.rstrip().endswith(f"{len(text_to_bytes(DOG))} bytes of text")
    assert not done.stderr
    assert f"text            '{DOG}'\n" in run("info", file).stdout
    facts = json.loads(run("info", file, "--json").stdout)
    assert facts["text"] == DOG
    assert facts["layers"][1] == {"tag": 131, "name": "TEXT", "chunks": 1, "bytes": len(text_to_bytes(DOG))}
    pixels = []
    for words in (), ("--text", DOG), ("--text", "zzz"):
        assert run("decode", file, "-o", photo.with_name("back.png"), *words).exit_code == 0
        pixels.append(photo.with_name("back.png").read_bytes())
    assert pixels[0] == pixels[1] != pixels[2]


@pytest.mark.parametrize(
    ("preset", "words", "said"),
    [
        ("plain", ("--text", DOG), "plain takes no text; early and late do."),
        ("plain", ("--caption", "auto"), "plain takes no text; early and late do."),
        ("late", ("--send-text",), "There is no text to send"),
        ("early", ("--text", DOG, "--send-text"), "reads no text"),
        ("early", ("--weights", "none.safetensors"), "no weights at none.safetensors"),
        ("early", ("--text-file", "none.txt"), "no such file"),
    ],
)
def test_invalid_text_is_an_error(photo: Path, preset: str, words: tuple[str, ...], said: str) -> None:
    done = run("encode", photo, "--preset", preset, *words)
    assert done.exit_code == 1
    assert is_one_sentence(done.stderr) and said in done.stderr
    assert not photo.with_suffix(".tri").exists()


def test_text_is_refused_for_presets_whose_decoder_ignores_it(photo: Path) -> None:
    for preset, said in (("plain", "plain takes no text"), ("early", "The decoder of early needs no text")):
        assert run("encode", photo, "--preset", preset, "--force").exit_code == 0
        done = run("decode", photo.with_suffix(".tri"), "--force", "--text", DOG)
        assert done.exit_code == 1 and is_one_sentence(done.stderr) and said in done.stderr


def test_missing_text_encoder_is_one_error(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise WeightsError("The text encoder is missing.")

    monkeypatch.setattr("trifocal.text.encoder.load_text_encoder", refuse)
    (photo.parent / "cat.png").write_bytes(photo.read_bytes())
    (photo.parent / "words.json").write_text(json.dumps({"cat.png": "a cat", "dog.png": DOG}))
    for words in ("--text", DOG), ("--text-file", photo.parent / "words.json"):
        done = run("encode", photo.parent, "--preset", "early", *words)
        assert done.exit_code == 1 and done.stderr.count("The text encoder is missing.") == 1


def test_text_from_a_file(photo: Path) -> None:
    cat = photo.with_name("cat.png")
    cat.write_bytes(photo.read_bytes())
    texts = photo.with_name("words.json")
    texts.write_text(json.dumps({"cat.png": "a cat", cat.as_posix(): "that cat", "dog.png": "dog " * 9}))
    again = "encode", photo, cat, "--force"
    encode = *again, "--preset", "late", "--send-text", "--text-file"
    assert run(*encode, texts).exit_code == 0
    files = [path.with_suffix(".tri") for path in (cat, photo)]
    assert [embedded_text(Bitstream.open(file)) for file in files] == ["that cat", ("dog " * 9).strip()]
    plain = photo.with_name("words.txt")
    plain.write_text("\ufeff" + DOG + "\n", "utf-8")
    assert run(*encode, plain).exit_code == 0
    assert [embedded_text(Bitstream.open(file)) for file in files] == [DOG, DOG]
    done = run(*again, "--preset", "early", "--text", "dog " * 9)
    assert done.stderr.splitlines()[:-1] == ["The text has 9 words; the first 8 count."]
    done = run(*again, "--preset", "early", "--text-file", texts)
    assert done.stderr.splitlines()[:-1] == ["dog.png: The text has 9 words; the first 8 count."]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not JSON"),
        (b'["a dog"]', "not an object"),
        (b'{"dog.png": 5}', "not an object"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"fish.png": "a fish"}', "no text for dog.png and 1 more"),
    ],
)
def test_invalid_text_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "words.json").write_bytes(content)
    with pytest.raises(OptionError, match=f"^words.json .*{said}") as caught:
        read_texts(tmp_path / "words.json", [Path("dog.png"), Path("cat.png")])
    assert is_one_sentence(str(caught.value))


def test_only_one_source_of_text_is_allowed() -> None:
    assert run("encode", "a.png", "--text", DOG, "--caption", "auto").exit_code == 2


def test_info_escapes_control_characters_in_text(folder: Path, rgb: np.ndarray) -> None:
    file = folder / "odd.tri"
    plain = trifocal.encode(rgb, "plain")
    plain.with_layer(Layer(Tag.TEXT, (b"\0\x1b[2Jred",))).save(file)
    done = run("info", file)
    assert done.exit_code == 0
    assert "'\\x1b[2Jred'" in done.stdout and "\x1b" not in done.stdout
    assert done.stderr == "odd.tri: The file has text, which the decoder of plain does not read.\n"
    plain.with_layer(Layer(Tag.TEXT, (b"\x07",))).save(file)
    done = run("info", file)
    assert done.exit_code == 1
    assert "TEXT" in done.stdout and is_one_sentence(done.stderr) and done.stderr.startswith("odd.tri: ")


# ── Pillow ──


def test_text_through_pillow(folder: Path, rgb: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, format="TRI", preset="late", text=DOG, send_text=True)
    assert stream.getvalue() == trifocal.encode(rgb, "late", text=DOG, send_text=True).to_bytes()
    with Image.open(stream) as image:
        assert image.info["text"] == DOG
        assert np.array_equal(np.asarray(image), trifocal.decode(stream.getvalue()).picture.rgb)
    with pytest.raises(OSError, match="plain takes no text"):
        Image.fromarray(rgb).save(stream, format="TRI", preset="plain", text=DOG)
    odd = trifocal.encode(rgb, "late").with_layer(Layer(Tag.TEXT, (b"\x07",)))
    with Image.open(io.BytesIO(odd.to_bytes())) as image:
        assert "text" not in image.info
        with pytest.raises(OSError, match="number 7"):
            image.load()


# ── the captioner ──


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BLIP with random weights, in a folder like the published one."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "brown", "dog", "red", "frisbee"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), additional_special_tokens=["[DEC]"])
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {
        "vocab_size": len(words),
        "bos_token_id": 5,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    network = transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(
            text_config={**size, **tokens, "encoder_hidden_size": 16, "max_position_embeddings": 64},
            vision_config={**size, "image_size": 32, "patch_size": 16},
        )
    )
    network.generation_config.max_length = 20
    network.save_pretrained(folder)
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_a_captioner_returns_what_its_network_generates(blip: Path, rgb: np.ndarray) -> None:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    from trifocal.text.captions import Captioner

    captioner = Captioner(str(blip))
    processor = BlipProcessor.from_pretrained(blip)
    network = BlipForConditionalGeneration.from_pretrained(blip).eval()
    for pixels in rgb, rgb[:3, :1]:  # a height that could be taken for channels too
        seen = processor(images=Image.fromarray(pixels), return_tensors="pt")
        tokens = network.generate(**seen, num_beams=3, do_sample=False, max_new_tokens=40)[0]
        sentence = processor.tokenizer.decode(tokens, skip_special_tokens=True)
        assert captioner(pixels) == sentence.strip() != ""


def test_captioner_writes_the_text(blip: Path, photo: Path, rgb: np.ndarray) -> None:
    from trifocal.text.captions import Captioner

    done = run("encode", photo, "--preset", "late", "--send-text", "--caption", blip)
    assert done.exit_code == 0
    sentence = Captioner(str(blip))(rgb)
    assert embedded_text(Bitstream.open(photo.with_suffix(".tri"))) == sentence
    assert done.stderr == f"dog.png: {sentence}\n"


def test_missing_captioner_is_an_error(blip: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encode = "encode", photo, "--preset", "late", "--send-text", "--caption"
    done = run(*encode, photo.parent / "nowhere")
    assert done.exit_code == 1 and is_one_sentence(done.stderr) and "nowhere" in done.stderr
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = run(*encode, blip)
    assert done.exit_code == 1 and done.stderr.strip().endswith('pip install "trifocal[text]"')


def test_byte_pairs_agree_with_the_package_tokenizers() -> None:
    """Captions, other scripts, control characters, contractions, special tokens, long and repeated words."""
    from tokenizers import Tokenizer

    from trifocal.text.tokens import TOKENIZER, load_tokenizer

    ours, theirs = load_tokenizer(), Tokenizer.from_file(str(TOKENIZER))
    random = np.random.default_rng(0)
    texts = [
        *("", " ", "A brown dog's ball, and they'll play.", "<pad> hi<end>", "it's  two\t tabs \n\r"),
        *(
            "Straße ﬁ Ⅷ ² 一二 犬が走る ΣΑΣ İstanbul",
            "e\u0301 a\u0327\u00a0b",
            "\x1c\x1d",
            "🙂🙂 ok",
            "a" * 3000,
        ),
        *("".join(map(chr, random.integers(9, 0x250, 12))) for _ in range(300)),
        *("".join(map(chr, random.integers(32, 127, 20))) for _ in range(300)),
    ]
    for text in texts:
        assert ours.ids(text) == theirs.encode(text, add_special_tokens=False).ids, ascii(text)
    assert len(ours) == theirs.get_vocab_size()
