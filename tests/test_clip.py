"""The CLIP encoders, with a small random CLIP model that is loaded from a folder like a published one."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.clip import make_clip
from helpers.images import random_rgb
from trifocal.errors import MissingExtra, OptionError, WeightsError
from trifocal.text import TextEncoder, load_text_encoder
from trifocal.text import clip as module
from trifocal.text.clip import ClipImageEncoder, ClipTextEncoder

transformers = pytest.importorskip("transformers")
TEXTS = ["a dog catches a red frisbee", "", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "small")


@pytest.fixture(scope="module")
def tower(folder: Path) -> ClipTextEncoder:
    return ClipTextEncoder(str(folder))


def test_batched_texts_are_encoded_as_single_texts(tower: ClipTextEncoder, folder: Path) -> None:
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    words = tower(TEXTS)
    assert words.tokens.shape == (3, words.mask.shape[1], tower.width) and words.pooled.shape == (3, 16)
    assert words.mask.dtype == torch.bool and words.mask[:, 0].all()
    assert words.mask.sum(1).tolist()[1:] == [
        2,
        3,
    ]  # an empty text is its start and end, "dog" one token more
    for number, text in enumerate(TEXTS):
        ids = tower.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            alone = model.text_model(ids)
            pooled = model.text_projection(alone.pooler_output)
        count = ids.shape[1]
        assert int(words.mask[number].sum()) == count
        torch.testing.assert_close(words.tokens[number, :count], alone.last_hidden_state[0])
        torch.testing.assert_close(words.pooled[number], pooled[0])
    assert not words.tokens.requires_grad
    assert not any(p.requires_grad for p in (*tower.network.parameters(), *tower.projection.parameters()))


def test_long_texts_are_truncated_with_a_notice(tower: ClipTextEncoder) -> None:
    text = "dog " * 10_000
    words = tower([text, "dog"])
    assert tower.length == 77 and words.tokens.shape == (2, 77, 16)
    assert words.mask.sum(1).tolist() == [77, 3]
    torch.testing.assert_close(words.tokens[0], tower(["dog " * 75]).tokens[0])
    assert tower.notices([text, text]) == ["The text has 10000 tokens; only the first 75 are used."]
    assert tower.notices(["dog " * 75, ""]) == []


def test_non_latin_and_invalid_characters_give_a_notice(tower: ClipTextEncoder) -> None:
    assert tower(["犬がフリスビーを捕る", "🐕", "a\udcffb", "\0"]).tokens.isfinite().all()
    (note,) = tower.notices(["собака", "犬"])
    assert "non-Latin" in note
    assert tower.notices(["un chien très sûr, 3 × ½ – 🐕"]) == []
    (note,) = tower.notices(["a\udcffb"])
    assert "invalid" in note
    torch.testing.assert_close(tower(["a\udcffb"]).pooled, tower(["a?b"]).pooled)


def test_pad_to_pads_and_truncates_as_tacos_code(folder: Path, tower: ClipTextEncoder) -> None:
    padded = ClipTextEncoder(str(folder), pad_to=38)
    words, plain = padded(TEXTS), tower(TEXTS)
    assert words.tokens.shape == (3, 38, 16) and padded(["dog"]).tokens.shape == (1, 38, 16)
    assert words.mask.sum(1).tolist() == plain.mask.sum(1).tolist()
    longest = plain.mask.shape[1]
    torch.testing.assert_close(words.tokens[:, :longest], plain.tokens)
    torch.testing.assert_close(words.pooled, plain.pooled)
    assert padded.notices(["dog " * 37]) == ["The text has 37 tokens; only the first 36 are used."]
    for wrong in (2, 78):
        with pytest.raises(OptionError, match="must be 3 to 77 tokens"):
            ClipTextEncoder(str(folder), pad_to=wrong)


def test_preprocessing_equals_clips_image_processor(folder: Path) -> None:
    rgb = random_rgb(90, 70)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    small = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    shown = transformers.CLIPImageProcessor(**small)(images=rgb, return_tensors="pt")["pixel_values"]
    images = ClipImageEncoder(str(folder))
    assert images.title == "small"
    x = (torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255).requires_grad_()
    assert (images.preprocess(x) - shown).abs().max() < 2 / 255 / 0.26  # theirs is rounded to 8 bits
    vectors = images(x)
    with torch.inference_mode():
        expected = model.visual_projection(model.vision_model(shown).pooler_output)
    assert torch.cosine_similarity(vectors, expected).item() > 0.999
    vectors.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in images.parameters())


def test_only_the_centre_crop_is_encoded(folder: Path) -> None:
    images = ClipImageEncoder(str(folder))
    x = torch.rand(1, 3, 32, 64)
    border = x.clone()
    border[..., :16], border[..., 48:] = 0, 1
    torch.testing.assert_close(images(x), images(border))
    assert not torch.allclose(images(x), images(1 - x))


def test_text_and_image_embeddings_share_a_space(folder: Path, tower: ClipTextEncoder) -> None:
    """Cosines of images and texts equal those of transformers."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    x = torch.rand(2, 3, 32, 32)
    images = ClipImageEncoder(str(folder))
    encoded = tower.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        both = model(**encoded, pixel_values=images.preprocess(x))
        cosines = torch.cosine_similarity(images(x)[:, None], tower(TEXTS).pooled[None], dim=-1)
    torch.testing.assert_close(cosines, both.logits_per_image / model.logit_scale.exp().detach())


