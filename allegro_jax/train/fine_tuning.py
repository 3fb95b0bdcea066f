"""Fine-tuning: training that starts from the weights of a model file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from allegro_jax import model_file
from allegro_jax.config import AllegroConfig
from allegro_jax.data.checks import summarise_skipped
from allegro_jax.data.dataset import ELEMENTS, DataSet, join
from allegro_jax.data.loading import load, occurring_species
from allegro_jax.data.statistics import Statistics
from allegro_jax.data.store import Recipe
from allegro_jax.evaluation import predict_frames
from allegro_jax.model_file import Model
from allegro_jax.potential import potential_of
from allegro_jax.settings import ConfigError
from allegro_jax.train import committee
from allegro_jax.train.config import FineTuneConfig, TrainingConfig

# Fields of the section ``model`` that may differ from the file's.
FREE_FIELDS = frozenset({"species", "species_shifts"})
# Enough to fit an energy for every element.
MOST_FRAMES = 5000


@dataclasses.dataclass(frozen=True)
class Start:
    """What fine-tuning starts from.

    Attributes:
        config: the file's configuration, with room for new species.
        params: its weights, with rows for new species; a leading axis for several members.
    """

    config: AllegroConfig
    params: Any


def read_model(config: TrainingConfig) -> Model:
    """The model that the section ``fine_tune`` names.

    Raises:
        ConfigError: a section ``model`` or a number of members at odds with the file.
    """
    tune, members = _section(config), config.training.committee
    found = model_file.load(tune.model)
    _check_fields(config.model, found.config, tune)
    if found.members not in (1, members):
        raise ConfigError(
            f"training.committee: {tune.model} is a committee of {found.members}: set "
            f"training.committee: {found.members}"
        )
    if found.members < members and not config.training.committee_bootstrap:
        raise ConfigError(
            "training.committee: members that start from one model would stay alike; set "
            "training.committee_bootstrap: true, or start from a committee"
        )
    return found


def recipe(config: TrainingConfig, origin: Model) -> Recipe:
    """What neighbourhoods are found for; those of pair cutoffs know the model's species."""
    species, table = ELEMENTS, origin.config.pair_cutoffs
    if table is not None:
        files = (*config.data.train, *_section(config).replay)
        occurring = occurring_species(dataclasses.replace(config.data, train=files))
        wanted, _ = _extension(config, origin.config, occurring)
        species, table = wanted.species, wanted.pair_cutoffs
    return Recipe(tuple(species), origin.config.cutoff, table, config.training.precision)


def with_replay(
    config: TrainingConfig,
    train: DataSet,
    recipe: Recipe,
    checksums: Mapping[str, str],
    say: Callable[[str], object],
) -> DataSet:
    """New training frames, and old ones behind them, in memory.

    All old frames, or as many (drawn at random) as make up ``replay_share`` of the whole; what
    their errors count in the loss is multiplied by ``replay_weight``.
    """
    tune = _section(config)
    if not tune.replay:
        return train
    files = dataclasses.replace(config.data, train=tune.replay, valid=0.5)
    loaded = load(files, recipe, checksums)
    if loaded.skipped:
        say(summarise_skipped(loaded.skipped, "replayed"))
    places = np.flatnonzero(~loaded.train.is_isolated_atom)
    if tune.replay_share is not None:
        wanted = round(len(train) * tune.replay_share / (1 - tune.replay_share))
        rng = np.random.default_rng([config.seed, 1])  # apart from the split of data.valid
        places = np.sort(rng.permutation(places)[:wanted])
    old = loaded.train.select(places)
    old = dataclasses.replace(old, weights=old.weights * tune.replay_weight)
    say(f"{len(old)} old frames are mixed into {len(train)} new ones.")
    return join([train.copy(), old.copy()])


def start(
    config: TrainingConfig,
    origin: Model,
    occurring: Sequence[str],
    train: DataSet,
    isolated: Mapping[str, float],
) -> Start:
    """A model ready for the species and energies of new data.

    Species of the file keep their order, and with ``shifts: keep`` their predictions, exactly. A
    new species takes over the weights of its analogue, or random ones. Reference energies that are
    to be fitted change by those δ that bring the model's energies E⁰ closest to the labels:
    Σ_f ((E_f − E⁰_f − Σ_t n_ft δ_t)/n_f)² is least, and |δ| where that leaves a choice.

    Args:
        config: with a section ``fine_tune``.
        origin: the model that it names.
        occurring: species of the data.
        train: frames to train on.
        isolated: known energies (eV) of isolated atoms, which new species take before any fit.

    Raises:
        ConfigError: species or analogues at odds with the file.
    """
    wanted, sources = _extension(config, origin.config, occurring)
    params = _members(config, origin, wanted, sources)
    shifts = _shifts(config, train, isolated, wanted, params, origin.config.num_species)
    return Start(dataclasses.replace(wanted, species_shifts=shifts), params)


