"""`bench train`: configurations, and tiny runs from data set to checkpoint and back."""

import io
import json
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from rich.console import Console
from typer.main import get_command

from vitxai.bench.cli import app
from vitxai.bench.contract import BadInputError, Dataset, DatasetInfo, Sample, UnknownNameError, dataset, datasets
from vitxai.bench.epoch_display import EpochDisplay
from vitxai.bench.recipes import PRESETS, PROBING, RECIPES, command, recipe
from vitxai.bench.train import train, train_phase
from vitxai.bench.trainable import plain_samples
from vitxai.models.checkpoint import read_checkpoint
from vitxai.models.handle import wrap
from vitxai.models.load import load_model
from vitxai.models.optimise import EpochRecord, Schedule
from vitxai.models.preprocess import collate


@dataset("red_or_blue")
class RedOrBlue(Dataset):
    """Pictures of two classes, red and blue; ``labelled`` false leaves the labels out."""

    labelled: bool = True

    def info(self) -> DatasetInfo:
        return DatasetInfo(("red", "blue"), 3, frozenset({"labels"}), "none", "none")

    def ids(self, split, count=None):
        return [f"{split}/{index}" for index in range(8 if count is None else count)]

    def sample(self, id: str) -> Sample:
        split, index = id.split("/")
        rng = np.random.default_rng([len(split), int(index)])
        picture = rng.uniform(0, 0.3, (3, 32, 32)).astype(np.float32)
        label = int(index) % 2
        picture[2 * label] += 0.6
        return Sample(id, picture, label=label if self.labelled else None)

    def content_hash(self) -> str:
        return "red-or-blue-1"


@dataset("spectra")
class Spectra(Dataset):
    """Flat cubes of six bands: class 1 is dark above 1000 nm. ``task=traits`` gives height and depth in their place.

    Attributes:
        wavelengths: false leaves them out.
        broken: of the traits: ``missing`` or ``constant``.
    """

    task: str = "classes"
    wavelengths: bool = True
    broken: str = ""

    def info(self) -> DatasetInfo:
        centres = (450.0, 550.0, 720.0, 900.0, 1200.0, 1600.0) if self.wavelengths else ()
        names = ("healthy", "dry") if self.task == "classes" else ()
        return DatasetInfo(names, 6, frozenset(), "none", "none", centres, () if names else ("height", "depth"))

    def ids(self, split, count=None):
        return [f"{split}/{index}" for index in range(8 if count is None else count)]

    def sample(self, id: str) -> Sample:
        split, index = id.split("/")
        rng = np.random.default_rng([len(split), int(index)])
        cube = rng.uniform(0.4, 0.6, (6, 8, 8)).astype(np.float32)
        label, depth = int(index) % 2, float(rng.uniform(0, 0.4))
        if self.task == "classes":
            cube[4:] -= 0.3 * label
            return Sample(id, cube, label=label)
        cube[4:] -= depth
        known = {"": np.array([1 - depth, 9 * depth]), "missing": None, "constant": np.array([1.0, depth])}
        return Sample(id, cube, traits=known[self.broken])

    def content_hash(self) -> str:
        return f"spectra-{self.task}"


TIMM = "timm,id=test_vit,random=true,img_size=32"
SMALL = "patch_size=4,embed_dim=16,depth=1,num_heads=2,img_size=8,random=true"
SPECTRAL = f"spectral,backbone=vit_tiny_patch16_224,groups=3,embed=projection,{SMALL}"


def tiny(tmp_path: Path, model: str = "glyphs", data: str | None = None, **changes):
    sizes = {"fit": 40, "validation": 20, "test": 10, "epochs": 1, "out": tmp_path / "model.safetensors"}
    config = recipe(model, data, **{**sizes, **changes})
    if config.refinement is None:
        return config
    schedule = replace(config.refinement.schedule, epochs=1)
    return replace(config, refinement=replace(config.refinement, schedule=schedule))


