"""`bench prototypes`: learned on the fit split, scaled on validation, used by any model spec."""

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from vitxai.bench import cli_prototypes
from vitxai.bench.contract import BadInputError, Spec, datasets
from vitxai.bench.facts import weights_file
from vitxai.bench.prototypes import DEFAULT_SCALE, make_prototypes
from vitxai.models import collate, load_model

SPEC = "timm,id=test_vit,random=true,img_size=32,num_classes=0"
COLOURS = {"green": (20, 200, 20), "red": (200, 20, 20)}


@pytest.fixture
def pictures(tmp_path):
    """Two classes that a backbone tells apart without any training: plain red and plain green."""
    for split, count in (("train", 6), ("val", 4), ("test", 3)):
        for name, colour in COLOURS.items():
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), tuple(v + number for v in colour)).save(folder / f"{number}.png")
    return f"folder,path={tmp_path / 'data'},size=32"


def test_classes_are_told_apart_by_their_means(pictures, tmp_path):
    out = tmp_path / "p.safetensors"
    made = make_prototypes(SPEC, pictures, out)
    assert made.classes == ("green", "red")
    assert made.facts["fit_samples"] == {"green": 6, "red": 6}
    assert made.facts["validation"] == {"correct": 8, "n": 8}
    dataset = datasets.create(pictures)
    model = load_model(f"{SPEC},prototypes={out}")
    batch = collate([dataset.sample(id) for id in dataset.ids("test")], model)
    assert model(batch.inputs).argmax(1).tolist() == batch.labels.tolist()
    assert make_prototypes(SPEC, pictures, out, scale=5.0).scale == 5.0
    with pytest.raises(BadInputError, match="scale=0; an inverse temperature is positive"):
        make_prototypes(SPEC, pictures, out, scale=0.0)
    assert make_prototypes(SPEC, pictures, out, fit=8).facts["fit_samples"] != made.facts["fit_samples"]


def test_without_validation_data_the_scale_is_the_usual_one(pictures, tmp_path, monkeypatch):
    cls = type(datasets.create(pictures))
    ids = cls.ids
    monkeypatch.setattr(cls, "ids", lambda self, split, n=None: () if split == "validation" else ids(self, split, n))
    made = make_prototypes(SPEC, pictures, tmp_path / "p.safetensors")
    assert (made.scale, made.facts["validation"]) == (DEFAULT_SCALE, {"correct": 0, "n": 0})


def test_data_that_cannot_be_learned_from_are_refused(pictures, tmp_path):
    with pytest.raises(BadInputError, match="fit split is empty"):
        make_prototypes(SPEC, f"{pictures},splits=test", tmp_path / "p.safetensors")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(20):
        Image.new("RGB", (32, 32)).save(flat / f"{number}.png")
    with pytest.raises(BadInputError, match="samples without a label"):
        make_prototypes(SPEC, f"folder,path={flat},size=32", tmp_path / "p.safetensors")


def test_the_command_says_how_to_use_them(pictures, tmp_path):
    app = typer.Typer()
    app.command()(cli_prototypes.prototypes)
    out = tmp_path / "p.safetensors"
    result = CliRunner().invoke(app, [SPEC, "--data", pictures, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"use it as {SPEC},prototypes={out}" in result.output
    assert "validation accuracy: 8 of 8" in result.output


def test_facts_are_not_kept_by_the_weights_file_alone():
    assert weights_file(Spec.parse("file,path=m.safetensors")) is not None
    assert weights_file(Spec.parse("file,path=m.safetensors,prototypes=p.safetensors")) is None
