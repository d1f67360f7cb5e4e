"""FOCUS: its maps, heads, loss and Shapley values in loops; what a fit learns; what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitxai.bench.cell import load_cell
from vitxai.bench.cell_plan import cells_of, plan_cell
from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Batch, Fitted, Model, Monitor, UnsupportedError, explainers
from vitxai.bench.guard import ModuleState
from vitxai.bench.run import resolve_suite
from vitxai.bench.suite import parse_suite
from vitxai.bench.tasks import Score
from vitxai.explainers._bandwise import band_shares
from vitxai.explainers._prompts import FromKeysValues, GroupedHead, PromptTokens, SinkAttraction, auxiliary_heads
from vitxai.models.fit_files import obtain_fit, write_fit
from vitxai.models.handle import wrap
from vitxai.models.spectral import SpectralViT
from vitxai.models.spectral_backbone import SpectralBackbone

Focus = explainers.get("focus")
CLASSES, WIDTH, DEPTH, PLACES = 5, 16, 3, 16
AUXILIARY = torch.tensor([[True, False], [False, True], [True, False]])


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in module.named_parameters():
            nn.init.normal_(parameter, std=0.25 if name.endswith("weight") else 0.2)
            if "norm" in name and name.endswith("weight"):
                parameter.data += 1.0
    return module.double().eval()


def fused(bands: int = 6) -> Model:
    """One token a patch over six bands of known wavelength: two visible, one red edge, three infrared."""
    size = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2, "num_classes": CLASSES}
    module = randomised(VisionTransformer(**size, in_chans=bands))
    centres = (450.0, 900.0, 640.0, 720.0, 1000.0, 800.0)[:bands]
    return wrap(module, name="fused", mean=(0.5,) * bands, std=(0.25,) * bands, wavelengths=centres)


def four_headed(groups: tuple[tuple[int, ...], ...] = ((0, 1, 2), (3, 4))) -> Model:
    size = {"img_size": 16, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 4, "num_classes": CLASSES}
    bands = sum(map(len, groups))
    return wrap(randomised(SpectralViT(**size, groups=groups)), mean=(0.5,) * bands, std=(0.25,) * bands)


def by_hand(method: Focus, groups: int, bands: int, blocks: int = DEPTH, seed: int = 3) -> Fitted:
    """Random tensors in place of a fit; names and shapes are the format of artefacts."""
    layers = blocks if method.depth == "deep" else 1
    shared = method.prompts == "shared"
    shapes = {
        "head.weight": (groups if method.head == "group" else 1, CLASSES if shared else 1, WIDTH),
        "head.bias": (CLASSES if shared else 1,),
        "baseline": (CLASSES, groups),
    }
    if method.prompts == "hierarchical":
        shapes |= {"prompts.of_class": (layers, CLASSES, WIDTH), "prompts.of_group": (layers, groups, WIDTH)}
    else:
        shapes["prompts.tokens"] = (layers, groups if shared else CLASSES * groups, WIDTH)
    if method.sink:
        shapes["sink"] = (layers, 1, WIDTH)
    if method.routing == "adaptive":
        shapes |= {"router.linear.weight": (1, WIDTH), "router.linear.bias": (1,)}
    if method.adapter:
        shapes["adapter.bands"] = (bands, WIDTH)
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return Fitted({**tensors, "auxiliary_heads": AUXILIARY[:blocks]})


def same(found: Tensor, wanted: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=atol)


def prompt(method: Focus, target: int, group: int, groups: int) -> int:
    return group if method.prompts == "shared" else target * groups + group


def evidence(method: Focus, fitted: Fitted, outputs: Tensor, groups: int) -> Tensor:
    """What each group says for each class, [K,G], from one sample's outputs [P,D]."""
    weight, bias = fitted.tensors["head.weight"], fitted.tensors["head.bias"]
    found = torch.empty(CLASSES, groups, dtype=torch.float64)
    for c, g in itertools.product(range(CLASSES), range(groups)):
        own = weight[g if method.head == "group" else 0, c if method.prompts == "shared" else 0]
        found[c, g] = outputs[prompt(method, c, g, groups)] @ own + bias[c if method.prompts == "shared" else 0]
    return found


