"""Prompt-CAM: its map and scores in loops, the greedy choice of heads, what a fit learns, what is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Batch, Fitted, Model, Monitor, UnsupportedError, explainers
from vitxai.bench.guard import ModuleState
from vitxai.explainers.prompt_cam import telling_heads
from vitxai.models.fit_files import obtain_fit, write_fit
from vitxai.models.handle import wrap
from vitxai.models.tape import record

PromptCAM = explainers.get("prompt_cam")
CLASSES, WIDTH, DEPTH = 5, 16, 3
KINDS = ["class_token", "mean_pooled", "registers", "layer_scale", "spectral"]


def by_hand(method: PromptCAM, width: int = WIDTH, blocks: int = DEPTH, classes: int = CLASSES) -> Fitted:
    """Random tensors in place of a fit; names and shapes are the format of artefacts."""
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "prompts.tokens": (blocks if method.depth == "deep" else 1, classes, width),
        "head.weight": (1, 1, width),
        "head.bias": (1,),
    }
    return Fitted({n: torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()})


def same(found: Tensor, wanted: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=atol)


@pytest.fixture(scope="module")
def three_headed() -> Model:
    """Thirds are no sums of powers of two, so that a mean over heads in single precision shows."""
    module = VisionTransformer(img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=3, num_classes=CLASSES)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1.0
    return wrap(module.double(), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.mark.parametrize("depth", ["deep", "shallow"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_the_targets_row_and_a_batch_is_its_samples(kind, depth, tiny, batch_for, ctx):
    model, method = tiny(kind), PromptCAM(depth=depth)
    fitted = by_hand(method)
    own = method.own_model(model, fitted)
    batch = batch_for(model, 8)
    before = ModuleState.of(own.module)
    found = method.explain(own, batch, ctx)
    assert before.differences(ModuleState.of(own.module)) == []
    assert found.geometry == model.geometry
    # Prompts come first: row c is the prompt of class c, then the backbone's prefix and patches.
    last = record(own, batch.inputs).attention[-1]
    first = CLASSES + model.geometry.prefix
    for row, target in enumerate(batch.targets.tolist()):
        rows = [last[row, head, target, first:] for head in range(2)]
        same(found.native[row].flatten(), (rows[0] + rows[1]) / 2)
    alone = torch.cat([method.explain(own, batch.select([row]), ctx).native for row in range(8)])
    same(found.native, alone, atol=1e-12)


@pytest.mark.parametrize("depth", ["deep", "shallow"])
def test_a_score_is_the_head_on_the_prompts_output(depth, tiny, batch_for):
    model, method = tiny(), PromptCAM(depth=depth)
    fitted = by_hand(method)
    own, inputs = method.own_model(model, fitted), batch_for(model, 2).inputs
    net, prompts = model.module, fitted.tensors["prompts.tokens"]
    tokens = net._pos_embed(net.patch_embed(inputs))
    for layer, block in enumerate(net.blocks):
        if layer == 0:
            tokens = torch.cat([prompts[0].expand(2, -1, -1), tokens], dim=1)
        elif depth == "deep":
            tokens = torch.cat([prompts[layer].expand(2, -1, -1), tokens[:, CLASSES:]], dim=1)
        tokens = block(tokens)
    outputs = net.norm(tokens)
    for row, c in itertools.product(range(2), range(CLASSES)):
        wanted = outputs[row, c] @ fitted.tensors["head.weight"][0, 0] + fitted.tensors["head.bias"][0]
        same(own(inputs)[row, c], wanted)


class TestGreedyHeads:
    @pytest.fixture
    def own(self, three_headed):
        return PromptCAM().own_model(three_headed, by_hand(PromptCAM(), width=12, blocks=2))

    @staticmethod
    def probability(own, image, target, kept):
        """p(target) of one image when the target's row is uniform in all other heads of the last block."""

        def edit(attention, layer):
            changed = attention.clone()
            for head in range(attention.shape[1]):
                if layer == 1 and head not in kept:
                    changed[0, head, target] = torch.full_like(changed[0, head, target], 1 / attention.shape[-1])
            return changed

        return own.module.scores(own.module.read(image[None], edit)).softmax(1)[0, target].item()

    def greedy(self, own, image, target):
        kept = {0, 1, 2}
        best, highest = set(kept), self.probability(own, image, target, kept)
        while len(kept) > 1:
            gone = max(sorted(kept), key=lambda head: self.probability(own, image, target, kept - {head}))
            kept = kept - {gone}
            value = self.probability(own, image, target, kept)
            if value > highest:
                best, highest = set(kept), value
        return best

    @torch.no_grad()
    def test_they_are_those_of_a_loop_over_samples(self, own, three_headed, batch_for, ctx):
        batch = batch_for(three_headed, 8)
        wanted = [self.greedy(own, *pair) for pair in zip(batch.inputs, batch.targets.tolist(), strict=True)]
        found = telling_heads(own.module, batch.inputs, batch.targets, 3)
        assert [set(row.nonzero()[:, 0].tolist()) for row in found] == wanted
        assert len({frozenset(heads) for heads in wanted}) > 1, "the samples tell heads apart"
        every, greedy = PromptCAM(), PromptCAM(heads="greedy")
        attention = own.module.read(batch.inputs).attention[-1].whole()
        for method, choice in ((every, [{0, 1, 2}] * 8), (greedy, wanted)):
            native = method.explain(own, batch, ctx).native
            for row, (target, heads) in enumerate(zip(batch.targets.tolist(), choice, strict=True)):
                rows = [attention[row, head, target, CLASSES + 1 :] for head in sorted(heads)]
                same(native[row].flatten(), sum(rows) / len(rows), atol=1e-12)

    @torch.no_grad()
    def test_the_search_makes_as_many_passes_as_it_says(self, own, three_headed, batch_for):
        batch, passes = batch_for(three_headed, 4), []
        handle = own.module.backbone.register_forward_hook(lambda *_: passes.append(1))
        telling_heads(own.module, batch.inputs, batch.targets, 3)
        handle.remove()
        assert len(passes) == 3 * 4 / 2


