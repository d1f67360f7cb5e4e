"""precomputed: maps from files come back as they are, and what does not fit is refused with file and sample named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Explanation, UnsupportedError, explainers
from vitxai.bench.profile import count_passes
from vitxai.bench.showcase import Showcase

IDS = ("test/0", "test/1", "test/2")


def explain(path, model, batch):
    return explainers.create(f"precomputed,path={path}").explain(model, batch, EngineContext())


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def write_npz(path, ids=IDS, **arrays):
    np.savez(path, ids=np.array(ids), **{"native": draw(len(ids), 4, 4), **arrays})
    return path


def write_folder(path, maps):
    path.mkdir()
    for id, values in maps.items():
        np.save(path / f"{id.replace('/', '__')}.npy", values)
    return path


@pytest.mark.parametrize("spec", ["rollout", "center_prior", "input_x_gradient"])
@pytest.mark.parametrize("kind", ["class_token", "spectral"])
def test_what_bench_explain_writes_comes_back(spec, kind, tmp_path, tiny, batch_for):
    model = tiny(kind)
    batch = batch_for(model)
    told = explainers.create(spec).explain(model, batch, EngineContext())
    shown = Showcase(
        model, batch, {spec: told}, rows={}, refusals={}, probabilities=torch.zeros(3, 5), classes=(), wavelengths=()
    )
    (file,) = shown.save(tmp_path / "maps.npz")
    with count_passes(model.module) as count:
        found = explain(file, model, batch)
    assert count.calls == 0
    assert isinstance(found, Explanation)
    assert found.layout == told.layout
    assert torch.equal(found.native, told.native)
    assert found.native.dtype == batch.inputs.dtype
    assert torch.equal(explain(file, model, batch.select([2, 0])).native, told.native[[2, 0]])


@pytest.mark.parametrize(
    ("layout", "shape"), [("token", (4, 4)), ("group_token", (2, 4, 4)), ("pixel", (32, 32)), ("cube", (5, 32, 32))]
)
def test_all_forms_and_layouts(layout, shape, tmp_path, tiny, batch_for):
    model = tiny("spectral")
    batch = batch_for(model)
    maps = {id: draw(*shape, seed=seed) for seed, id in enumerate(("else/9", *IDS))}
    save_file(maps, tmp_path / "maps.safetensors", metadata={"layout": layout})
    save_file(maps, tmp_path / "bare.safetensors")
    forms = [
        write_npz(tmp_path / "maps.npz", tuple(maps), native=np.stack(list(maps.values()))),
        write_folder(tmp_path / "maps", maps),
        tmp_path / "maps.safetensors",
        tmp_path / "bare.safetensors",
    ]
    for form in forms:
        found = explain(form, model, batch)
        assert found.layout == layout
        assert torch.equal(found.native, torch.as_tensor(np.stack([maps[id] for id in IDS])))
        assert torch.equal(explain(form, model, batch.select([1])).native[0], found.native[1])


def test_whole_numbers_and_half_precision_become_the_inputs_type(tmp_path, tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    for dtype in ("uint8", "float16", "bool"):
        native = np.arange(48).reshape(3, 4, 4).astype(dtype)
        found = explain(write_npz(tmp_path / f"{dtype}.npz", native=native), model, batch).native
        assert found.dtype == torch.float64
        assert torch.equal(found, torch.as_tensor(native.astype(float)))


def test_the_path_is_needed():
    with pytest.raises(BadInputError, match="path"):
        explainers.create("precomputed")
    assert explainers.get("precomputed").cost == "input"


def wrong_value(value):
    native = draw(3, 4, 4)
    native[1, 2, 3] = value
    return native


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"native": wrong_value(np.nan)}, r"maps\.npz: the map of sample 'test/1' .*finite"),
        ({"native": wrong_value(np.inf)}, r"maps\.npz: the map of sample 'test/1' .*finite"),
        ({"native": draw(3, 4, 4) + 1j}, r"'test/0' \(complex128\) does not hold finite real"),
        (
            {"native": draw(3, 7, 7)},
            r"'test/0' has shape \[7, 7\]; tiny class_token takes token \[4, 4\], pixel \[32, 32\]",
        ),
        ({"layout": np.array("pixel")}, r"maps\.npz: holds token maps by their shape, but calls them pixel"),
        ({"targets": np.array([0, 3, 2])}, r"'test/1' explains class 3, but class 1 is asked for"),
        ({"ids": np.array(["test/0", "test/2", "test/3"])}, r"maps\.npz: has no map of test/1 \(1 of 3\)"),
        ({"ids": np.array(["test/0", "test/1", "test/1"])}, "ids must differ"),
        ({"ids": np.array(["test/0", "test/1"])}, "ids must differ, and there must be one for each map"),
        ({"targets": np.array([0, 1])}, "one for each map"),
        ({"ids": np.array([{}, "b", "c"], dtype=object)}, r"maps\.npz: cannot be read: Object arrays"),
    ],
)
def test_what_does_not_fit_is_named(arrays, reason, tmp_path, tiny, batch_for):
    model = tiny()
    file = tmp_path / "maps.npz"
    np.savez(file, **{"ids": np.array(IDS), "native": draw(3, 4, 4), **arrays})
    with pytest.raises(BadInputError, match=reason):
        explain(file, model, batch_for(model))


def test_stored_targets_that_agree_are_fine(tmp_path, tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    file = write_npz(tmp_path / "maps.npz", targets=batch.targets.numpy())
    assert explain(file, model, batch).native.any()
    with pytest.raises(BadInputError, match="explains class 0, but class 4"):
        explain(file, model, replace(batch, targets=torch.full((3,), 4)))


def test_maps_of_unequal_shape_are_refused(tmp_path, tiny, batch_for):
    model = tiny()
    maps = {id: draw(4, 4) for id in IDS} | {"test/2": draw(32, 32)}
    with pytest.raises(BadInputError, match=r"'test/2' has shape \[32, 32\], the first one \[4, 4\]"):
        explain(write_folder(tmp_path / "maps", maps), model, batch_for(model))


def test_a_sample_that_a_folder_or_file_lacks_is_named(tmp_path, tiny, batch_for):
    model = tiny()
    maps = {"test/0": draw(4, 4), "test/2": draw(4, 4)}
    save_file(maps, tmp_path / "maps.safetensors")
    for path in (write_folder(tmp_path / "maps", maps), tmp_path / "maps.safetensors"):
        with pytest.raises(BadInputError, match=rf"{path.name}: has no map of test/1 \(1 of 3\)"):
            explain(path, model, batch_for(model))


@pytest.mark.parametrize("name", ["maps.npz", "maps.safetensors"])
def test_a_broken_file_is_named(name, tmp_path, tiny, batch_for):
    model = tiny()
    (tmp_path / name).write_bytes(b"not a map at all")
    with pytest.raises(BadInputError, match=rf"{name}: cannot be read"):
        explain(tmp_path / name, model, batch_for(model))


def test_pickles_are_never_loaded(tmp_path, tiny, batch_for):
    model = tiny()
    folder = write_folder(tmp_path / "maps", {id: draw(4, 4) for id in IDS})
    np.save(folder / "test__1.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInputError, match=r"test__1\.npy: cannot be read"):
        explain(folder, model, batch_for(model))


@pytest.mark.parametrize("name", ["nothing.npz", "maps.txt"])
def test_a_path_without_maps_is_refused(name, tmp_path, tiny, batch_for):
    model = tiny()
    (tmp_path / "maps.txt").write_text("1 2 3")
    with pytest.raises(BadInputError, match=r"no maps at .*give a \.npz or \.safetensors file, or a folder"):
        explain(tmp_path / name, model, batch_for(model))


def test_an_npz_without_maps_is_refused(tmp_path, tiny, batch_for):
    model = tiny()
    np.savez(tmp_path / "maps.npz", heat=draw(3, 4, 4))
    with pytest.raises(BadInputError, match="has no ids and no native"):
        explain(tmp_path / "maps.npz", model, batch_for(model))


def test_a_model_without_token_grid_is_refused(tmp_path, tiny, batch_for):
    model = tiny()
    with pytest.raises(UnsupportedError, match="do not lie on one grid"):
        explain(write_npz(tmp_path / "maps.npz"), replace(model, geometry=None), batch_for(model))


def test_the_content_hash_tells_maps_apart(tmp_path):
    def digest(path):
        return explainers.create(f"precomputed,path={path}").content_hash()

    first = digest(write_npz(tmp_path / "maps.npz"))
    assert digest(tmp_path / "maps.npz") == first
    assert digest(write_npz(tmp_path / "maps.npz", native=draw(3, 4, 4, seed=1))) != first
    folder = write_folder(tmp_path / "maps", {"a": draw(4, 4), "b": draw(4, 4, seed=1)})
    before = digest(folder)
    np.save(folder / "b.npy", draw(4, 4, seed=2))
    assert digest(folder) != before
    with pytest.raises(BadInputError, match=r"gone\.npz: cannot be read"):
        digest(tmp_path / "gone.npz")