def written_cube(method: Focus, own: Model, fitted: Fitted, batch: Batch, groups: int) -> Tensor:
    """[B,G,places] from the attention of the own model, an entry at a time."""
    net = own.module
    read = net.read(batch.inputs)
    attention = [layer.whole() for layer in read.attention]
    cube = torch.empty(len(batch), groups, PLACES, dtype=torch.float64)
    for b, target in enumerate(batch.targets.tolist()):
        told = evidence(method, fitted, read.outputs[b], groups) - fitted.tensors["baseline"]
        for g in range(groups):
            p = prompt(method, target, g, groups)
            first = net.added + net.seen.prefix + (g * PLACES if net.seen.groups else 0)
            places = range(first, first + PLACES)
            heads = [h for h in range(2) if not AUXILIARY[-1, h]]
            last = [sum(float(attention[-1][b, h, p, k]) for h in heads) / len(heads) for k in places]
            if method.readout == "max":
                scale = 1.0
            elif method.readout == "kept_mass":
                scale = sum(float(layer[b, h, p, k]) for layer in attention for h in range(2) for k in places) / 6
            else:
                scale = float(told[target, g] - told[[c for c in range(CLASSES) if c != target], g].mean())
            total = 1.0 if method.readout == "max" else sum(last)
            cube[b, g] = torch.tensor([value / total * scale for value in last], dtype=torch.float64)
    return cube