def test_a_run_writes_a_checkpoint_that_describes_itself(tmp_path):
    seen = []
    path = train(tiny(tmp_path, epochs=2, seed=3), seen.append)
    module, description = read_checkpoint(path)
    training = description.training
    assert path == tmp_path / "model.safetensors"
    assert training["command"] == "bench train glyphs --seed 3 --fit 40 --validation 20 --test 10 --epochs 2"
    assert [phase["scenes"] for phase in training["phases"]] == ["plain", "plain"]
    assert training["data_hash"] == datasets.create("glyphs").content_hash()
    assert len(training["code_hashes"]["vitxai.models.optimise"]) == 64
    lines = [line for phase in training["phases"] for line in phase["log"]]
    assert [line["epoch"] for line in lines] == [record.epoch for record in seen] == [0, 1, 0]
    assert training["accuracy"]["test"]["n"] == 10
    assert json.loads(path.with_suffix(".json").read_text()) == training
    assert description.classes == datasets.create("glyphs").info().classes
    assert not module.training


def test_recorded_accuracy_is_that_of_the_stored_weights(tmp_path):
    path = train(tiny(tmp_path, "leaves_fused", fit=16, validation=8, test=12))
    module, description = read_checkpoint(path)
    leaves = datasets.create("leaves")
    model = wrap(module, mean=description.mean, std=description.std)
    batch = collate([leaves.sample(id) for id in leaves.ids("test", 12)], model)
    with torch.inference_mode():
        correct = int((model(batch.inputs).argmax(1) == batch.labels).sum())
    assert description.training["accuracy"]["test"] == {"correct": correct, "n": 12}


def test_the_same_configuration_gives_the_same_weights_and_another_seed_others(tmp_path):
    def weights(name: str, seed: int) -> bytes:
        path = train(tiny(tmp_path, fit=20, validation=10, seed=seed, out=tmp_path / f"{name}.safetensors"))
        return (
            torch.cat([tensor.flatten() for tensor in read_checkpoint(path)[0].state_dict().values()]).numpy().tobytes()
        )

    first = weights("first", 0)
    assert weights("again", 0) == first
    assert weights("other", 1) != first


def test_the_second_phase_depends_on_the_stored_weights_of_the_first_alone(tmp_path):
    config = tiny(tmp_path, "leaves_fused", fit=16, validation=8, test=4)
    assert config.refinement.scenes == "counterfactual"
    whole, _ = read_checkpoint(train(config))
    first, description = read_checkpoint(train(replace(config, refinement=None)))
    model = wrap(first, mean=description.mean, std=description.std)
    model.module.requires_grad_(True)
    train_phase(model, datasets.create("leaves"), config, 1)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(model.module.state_dict()[name], tensor, rtol=0, atol=0)


