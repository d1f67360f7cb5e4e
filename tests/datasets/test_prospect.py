"""PROSPECT-D: physics, the published sensitivities, and agreement with independent implementations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import exp1

from vitxai.datasets._prospect import (
    GRID_NM,
    LeafConstituents,
    Prospect,
    Sensor,
    coefficients,
    layer_transmissivity,
    surface_transmissivity,
)

# N, chlorophyll, carotenoids, anthocyanins, brown pigments, water, dry matter
STANDARD_LEAF = LeafConstituents(1.5, 40.0, 8.0, 1.0, 0.01, 0.012, 0.005)
LIMITS = ((1.0, 3.0), (0.0, 90.0), (0.0, 20.0), (0.0, 6.0), (0.0, 2.0), (0.0005, 0.04), (0.001, 0.02))


@pytest.fixture(scope="module")
def model() -> Prospect:
    return Prospect()


def random_leaves(n: int) -> LeafConstituents:
    rng = np.random.default_rng(7)
    return LeafConstituents(*(rng.uniform(low, high, n) for low, high in LIMITS))


def at(nm: float) -> int:
    return int(np.argmin(np.abs(GRID_NM - nm)))


def test_energy_is_conserved(model: Prospect) -> None:
    reflectance, transmittance = model(random_leaves(200))
    assert reflectance.shape == transmittance.shape == (200, 2101)
    assert np.isfinite(reflectance).all()
    assert (reflectance >= 0).all()
    assert (transmittance >= 0).all()
    assert (reflectance + transmittance <= 1).all()


def test_a_leaf_without_contents_absorbs_nothing(model: Prospect) -> None:
    reflectance, transmittance = model(LeafConstituents(1.7, 0, 0, 0, 0, 0, 0))
    np.testing.assert_allclose(reflectance + transmittance, 1.0, atol=2e-5)


def test_one_layer_is_the_elementary_plate(model: Prospect) -> None:
    # N = 1 leaves no inner layers: R and T of one plate, written out by hand at 800 nm.
    leaf = dataclasses.replace(STANDARD_LEAF, structure=1.0)
    curves = {name: curve[at(800)] for name, curve in coefficients().items()}
    k = sum(curves[name] * getattr(leaf, name) for name in curves if name != "refractive_index")
    tau = (1 - k) * np.exp(-k) + k**2 * exp1(k)
    index = np.array(curves["refractive_index"])
    cone, diffuse = surface_transmissivity(40.0, index), surface_transmissivity(90.0, index)
    back = diffuse / index**2
    transmittance = cone * tau * back / (1 - ((1 - back) * tau) ** 2)
    reflectance = (1 - cone) + (1 - back) * tau * transmittance
    got_reflectance, got_transmittance = model(leaf)
    assert got_reflectance[at(800)] == pytest.approx(reflectance, abs=1e-6)
    assert got_transmittance[at(800)] == pytest.approx(transmittance, abs=1e-6)


def test_green_leaf_has_the_known_spectrum(model: Prospect) -> None:
    reflectance, _ = model(STANDARD_LEAF)
    assert reflectance[at(670)] < 0.06  # chlorophyll well
    assert 0.08 < reflectance[at(550)] < 0.20  # green peak
    assert 0.40 < reflectance[at(850)] < 0.55  # near-infrared plateau
    assert reflectance[at(1450)] < reflectance[at(1300)] - 0.1  # water
    assert reflectance[at(1940)] < reflectance[at(1650)] - 0.1  # water
    inflection = GRID_NM[at(680) + int(np.argmax(np.diff(reflectance[at(680) : at(760)])))]
    assert 695 <= inflection <= 730  # red edge


@pytest.mark.parametrize(
    ("constituent", "step", "peaks_nm"),
    [
        ("chlorophyll", -10.0, (561, 706)),
        ("carotenoids", -3.0, (524,)),
        ("anthocyanins", 1.0, (538,)),
        ("brown_pigments", 0.2, (536, 742)),
        ("water", -0.004, (1414, 1877, 2036, 2221, 2379)),
        ("dry_matter", 0.002, (1289, 1721, 2271)),
    ],
)
def test_sensitivity_peaks_where_published(
    model: Prospect, constituent: str, step: float, peaks_nm: tuple[int, ...]
) -> None:
    changed = dataclasses.replace(STANDARD_LEAF, **{constituent: getattr(STANDARD_LEAF, constituent) + step})
    change = np.abs(model(changed)[0] - model(STANDARD_LEAF)[0])
    for peak in peaks_nm:
        near = slice(at(peak - 60), at(peak + 60) + 1)
        assert abs(GRID_NM[near][np.argmax(change[near])] - peak) <= 15
        assert change[at(peak)] > 0.5 * change.max()


def test_chlorophyll_loss_is_seen_at_the_edges_not_in_the_saturated_centre(model: Prospect) -> None:
    change = np.abs(model(dataclasses.replace(STANDARD_LEAF, chlorophyll=30.0))[0] - model(STANDARD_LEAF)[0])
    assert change[at(670)] < 0.15 * change[at(706)]


def test_leaves_are_independent_and_scalars_broadcast(model: Prospect) -> None:
    leaves = random_leaves(12)
    grid = LeafConstituents(**{f.name: getattr(leaves, f.name).reshape(3, 4) for f in dataclasses.fields(leaves)})
    one = LeafConstituents(**{f.name: getattr(leaves, f.name)[5] for f in dataclasses.fields(leaves)})
    together, alone = model(grid)[0], model(one)[0]
    assert together.shape == (3, 4, 2101)
    np.testing.assert_allclose(together[1, 1], alone, rtol=1e-12)
    mixed = model(dataclasses.replace(STANDARD_LEAF, chlorophyll=np.array([20.0, 40.0])))[0]
    np.testing.assert_allclose(mixed[1], model(STANDARD_LEAF)[0], rtol=1e-12)


def test_layer_transmissivity_matches_the_exponential_integral() -> None:
    k = np.geomspace(2e-6, 50, 5001)
    np.testing.assert_allclose(layer_transmissivity(k), (1 - k) * np.exp(-k) + k**2 * exp1(k), atol=5e-7)
    assert layer_transmissivity(np.zeros(1))[0] == pytest.approx(1.0, abs=1e-5)
    assert layer_transmissivity(np.array([1e6]))[0] == pytest.approx(0.0, abs=1e-12)


def test_surface_transmissivity_near_normal_incidence_is_fresnel() -> None:
    index = np.array([1.3, 1.45, 1.6])
    np.testing.assert_allclose(surface_transmissivity(0.5, index), 4 * index / (index + 1) ** 2, rtol=1e-4)


def test_response_averages_a_line_to_its_value_at_the_centre() -> None:
    sensor = Sensor((700.0, 1500.0), (10.0, 30.0))
    response = sensor.response()
    np.testing.assert_allclose(response.sum(axis=1), 1.0)
    np.testing.assert_allclose(response @ GRID_NM, sensor.wavelengths, atol=1e-6)
    half = response[0, at(705)] / response[0, at(700)]
    assert half == pytest.approx(0.5, abs=1e-9)  # half the maximum at half the width


def test_band_averaged_coefficients_stand_for_band_averaged_spectra(model: Prospect) -> None:
    sensor = Sensor(tuple(np.linspace(420.0, 2450.0, 60).tolist()), (10.0,) * 60)
    leaves = random_leaves(50)
    error = np.abs(Prospect(sensor)(leaves)[0] - model(leaves)[0] @ sensor.response().T)
    assert error.mean() < 0.001
    assert error.max() < 0.02


def test_bad_leaves_and_sensors_are_refused(model: Prospect) -> None:
    with pytest.raises(ValueError, match=r">= 1; got 0\.9"):
        model(dataclasses.replace(STANDARD_LEAF, structure=0.9))
    with pytest.raises(ValueError, match="water"):
        model(dataclasses.replace(STANDARD_LEAF, water=-0.001))
    with pytest.raises(ValueError, match="chlorophyll"):
        model(dataclasses.replace(STANDARD_LEAF, chlorophyll=np.nan))
    with pytest.raises(ValueError, match="400 to 2500"):
        Sensor((350.0,), (8.0,))
    with pytest.raises(ValueError, match="one FWHM a band"):
        Sensor((500.0, 600.0), (8.0,))
    with pytest.raises(ValueError, match="positive"):
        Sensor((500.0,), (0.0,))


def test_agrees_with_prosail(model: Prospect) -> None:
    prosail = pytest.importorskip("prosail")
    leaves = random_leaves(60)
    reflectance, transmittance = model(leaves)
    errors = []
    for i in range(60):
        n, cab, car, ant, brown, water, dry = (getattr(leaves, f.name)[i] for f in dataclasses.fields(leaves))
        nm, r, t = prosail.run_prospect(n, cab, car, brown, water, dry, ant=ant, prospect_version="D")
        np.testing.assert_array_equal(nm, GRID_NM)
        errors.append((np.abs(r - reflectance[i]), np.abs(t - transmittance[i])))
    assert np.mean(errors) < 0.002
    assert np.quantile(errors, 0.99) < 0.01