METHODS = {
    "the paper's": Focus(),
    "no sink": Focus(sink=False),
    "deep": Focus(depth="deep"),
    "kept mass": Focus(depth="deep", readout="kept_mass"),
    "evidence": Focus(depth="deep", readout="evidence", head="group", separate=True),
    "joint": Focus(depth="deep", isolate=False),
    "joint kept mass": Focus(isolate=False, readout="kept_mass"),
    "shared": Focus(prompts="shared"),
    "shared evidence": Focus(prompts="shared", head="group", readout="evidence"),
    "hierarchical": Focus(prompts="hierarchical", depth="deep", readout="evidence"),
    "routed": Focus(routing="adaptive", depth="deep", readout="kept_mass"),
    "adapted": Focus(adapter=True, readout="evidence"),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_map_is_the_written_out_one_and_a_batch_is_its_samples(name, tiny, batch_for, ctx):
    method, model = METHODS[name], tiny("spectral")
    batch = batch_for(model, 8)
    fitted = by_hand(method, groups=2, bands=5)
    own = method.own_model(model, fitted)
    before = ModuleState.of(own.module)
    found = method.explain(own, batch, ctx)
    assert before.differences(ModuleState.of(own.module)) == []
    assert found.layout == "group_token"
    assert found.geometry == model.geometry
    few = batch.select([0, 1, 6])
    same(found.native[[0, 1, 6]].flatten(2), written_cube(method, own, fitted, few, groups=2))
    alone = torch.cat([method.explain(own, batch.select([row]), ctx).native for row in range(8)])
    same(found.native, alone, atol=1e-12)
    scores = own(few.inputs)
    for row, outputs in enumerate(own.module.read(few.inputs).outputs):
        same(scores[row], evidence(method, fitted, outputs, 2).mean(1))


@pytest.mark.parametrize("name", ["the paper's", "kept mass", "evidence without separation", "shared"])
def test_fused_tokens_give_a_cube_of_the_groups_maps(name, batch_for, ctx):
    method = METHODS.get(name, Focus(readout="evidence"))
    method, model = replace(method, groups=3), fused()
    fitted = by_hand(method, groups=3, bands=6)
    own = method.own_model(model, fitted)
    batch = batch_for(model)
    found = method.explain(own, batch, ctx)
    assert found.layout == "cube"
    wanted = written_cube(method, own, fitted, batch, groups=3).unflatten(-1, (4, 4))
    # Physiological groups of 450, 900, 640, 720, 1000 and 800 nm: visible, red edge, infrared.
    of_bands = wanted[:, [0, 2, 0, 1, 2, 2]]
    same(found.native, nn.functional.interpolate(of_bands, size=(32, 32), mode="bilinear", align_corners=False))


def test_all_heads_make_the_map_where_all_are_auxiliary(tiny, batch_for, ctx):
    model, method = tiny("spectral"), Focus()
    batch = batch_for(model)
    learned = by_hand(method, 2, 5).tensors
    both = method.own_model(model, Fitted({**learned, "auxiliary_heads": torch.ones(3, 2, dtype=torch.bool)}))
    none = method.own_model(model, Fitted({**learned, "auxiliary_heads": torch.zeros(3, 2, dtype=torch.bool)}))
    assert torch.equal(method.explain(both, batch, ctx).native, method.explain(none, batch, ctx).native)


class TestBandShares:
    @staticmethod
    def alone(module: nn.Module, image: Tensor, groups: tuple[tuple[int, ...], ...]) -> Tensor:
        """[C,4,4]: how much of its group's tokens each band makes by itself, an embedding a band."""
        shares = torch.empty(image.shape[0], 4, 4, dtype=torch.float64)
        empty = module.patch_embed(torch.zeros_like(image)[None])[0]
        for g, group in enumerate(groups):
            sizes = []
            for band in group:
                single = torch.zeros_like(image)
                single[band] = image[band]
                tokens = module.patch_embed(single[None])[0] - empty
                places = tokens[g * PLACES : (g + 1) * PLACES] if len(tokens) > PLACES else tokens
                sizes.append([math.sqrt(sum(x * x for x in token.tolist())) for token in places])
            total = [sum(column) for column in zip(*sizes, strict=True)]
            for band, row in zip(group, sizes, strict=True):
                values = [len(group) * size / whole for size, whole in zip(row, total, strict=True)]
                shares[band] = torch.tensor(values, dtype=torch.float64).view(4, 4)
        return shares

    @pytest.mark.parametrize("kind", ["projections", "adapters", "one convolution"])
    def test_they_are_those_of_bands_embedded_one_by_one(self, kind, tiny, batch_for):
        groups = ((0, 1, 2), (3, 4))
        if kind == "projections":
            model = tiny("spectral")
        elif kind == "adapters":
            vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=0)
            module = randomised(SpectralBackbone(vit, groups=groups, num_classes=CLASSES))
            model = wrap(module, mean=(0.5,) * 5, std=(0.25,) * 5)
        else:
            model = fused(5)
        batch = batch_for(model, 2)
        with torch.no_grad():
            found = band_shares(model.module, batch.inputs, groups)
            for row, image in enumerate(batch.inputs):
                same(found[row], self.alone(model.module, image, groups))
        for group in groups:
            same(found[:, list(group)].mean(1), torch.ones(2, 4, 4, dtype=torch.float64))

    @pytest.mark.parametrize("model", [lambda tiny: tiny("spectral"), lambda _: fused()], ids=["group", "fused"])
    def test_a_groups_value_is_split_among_its_bands(self, model, tiny, batch_for, ctx):
        model = model(tiny)
        groups = len(model.geometry.groups or range(3))
        plain, shared = Focus(groups=3), Focus(groups=3, band_share=True)
        batch = batch_for(model)
        own = plain.own_model(model, by_hand(plain, groups, model.channels))
        of_bands = (
            plain.explain(own, batch, ctx).native[:, [0, 0, 0, 1, 1]]
            if groups == 2
            else written_cube(plain, own, by_hand(plain, 3, 6), batch, 3).unflatten(-1, (4, 4))[:, [0, 2, 0, 1, 2, 2]]
        )
        bands = ((0, 1, 2), (3, 4)) if groups == 2 else ((0, 2), (3,), (1, 4, 5))
        weights = torch.stack([self.alone(model.module, image, bands) for image in batch.inputs])
        found = shared.explain(own, batch, ctx)
        assert found.layout == "cube"
        upsampled = nn.functional.interpolate(of_bands * weights, size=(32, 32), mode="bilinear", align_corners=False)
        same(found.native, upsampled)

    def test_other_embeddings_are_refused(self, batch_for):
        vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=0)
        groups = ((0, 1, 2), (3, 4))
        module = SpectralBackbone(vit, groups=groups, num_classes=CLASSES, tokens="aggregated")
        for other in (module, nn.Linear(2, 2)):
            with pytest.raises(UnsupportedError, match="one convolution, or one a spectral group"):
                band_shares(other, torch.zeros(1, 5, 32, 32), groups)