def test_training_leaves_torch_as_it_was(tmp_path):
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(tiny(tmp_path, fit=10, validation=10, threads=threads + 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_timm_vit_learns_a_folder_like_data_set_and_loads_again(tmp_path):
    config = tiny(tmp_path, TIMM, "red_or_blue", fit=64, validation=16, test=16, epochs=12, batch_size=16)
    assert config.schedule.augmentation == "mirror"
    path = train(recipe(TIMM, "red_or_blue", fit=32, validation=16, test=16, epochs=8, batch_size=8,
                        augmentation="none", learning_rate=2e-3, out=config.out))  # fmt: skip
    model = load_model(f"file,path={path}")
    assert model.classes == ("red", "blue")
    assert model.input_size == (32, 32)
    correct = json.loads(path.with_suffix(".json").read_text())["accuracy"]["test"]["correct"]
    assert correct == 16


def test_fine_tuning_starts_from_given_weights(tmp_path):
    first = train(tiny(tmp_path, TIMM, "red_or_blue", fit=8, validation=8, test=2))
    trained, _ = read_checkpoint(first)
    weights = tmp_path / "weights.pth"
    torch.save(trained.state_dict(), weights)
    spec, out = f"timm,id=test_vit,weights={weights},img_size=32", tmp_path / "tuned.safetensors"
    config = tiny(tmp_path, spec, "red_or_blue", fit=8, validation=8, test=2, learning_rate=1e-9, out=out)
    tuned, _ = read_checkpoint(train(config))
    difference = (tuned.blocks[0].attn.qkv.weight - trained.blocks[0].attn.qkv.weight).abs().max()
    assert difference < 1e-3


def test_unlabelled_data_are_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"fit/0.*has no label"):
        train(tiny(tmp_path, TIMM, "red_or_blue,labelled=false", fit=4, validation=4, test=4))


def test_changes_reach_the_schedule_or_the_configuration_and_none_changes_nothing():
    changed = recipe("glyphs", seed=2, epochs=5, batch_size=None)
    assert (changed.seed, changed.schedule.epochs) == (2, 5)
    assert changed.schedule.batch_size == RECIPES["glyphs"].schedule.batch_size


def test_default_path_bears_id_and_seed():
    assert recipe("leaves_fused", seed=2).path == Path("leaves_fused_s2.safetensors")
    assert recipe(TIMM, "red_or_blue").path == Path("test_vit_s0.safetensors")


def test_the_command_names_what_differs_from_the_recipe():
    assert command(recipe("leaves_spectral", seed=1)) == "bench train leaves_spectral --seed 1"
    assert (
        command(recipe(TIMM, "red_or_blue", learning_rate=0.01))
        == f"bench train {TIMM} --seed 0 --data red_or_blue --learning-rate 0.01"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("glyphz", None), "cannot be trained"),
        (("timm,id=test_vit", None), "--data"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_a_way_out(arguments, text):
    with pytest.raises(BadInputError, match=text):
        recipe(*arguments)


def test_an_unknown_option_is_refused_by_name():
    with pytest.raises(BadInputError, match="epoch_count"):
        recipe("glyphs", epoch_count=3)


def test_a_negative_seed_is_refused():
    with pytest.raises(BadInputError, match="-1"):
        recipe("glyphs", seed=-1)


class Stop(Exception):
    """Ends a training from its progress."""


@pytest.fixture
def weights(tmp_path) -> Path:
    """Of timm's test_vit at 32 pixels, as torch saves them."""
    torch.manual_seed(5)
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_vit", img_size=32, num_classes=3).state_dict(), path)
    return path


def test_a_spectral_vit_learns_cubes_and_loads_again_with_its_groups(tmp_path):
    path = train(recipe(SPECTRAL, "spectra", fit=48, validation=16, test=16, epochs=10, batch_size=8,
                        learning_rate=5e-3, augmentation="none", out=tmp_path / "model.safetensors"))  # fmt: skip
    model = load_model(f"file,path={path}")
    assert model.geometry.groups == ((0, 1, 2), (3,), (4, 5))  # visible with red edge, near, shortwave infrared
    assert model.wavelengths == (450.0, 550.0, 720.0, 900.0, 1200.0, 1600.0)
    training = json.loads(path.with_suffix(".json").read_text())
    assert training["accuracy"]["test"] == {"correct": 16, "n": 16}
    module = sum(parameter.numel() for parameter in model.module.parameters())
    assert training["phases"][0]["trained_parameters"] == module


def test_a_pretrained_backbone_stays_frozen_and_its_source_is_recorded(tmp_path, weights):
    spec = f"spectral,backbone=test_vit,img_size=32,groups=2,scheme=contiguous,weights={weights}"
    path = train(tiny(tmp_path, spec, "spectra", fit=8, validation=4, test=2, learning_rate=0.1))
    module, description = read_checkpoint(path)
    given = torch.load(weights)
    for name in ("blocks.2.mlp.fc1.weight", "cls_token", "pos_embed", "norm.weight"):
        torch.testing.assert_close(module.state_dict()[name], given[name].half().float(), rtol=0, atol=0)
    torch.testing.assert_close(module.patch_embed.rgb.proj.weight, given["patch_embed.proj.weight"].half().float())
    assert (module.patch_embed.proj[0].weight != 1 / 3).any()
    assert description.training["backbone"]["weights"] == "weights.pth"
    assert len(description.training["backbone"]["weights_sha256"]) == 64
    # 2 groups: 3 bands to 3 channels each, group embedding, head.
    assert description.training["phases"][0]["trained_parameters"] == 2 * (3 * 3 + 3) + 2 * 64 + 2 * 64 + 2


def test_a_pretrained_backbone_may_be_trained_too(tmp_path, weights):
    spec = f"spectral,backbone=test_vit,img_size=32,groups=2,weights={weights},frozen=false"
    module, _ = read_checkpoint(train(tiny(tmp_path, spec, "spectra", fit=8, validation=4, test=2, learning_rate=0.1)))
    name = "blocks.2.mlp.fc1.weight"
    assert not torch.equal(module.state_dict()[name], torch.load(weights)[name].half().float())


@pytest.mark.parametrize(
    ("spec", "data", "text"),
    [
        ("spectral,backbone=vit_tiny_patch16_224,groups=2", "spectra", "random=true"),
        ("spectral,backbone=vit_tiny_patch16_224,depth=2", "spectra", "depth.*random=true"),
        ("spectral,backbone=test_vit,random=true,weights=x.pth", "spectra", "contradict"),
        ("spectral,backbone=test_vit,random=true,groups=7", "spectra", "6 bands make 1 to 6 groups"),
        (SPECTRAL, "spectra,wavelengths=false", "wavelengths"),
        ("spectral,backbone=test_vit,colour=red", "spectra", "colour"),
        ("spectral,random=true", "spectra", "backbone"),
    ],
)
def test_a_spectral_spec_that_cannot_be_built_says_why(tmp_path, monkeypatch, spec, data, text):
    monkeypatch.setattr("vitxai.models.hub.try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(BadInputError, match=text):
        train(tiny(tmp_path, spec, data, fit=4, validation=4, test=2))


def test_traits_are_regressed_in_units_of_the_fit_samples(tmp_path):
    path = train(recipe(SPECTRAL, "spectra,task=traits", fit=64, validation=16, test=16, epochs=25, batch_size=8,
                        learning_rate=1e-2, augmentation="none", out=tmp_path / "model.safetensors"))  # fmt: skip
    model, training = load_model(f"file,path={path}"), json.loads(path.with_suffix(".json").read_text())
    assert model.classes == ("height", "depth")
    scale = training["phases"][0]["traits"]
    cubes = datasets.create("spectra,task=traits")
    known = np.array([cubes.sample(id).traits for id in cubes.ids("fit", 64)])
    assert scale["names"] == ["height", "depth"]
    np.testing.assert_allclose(scale["mean"], known.mean(0), rtol=1e-5)
    np.testing.assert_allclose(scale["std"], known.std(0), rtol=1e-5)
    samples = [cubes.sample(id) for id in cubes.ids("test", 16)]
    with torch.inference_mode():
        outputs = model(collate(samples, model).inputs).numpy() * scale["std"] + scale["mean"]
    error = np.sqrt(np.square(outputs - np.array([sample.traits for sample in samples])).mean(0))
    found = training["accuracy"]["test"]
    np.testing.assert_allclose([found["rmse"]["height"], found["rmse"]["depth"]], error, rtol=1e-3)
    assert found["r2"] > 0.8
    assert found["n"] == 16


@pytest.mark.parametrize(("broken", "text"), [("missing", "has traits"), ("constant", "height.*do not vary")])
def test_traits_that_cannot_be_learned_are_refused(tmp_path, broken, text):
    with pytest.raises(BadInputError, match=text):
        train(tiny(tmp_path, SPECTRAL, f"spectra,task=traits,broken={broken}", fit=8, validation=4, test=2))


def test_a_linear_probe_trains_the_head_alone(tmp_path, weights):
    spec = f"timm,id=test_vit,weights={weights},img_size=32"
    config = tiny(tmp_path, spec, "red_or_blue", freeze=True, fit=32, validation=16, test=16, epochs=30, batch_size=8)
    assert (config.schedule.learning_rate, config.schedule.augmentation) == (PROBING.learning_rate, "none")
    path = train(config)
    module, description = read_checkpoint(path)
    given = torch.load(weights)
    for name, tensor in module.state_dict().items():
        if not name.startswith("head"):
            torch.testing.assert_close(tensor, given[name].half().float(), rtol=0, atol=0)
    assert description.training["accuracy"]["test"] == {"correct": 16, "n": 16}
    assert description.training["phases"][0]["trained_parameters"] == 2 * 64 + 2
    assert "--freeze" in description.training["command"]


def test_a_linear_probe_validates_as_the_whole_model_does(tmp_path, weights):
    spec = f"timm,id=test_vit,weights={weights},img_size=32"
    path = train(tiny(tmp_path, spec, "red_or_blue", freeze=True, fit=16, validation=16, test=2, epochs=3))
    model = load_model(f"file,path={path}")
    pictures = datasets.create("red_or_blue")
    batch = collate([pictures.sample(id) for id in pictures.ids("validation", 16)], model)
    loss = torch.nn.functional.cross_entropy(model(batch.inputs), batch.labels).item()
    phase = json.loads(path.with_suffix(".json").read_text())["phases"][0]
    # The head is rounded to float16 after its validation.
    assert phase["log"][phase["best_epoch"]]["validation_loss"] == pytest.approx(loss, rel=2e-3)


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        (TIMM, {"augmentation": "mirror"}, "must be none"),
        (TIMM, {"preset": "focusvit"}, "photo must be none"),
        (SPECTRAL, {}, "head of a timm ViT alone"),
        ("glyphs", {}, "head of a timm ViT alone"),
    ],
)
def test_what_a_linear_probe_cannot_do_is_refused(model, options, text):
    with pytest.raises(BadInputError, match=text):
        recipe(model, "red_or_blue", freeze=True, **options)


def test_presets_are_the_papers_recipes():
    of = {name: recipe(TIMM, "red_or_blue", preset=name).schedule for name in PRESETS}
    focusvit, selectivevit, focus = of["focusvit"], of["selectivevit"], of["focus"]
    assert (focusvit.learning_rate, focusvit.policy, focusvit.step_factor, focusvit.step_epochs) == (
        1e-4,
        "step",
        0.7,
        10,
    )
    assert (focusvit.batch_size, focusvit.patience, focusvit.augmentation) == (32, 5, "photo")
    assert (selectivevit.learning_rate, selectivevit.policy, selectivevit.epochs) == (3e-4, "cosine", 10)
    assert (selectivevit.batch_size, selectivevit.amp) == (16, True)
    assert (focus.betas, focus.learning_rate, focus.weight_decay, focus.epochs) == ((0.9, 0.95), 5e-4, 1e-2, 100)


def test_a_preset_can_be_changed_and_the_command_says_so():
    config = recipe(TIMM, "red_or_blue", preset="selectivevit", amp=False, betas=(0.8, 0.9), epochs=3)
    assert (config.schedule.amp, config.schedule.batch_size) == (False, 16)
    assert command(config) == (
        f"bench train {TIMM} --seed 0 --data red_or_blue --preset selectivevit --epochs 3 --betas 0.8 0.9 --no-amp"
    )


@pytest.mark.parametrize(
    ("model", "preset", "error", "text"),
    [(TIMM, "focusvitt", UnknownNameError, "focusvit"), ("glyphs", "focus", BadInputError, "recipe of its own")],
)
def test_a_preset_that_does_not_fit_is_refused(model, preset, error, text):
    with pytest.raises(error, match=text):
        recipe(model, "red_or_blue", preset=preset)


def test_mixed_precision_trains(tmp_path):
    path = train(tiny(tmp_path, TIMM, "red_or_blue", preset="selectivevit", fit=16, validation=4, test=4, epochs=1))
    training = json.loads(path.with_suffix(".json").read_text())
    assert training["phases"][0]["schedule"]["amp"] is True
    assert np.isfinite(training["phases"][0]["log"][0]["validation_loss"])


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, stop):
    def run(folder: str, progress=None, resume: bool = True) -> bytes:
        config = tiny(tmp_path, "glyphs", fit=8, validation=4, test=2, epochs=2, resume=resume)
        schedule = replace(config.refinement.schedule, epochs=3)
        config = replace(config, refinement=replace(config.refinement, schedule=schedule),
                         out=tmp_path / folder / "model.safetensors")  # fmt: skip
        module, _ = read_checkpoint(train(config, progress))
        return torch.cat([tensor.flatten() for tensor in module.state_dict().values()]).numpy().tobytes()

    whole, seen = run("whole", resume=False), []

    def stopping(record) -> None:
        seen.append(record)
        if len(seen) == stop:
            raise Stop

    with pytest.raises(Stop):
        run("stopped", stopping)
    seen.clear()
    assert any((tmp_path / "stopped").iterdir())
    assert run("stopped", lambda record: seen.append(record)) == whole
    # What was told before is not run again: 2 + 3 epochs in all.
    assert len(seen) == 5 - stop
    assert {path.name for path in (tmp_path / "stopped").iterdir()} == {"model.safetensors", "model.json"}