def toy(model, seed=3, monitor=None):
    """A context whose samples are bright in the channel of their label."""

    def samples(split, count, labels):
        generator = torch.Generator().manual_seed({"fit": 1, "validation": 2}[split])
        count = min(count, 96 if split == "fit" else 48)
        labels = torch.arange(count) % 3
        inputs = 0.3 * torch.randn(count, model.channels, *model.input_size, generator=generator)
        for row, label in enumerate(labels.tolist()):
            inputs[row, label] += 4.0
        return Batch(tuple(f"{split}/{row}" for row in range(count)), inputs.to(model.dtype), labels.clone(), labels)

    return EngineContext(seed=seed, max_rows=32, fit_data=samples, monitor=monitor or Monitor())


TOY = {"epochs": 8, "batch_size": 16, "learning_rate": 0.02, "samples": 96}


@pytest.fixture(scope="module")
def single(three_headed):
    """A float32 copy."""
    module = VisionTransformer(img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=3, num_classes=CLASSES)
    module.load_state_dict(three_headed.module.state_dict())
    return wrap(module, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(scope="module")
def learnt(single):
    return PromptCAM(**TOY).fit(single, toy(single))


class TestFit:
    def test_a_separable_task_is_learned_and_the_facts_say_so(self, single, learnt):
        facts = learnt.facts
        assert facts["validation_accuracy"] >= 0.9
        own = PromptCAM(**TOY).own_model(single, learnt)
        held_out = toy(single).data("validation", 48, labels=True)
        accuracy = (own(held_out.inputs).argmax(1) == held_out.labels).float().mean().item()
        assert accuracy == pytest.approx(facts["validation_accuracy"], abs=1e-6)
        assert (facts["fit_samples"], facts["validation_samples"]) == (96, 48)
        assert facts["epochs"] == len(facts["log"]) <= 8
        assert facts["parameters"] == 2 * CLASSES * 12 + 12 + 1 == sum(t.numel() for t in learnt.tensors.values())

    def test_the_same_seed_learns_the_same_and_another_does_not(self, single, learnt):
        again = PromptCAM(**TOY).fit(single, toy(single))
        assert again.tensors.keys() == learnt.tensors.keys() == by_hand(PromptCAM()).tensors.keys()
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in learnt.tensors.items())
        other = PromptCAM(**{**TOY, "epochs": 1}).fit(single, toy(single, seed=4))
        assert not torch.equal(other.tensors["prompts.tokens"], learnt.tensors["prompts.tokens"])

    def test_a_fit_that_was_stopped_goes_on_to_the_same_tensors(self, single, learnt, tmp_path):
        def stop(record):
            if record.epoch == 1:
                raise KeyboardInterrupt

        state = tmp_path / "state"
        with pytest.raises(KeyboardInterrupt):
            PromptCAM(**TOY).fit(single, toy(single, monitor=Monitor(stop, state)))
        seen = []
        again = PromptCAM(**TOY).fit(
            single, toy(single, monitor=Monitor(lambda record: seen.append(record.epoch), state))
        )
        assert seen[0] == 2
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in learnt.tensors.items())

    def test_an_artefact_gives_the_same_maps_and_knows_what_it_is_for(self, single, learnt, tmp_path, batch_for, ctx):
        path = tmp_path / "prompts.safetensors"
        plain = PromptCAM(**TOY)
        write_fit(path, plain, single, "toy", learnt, "bench fit prompt_cam")
        named = replace(plain, artefact=path)
        found = obtain_fit(named, single, toy(single, seed=8), "toy")
        batch = batch_for(single)
        batch = replace(batch, inputs=batch.inputs.float())
        maps = [m.explain(m.own_model(single, f), batch, ctx).native for m, f in ((plain, learnt), (named, found))]
        assert torch.equal(*maps)
        for method, model, data, what in (
            (named, replace(single, weights_hash="0" * 64), "toy", "weights"),
            (replace(named, depth="shallow"), single, "toy", "explainer"),
            (named, single, "others", "data"),
        ):
            with pytest.raises(BadInputError, match=f"fitted with another {what}"):
                obtain_fit(method, model, toy(single), data)

    def test_the_frozen_model_stays_as_it_is(self, single, learnt):
        before = ModuleState.of(single.module)
        own = PromptCAM(**TOY).own_model(single, learnt)
        own(toy(single).data("fit", 4, labels=True).inputs)
        assert before.differences(ModuleState.of(single.module)) == []
        assert not any(parameter.requires_grad for parameter in own.module.parameters())
        assert not own.module.training


def test_what_it_refuses(tiny, batch_for, ctx):
    model, method = tiny(), PromptCAM()
    swin = SwinTransformer(img_size=32, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4)
    for other, why in (
        (replace(model, geometry=None), "do not lie on one grid"),
        (wrap(swin, mean=(0.5,) * 3, std=(0.25,) * 3), "no plain blocks"),
    ):
        with pytest.raises(UnsupportedError, match=why):
            method.own_model(other, by_hand(method))
        with pytest.raises(UnsupportedError, match=why):
            method.fit(other, toy(other))
    with pytest.raises(BadInputError, match="learned nothing yet"):
        method.own_model(model, None)
    with pytest.raises(BadInputError, match="explains its own model"):
        method.explain(model, batch_for(model), ctx)
    with pytest.raises(BadInputError, match=r"does not fit this model: prompts\.tokens"):
        method.own_model(model, by_hand(PromptCAM(depth="shallow")))