class TestAuxiliaryHeads:
    """Rules on a model of two blocks with four heads, each measured in loops."""

    @pytest.fixture
    def model(self):
        return four_headed()

    @pytest.fixture
    def batch(self, model, batch_for):
        return batch_for(model, 7)

    @pytest.mark.parametrize("max_rows", [3, 64])
    @pytest.mark.parametrize("rule", ["entropy", "information", "ablation"])
    def test_the_least_informative_of_each_block_are_chosen(self, rule, max_rows, model, batch, explicit):
        measured = {"entropy": self.order, "information": self.variation, "ablation": self.effect}[rule]
        informative = measured(model, batch, explicit)
        for share, count in ((0.5, 2), (0.75, 3), (0.1, 1)):
            found = auxiliary_heads(rule, model, batch, EngineContext(max_rows=max_rows), share)
            assert found.dtype == torch.bool
            for layer, values in enumerate(informative):
                least = sorted(range(4), key=lambda head, values=values: values[head])[:count]
                assert found[layer].nonzero()[:, 0].tolist() == sorted(least)

    @staticmethod
    def order(model, batch, explicit):
        """Minus the mean entropy of a head's rows."""
        found = [[0.0] * 4, [0.0] * 4]
        for image in batch.inputs:
            for layer, heads in enumerate(explicit(model, image).attention):
                for head, rows in enumerate(heads):
                    found[layer][head] += (rows * rows.log()).sum(1).mean().item()
        return found

    @staticmethod
    def variation(model, batch, explicit):
        """Standard deviation over samples of a head's output, over its size."""
        outputs = [[[] for _ in range(4)] for _ in range(2)]
        for image in batch.inputs:
            passed = explicit(model, image)
            for layer, block in enumerate(model.module.blocks):
                qkv = passed.norm1[layer] @ block.attn.qkv.weight.T + block.attn.qkv.bias
                for head in range(4):
                    value = qkv[:, 2 * WIDTH + 4 * head : 2 * WIDTH + 4 * head + 4]
                    outputs[layer][head].append(passed.attention[layer][head] @ value)
        stacked = [[torch.stack(samples).detach() for samples in heads] for heads in outputs]
        spread = [[((o - o.mean(0)) ** 2).sum(0).div(len(o) - 1).sqrt().mean() for o in heads] for heads in stacked]
        size = [[o.abs().mean() for o in heads] for heads in stacked]
        return [[float(a / b) for a, b in zip(*pair, strict=True)] for pair in zip(spread, size, strict=True)]

    @staticmethod
    def effect(model, batch, explicit):
        """Mean change of log p(target) when a head attends to all tokens alike."""
        rows = torch.arange(len(batch))

        def log_p():
            return model(batch.inputs).log_softmax(1)[rows, batch.targets]

        def without(layer, head):
            attn = model.module.blocks[layer].attn

            def forward(x, attn_mask=None, is_causal=False):
                q, k, v = attn.qkv(x).view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
                weights = torch.softmax(q @ k.transpose(-1, -2) / 2, -1)
                weights[:, head] = 1 / x.shape[1]
                return attn.proj((weights @ v).transpose(1, 2).flatten(2))

            attn.forward = forward
            changed = log_p()
            del attn.forward
            return float((changed - log_p()).abs().mean())

        return [[without(layer, head) for head in range(4)] for layer in range(2)]

    def test_all_fixed_and_random_heads(self, model, batch):
        assert auxiliary_heads("all", model, batch, EngineContext()).all()
        fixed = auxiliary_heads("fixed", model, batch, EngineContext(), share=0.75)
        assert fixed.tolist() == [[True, True, True, False]] * 2
        drawn = [auxiliary_heads("random", model, batch, EngineContext(seed=seed)) for seed in (0, 0, 1, 2, 3)]
        assert torch.equal(drawn[0], drawn[1])
        assert any(not torch.equal(drawn[0], other) for other in drawn[2:])
        assert all((heads.sum(1) == 2).all() for heads in drawn)