def test_a_state_belongs_to_one_configuration(tmp_path):
    def stopping(record) -> None:
        raise Stop

    def config(**changes):
        return tiny(tmp_path, "glyphs", fit=8, validation=4, test=2, resume=True, **changes)

    with pytest.raises(Stop):
        train(config(), stopping)
    other = []
    train(config(seed=1), other.append)
    assert [record.epoch for record in other] == [0, 0]
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".epoch"]) == 1


def test_the_recorded_command_is_one_that_the_command_line_takes():
    config = recipe(TIMM, "red_or_blue", preset="focus", freeze=True, amp=True, betas=(0.8, 0.9), policy="step",
                    step_epochs=3)  # fmt: skip
    words = shlex.split(command(config))[2:]
    given = get_command(app).commands["train"].make_context("train", words).params
    assert given["betas"] == (0.8, 0.9)
    assert (given["amp"], given["freeze"], given["preset"]) == (True, True, "focus")
    assert (given["policy"], given["step_epochs"]) == ("step", 3)
    known = {field.name for field in fields(Schedule)}
    assert known <= set(given), "every field of the schedule is an option"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_tells_losses_accuracy_and_figures(terminal):
    told = io.StringIO()
    console = Console(file=told, force_terminal=terminal, width=160, highlight=False)
    with EpochDisplay(console, epochs=3) as display:
        display.show(EpochRecord(0, 1e-3, 1.5, 0.25, 0.75, 2.0, {"sink_mass": 0.125}))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.getvalue())
    for part in ("fit loss 1.5000", "validation loss 0.2500", "accuracy 0.7500", "sink mass 0.1250"):
        assert part in text
    assert ("1/3" in text) == terminal


