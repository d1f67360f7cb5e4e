"""What a fitted explainer learns and from what; artefacts that are named, and those that ship."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Batch, Context, Explainer, Fitted, Model, explainers
from vitxai.bench.contract.registry import import_file
from vitxai.explainers._fitting import fit_module, learned, restore
from vitxai.models import fit_files
from vitxai.models.fit_files import artefact_of, obtain_fit, write_fit
from vitxai.models.handle import wrap
from vitxai.models.optimise import CrossEntropy, Schedule


@dataclass(frozen=True)
class Learner(Explainer):
    """Three numbers in, two classes out."""

    name = "learner"
    strength: float = 1.0
    artefact: Path | None = None

    def fit(self, model: Model, ctx: Context) -> Fitted:
        return Fitted(facts={"fitted": "now"})


class Frozen(nn.Module):
    """A backbone that counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        features: Tensor = self.linear(inputs.flatten(1))
        return features


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return wrap(Frozen(), mean=(0.0,) * 3, std=(1.0,) * 3, input_size=(1, 1))


def context(label: int | None = None) -> EngineContext:
    def samples(split: str, count: int, labels: bool) -> Batch:
        count = min(count, {"fit": 40, "validation": 12}[split])
        classes = torch.arange(count) % 2
        inputs = torch.randn(count, 3, 1, 1, generator=torch.Generator().manual_seed(len(split))) + 3 * classes.view(
            -1, 1, 1, 1
        )
        if label is not None:
            classes[3] = label
        return Batch(tuple(f"{split}/{row}" for row in range(count)), inputs, classes, classes)

    return EngineContext(seed=1, max_rows=16, fit_data=samples)


def head() -> nn.Module:
    torch.manual_seed(2)
    return nn.Linear(3, 2)


SCHEDULE = Schedule(epochs=4, batch_size=8, learning_rate=0.1)


def test_features_are_computed_once_for_all_epochs(model: Model) -> None:
    fitted = fit_module(
        model, context(), head(), SCHEDULE, samples=40, classes=2, objective=CrossEntropy(),
        features=model.module,
    )  # fmt: skip
    assert model.module.passes == 3 + 1  # 40 and 12 samples, 16 at once
    assert fitted.facts["epochs"] == 4
    assert fitted.facts["parameters"] == 8
    assert fitted.facts["validation_accuracy"] == max(line["validation_accuracy"] for line in fitted.facts["log"])
    assert set(fitted.tensors) == {"weight", "bias"}
    joined = nn.Sequential(model.module, head())
    at_every_step = fit_module(model, context(), joined, SCHEDULE, samples=40, classes=2, objective=CrossEntropy())
    for name, tensor in fitted.tensors.items():
        torch.testing.assert_close(at_every_step.tensors[f"1.{name}"], tensor, rtol=1e-4, atol=1e-5)


def test_a_sample_without_a_label_is_named(model: Model) -> None:
    with pytest.raises(BadInputError, match="sample 'fit/3' has no label"):
        fit_module(model, context(label=-1), head(), SCHEDULE, samples=8, classes=2)


def test_what_was_learned_is_put_back_frozen_or_refused() -> None:
    module, other = head(), nn.Linear(3, 2)
    restored = restore(other, Fitted(learned(module)), "learner")
    assert restored is other
    assert torch.equal(other.weight, module.weight)
    assert not other.weight.requires_grad
    assert not other.training
    with pytest.raises(BadInputError, match="learned nothing yet"):
        restore(head(), None, "learner")
    with pytest.raises(BadInputError, match="does not fit this model: weight differ"):
        restore(nn.Linear(4, 2), Fitted(learned(module)), "learner")
    with pytest.raises(BadInputError, match="bias, weight differ"):
        restore(head(), Fitted(), "learner")


@pytest.fixture
def written(model: Model, tmp_path: Path) -> list[Path]:
    """Artefacts of two learners of strength 1 and 2, in the folder ``fitted``."""
    folder = tmp_path / "fitted"
    folder.mkdir()
    paths = [folder / f"learner-{name}.safetensors" for name in ("a", "b")]
    for path, strength in zip(paths, (1.0, 2.0), strict=True):
        fitted = Fitted({"weight": torch.full((2, 3), strength)}, {"seed": 1, "validation_accuracy": strength})
        write_fit(path, Learner(strength), model, "data", fitted, "bench fit learner")
    return paths