def test_a_step_leaves_out_groups_but_never_all():
    torch.manual_seed(0)
    head, outputs = GroupedHead(4, 3, 5, dropout=0.8), torch.randn(40, 15, 4)
    said = head.evidence(outputs)
    subsets = [list(subset) for size in range(1, 6) for subset in itertools.combinations(range(5), size)]
    kept = []
    for row, scores in enumerate(head.train()(outputs)):
        found = [subset for subset in subsets if torch.allclose(said[row][:, subset].mean(1), scores, atol=1e-6)]
        assert len(found) == 1
        kept.append(len(found[0]))
    assert 1 <= sum(kept) / 40 < 2
    torch.testing.assert_close(head.eval()(outputs), said.mean(2))


@pytest.mark.parametrize("sharing", ["class", "shared", "hierarchical"])
def test_prompts_begin_as_the_class_token_and_later_sets_at_nothing(sharing):
    start = torch.arange(4.0)[None]
    tokens = PromptTokens(3, 5, 2, start, sharing, spread=0.0)()
    assert tokens.shape == (3, 2 if sharing == "shared" else 10, 4)
    torch.testing.assert_close(tokens[0], start.expand_as(tokens[0]))
    assert not tokens[1:].any()


@pytest.mark.parametrize("isolate", [True, False])
def test_the_loss_is_cross_entropy_less_the_mass_on_the_sink(isolate, tiny, batch_for):
    method, model = Focus(depth="deep", isolate=isolate), tiny("spectral")
    net = method.own_model(model, by_hand(method, 2, 5)).module
    batch = batch_for(model, 4)
    module, eaten = (FromKeysValues(net), net.keys_values(batch.inputs)) if isolate else (net, batch.inputs)
    loss, figures = SinkAttraction(0.7, AUXILIARY).loss(module, eaten, batch.labels)
    read = net.read(batch.inputs)
    probabilities = torch.softmax(net(batch.inputs), 1)
    wanted = -sum(math.log(probabilities[row, label]) for row, label in enumerate(batch.labels.tolist())) / 4
    for layer, heads in enumerate(AUXILIARY):
        drawn = [read.sink[layer][:, h].mean() for h in range(2) if heads[h]]
        wanted -= 0.7 * float(sum(drawn) / len(drawn))
    assert float(loss) == pytest.approx(wanted, abs=1e-9)
    assert float(figures["sink_mass"]) == pytest.approx(float(torch.stack(read.sink).mean()), abs=1e-9)
    without = replace(method, sink=False)
    net = without.own_model(model, by_hand(without, 2, 5)).module
    loss, figures = SinkAttraction(0.7, AUXILIARY).loss(net, batch.inputs, batch.labels)
    assert float(loss) == pytest.approx(float(nn.functional.cross_entropy(net(batch.inputs), batch.labels)))
    assert not figures


@pytest.mark.parametrize("options", [{}, {"sink": False}, {"routing": "adaptive"}, {"prompts": "shared"}], ids=str)
@pytest.mark.parametrize("groups", [((0, 1, 2), (3, 4)), ((0, 4), (1,), (2, 3))], ids=len)
def test_evidence_of_separate_groups_is_the_shapley_value_of_each(groups, options, batch_for, ctx):
    """Players are groups; an absent one has the bands of a background sample, in the mean over all of these."""
    method = Focus(depth="deep", head="group", separate=True, readout="evidence", **options)
    model, count = four_headed(groups), len(groups)
    learned = by_hand(method, count, 5, blocks=2).tensors
    learned["auxiliary_heads"] = torch.zeros(2, 4, dtype=torch.bool)
    background = batch_for(model, 4, seed=5).inputs
    net = method.own_model(model, Fitted(learned)).module
    learned["baseline"] = net.head.evidence(net.read(background).outputs).mean(0)
    own = method.own_model(model, Fitted(learned))
    batch = batch_for(model, 2)

    def contrast(inputs, target):
        scores = own(inputs)
        return float((scores[:, target] - scores[:, [c for c in range(CLASSES) if c != target]].mean(1)).mean())

    found = method.explain(own, batch, ctx).native.sum((2, 3)) / count
    for row, target in enumerate(batch.targets.tolist()):
        image = batch.inputs[row]

        def worth(present, image=image, target=target):
            mixed = background.clone()
            for group in present:
                mixed[:, list(groups[group])] = image[list(groups[group])]
            return contrast(mixed, target)

        for player in range(count):
            others = [g for g in range(count) if g != player]
            value = 0.0
            for size in range(count):
                weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                for present in itertools.combinations(others, size):
                    value += weight * (worth((*present, player)) - worth(present))
            assert float(found[row, player]) == pytest.approx(value, abs=1e-9)
        efficiency = contrast(image[None], target) - contrast(background, target)
        assert float(found[row].sum()) == pytest.approx(efficiency, abs=1e-9)


