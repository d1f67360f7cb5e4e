"""ViTs of torchvision and transformers: the timm model answers as they do, or is refused with the reason."""

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from vitxai.bench.contract import BadInputError, UnknownNameError, UnsupportedError
from vitxai.models import load_model, record, torchvision_model
from vitxai.models.torchvision_model import MEAN, STD

GOLDEN = Path(__file__).parent / "transformers"
EXACT = sorted(path.stem for path in GOLDEN.glob("*.safetensors") if path.stem not in ("dinov2_head", "dinov3"))


def saved(name, folder, config=None, tensors=None, preprocessor=True):
    """The folder that save_pretrained wrote, with changes; and the inputs and answers of transformers."""
    found = {**load_file(GOLDEN / f"{name}.safetensors"), **(tensors or {})}
    with safe_open(GOLDEN / f"{name}.safetensors", framework="pt") as file:
        texts = file.metadata()
    inputs, expected = found.pop("input"), found.pop("expected")
    folder.mkdir(exist_ok=True)
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, folder / "model.safetensors")
    settings = {**json.loads(texts["config.json"]), **(config or {})}
    settings = {key: value for key, value in settings.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(settings))
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(texts["preprocessor_config.json"])
    return inputs, expected


class TestTransformers:
    @pytest.mark.parametrize("name", EXACT)
    def test_the_timm_model_answers_as_transformers_did(self, tmp_path, name):
        inputs, expected = saved(name, tmp_path / "m")
        model = load_model(f"transformers,path={tmp_path / 'm'}")
        assert model(inputs).shape == expected.shape
        torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("name", "family", "pooling", "prefix"),
        [
            ("vit", VisionTransformer, "token", 1),
            ("deit", VisionTransformer, "token", 2),
            ("deit_distilled", VisionTransformerDistilled, "token", 2),
            ("dinov2_registers", VisionTransformer, "token", 5),
            ("siglip", VisionTransformer, "map", 0),
            ("siglip_head", VisionTransformer, "avg", 0),
            ("clip_head", VisionTransformer, "avg", 1),
            ("beit_relative", Beit, "avg", 1),
            ("beit_token", Beit, "token", 1),
        ],
    )
    def test_tokens_lie_where_methods_look_for_them(self, tmp_path, name, family, pooling, prefix):
        inputs, _ = saved(name, tmp_path / "m")
        model = load_model(f"transformers,path={tmp_path / 'm'}")
        assert type(model.module) is family
        assert (model.geometry.pooling, model.geometry.prefix, model.geometry.grid) == (pooling, prefix, (2, 2))
        tape = record(model, inputs, torch.zeros(len(inputs), dtype=torch.long), gradients=True)
        assert tape.attention[0].shape == (4, 2, 4 + prefix, 4 + prefix)

    def test_facts_come_from_the_folder(self, tmp_path):
        saved("vit", tmp_path / "m")
        model = load_model(f"transformers,path={tmp_path / 'm'}")
        assert (model.mean, model.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
        assert model.classes == ("oak", "elm", "ash")
        facts = dict(model.provenance)
        assert (facts["transformers"], facts["folder"]) == ("ViTForImageClassification", "m")
        assert len(facts["weights_sha256"]) == 64
        saved("deit", tmp_path / "d")
        assert load_model(f"transformers,path={tmp_path / 'd'}").classes == ()  # LABEL_0, LABEL_1 are no names

    def test_normalisation_is_never_guessed(self, tmp_path):
        saved("vit", tmp_path / "m", preprocessor=False)
        with pytest.raises(BadInputError, match=r"has no preprocessor_config\.json.*pass mean=0\.5,std=0\.5"):
            load_model(f"transformers,path={tmp_path / 'm'}")
        model = load_model(f"transformers,path={tmp_path / 'm'},mean=0.1+0.2+0.3,std=0.5")
        assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
        with pytest.raises(BadInputError, match="mean and std together"):
            load_model(f"transformers,path={tmp_path / 'm'},mean=0.1")
        with pytest.raises(BadInputError, match="neither a number"):
            load_model(f"transformers,path={tmp_path / 'm'},mean=x,std=1")

    @pytest.mark.parametrize(
        ("written", "error", "text"),
        [
            ({"rescale_factor": 1.0}, UnsupportedError, "rescales by 1.0"),
            ({"image_mean": None}, BadInputError, "no image_mean and image_std"),
        ],
    )
    def test_other_preprocessing_is_refused(self, tmp_path, written, error, text):
        saved("vit", tmp_path)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
        with pytest.raises(error, match=text):
            load_model(f"transformers,path={tmp_path}")

    def test_a_model_that_eats_its_inputs_as_they_are(self, tmp_path):
        saved("vit", tmp_path)
        (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
        assert load_model(f"transformers,path={tmp_path}").std == (1.0, 1.0, 1.0)

    def test_heads_that_timm_has_not_may_be_left_off(self, tmp_path):
        inputs, _ = saved("dinov2_head", tmp_path / "m")
        with pytest.raises(UnsupportedError, match=r"class token and the mean of the patch tokens.*head=none"):
            load_model(f"transformers,path={tmp_path / 'm'}")
        model = load_model(f"transformers,path={tmp_path / 'm'},head=none")
        assert model(inputs).shape == (4, 8)
        inputs, _ = saved("vit", tmp_path / "v")
        assert load_model(f"transformers,path={tmp_path / 'v'},head=none")(inputs).shape == (4, 8)

    @pytest.mark.parametrize(
        ("name", "config", "text"),
        [
            ("dinov3", {}, "DINOv3ViTModel has no timm equivalent.*timm,id=vit_"),
            ("vit", {"architectures": ["ViTForMaskedImageModeling"]}, "is not known to have a timm equivalent; known"),
            ("vit", {"architectures": []}, "none is not known"),
            ("vit", {"hidden_act": "selu"}, "hidden_act='selu'; known are gelu"),
        ],
    )
    def test_architectures_without_an_equivalent_are_refused(self, tmp_path, name, config, text):
        saved(name, tmp_path, config)
        with pytest.raises(UnsupportedError, match=text):
            load_model(f"transformers,path={tmp_path}")

    @pytest.mark.parametrize(
        ("name", "config", "tensors", "text"),
        [
            ("vit", {"layer_norm_eps": None}, {}, "has no 'layer_norm_eps'"),
            ("vit", {"image_size": 16}, {}, "does not fit"),
            ("vit", {"num_attention_heads": 3}, {}, "does not fit"),
            ("beit_relative", {"hidden_act": "relu"}, {}, "other MLPs than timm's BEiT"),
            ("vit", {}, {"vit.layernorm.bias": None}, r"(?s)does not fit.*norm\.bias"),
            ("vit", {}, {"vit.extra.bias": torch.zeros(1)}, r"holds 'vit\.extra\.bias', which no known"),
            ("vit", {}, {"deit.layernorm.bias": torch.zeros(8)}, r"'norm\.bias' twice"),
            ("vit", {}, {"vit.embeddings.patch_embeddings.projection.weight": None}, "holds no ViT"),
        ],
    )
    def test_folders_that_do_not_fit_themselves_are_refused(self, tmp_path, name, config, tensors, text):
        saved(name, tmp_path, config, tensors)
        with pytest.raises(BadInputError, match=text):
            load_model(f"transformers,path={tmp_path}")

    def test_weights_in_parts_and_as_bin(self, tmp_path):
        inputs, expected = saved("vit", tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        names = sorted(tensors)
        parts = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
        for file, held in parts.items():
            save_file({name: tensors[name] for name in held}, tmp_path / file)
        where = {name: file for file, held in parts.items() for name in held}
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": where}))
        torch.testing.assert_close(load_model(f"transformers,path={tmp_path}")(inputs), expected, rtol=1e-5, atol=1e-5)
        (tmp_path / "model-2.safetensors").unlink()
        with pytest.raises(BadInputError, match=r"model-2\.safetensors is missing"):
            load_model(f"transformers,path={tmp_path}")
        index.write_text(json.dumps({"weight_map": {"x": "../other.safetensors"}}))
        with pytest.raises(BadInputError, match="outside of its folder"):
            load_model(f"transformers,path={tmp_path}")
        index.unlink()
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        torch.testing.assert_close(load_model(f"transformers,path={tmp_path}")(inputs), expected, rtol=1e-5, atol=1e-5)

    def test_half_precision_is_widened(self, tmp_path):
        tensors = {
            k: v.half() for k, v in load_file(GOLDEN / "vit.safetensors").items() if k not in ("input", "expected")
        }
        saved("vit", tmp_path, tensors=tensors)
        assert load_model(f"transformers,path={tmp_path}").dtype == torch.float32

    def test_positions_are_resampled_when_asked(self, tmp_path):
        saved("vit", tmp_path / "v")
        model = load_model(f"transformers,path={tmp_path / 'v'},img_size=16")
        assert model.geometry.grid == (4, 4)
        assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
        saved("beit_relative", tmp_path / "b")
        with pytest.raises(BadInputError, match="position biases"):
            load_model(f"transformers,path={tmp_path / 'b'},img_size=16")

    @pytest.mark.parametrize("content", ["{", "[]"])
    def test_broken_settings_are_named(self, tmp_path, content):
        saved("vit", tmp_path)
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(BadInputError, match=r"config\.json"):
            load_model(f"transformers,path={tmp_path}")

    def test_missing_folders_and_files_are_named(self, tmp_path):
        with pytest.raises(BadInputError, match=r"has no config\.json"):
            load_model(f"transformers,path={tmp_path}")
        saved("vit", tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"no")
        with pytest.raises(BadInputError, match="not a readable safetensors file"):
            load_model(f"transformers,path={tmp_path}")
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(BadInputError, match=r"none of model\.safetensors"):
            load_model(f"transformers,path={tmp_path}")
        with pytest.raises(BadInputError, match="one of the two"):
            load_model("transformers")

    def test_repositories_come_from_the_cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(
            BadInputError, match=r"repository someone/vit is not in the cache .*hf download someone/vit"
        ) as caught:
            load_model("transformers,id=someone/vit")
        assert "local_files_only" not in str(caught.value)
        snapshot = tmp_path / "cache" / "models--someone--vit" / "snapshots" / ("a" * 40)
        snapshot.parent.mkdir(parents=True)
        (snapshot.parent.parent / "refs").mkdir()
        (snapshot.parent.parent / "refs" / "main").write_text("a" * 40)
        inputs, expected = saved("vit", snapshot)
        model = load_model("transformers,id=someone/vit")
        torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-5)


def torchvisions(**sizes):
    """torchvision's own ViT with a head that answers; its own begins with zeros."""
    family = pytest.importorskip("torchvision").models.VisionTransformer
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = family(image_size=64, patch_size=32, num_classes=7, **sizes)
        torch.nn.init.normal_(module.heads.head.weight, std=0.02)
    return module.eval()


@pytest.fixture
def theirs(monkeypatch):
    """A small one, under the name of ViT-B/32."""
    monkeypatch.setitem(torchvision_model.KINDS, "vit_b_32", (2, 16, 32))
    return torchvisions(num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24)


@pytest.fixture
def weights(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


class TestTorchvision:
    def test_blocks_as_wide_as_those_of_vit_b_32(self, tmp_path):
        module = torchvisions(num_layers=2, num_heads=12, hidden_dim=768, mlp_dim=3072)
        torch.save(module.state_dict(), tmp_path / "b.pth")
        model = load_model(f"torchvision,id=vit_b_32,weights={tmp_path / 'b.pth'}")
        inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(model(inputs), module(inputs).detach(), rtol=1e-5, atol=1e-5)

    def test_the_timm_model_answers_as_torchvision_does(self, theirs, weights):
        model = load_model(f"torchvision,id=vit_b_32,weights={weights}")
        inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(model(inputs), theirs(inputs), rtol=1e-5, atol=1e-5)
        assert (model.mean, model.std) == (MEAN, STD)
        assert (model.geometry.grid, model.geometry.prefix) == ((2, 2), 1)
        facts = dict(model.provenance)
        assert (facts["torchvision_id"], facts["weights"], len(facts["weights_sha256"])) == ("vit_b_32", "vit.pth", 64)

    def test_older_names_and_nested_state_dicts(self, theirs, tmp_path):
        old = {
            name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
            for name, tensor in theirs.state_dict().items()
        }
        torch.save({"model": old, "epoch": 3}, tmp_path / "old.pth")
        model = load_model(f"torchvision,id=vit_b_32,weights={tmp_path / 'old.pth'}")
        assert torch.equal(
            model.module.blocks[0].mlp.fc1.weight, theirs.state_dict()["encoder.layers.encoder_layer_0.mlp.0.weight"]
        )

    @pytest.mark.usefixtures("theirs")
    def test_random_weights_are_typed_recorded_and_repeatable(self, monkeypatch):
        models = pytest.importorskip("torchvision").models
        small = {"patch_size": 32, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
        monkeypatch.setattr(models, "get_model", lambda name, **sizes: models.VisionTransformer(**small, **sizes))
        spec = "torchvision,id=vit_b_32,random=true,num_classes=3,img_size=64"
        state = torch.get_rng_state()
        model = load_model(spec)
        assert dict(model.provenance)["weights"] == "random, seed 0"
        assert model(torch.ones(1, 3, 64, 64)).shape == (1, 3)
        assert model(torch.ones(1, 3, 64, 64)).std() > 0  # torchvision's own head of zeros would say nothing
        assert load_model(spec).weights_hash == model.weights_hash != load_model(f"{spec},seed=1").weights_hash
        assert torch.equal(torch.get_rng_state(), state)

    def test_published_weights_come_from_torchs_cache(self, theirs, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
        folder = tmp_path / "home" / "hub" / "checkpoints"
        with pytest.raises(BadInputError) as error:
            load_model("torchvision,id=vit_b_32")
        for part in (
            "vit_b_32-d86f8d99.pth",
            "'vit_b_32'",
            str(folder),
            "download.pytorch.org",
            "weights=FILE",
            "random=true",
        ):
            assert part in str(error.value)
        fetched = []

        def download(url, path, digest, progress):
            fetched.append((url.rpartition("/")[2], digest))
            torch.save(theirs.state_dict(), path)

        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        load_model("torchvision,id=vit_b_32.IMAGENET1K_V1,online=true")
        load_model("torchvision,id=vit_b_32")
        assert fetched == [("vit_b_32-d86f8d99.pth", "d86f8d99")]

    def test_a_network_that_is_not_there_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))

        def download(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        with pytest.raises(BadInputError, match=r"could not be fetched .*no route to host .*weights=FILE"):
            load_model("torchvision,id=vit_b_32,online=true")

    @pytest.mark.parametrize(
        ("params", "error", "text"),
        [
            ("id=swin_b", UnknownNameError, "unknown torchvision ViT 'swin_b'"),
            ("id=vit_b_32.SWAG", UnknownNameError, "IMAGENET1K_V1"),
            ("id=vit_b_32,weights=x.pth,random=true", BadInputError, "contradicts"),
            ("id=vit_b_32.IMAGENET1K_V1,random=true", BadInputError, "contradicts"),
            ("id=vit_b_32,weights=/no/such.pth", BadInputError, "no weights at /no/such.pth"),
        ],
    )
    def test_bad_specs_are_refused(self, params, error, text):
        with pytest.raises(error, match=text):
            load_model(f"torchvision,{params}")

    @pytest.mark.parametrize("id", ["vit_b_16", "vit_l_32"])
    def test_weights_of_another_architecture_are_refused(self, weights, id):
        with pytest.raises(BadInputError, match=f"16 wide with patches of 32 pixels, so they are none of {id}"):
            load_model(f"torchvision,id={id},weights={weights}")

    def test_other_classes_than_the_files_are_refused(self, weights):
        with pytest.raises(BadInputError, match="has 7 classes, so num_classes=9 would be a random head"):
            load_model(f"torchvision,id=vit_b_32,weights={weights},num_classes=9")

    @pytest.mark.parametrize(
        ("changes", "error", "text"),
        [
            ({"class_token": None}, BadInputError, "no state dict of a torchvision ViT"),
            ({"conv_proj.weight": None}, UnsupportedError, "stem of several convolutions"),
            ({"heads.pre_logits.weight": torch.zeros(1)}, UnsupportedError, "head of two layers"),
            ({"heads.head.bias": None}, BadInputError, "has no classes"),
            ({"encoder.ln.bias": None}, BadInputError, "does not fit"),
        ],
    )
    def test_files_that_do_not_fit_are_refused(self, theirs, tmp_path, changes, error, text):
        tensors = {**theirs.state_dict(), **changes}
        torch.save({name: t for name, t in tensors.items() if t is not None}, tmp_path / "bad.pth")
        with pytest.raises(error, match=text):
            load_model(f"torchvision,id=vit_b_32,weights={tmp_path / 'bad.pth'}")


@pytest.mark.skipif(
    not os.environ.get("VITXAI_LIVE_TRANSFORMERS"), reason="set VITXAI_LIVE_TRANSFORMERS to remake them"
)
def test_the_stored_answers_are_what_this_transformers_gives(tmp_path):
    import runpy

    pytest.importorskip("transformers")
    made = runpy.run_path(str(GOLDEN / "make.py"))
    for name in EXACT:
        made["make"](name, tmp_path)
        now, then = (load_file(folder / f"{name}.safetensors")["expected"] for folder in (tmp_path, GOLDEN))
        torch.testing.assert_close(now, then, rtol=1e-5, atol=1e-5)
