"""`bench train`: configurations, and tiny runs from data set to checkpoint and back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vitxai.bench.contract import BadInputError, Dataset, DatasetInfo, Sample, dataset, datasets
from vitxai.bench.recipes import RECIPES, command, recipe
from vitxai.bench.train import train, train_phase
from vitxai.models.checkpoint import read_checkpoint
from vitxai.models.handle import wrap
from vitxai.models.load import load_model
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


TIMM = "timm,id=test_vit,random=true,img_size=32"


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