def toy(model, seed=3, monitor=None):
    """A context whose samples say their class by the bands that are bright: none, the first three, the others."""

    def samples(split, count, labels):
        generator = torch.Generator().manual_seed({"fit": 1, "validation": 2}[split])
        count = min(count, 96 if split == "fit" else 48)
        labels = torch.arange(count) % 3
        inputs = 0.3 * torch.randn(count, model.channels, *model.input_size, generator=generator)
        for row, label in enumerate(labels.tolist()):
            inputs[row, slice(0, 0) if not label else slice(0, 3) if label == 1 else slice(3, None)] += 3.0
        inputs = inputs.to(model.dtype)
        return Batch(tuple(f"{split}/{row}" for row in range(count)), inputs, labels.clone(), labels)

    return EngineContext(seed=seed, max_rows=32, fit_data=samples, monitor=monitor or Monitor())


TOY = {"depth": "deep", "epochs": 10, "batch_size": 16, "learning_rate": 0.02, "samples": 96}


@pytest.fixture(scope="module")
def single():
    """A float32 model of two blocks."""
    model = four_headed()
    model.module.float()
    return model


@pytest.fixture(scope="module")
def learnt(single):
    return Focus(**TOY).fit(single, toy(single))


def test_kept_mass_needs_a_sink_to_be_kept_from():
    with pytest.raises(BadInputError, match="needs sink=true"):
        explainers.create("focus,sink=false,readout=kept_mass")


