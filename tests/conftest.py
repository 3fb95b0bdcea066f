"""What all tests share. The shapes in type hints are checked while tests run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.struct
from jaxtyping import install_import_hook


def _unchecked(cls: type) -> type:
    """A pytree class whose fields go unchecked: JAX rebuilds it with placeholders of any kind."""
    cls.__no_type_check__ = True
    return cls


# Reading a compiled program, XLA warns at length of features that the processor does not lack.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Before anything imports the packages: a module imported earlier would go unchecked.
install_import_hook(["allegro_jax", "md"], "beartype.beartype")
_dataclass = flax.struct.dataclass
flax.struct.dataclass = lambda cls: _unchecked(_dataclass(cls))

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from ase import Atoms  # noqa: E402

from allegro_jax.config import AllegroConfig  # noqa: E402

ROOT = Path(__file__).parents[1]

# Compiling makes the first example slow; the same examples on every machine make failures repeat.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=20)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory) -> Iterator[None]:
    """Commands keep compiled programs and neighbourhoods in a folder: not in the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALLEGRO_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def precision_is_left_alone() -> Iterator[None]:
    """No test changes the precision of those that follow it in the same process."""
    before = jax.config.jax_enable_x64  # fixtures of a module come first, and may set it
    yield
    assert jax.config.jax_enable_x64 == before


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_forgotten() -> Iterator[None]:
    """Those of one module serve no other, and would fill gigabytes of memory."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public data beside the checkout; tests that need it are skipped without."""
    folder = Path(os.environ.get("ALLEGRO_JAX_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent (ALLEGRO_JAX_SHARED names another place)")
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> AllegroConfig:
    """The smallest model that has every part: two species, tensors of degree 1, two layers."""
    return AllegroConfig(
        species=("H", "O"),
        cutoff=3.5,
        l_max=1,
        num_layers=2,
        num_scalar_features=8,
        num_tensor_features=4,
        two_body_hidden=(8,),
        latent_hidden=(8,),
        readout_hidden=(4,),
        average_neighbours=4.0,
        species_scales=(0.7, 1.3),
        species_shifts=(-13.587222780835477, -2041.8396277138045),
    )


@pytest.fixture(scope="session")
def random_params() -> Callable[..., Any]:
    """Weights of a configuration without compiling a random generator for each of their shapes."""
    from allegro_jax.model import init

    def draw(config: AllegroConfig, dtype: Any = np.float32) -> Any:
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(lambda key: init(key, config), jax.random.key(0))
        return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), shapes)

    return draw


@pytest.fixture(scope="session")
def tiny_model(tiny_config, random_params) -> Any:
    """An untrained model of ``tiny_config`` (float32), for molecules and crystals of H and O."""
    from allegro_jax.model_file import Model
    from allegro_jax.potential import AllegroPotential

    params = jax.tree.map(jax.numpy.asarray, random_params(tiny_config))
    return Model(AllegroPotential(params, tiny_config))


@pytest.fixture
def water() -> Atoms:
    """Two water molecules."""
    return Atoms(
        "OHHOHH",
        [
            [0.00, 0.00, 0.12],
            [0.00, 0.76, -0.48],
            [0.00, -0.76, -0.48],
            [2.70, 0.40, 0.70],
            [3.30, 1.10, 0.40],
            [1.85, 0.62, 0.30],
        ],
    )