def with_distances(found: Statistics, origin: Model) -> Statistics:
    """Statistics whose shortest distances are those of old and new data together."""
    both = dict(found.shortest_distances)
    for pair, distance in (origin.metadata.get("shortest_distances") or {}).items():
        both[pair] = min(distance, both.get(pair, distance))
    return dataclasses.replace(found, shortest_distances=both)


def _section(config: TrainingConfig) -> FineTuneConfig:
    assert config.fine_tune is not None
    return config.fine_tune


# -- new species -----------------------------------------------------------------------------------

Sources = tuple[int | None, ...]
"""For every species the one of the file whose weights it takes; None draws them."""


def extended_config(
    config: AllegroConfig, species: Sequence[str], sources: Sources
) -> AllegroConfig:
    """A configuration with more species; what is kept per species is the analogue's, or else the
    mean (pairs: the full cutoff). Shifts of new species are 0."""
    if len(species) == config.num_species:
        return config

    def more(field: str) -> Any:
        values = getattr(config, field)
        if not isinstance(values, tuple):
            return values
        return tuple(np.mean(values) if at is None else values[at] for at in sources)

    table = config.pair_cutoffs
    if table is not None:
        table = tuple(
            tuple(config.cutoff if None in (a, b) else table[a][b] for b in sources)
            for a in sources
        )
    shifts = config.per_species("species_shifts")
    return dataclasses.replace(
        config,
        species=tuple(species),
        pair_cutoffs=table,
        average_neighbours=more("average_neighbours"),
        species_scales=more("species_scales"),
        species_shifts=shifts + (0.0,) * (len(species) - len(shifts)),
    )


def extended_params(
    params: Any, fresh: Any, before: AllegroConfig, after: AllegroConfig, sources: Sources
) -> Any:
    """Weights with rows for new species: an analogue's, or those of ``fresh``.

    Args:
        params: weights of one model.
        fresh: random weights for ``after``.
        before, after: configurations without and with the new species.
        sources: see :func:`start`.
    """
    old, new = before.num_species, after.num_species
    if old == new:
        return params
    known = np.asarray([at is not None for at in sources])
    index = np.asarray([at or 0 for at in sources])

    def rows(old_rows: Array, fresh_rows: Array) -> Array:
        chosen = known.reshape(-1, *(1,) * (old_rows.ndim - 1))
        return jnp.where(chosen, old_rows[index], fresh_rows.astype(old_rows.dtype))

    extended = dict(params)
    if "type_embedding" in params:
        extended["type_embedding"] = jax.tree.map(
            rows, params["type_embedding"], fresh["type_embedding"]
        )
    if "spline" in params:  # by pairs of species, row-major
        tables = (
            weights.reshape(count, count, *weights.shape[1:])
            for weights, count in ((params["spline"], old), (fresh["spline"], new))
        )
        old_table, fresh_table = tables
        both = (known[:, None] & known[None])[..., None, None]
        table = jnp.where(both, old_table[index[:, None], index[None]], fresh_table)
        extended["spline"] = table.reshape(new * new, *table.shape[2:])
    if before.architecture == "original":  # species enter one-hot, before the Bessel functions
        weights, random = params["two_body"][0], fresh["two_body"][0]
        # evaluation divides by the square root of the number of rows
        weights = weights * jnp.sqrt(random.shape[0] / weights.shape[0]).astype(weights.dtype)
        centre, neighbour = (
            rows(weights[old * side : old * (side + 1)], random[new * side : new * (side + 1)])
            for side in range(2)
        )
        first = jnp.concatenate([centre, neighbour, weights[2 * old :]])
        extended["two_body"] = [first, *params["two_body"][1:]]
    for name in ("scales", "shifts"):
        if name in params:
            extended[name] = rows(params[name], fresh[name])
    return extended


def _species(
    given: Sequence[str] | None,
    config: AllegroConfig,
    occurring: Sequence[str],
    tune: FineTuneConfig,
) -> tuple[str, ...]:
    """Those of the file, in their order, and then the new ones."""
    if given is None:
        return config.species + tuple(one for one in occurring if one not in config.species)
    if tuple(given[: config.num_species]) != config.species:
        raise ConfigError(
            f"model.species: has to begin with those of {tune.model}, {', '.join(config.species)}"
        )
    return tuple(given)