class TestFit:
    def test_a_separable_task_is_learned_and_the_facts_say_so(self, single, learnt):
        assert learnt.facts["validation_accuracy"] >= 0.9
        own = Focus(**TOY).own_model(single, learnt)
        held_out = toy(single).data("validation", 48, labels=True)
        accuracy = (own(held_out.inputs).argmax(1) == held_out.labels).float().mean().item()
        assert accuracy == pytest.approx(learnt.facts["validation_accuracy"], abs=1e-6)
        facts = learnt.facts
        assert (facts["fit_samples"], facts["validation_samples"]) == (96, 48)
        assert facts["bands_of_groups"] == [3, 2]
        assert facts["epochs"] == len(facts["log"]) <= 10
        assert facts["schedule"]["betas"] == (0.9, 0.95)
        assert facts["auxiliary_heads"] == learnt.tensors["auxiliary_heads"].int().tolist()
        trained = {name: t for name, t in learnt.tensors.items() if name not in ("auxiliary_heads", "baseline")}
        assert facts["parameters"] == sum(t.numel() for t in trained.values())
        assert all(0 < line["sink_mass"] < 1 for line in facts["log"])

    def test_the_baseline_is_the_mean_over_the_fit_samples(self, single, learnt, ctx):
        method = Focus(**TOY, readout="evidence")
        own = method.own_model(single, learnt)
        batch = toy(single).data("fit", 96, labels=True)
        said = own.module.head.evidence(own.module.read(batch.inputs).outputs).detach()
        torch.testing.assert_close(learnt.tensors["baseline"], said.mean(0), rtol=1e-4, atol=1e-5)
        short = replace(method, epochs=1)
        few, many = (short.fit(single, replace(toy(single), max_rows=rows)).tensors["baseline"] for rows in (5, 96))
        torch.testing.assert_close(few, many, rtol=1e-3, atol=1e-4)

    def test_the_same_seed_learns_the_same_and_another_does_not(self, single, learnt):
        with torch.random.fork_rng():
            torch.manual_seed(99)
            state = torch.get_rng_state()
            again = Focus(**TOY).fit(single, toy(single))
            assert torch.equal(torch.get_rng_state(), state)
        assert again.tensors.keys() == learnt.tensors.keys()
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in learnt.tensors.items())
        other = Focus(**{**TOY, "epochs": 1}).fit(single, toy(single, seed=4))
        assert not torch.equal(other.tensors["prompts.tokens"], learnt.tensors["prompts.tokens"])

    def test_a_fit_that_was_stopped_goes_on_to_the_same_tensors(self, single, learnt, tmp_path):
        def stop(record):
            if record.epoch == 2:
                raise KeyboardInterrupt

        state = tmp_path / "state"
        with pytest.raises(KeyboardInterrupt):
            Focus(**TOY).fit(single, toy(single, monitor=Monitor(stop, state)))
        assert state.is_file()
        seen = []
        again = Focus(**TOY).fit(single, toy(single, monitor=Monitor(lambda record: seen.append(record.epoch), state)))
        assert seen[0] == 3
        assert not state.exists()
        assert all(torch.equal(again.tensors[name], tensor) for name, tensor in learnt.tensors.items())

    def test_amp_runs_the_fits_passes_in_bfloat16_and_learns_as_well(self, single, learnt):
        kinds = set()
        hook = single.module.blocks[0].mlp.fc1.register_forward_hook(lambda _, __, out: kinds.add(out.dtype))
        half = Focus(**TOY, amp=True).fit(single, toy(single))
        hook.remove()
        assert torch.bfloat16 in kinds
        assert half.facts["schedule"]["amp"]
        assert half.facts["validation_accuracy"] >= 0.9
        assert all(tensor.dtype == learnt.tensors[name].dtype for name, tensor in half.tensors.items())

    def test_a_stronger_attraction_puts_more_mass_on_the_sink(self, single):
        short = {**TOY, "epochs": 4}
        weak, strong = (
            Focus(**short, sink_weight=weight, aux_heads="all").fit(single, toy(single)).facts["log"][-1]["sink_mass"]
            for weight in (0.0, 1.0)
        )
        assert strong > weak + 0.1

    def test_features_computed_once_and_at_every_step_learn_alike(self, single, monkeypatch):
        method = Focus(**{**TOY, "epochs": 2}, routing="adaptive", separate=True, head="group", group_dropout=0.5)
        once = method.fit(single, toy(single))
        monkeypatch.setattr("vitxai.explainers.focus.FEATURE_BYTES", 0)
        anew = method.fit(single, toy(single))
        for name, tensor in once.tensors.items():
            torch.testing.assert_close(anew.tensors[name], tensor, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        "options", [{"isolate": False}, {"adapter": True}, {"prompts": "hierarchical"}, {"sink": False}], ids=str
    )
    def test_the_frozen_model_stays_as_it_is(self, options, single):
        before = ModuleState.of(single.module)
        method = Focus(**{**TOY, "epochs": 1}, **options)
        own = method.own_model(single, method.fit(single, toy(single)))
        assert before.differences(ModuleState.of(single.module)) == []
        assert not any(parameter.requires_grad for parameter in own.module.parameters())
        assert not own.module.training


class TestArtefact:
    @pytest.fixture
    def artefact(self, single, learnt, tmp_path):
        path = tmp_path / "focus.safetensors"
        write_fit(path, Focus(**TOY), single, "toy", learnt, "bench fit focus")
        return path

    def test_it_gives_the_same_maps(self, artefact, single, learnt, batch_for, ctx):
        plain, named = Focus(**TOY), Focus(**TOY, artefact=artefact)
        found = obtain_fit(named, single, toy(single, seed=8), "toy")
        assert found.facts["log"] == learnt.facts["log"]
        assert found.facts["artefact"] == "focus.safetensors"
        batch = batch_for(single)
        batch = replace(batch, inputs=batch.inputs.float())
        maps = [m.explain(m.own_model(single, f), batch, ctx).native for m, f in ((plain, learnt), (named, found))]
        assert torch.equal(*maps)

    def test_another_model_other_parameters_and_other_data_are_refused(self, artefact, single):
        named = Focus(**TOY, artefact=artefact)
        other = replace(single, weights_hash="0" * 64)
        with pytest.raises(BadInputError, match="fitted with another weights"):
            obtain_fit(named, other, toy(single), "toy")
        with pytest.raises(BadInputError, match="fitted with another explainer"):
            obtain_fit(replace(named, sink_weight=0.5), single, toy(single), "toy")
        with pytest.raises(BadInputError, match="fitted with another data"):
            obtain_fit(named, single, toy(single), "others")

    def test_no_artefact_is_refused(self, single, tmp_path):
        with pytest.raises(BadInputError, match="no artefact at"):
            obtain_fit(Focus(artefact=tmp_path / "none.safetensors"), single, toy(single), "toy")
        (tmp_path / "text").write_text("no tensors")
        with pytest.raises(BadInputError, match="is no artefact"):
            obtain_fit(Focus(artefact=tmp_path / "text"), single, toy(single), "toy")