def test_clip_with_different_token_and_pooled_widths_is_refused(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "two", projection=8)
    with pytest.raises(WeightsError, match="embeddings of 16 numbers and pooled embeddings of 8"):
        ClipTextEncoder(str(folder))
    assert ClipImageEncoder(str(folder))(torch.rand(1, 3, 40, 32)).shape == (1, 8)


def test_model_that_cannot_be_loaded_raises_weights_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path / "no" / "folder")
    with pytest.raises(
        WeightsError,
        match="cannot be loaded; download it to FOLDER/folder .*, and name that folder with `trifocal --netw",
    ):
        ClipTextEncoder(missing)
    damaged = make_clip(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        ClipImageEncoder(str(damaged))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"CLIP needs packages.*trifocal\[text\]"):
        ClipImageEncoder(str(folder))


def test_clip_in_the_folder_of_networks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"openai/{folder.name}"
    monkeypatch.setenv("TRIFOCAL_NETWORKS", str(folder.parent))
    np.testing.assert_array_equal(
        ClipTextEncoder(name)(["dog"]).pooled, ClipTextEncoder(str(folder))(["dog"]).pooled
    )
    assert ClipImageEncoder(name).side == 32
    monkeypatch.setenv("TRIFOCAL_NETWORKS", str(folder / "nowhere"))
    with pytest.raises(OptionError, match="There is no folder .*nowhere; TRIFOCAL_NETWORKS and --networks"):
        ClipTextEncoder(name)


def test_incomplete_clip_model_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """transformers itself would use random weights for missing ones."""
    weights = make_clip(tmp_path / "half") / "model.safetensors"
    kept = {name: w for name, w in load_file(weights).items() if "final_layer_norm" not in name}
    save_file(kept, weights, {"format": "pt"})
    capfd.readouterr()
    with pytest.raises(WeightsError, match="it lacks text_model.final_layer_norm.bias"):
        ClipTextEncoder(str(tmp_path / "half"))
    assert not any(capfd.readouterr())


def test_cached_model_is_used_before_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Kind:
        @staticmethod
        def from_pretrained(name: str, **options: Any) -> str:
            asked.append(options)
            if options.get("local_files_only") and name == "elsewhere":
                raise OSError("not cached")
            return name

    assert (
        module.load_pretrained(Kind, "here") == "here"
        and module.load_pretrained(Kind, "elsewhere") == "elsewhere"
    )
    assert asked == [{"local_files_only": True}, {"local_files_only": True}, {}]


def test_text_encoders_are_loaded_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower: TextEncoder = load_text_encoder(str(folder))
    assert isinstance(tower, ClipTextEncoder) and tower.name == str(folder)
    assert load_text_encoder(str(folder)) is tower
    np.testing.assert_allclose(tower(["dog"]).pooled, ClipTextEncoder(str(folder))(["dog"]).pooled)
