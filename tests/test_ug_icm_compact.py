"""One file for people and for machines: the decoder's preference selects the output, and the file does not
depend on it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import trifocal
from helpers.cli import Recorder, is_one_sentence, run
from helpers.codecs import largest_seam, small_codec, small_ug_icm
from helpers.images import random_rgb
from helpers.losses import HalfSizeDistance
from trifocal import evaluation
from trifocal.codecs.codec import Codec
from trifocal.codecs.ug_icm_compact import UgIcmCompact
from trifocal.container import Bitstream
from trifocal.errors import OptionError, PresetError
from trifocal.evaluation import EvaluateOptions, read_results
from trifocal.evaluation.candidates.factory import create_candidate
from trifocal.evaluation.candidates.variant import Variant, expand_variants, parse_variant
from trifocal.losses.ug_icm import UgIcmObjective
from trifocal.pictures import Picture
from trifocal.presets import PRESETS, check_preference, find
from trifocal.training import train
from trifocal.training.optimisers import parameter_groups
from trifocal.types import Batch, Condition
from trifocal.weights import load_weights, read_weights, write_weights


@pytest.fixture(scope="module")
def codec() -> Codec:
    return small_ug_icm()


def wanting(preference: float) -> Condition:
    return Condition(preference=torch.tensor([preference]))


def test_preference_0_equals_compact(codec):
    picture = Picture(random_rgb(120, 90))
    plain = small_codec(noise=0.0)
    stream, same = codec.encode(picture), plain.encode(picture)
    assert stream.layers == same.layers
    expected = plain.decode(same).picture.rgb
    for condition in (None, wanting(0.0)):
        assert np.array_equal(codec.decode(stream, condition=condition).picture.rgb, expected)
    assert (codec.decode(stream, condition=wanting(1.0)).picture.rgb != expected).any()


def test_preference_interpolates_linearly(codec):
    y_hat, level = torch.randn(2, 4, 4, 48) * 20, torch.tensor([100, 700])
    with torch.inference_mode():
        people, half, machines = (
            codec.network.synthesise(y_hat, level, Condition(preference=torch.tensor(p)))
            for p in ([0.0, 0.0], [0.5, 0.5], [1.0, 1.0])
        )
        mixed = codec.network.synthesise(y_hat, level, Condition(preference=torch.tensor([1.0, 0.0])))
    assert torch.allclose(half, (people + machines) / 2, atol=1e-5) and not torch.allclose(people, machines)
    assert torch.allclose(mixed[0], machines[0], atol=1e-5) and torch.allclose(mixed[1], people[1], atol=1e-5)


def test_forward_equals_decode(codec):
    rgb = random_rgb(192, 128, seed=2)
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        output = codec.network(x, torch.tensor([400]), wanting(1.0))
    stream = codec.encode(Picture(rgb), quality=50)
    pixels = output.x_hat[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).byte().numpy()
    assert np.array_equal(codec.decode(stream, condition=wanting(1.0)).picture.rgb, pixels)


def test_tiles_equal_the_whole_image(codec, monkeypatch):
    """The receptive field of the branch for machines is within the halo."""
    assert largest_seam(codec, wanting(1.0), monkeypatch) <= 1


def test_only_the_branch_for_machines_is_trained():
    torch.manual_seed(0)
    codec = small_ug_icm()
    codec.network.train()
    before = {name: w.clone() for name, w in codec.network.state_dict().items()}
    optimiser = torch.optim.Adam(
        parameter_groups(codec.network, find("ug-icm-compact").stage_recipes[0]), lr=2e-3
    )
    objective = UgIcmObjective(HalfSizeDistance())
    x = torch.from_numpy(random_rgb(64, 64)).permute(2, 0, 1)[None].float() / 255
    batch = Batch(x.repeat(2, 1, 1, 1), torch.tensor([200, 500]))
    losses = []
    for step in range(12):
        ((part, loss),) = objective.losses(codec.network, batch, step)
        assert part == "codec"
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    changed = {name for name, w in codec.network.state_dict().items() if not torch.equal(w, before[name])}
    assert {name.split(".")[1] for name in changed} == {"preferring", "detail"} and losses[-1] < losses[0]
    people = codec.network.eval()(batch.x, batch.level)
    judged = objective.held_out_metrics(codec.network, batch.x, batch.level, people)
    assert judged.keys() == {"distance", "distance_machine", "psnr_machine"}
    for_people = codec.network(batch.x, batch.level, Condition(preference=torch.zeros(2))).x_hat
    assert torch.equal(judged["distance"], HalfSizeDistance()(for_people, batch.x))


def with_preset(monkeypatch: pytest.MonkeyPatch, codec: Codec) -> None:
    """Replace `ug-icm-compact` by the small codec, and `compact` by another one."""
    plain = small_codec()
    monkeypatch.setattr(
        "trifocal.presets.shared_codec",
        lambda name="compact", *rest, **more: codec if "ug" in str(name) else plain,
    )
    monkeypatch.setattr("trifocal.presets.load_for", lambda header, *rest, **more: codec)


def test_bundled_weights_are_those_of_the_first_stage():
    """All parts were trained, from the weights of `compact`; their rates stay near it."""
    ours, plain = trifocal.load("ug-icm-compact"), trifocal.load("compact")
    assert ours.fingerprint_in(2, 1) == 0x0D20A13E and isinstance(ours.network, UgIcmCompact)
    mine, theirs = ours.network.state_dict(), plain.network.state_dict()
    moved = [mine[name] - w for name, w in theirs.items() if w.is_floating_point()]
    size = sum(w.square().sum() for w in theirs.values() if w.is_floating_point())
    assert 0 < sum(w.square().sum() for w in moved) < 0.02 * size
    picture = Picture(random_rgb(64, 48))
    assert ours.encode(picture).to_bytes() != plain.encode(picture).to_bytes()


def test_shared_weights_are_not_exported(tmp_path, monkeypatch):
    monkeypatch.setattr("trifocal.weights.WEIGHTS_FOLDER", tmp_path)
    plain, codec = small_codec(noise=0.0), small_ug_icm()
    write_weights(plain.network, tmp_path / "plain.safetensors")
    load_weights(plain.network, "plain.safetensors")
    codec.network.load_state_dict(plain.network.state_dict(), strict=False)
    write_weights(codec.network, tmp_path / "own.safetensors", shared="plain.safetensors")
    own = read_weights(tmp_path / "own.safetensors")
    assert own and all(name.startswith(("synthesis.preferring.", "synthesis.detail.")) for name in own)
    again = small_ug_icm(noise=0.0)
    load_weights(again.network, "own.safetensors", "plain.safetensors")
    write_weights(codec.network, tmp_path / "whole.safetensors")
    load_weights((whole := small_ug_icm(noise=0.0)).network, "whole.safetensors")
    assert again.fingerprint == whole.fingerprint
    assert all(
        torch.equal(w.half(), again.network.state_dict()[name].half())
        for name, w in codec.network.state_dict().items()
    )


def test_run_starts_from_shared_weights_and_exports_its_own(short_validation, tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir()
    for place in ("weights", "training.tasks.codec"):
        monkeypatch.setattr(f"trifocal.{place}.WEIGHTS_FOLDER", folder)
    write_weights(small_codec().network, folder / find("ug-icm-compact").shared_weights)
    recipe = replace(find("ug-icm-compact").stage_recipes[0], crop=64, batch=2, warmup=1)
    tiny = replace(
        find("ug-icm-compact"),
        build=lambda: small_ug_icm(0.0),
        recipe=recipe,
        objective=lambda: UgIcmObjective(HalfSizeDistance()),
    )
    monkeypatch.setattr("trifocal.presets.PRESETS", (tiny,))
    for number in range(3):
        Picture(random_rgb(80, 72, seed=number)).save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    path = train("ug-icm-compact", [tmp_path], "run", steps=3)
    own = read_weights(path)
    assert own and all(name.startswith(("synthesis.preferring.", "synthesis.detail.")) for name in own)
    assert "distance_machine" in (tmp_path / "run" / "ug-icm-compact.csv").read_text().splitlines()[0]


def test_invalid_or_unsupported_preferences_are_refused():
    ours, plain = find("ug-icm-compact"), find("compact")
    check_preference(plain, None)
    with pytest.raises(PresetError, match="compact takes no preference; use ug-icm-compact"):
        check_preference(plain, 0.5)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(OptionError, match="from 0, for people, to 1"):
            check_preference(ours, wrong)


def test_decode_takes_a_preference(monkeypatch, tmp_path, codec):
    with_preset(monkeypatch, codec)
    stream = codec.encode(Picture(random_rgb(64, 48)))
    stream.save(tmp_path / "a.tri")
    for preference in ("0", "1"):
        done = run(
            "decode", tmp_path / "a.tri", "--preference", preference, "-o", tmp_path / f"{preference}.png"
        )
        assert done.exit_code == 0, done.stderr
    people, machines = (Picture.open(tmp_path / f"{p}.png").rgb for p in "01")
    assert (people != machines).any()
    assert np.array_equal(trifocal.decode(stream, preference=1).picture.rgb, machines)
    assert np.array_equal(trifocal.decode(stream).picture.rgb, people)
    for words, said in (
        (("--preference", "2"), "to 1"),
        (("--preference", "1", "--layers", "base"), "excludes"),
    ):
        failed = run("decode", tmp_path / "a.tri", *words, "-o", tmp_path / "x.png")
        assert failed.exit_code != 0 and said in failed.stderr and not (tmp_path / "x.png").exists()


def test_decode_refuses_an_invalid_preference(tmp_path):
    trifocal.encode(Picture(random_rgb(32, 32)), "compact").save(tmp_path / "a.tri")
    done = run("decode", tmp_path / "a.tri", "--preference", "1")
    assert done.exit_code == 1 and is_one_sentence(done.stderr) and "ug-icm-compact" in done.stderr


def test_evaluate_measures_several_preferences(monkeypatch, tmp_path, codec):
    with_preset(monkeypatch, codec)
    Picture(random_rgb(64, 48)).save(tmp_path / "a.png")
    results = evaluation.evaluate(
        ["ug-icm-compact", "compact"],
        tmp_path,
        tmp_path / "out.csv",
        EvaluateOptions((20, 60), preferences=(0, 1)),
    )
    named = [row.preset for row in results.rows]
    assert named == 2 * ["ug-icm-compact:0"] + 2 * ["ug-icm-compact:1"] + 2 * ["compact"]
    people, machines = results.rows[0], results.rows[2]
    assert people.bytes == machines.bytes and people.values["psnr"] != machines.values["psnr"]
    assert [row.preset for row in read_results(tmp_path / "out.csv")] == named


def test_preference_settings_are_refused_for_other_presets():
    with pytest.raises(OptionError, match="needs a preset whose decoder takes one; .* ug-icm-compact"):
        expand_variants([Variant("compact")], preferences=(0, 1))
    with pytest.raises(OptionError, match="0 .people. to 1"):
        EvaluateOptions(preferences=(0, 3))
    variants = expand_variants([Variant("ug-icm-compact"), Variant("avif")], preferences=(0, 0.5, 0))
    assert [variant.name for variant in variants] == [
        "ug-icm-compact:0",
        "ug-icm-compact:0.5",
        "avif",
    ]
    assert parse_variant("ug-icm-compact:0.5").title == "Trifocal ug-icm-compact, preference 0.5"
    with pytest.raises(PresetError, match="takes no preference"):
        create_candidate(parse_variant("compact:0.5"))


def test_commands_pass_preferences_on(monkeypatch):
    for verb, place, given in (
        ("evaluate", "trifocal.evaluation.evaluate", evaluation.EvaluationResults([], [])),
        ("compare", "trifocal.evaluation.compare.compare", Path("report/index.html")),
    ):
        recorder = Recorder(given)
        monkeypatch.setattr(place, recorder)
        words = ("--preference", "0", "0.5", "1")
        done = run(verb, "ug-icm-compact", "--data", "pictures", *words)
        assert done.exit_code == 0, done.stderr
        assert recorder.words[-1].preferences == [0, 0.5, 1]


def test_file_does_not_depend_on_the_preference(codec):
    stream = Bitstream.from_bytes(codec.encode(Picture(random_rgb(64, 48))).to_bytes())
    assert len(stream.layers) == 1 and stream.header.preset_id == 9 == next(
        p.id for p in PRESETS if p.takes_preference
    )