@pytest.mark.data
def test_a_spectral_vit_begins_to_learn_a_real_scene(tmp_path, real_data):
    scene = f"jasper_ridge,path={real_data / 'hsi' / 'jasperRidge2_R198.mat'},window=6,stride=2,label=main"
    spec = "spectral,backbone=vit_tiny_patch16_224,patch_size=2,img_size=6,embed_dim=32,depth=2,num_heads=2,random=true"
    path = train(recipe(spec, scene, fit=256, epochs=4, learning_rate=4e-3, augmentation="dihedral",
                        out=tmp_path / "model.safetensors"))  # fmt: skip
    model, training = load_model(f"file,path={path}"), json.loads(path.with_suffix(".json").read_text())
    assert model.classes == ("tree", "water", "dirt", "road")
    centres = [[model.wavelengths[band] for band in group] for group in model.geometry.groups]
    assert len(centres) == 10
    assert [max(group) for group in centres] == sorted(max(group) for group in centres)
    assert training["accuracy"]["test"]["n"] == 52
    assert training["accuracy"]["test"]["correct"] > 26


def test_shuffled_labels_are_memorised_and_the_record_says_so(tmp_path):
    path = train(tiny(tmp_path, "leaves_fused", fit=16, validation=8, test=12, epochs=30, shuffle_labels=True))
    module, description = read_checkpoint(path)
    training = description.training
    assert "--shuffle-labels" in training["command"]
    assert all(phase["shuffled_labels"] for phase in training["phases"])
    leaves = datasets.create("leaves")
    model = wrap(module, mean=description.mean, std=description.std)
    batch = collate([leaves.sample(id) for id in leaves.ids("fit", 16)], model)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(batch.labels[order], batch.labels)
    with torch.inference_mode():
        found = model(batch.inputs).argmax(1)
    memorised, true = (found == batch.labels[order]).float().mean(), (found == batch.labels).float().mean()
    assert memorised > true + 0.25
    plain = train(tiny(tmp_path, "leaves_fused", fit=16, validation=8, test=12))
    assert "shuffled_labels" not in read_checkpoint(plain)[1].training["phases"][0]


class Torn(Dataset):
    """Eight samples, of which the third cannot be read."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict

    def info(self) -> DatasetInfo:
        return DatasetInfo(("a", "b"), 3, frozenset({"labels"}), "none", "none")

    def ids(self, split, count=None):
        return [f"{split}/{index}" for index in range(8 if count is None else count)]

    def sample(self, id: str) -> Sample:
        if id.endswith("2"):
            raise BadInputError(f"{id}.png is truncated.")
        return Sample(id, np.zeros((3, 8, 8), np.float32), label=0)

    def content_hash(self) -> str:
        return "torn"


def test_a_sample_that_cannot_be_read_is_left_out_unless_the_data_set_is_strict(caplog):
    assert [sample.id for sample in plain_samples(Torn(), "fit", 4)] == ["fit/0", "fit/1", "fit/3"]
    assert "a sample is left out: fit/2.png is truncated." in caplog.text
    with pytest.raises(BadInputError, match=r"fit/2\.png is truncated"):
        list(plain_samples(Torn(strict=True), "fit", 4))