def _sources(known: Sequence[str], species: Sequence[str], analogues: Mapping[str, str]) -> Sources:
    for new, old in analogues.items():
        if new not in species or new in known:
            raise ConfigError(
                f"fine_tune.analogues.{new}: is no new species of the data; new are "
                f"{', '.join(species[len(known) :]) or 'none'}"
            )
        if old not in known:
            raise ConfigError(
                f"fine_tune.analogues.{new}: the model knows no {old}; it knows {', '.join(known)}"
            )
    taken = [analogues.get(one, one) for one in species]
    return tuple(known.index(one) if one in known else None for one in taken)


def _extension(
    config: TrainingConfig, before: AllegroConfig, occurring: Sequence[str]
) -> tuple[AllegroConfig, Sources]:
    tune = _section(config)
    species = _species(config.model.get("species"), before, occurring, tune)
    sources = _sources(before.species, species, tune.analogues or {})
    return extended_config(before, species, sources), sources


def _members(config: TrainingConfig, origin: Model, wanted: AllegroConfig, sources: Sources) -> Any:
    """Weights of every member that is to be trained."""
    fit = config.training
    fresh = committee.initial_params(config.seed, wanted, fit.precision, fit.committee)
    params = jax.tree.map(lambda x: jnp.asarray(x, fit.precision), origin.potential.params)
    if fit.committee == 1:
        return extended_params(params, fresh, origin.config, wanted, sources)
    shared = None if origin.members == 1 else 0
    return jax.vmap(
        lambda own, new: extended_params(own, new, origin.config, wanted, sources),
        in_axes=(shared, 0),
        axis_size=fit.committee,
    )(params, fresh)


# -- reference energies ----------------------------------------------------------------------------


def _shifts(
    config: TrainingConfig,
    train: DataSet,
    isolated: Mapping[str, float],
    wanted: AllegroConfig,
    params: Any,
    old: int,
) -> tuple[float, ...]:
    if "species_shifts" in config.model:
        fields = wanted.to_dict() | {"species_shifts": config.model["species_shifts"]}
        return AllegroConfig.from_dict(fields).per_species("species_shifts")
    shifts = np.asarray(wanted.per_species("species_shifts"))
    fitted = np.ones(len(shifts), bool)
    if _section(config).shifts == "keep":
        fitted[:old] = False
        for place in range(old, len(shifts)):
            if wanted.species[place] in isolated:
                shifts[place] = isolated[wanted.species[place]]
                fitted[place] = False
    labelled = np.flatnonzero(train.has_energy)
    if not fitted.any() or not len(labelled):
        return tuple(shifts.tolist())
    some = labelled[:: -(-len(labelled) // MOST_FRAMES)]
    frames = [train.frame(place) for place in some.tolist()]
    base = dataclasses.replace(wanted, species_shifts=tuple(shifts.tolist()))
    model = Model(potential_of(params, base, config.training.committee))
    predicted = predict_frames(model, frames, dtype=config.training.precision)
    part = train.of_species(wanted.species).select(some)
    errors = part.energies - np.asarray([one["energy"] for one in predicted])
    composition = part.composition[:, fitted].astype(float)
    shifts[fitted] += least_change(composition, errors, part.atom_counts.astype(float))
    return tuple(shifts.tolist())


def least_change(
    composition: Float[np.ndarray, "frames species"],
    errors: Float[np.ndarray, " frames"],
    sizes: Float[np.ndarray, " frames"],
) -> Float[np.ndarray, " species"]:
    """Energies per species (eV) that explain errors per atom best, the smallest that do."""
    # singular values below 1e-4 of the largest are noise amplified, not information
    return np.linalg.lstsq(composition / sizes[:, None], errors / sizes, rcond=1e-4)[0]


def _check_fields(fields: Mapping[str, Any], config: AllegroConfig, tune: FineTuneConfig) -> None:
    for name, value in fields.items():
        if name in FREE_FIELDS:
            continue
        try:
            read = getattr(AllegroConfig.from_dict(config.to_dict() | {name: value}), name)
        except ValueError as error:
            raise ConfigError(f"model: {error}") from None
        if read != getattr(config, name):
            raise ConfigError(
                f"model.{name}: {tune.model} has {getattr(config, name)!r}, not {value!r}; leave "
                "out of the section model what the file says"
            )