class TestRefusals:
    def test_what_it_cannot_explain(self, tiny):
        rgb, spectral, swin = tiny(), tiny("spectral"), SwinTransformer(
            img_size=32, patch_size=4, in_chans=6, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4
        )  # fmt: skip
        learned = by_hand(Focus(), 2, 5)
        for method, model, why in (
            (Focus(), rgb, "needs spectral bands; this model eats 3"),
            (Focus(), replace(spectral, geometry=None), "do not lie on one grid"),
            (Focus(), wrap(swin, mean=(0.5,) * 6, std=(0.25,) * 6), "no plain blocks"),
            (Focus(tokens="fused"), spectral, "this model has one token a .patch, group."),
            (Focus(tokens="group"), fused(), "this model has one token a patch"),
            (Focus(), fused(), "6 bands do not make groups=10"),
        ):
            with pytest.raises(UnsupportedError, match=why):
                method.own_model(model, learned)
            with pytest.raises(UnsupportedError, match=why):
                method.fit(model, toy(model))

    def test_models_without_a_fit_or_of_another_one(self, tiny, batch_for, ctx):
        model, method = tiny("spectral"), Focus()
        with pytest.raises(BadInputError, match="learned nothing yet"):
            method.own_model(model, None)
        with pytest.raises(BadInputError, match="explains its own model"):
            method.explain(model, batch_for(model), ctx)
        with pytest.raises(BadInputError, match=r"does not fit this model: prompts\.tokens"):
            method.own_model(model, by_hand(Focus(depth="deep"), 2, 5))

    @pytest.mark.parametrize(
        "options", [{"sink": False, "routing": "adaptive"}, {"separate": True, "isolate": False}], ids=str
    )
    def test_options_that_contradict_each_other(self, options, single):
        with pytest.raises(BadInputError, match=r"need a sink|need isolate=true"):
            Focus(**TOY, **options).fit(single, toy(single))


def test_a_cell_explains_and_scores_the_own_models(tmp_path: Path) -> None:
    small = "epochs=1,samples=8,batch_size=4"
    suite = {
        "name": "prompts", "n": 2, "chunk": 2, "batch_size": 2, "timeout_s": 300, "memory_gb": 2, "validation_n": 4,
        "costs": False, "explainers": [f"focus,{small}", f"focus,isolate=false,{small}", f"prompt_cam,{small}"],
        "metrics": ["model_response", "sink_mass", "sparseness"],
        "boards": [{"name": "l", "dataset": "leaves", "kind": "t", "models": ["builtin,id=leaves_spectral,seed=0"]}],
    }  # fmt: skip
    resolved = resolve_suite(parse_suite(suite), ())
    ((board, cell),) = cells_of(resolved, store=tmp_path, device="cpu", plugins=())
    work, facts = load_cell(cell)
    tasks = [task for task in plan_cell(resolved, board, cell, facts).tasks if task.refusal is None]
    outcomes = {task.label: work.run(task) for task in tasks}
    assert {label: o.header.reason for label, o in outcomes.items() if o.header.status != "ok"} == {}
    own = [task for task in tasks if isinstance(task, Score) and task.own]
    for metric, count in (("model_response", 3), ("sink_mass", 3), ("sparseness", 3)):
        assert sum(task.metric.name == metric for task in own) == count
    columns = {task.label: outcomes[task.label].header.record["columns"] for task in own}
    accuracy = {label: found["accuracy"]["values"] for label, found in columns.items() if "accuracy" in found}
    assert len(accuracy) == 3
    assert {value for values in accuracy.values() for value in values} <= {0.0, 1.0}
    for label, found in columns.items():
        if "sink_mass" in found:
            reasons = found["sink_mass"]["reasons"]
            assert reasons == (["the model has no [SINK] token"] * 2 if "prompt_cam" in label else ["", ""])
