"""Class prototypes as a head: hand-computed cases, and a model that works like any other with them."""

import math

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitxai.bench.contract import BadInputError, UnsupportedError
from vitxai.models import load_model, record
from vitxai.models.handle import wrap
from vitxai.models.prototype_head import (
    PrototypeHead,
    Prototypes,
    best_scale,
    class_means,
    read_prototypes,
    with_prototypes,
    without_head,
    write_prototypes,
)

SPEC = "timm,id=test_vit,random=true,img_size=32"


def small(family=VisionTransformer, classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrap(family(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=classes))


def made(model, vectors=None, scale=10.0):
    vectors = torch.eye(8)[:2] if vectors is None else vectors
    return Prototypes(vectors, scale, ("left", "right"), without_head(model).weights_hash, {"data": "mine"})


def test_logits_are_scaled_cosines():
    head = PrototypeHead(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), scale=10.0)
    logits = head(torch.tensor([[5.0, 0.0], [0.0, 0.1]]))
    half = 10 * math.sqrt(0.5)
    torch.testing.assert_close(logits, torch.tensor([[10.0, half], [0.0, half]]))


def test_means_are_of_directions_not_of_lengths():
    features = torch.tensor([[100.0, 0.0], [0.0, 1.0], [0.0, 7.0]])
    vectors = class_means(features, torch.tensor([0, 0, 1]), ("a", "b"))
    torch.testing.assert_close(vectors, torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)], [0.0, 1.0]]))


def test_a_class_without_samples_is_named():
    with pytest.raises(BadInputError, match="no sample to learn of b, d"):
        class_means(torch.ones(2, 2), torch.tensor([0, 2]), ("a", "b", "c", "d"))


def test_the_scale_makes_probabilities_true():
    # Cosines +-0.5; three of four are right, so p(right) = 0.75 at scale * 1 = log 3.
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    side = math.sqrt(0.75)
    features = torch.tensor([[0.5, side]] * 4)
    scale = best_scale(features, torch.tensor([0, 0, 0, 1]), vectors)
    assert scale == pytest.approx(math.log(3), rel=0.012)  # half a step of the grid


def test_the_head_takes_the_place_of_the_models_own():
    model = small()
    inputs = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    features = model.module.forward_head(model.module.forward_features(inputs), pre_logits=True)
    torch.testing.assert_close(without_head(model)(inputs), features)
    new = with_prototypes(model, made(model))
    expected = 10 * torch.nn.functional.normalize(features, dim=-1)[:, :2]
    torch.testing.assert_close(new(inputs), expected)
    assert new.classes == ("left", "right")
    assert new.weights_hash not in (model.weights_hash, without_head(model).weights_hash)
    assert isinstance(model.module.head, nn.Linear)  # the given model stays as it is
    assert new.module.blocks is model.module.blocks
    assert model(inputs).shape == (3, 3)


def test_recordings_and_gradients_work_as_on_any_vit():
    model = with_prototypes(small(), made(small()))
    inputs = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tape = record(model, inputs, torch.tensor([0, 1]), gradients=True)
    assert tape.attention[-1].shape == (2, 2, 5, 5)
    assert tape.attention_gradients[-1].abs().sum() > 0
    torch.testing.assert_close(tape.logits, model(inputs))


def test_prototypes_of_another_backbone_are_refused():
    other = small()
    with torch.no_grad():
        other.module.cls_token += 1
    with pytest.raises(BadInputError, match="another model's features"):
        with_prototypes(other, made(small()))


def test_heads_of_another_kind_are_refused():
    with pytest.raises(UnsupportedError, match="not one linear layer"):
        without_head(small(VisionTransformerDistilled))
    with pytest.raises(UnsupportedError, match="not one linear layer"):
        without_head(wrap(nn.Conv2d(3, 2, 3), mean=(0.0,) * 3, input_size=(8, 8)))


class TestFile:
    def test_any_loader_takes_them(self, tmp_path):
        path, model = tmp_path / "p.safetensors", load_model(SPEC)
        vectors = torch.nn.functional.normalize(torch.randn(2, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
        write_prototypes(path, made(model, vectors))
        loaded = load_model(f"{SPEC},prototypes={path}")
        inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(loaded(inputs), with_prototypes(model, made(model, vectors))(inputs))
        assert loaded.name == f"{SPEC},prototypes={path}"
        facts = dict(loaded.provenance)["prototypes"]
        assert (facts["file"], facts["scale"], facts["data"], len(facts["sha256"])) == ("p.safetensors", 10, "mine", 64)
        assert torch.equal(read_prototypes(path).vectors, vectors)

    def test_other_files_are_refused(self, tmp_path):
        with pytest.raises(BadInputError, match="no prototypes at"):
            load_model(f"{SPEC},prototypes={tmp_path / 'no'}")
        (tmp_path / "x").write_bytes(b"no")
        with pytest.raises(BadInputError, match="not a readable"):
            read_prototypes(tmp_path / "x")
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, tmp_path / "y")
        with pytest.raises(BadInputError, match="holds no prototypes"):
            read_prototypes(tmp_path / "y")