def test_of_those_that_ship_the_one_that_fits_is_taken(
    model: Model, written: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_files, "shipped_files", lambda explainer: written)
    found = obtain_fit(Learner(2.0), model, EngineContext(seed=1), "data")
    assert found is not None
    assert torch.equal(found.tensors["weight"], torch.full((2, 3), 2.0))
    assert found.facts == {
        "seed": 1,
        "validation_accuracy": 2.0,
        "artefact": "learner-b.safetensors",
        "command": "bench fit learner",
    }


@pytest.mark.parametrize(
    ("strength", "weights", "data", "seed"),
    [
        (3.0, None, "data", 1),
        (2.0, "other", "data", 1),
        (2.0, None, "other", 1),
        (2.0, None, "", 1),
        (2.0, None, "data", 2),
    ],
    ids=["parameter", "weights", "data", "no data", "seed"],
)
def test_where_none_that_ships_fits_the_explainer_learns(
    strength: float, weights: str | None, data: str, seed: int, model: Model, written: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(fit_files, "shipped_files", lambda explainer: written)
    model = replace(model, weights_hash=weights or model.weights_hash)
    assert obtain_fit(Learner(strength), model, EngineContext(seed=seed), data) == Fitted(facts={"fitted": "now"})


def test_a_named_one_is_held_against_explainer_weights_and_data(model: Model, written: list[Path]) -> None:
    named = Learner(2.0, written[1])
    for data in ("data", ""):  # on inputs of one's own there is no data set to hold it against
        found = obtain_fit(named, model, EngineContext(seed=8), data)
        assert found is not None
        assert found.facts["artefact"] == "learner-b.safetensors"
    for method, frozen, data, what in (
        (replace(named, strength=3.0), model, "data", "explainer"),
        (named, replace(model, weights_hash="other"), "data", "weights"),
        (named, model, "other", "data"),
    ):
        with pytest.raises(BadInputError, match=f"fitted with another {what}"):
            obtain_fit(method, frozen, EngineContext(), data)
    with pytest.raises(BadInputError, match=r"no artefact at gone; make it with `bench fit learner"):
        obtain_fit(replace(named, artefact=Path("gone")), model, EngineContext(), "data")


def test_one_that_ships_lies_beside_the_plug_ins_file(model: Model, written: list[Path]) -> None:
    """A fitted explainer needs no code for its artefacts, wherever it lies."""
    file = written[0].parents[1] / "mine.py"
    file.write_text(
        "from vitxai.bench.contract import Explainer, Fitted, explainer\n"
        "@explainer('learner_here', status='test')\n"
        "class Mine(Explainer):\n"
        '    """Learns."""\n'
        "    strength: float = 1.0\n"
        "    def fit(self, model, ctx):\n"
        "        return Fitted(facts={'fitted': 'now'})\n"
    )
    import_file(file)
    method = explainers.create("learner_here,strength=2")
    assert artefact_of(method, model.weights_hash, "data", 0) is None
    path = file.parent / "fitted" / "learner_here-x.safetensors"
    write_fit(path, method, model, "data", Fitted(facts={"score": 3}), "bench fit")
    assert artefact_of(method, model.weights_hash, "data", 0) == path
    found = obtain_fit(method, model, EngineContext(), "data")
    assert found is not None
    assert found.facts == {"score": 3, "artefact": path.name, "command": "bench fit"}


def test_what_learns_nothing_has_no_artefact(model: Model, written: list[Path]) -> None:
    @dataclass(frozen=True)
    class Plain(Explainer):
        name = "learner"
        artefact: Path | None = None

    assert obtain_fit(Plain(written[0]), model, EngineContext(), "data") is None


def test_one_that_a_wrapped_explainer_names_is_refused(
    model: Model, written: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrapper calls the other's ``fit`` itself, and the file would go unread."""
    monkeypatch.setattr(Learner, "wraps", lambda self: (f"prompt_cam,artefact={written[0]}",))
    with pytest.raises(BadInputError, match=r"learner fits prompt_cam,artefact=.* itself and reads no artefact"):
        obtain_fit(Learner(), model, EngineContext(), "data")


def test_a_file_without_the_header_is_no_artefact(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(BadInputError, match="is no artefact of `bench fit`"):
        obtain_fit(Learner(artefact=path), model, EngineContext(), "data")
