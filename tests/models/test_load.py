"""Models by spec: where weights come from, in which order, and what is said when there are none."""

import gzip
import os
from argparse import Namespace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from timm.layers import Attention
from timm.models import PretrainedCfg
from timm.models.vision_transformer import VisionTransformer

from vitxai.bench.contract import BadInputError, Model, UnknownNameError, VitxaiError
from vitxai.models import hub, load, load_model
from vitxai.models.checkpoint import Checkpoint, write_checkpoint
from vitxai.models.handle import weights_hash, wrap
from vitxai.models.preprocess import normalise

ID = "test_vit.r160_in1k"
CFG = {"img_size": 16, "patch_size": 8, "in_chans": 2, "num_classes": 3, "embed_dim": 16, "depth": 2, "num_heads": 2}


def small_vit(seed=0, **changes):
    torch.manual_seed(seed)
    return VisionTransformer(**{**CFG, **changes})


def saved_test_vit(path, classes=1000, seed=5):
    torch.manual_seed(seed)
    module = timm.create_model("test_vit", num_classes=classes)
    save_file(module.state_dict(), path) if path.suffix == ".safetensors" else torch.save(module.state_dict(), path)
    return module.eval()


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """No test reads what the machine happens to have cached, and none reaches the network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


class TestTimm:
    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin"])
    def test_weights_from_a_file(self, tmp_path, name):
        module = saved_test_vit(tmp_path / name)
        model = load_model(f"timm,id={ID},weights={tmp_path / name}")
        x = torch.randn(2, 3, 160, 160)
        torch.testing.assert_close(model(x), module(x))
        assert model.weights_hash == weights_hash(module)
        assert model.name == f"timm,id={ID},weights={tmp_path / name}"
        facts = dict(model.provenance)
        assert (facts["timm_id"], facts["weights"], len(facts["weights_sha256"])) == (ID, name, 64)
        assert model.mean == (0.5, 0.5, 0.5)
        assert not model.module.training

    def test_a_fine_tuned_file_keeps_its_own_head(self, tmp_path):
        module = saved_test_vit(tmp_path / "w.safetensors", classes=4)
        for spec in (f"timm,id={ID}", f"timm,id={ID},num_classes=4"):
            model = load_model(f"{spec},weights={tmp_path / 'w.safetensors'}")
            assert torch.equal(model.module.head.weight, module.head.weight)

    def test_other_classes_than_the_files_need_a_random_head_typed_out(self, tmp_path):
        saved_test_vit(tmp_path / "w.safetensors", classes=4)
        spec = f"timm,id={ID},weights={tmp_path / 'w.safetensors'},num_classes=7"
        with pytest.raises(BadInputError, match=r"has 4 classes, so num_classes=7 would be a random head.*head=random"):
            load_model(spec)
        model = load_model(f"{spec},head=random")
        assert model.module.head.out_features == 7
        assert dict(model.provenance)["head"] == "random, seed 0"
        assert load_model(f"{spec},head=random").weights_hash == model.weights_hash
        assert load_model(f"{spec},head=random,seed=1").weights_hash != model.weights_hash

    def test_a_pretrained_head_may_be_left_off(self, tmp_path):
        saved_test_vit(tmp_path / "w.safetensors")
        model = load_model(f"timm,id={ID},weights={tmp_path / 'w.safetensors'},num_classes=0")
        assert model(torch.zeros(1, 3, 160, 160)).shape == (1, 64)

    def test_bands_and_size_are_adapted(self, tmp_path):
        saved_test_vit(tmp_path / "w.safetensors")
        model = load_model(f"timm,id={ID},weights={tmp_path / 'w.safetensors'},in_chans=5,img_size=32x64")
        assert model.geometry.grid == (2, 4)
        assert model.channels == 5
        assert model(torch.zeros(1, 5, 32, 64)).shape == (1, 1000)

    def test_cached_weights_are_found(self, empty_cache):
        snapshot = empty_cache / "models--timm--test_vit.r160_in1k" / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        refs = snapshot.parent.parent / "refs"
        refs.mkdir()
        (refs / "main").write_text("a" * 40)
        module = saved_test_vit(snapshot / "model.safetensors")
        model = load_model(f"timm,id={ID}")
        assert model.weights_hash == weights_hash(module)
        assert dict(model.provenance)["hub_revision"] == "a" * 40

    @pytest.mark.parametrize("online", ["", ",online=true"])
    def test_missing_weights_are_named_with_the_ways_out(self, online, empty_cache):
        with pytest.raises(BadInputError) as error:
            load_model(f"timm,id={ID}{online}")
        named = (repr(ID), "timm/test_vit.r160_in1k", "model.safetensors", str(empty_cache))
        for part in (*named, "weights=FILE", "hf download"):
            assert part in str(error.value)

    def test_models_without_published_weights_are_refused(self):
        with pytest.raises(BadInputError, match="no weights on the hub for 'mine'"):
            hub.find_weights("mine", PretrainedCfg(), online=True)

    def test_downloads_take_the_first_file_that_the_repository_has(self, monkeypatch, tmp_path):
        def download(repository, name, revision):
            if name == "model.safetensors":
                raise EntryNotFoundError("404")
            return str(tmp_path / f"{repository.replace('/', '-')}-{name}-{revision}")

        monkeypatch.setattr(hub, "hf_hub_download", download)
        cfg = PretrainedCfg(hf_hub_id="some/vit@v1")
        assert hub.find_weights("mine", cfg, online=True) == tmp_path / "some-vit-pytorch_model.bin-v1"
        only = PretrainedCfg(hf_hub_id="some/vit", hf_hub_filename="model.safetensors")
        with pytest.raises(BadInputError, match=r"repository some/vit .* holds none of model\.safetensors"):
            hub.find_weights("mine", only, online=True)

    def test_missing_hub_repository_is_named(self, empty_cache):
        with pytest.raises(BadInputError, match="repository someone/vit is not in the cache"):
            load_model("timm,id=hf-hub:someone/vit")

    def test_a_folder_written_by_timm(self, tmp_path):
        torch.manual_seed(3)
        module = timm.create_model("test_vit", num_classes=4)
        timm.models.save_for_hf(module, tmp_path / "mine", model_args={})
        model = load_model(f"timm,id=local-dir:{tmp_path / 'mine'}")
        assert model.weights_hash == weights_hash(module)
        assert dict(model.provenance)["folder"] == "mine"
        with pytest.raises(BadInputError, match="random head"):
            load_model(f"timm,id=local-dir:{tmp_path / 'mine'},num_classes=9")

    def test_random_weights_are_typed_recorded_and_repeatable(self):
        state = torch.get_rng_state()
        model = load_model("timm,id=test_vit,random=true,num_classes=3,img_size=32")
        assert dict(model.provenance)["weights"] == "random, seed 0"
        assert load_model("timm,id=test_vit,random=true,num_classes=3,img_size=32").weights_hash == model.weights_hash
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize(
        ("params", "error", "text"),
        [
            ("id=test_vitt", UnknownNameError, "Did you mean test_vit"),
            ("id=test_vit.no_such_tag", UnknownNameError, r"Known: test_vit\.r160_in1k\."),
            ("id=test_vit,random=true,weights=x", BadInputError, "contradict"),
            ("id=test_vit,weights=/no/such.pth", BadInputError, "no weights at /no/such.pth for timm model 'test_vit'"),
            ("id=local-dir:/no/such", BadInputError, "no config.json"),
            ("id=test_vit,random=true,img_size=big", BadInputError, "neither PIXELS nor HEIGHTxWIDTH"),
            ("id=test_vit,random=perhaps", BadInputError, "random='perhaps'"),
            ("id=test_vit,weight=x", BadInputError, "no parameter 'weight'. It takes: id, weights"),
            ("id=test_vit,head=any", BadInputError, "'pretrained' or 'random'"),
        ],
    )
    def test_bad_specs_are_refused(self, params, error, text):
        with pytest.raises(error, match=text):
            load_model(f"timm,{params}")

    def test_weights_of_another_model_do_not_fit(self, tmp_path):
        torch.save(small_vit().state_dict(), tmp_path / "w.pth")
        with pytest.raises(BadInputError, match="do not fit timm model"):
            load_model(f"timm,id={ID},weights={tmp_path / 'w.pth'}")

    def test_weights_nested_in_a_training_checkpoint(self, tmp_path):
        torch.manual_seed(1)
        module = timm.create_model("test_vit", num_classes=4)
        weights = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "w.pth")
        assert load_model(f"timm,id={ID},weights={tmp_path / 'w.pth'}").weights_hash == weights_hash(module)

    def test_jax_weights_say_their_classes(self, tmp_path):
        np.savez(tmp_path / "w.npz", **{"head/bias": np.zeros(21)})
        with pytest.raises(BadInputError, match="has 21 classes, so num_classes=4"):
            load_model(f"timm,id={ID},weights={tmp_path / 'w.npz'},num_classes=4")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_pickled_objects_are_refused_by_name(self, tmp_path, zipped):
        content = {"state_dict": {}, "args": Namespace(epochs=3)}
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(BadInputError, match=r"w\.pth does not hold tensors only, but also argparse\.N") as caught:
            load_model(f"timm,id={ID},weights={tmp_path / 'w.pth'}")
        assert 'torch.save({"state_dict": model.state_dict()}, FILE), or as safetensors' in str(caught.value)
        assert "weights_only" not in str(caught.value)
        assert "\x1b" not in str(caught.value)
        assert caught.value.__suppress_context__  # neither in the traceback that a run stores

    def test_many_pickled_classes_are_counted(self, tmp_path):
        torch.save(small_vit(), tmp_path / "w.pth")
        with pytest.raises(BadInputError, match=r"tensors only, but also .* and \d+ more; unpickling"):
            load_model(f"timm,id={ID},weights={tmp_path / 'w.pth'}")

    def test_what_torch_did_not_write_is_refused(self, tmp_path):
        (tmp_path / "w.pth").write_text("<html>not found</html>")
        with pytest.raises(BadInputError, match=r"w\.pth is no file of tensors that torch\.save wrote") as caught:
            load_model(f"timm,id={ID},weights={tmp_path / 'w.pth'}")
        assert "weights_only" not in str(caught.value)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_truncated_files_are_named(self, tmp_path, zipped):
        torch.save({"state_dict": {"a": torch.zeros(500)}}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        whole = (tmp_path / "w.pth").read_bytes()
        for length in (0, 1, 40, 150, len(whole) // 2, len(whole) - 30, len(whole) - 1):
            (tmp_path / "w.pth").write_bytes(whole[:length])
            with pytest.raises(BadInputError, match=r"w\.pth .*(etch it again|fetch or save it again)"):
                load_model(f"timm,id={ID},weights={tmp_path / 'w.pth'}")

    def test_broken_safetensors_are_refused(self, tmp_path):
        (tmp_path / "w.safetensors").write_bytes(b"no")
        with pytest.raises(BadInputError, match="not a readable safetensors file"):
            load_model(f"timm,id={ID},weights={tmp_path / 'w.safetensors'}")


def checkpoint(**changes):
    facts = {
        "architecture": "vision_transformer", "arguments": CFG, "input_size": (16, 16), "mean": (0.1, 0.2),
        "std": (0.5, 0.5), "classes": ("a", "b", "c"), "wavelengths": (400.0, 500.0), "training": {"seed": 1},
    }  # fmt: skip
    return Checkpoint(**{**facts, **changes})


class TestFile:
    def test_checkpoint_of_bench_train(self, tmp_path):
        module = small_vit().half().float()  # checkpoints are stored in float16
        write_checkpoint(tmp_path / "m.safetensors", module, checkpoint())
        model = load_model(f"file,path={tmp_path / 'm.safetensors'}")
        assert model.weights_hash == weights_hash(module)
        assert (model.mean, model.classes, model.wavelengths) == ((0.1, 0.2), ("a", "b", "c"), (400.0, 500.0))
        assert dict(model.provenance)["training"] == {"seed": 1}
        with pytest.raises(BadInputError, match="says its own mean"):
            load_model(f"file,path={tmp_path / 'm.safetensors'},mean=0.5")
        with pytest.raises(BadInputError, match=r"load it with file,path="):
            load_model(f"timm,id={ID},weights={tmp_path / 'm.safetensors'}")

    def test_torch_file_of_arguments_and_weights(self, tmp_path):
        module = small_vit()
        torch.save({"cfg": CFG, "state_dict": module.state_dict()}, tmp_path / "m.pt")
        model = load_model(f"file,path={tmp_path / 'm.pt'},mean=0.5,std=0.25")
        assert model.weights_hash == weights_hash(module)
        assert (model.mean, model.std) == ((0.5, 0.5), (0.25, 0.25))
        assert model.geometry.grid == (2, 2)

    def test_a_torch_file_may_say_its_preprocessing(self, tmp_path):
        cfg = {**CFG, "mean": [0.1, 0.2], "std": [1.0, 2.0], "classes": ["a", "b", "c"]}
        torch.save({"cfg": cfg, "state_dict": small_vit().state_dict()}, tmp_path / "m.pt")
        model = load_model(f"file,path={tmp_path / 'm.pt'}")
        assert (model.mean, model.std, model.classes) == ((0.1, 0.2), (1.0, 2.0), ("a", "b", "c"))

    def test_heads_wider_than_their_share_of_the_embedding(self, tmp_path):
        class Wide(Attention):
            def __init__(self, dim, **arguments):
                super().__init__(dim, attn_head_dim=32, **arguments)

        module = small_vit(attn_layer=Wide).eval()
        torch.save({"cfg": CFG, "state_dict": module.state_dict()}, tmp_path / "m.pt")
        model = load_model(f"file,path={tmp_path / 'm.pt'}")
        x = torch.randn(2, 2, 16, 16)
        torch.testing.assert_close(model(x), module(x))

    def test_missing_file(self):
        with pytest.raises(BadInputError, match=r"no checkpoint at /no/such\.pt"):
            load_model("file,path=/no/such.pt")

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ({"state_dict": {}}, "must hold a dictionary with 'cfg'"),
            ([1, 2], "must hold a dictionary with 'cfg'"),
            ({"cfg": {**CFG, "embed_dim": 32}, "state_dict": small_vit().state_dict()}, "does not fit its cfg"),
            ({"cfg": {**CFG, "colour": 1}, "state_dict": {}}, "colour"),
            ({"cfg": CFG, "state_dict": {"x": small_vit()}}, "tensors only"),
        ],
    )
    def test_bad_files_are_refused(self, tmp_path, content, text):
        torch.save(content, tmp_path / "m.pt")
        with pytest.raises(BadInputError, match=text):
            load_model(f"file,path={tmp_path / 'm.pt'}")


def test_builtin_delegates_to_the_shipped_checkpoints(monkeypatch):
    asked = []
    monkeypatch.setattr(load, "load_builtin", lambda id, seed: asked.append((id, seed)) or (small_vit(), checkpoint()))
    model = load_model("builtin,id=leaves_fused,seed=2")
    assert asked == [("leaves_fused", 2)]
    assert (model.name, model.classes) == ("builtin,id=leaves_fused,seed=2", ("a", "b", "c"))


def test_unknown_built_in_models_are_named():
    with pytest.raises(UnknownNameError, match="Did you mean leaves_fused"):
        load_model("builtin,id=leaves_fuse")


def test_dtype_is_changed_after_hashing(tmp_path):
    torch.save({"cfg": CFG, "state_dict": small_vit().state_dict()}, tmp_path / "m.pt")
    half = load_model(f"file,path={tmp_path / 'm.pt'}", dtype=torch.float64)
    assert half.dtype == torch.float64
    assert half.weights_hash == load_model(f"file,path={tmp_path / 'm.pt'}").weights_hash


def third_party(depth="1"):
    return wrap(small_vit(depth=int(depth)), mean=(0.0, 0.0))


def no_model():
    return 3


@pytest.fixture
def points(monkeypatch):
    values = {"third": third_party, "wrong": no_model}

    class Point(EntryPoint):
        def load(self):
            if self.name == "broken":
                raise ImportError("no such module")
            return values[self.name]

    found = [Point(name, f"package:{name}", load.ENTRY_POINTS) for name in (*values, "broken")]
    monkeypatch.setattr(load, "entry_points", lambda group: found if group == load.ENTRY_POINTS else [])


@pytest.mark.usefixtures("points")
class TestEntryPoints:
    def test_third_parties_add_loaders(self):
        model = load_model("third,depth=2")
        assert isinstance(model, Model)
        assert model.name == "third,depth=2"
        assert len(model.module.blocks) == 2

    def test_all_loaders_are_listed(self):
        assert load.loader_names() == [
            "broken", "builtin", "file", "third", "timm", "torchvision", "transformers", "wrong",
        ]  # fmt: skip

    def test_unknown_loader(self):
        with pytest.raises(UnknownNameError, match=r"unknown model loader 'tim'\. Did you mean timm"):
            load_model("tim,id=x")

    def test_broken_loader(self):
        with pytest.raises(VitxaiError, match=r"'broken'.*could not be loaded.*no such module"):
            load_model("broken")

    def test_loader_that_makes_no_model(self):
        with pytest.raises(BadInputError, match="returned int"):
            load_model("wrong")


DATA = Path(os.environ.get("VITXAI_TEST_DATA", ""))


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="VITXAI_TEST_DATA does not name a folder with MNIST")
def test_a_real_trained_vit_reads_digits():
    model = load_model(f"file,path={DATA / 'weights/timm_vit_mnist10.pt'},mean=0.1307,std=0.3081")
    raw = gzip.decompress((DATA / "mnist/t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((DATA / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = torch.from_numpy(np.frombuffer(raw, np.uint8).copy()).view(-1, 1, 28, 28)[:500].float() / 255
    predicted = model(normalise(model, images)).argmax(1)
    assert (predicted == torch.tensor(list(labels[:500]))).float().mean() > 0.95
