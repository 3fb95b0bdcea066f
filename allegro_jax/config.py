"""Hyperparameters of an Allegro potential: the one place where they are named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, no_type_check

from ase.data import atomic_numbers

ARCHITECTURES = ("modern", "original")
RADIAL_BASES = ("bessel", "spline")
# "none": linear, with unit gain. "identity": linear, but with the gain of a nonlinear network (what
# the reference builds when its YAML says the string "None").
NONLINEARITIES = ("silu", "mish", "gelu", "ssp", "tanh", "none", "identity")

Scalars = tuple[float, ...]


# The hints say what is stored; the constructor takes more, and checks it with messages of its own.
@no_type_check
@dataclasses.dataclass(frozen=True)
class AllegroConfig:
    """What an Allegro potential is, apart from its weights. Frozen, hashable, and validated.

    Two architectures carry the name: ``modern`` (nequip-allegro 0.4 and later) and ``original``
    (the paper: Musaelian et al., Nat. Commun. 14, 579 (2023)). Sequences and mappings are accepted
    where tuples are stored; a number given for a per-species field stands for all species.

    Attributes:
        species: chemical symbols; species indices refer to this order.
        cutoff: the largest distance of two interacting atoms, in Å (``r_max``).
        pair_cutoffs: optional directed table, ``pair_cutoffs[centre][neighbour]`` in Å, each at
            most ``cutoff``; or a mapping ``{centre: {neighbour: Å}}`` whose missing entries are
            ``cutoff``.
        architecture: ``"modern"`` or ``"original"``.
        l_max: highest degree of the spherical harmonics.
        parity: keep tensor features of both parities (``True``), or those of the harmonics only.
        num_layers: number of tensor-product layers.
        num_scalar_features: width of the scalar (latent) track.
        num_tensor_features: channels of the tensor track.
        radial_basis: ``"bessel"`` (times a polynomial envelope) or ``"spline"`` (modern only).
        num_bessels, bessel_trainable, cutoff_power: Bessel functions, and the envelope's power p.
        num_splines, spline_span: spline functions, and how many overlap.
        embedding_dim: width of the two-body embedding (modern); default ``num_scalar_features``.
        two_body_hidden, two_body_nonlinearity: hidden widths and nonlinearity of the two-body MLP.
        latent_hidden, latent_nonlinearity: the same for the MLP of every layer.
        readout_hidden, readout_nonlinearity: the same for the edge-energy MLP.
        path_channel_coupling: a weight per (channel, path), or per path only (modern).
        weight_individual_irreps: environment weights per (channel, degree), or per channel
            (modern).
        forward_normalize: MLPs scaled to keep the variance of activations, or of gradients
            (modern).
        residual_weight: α of the residual update x ← (x + α·Δx)/√(1+α²) (original).
        average_neighbours: mean number of neighbours, one number or one per (centre) species.
        species_scales: eV; factor of the site energy. ``scales_trainable`` makes it a weight.
        species_shifts: eV; energy of an isolated atom, added in float64. ``shifts_trainable`` adds
            a trainable correction to it.
        zbl: add the Ziegler-Biersack-Littmark repulsion; ``zbl_cutoff_power`` is its envelope's p.
    """

    species: tuple[str, ...]
    cutoff: float
    pair_cutoffs: tuple[Scalars, ...] | None = None
    architecture: str = "modern"
    l_max: int = 3
    parity: bool = True
    num_layers: int = 2
    num_scalar_features: int = 64
    num_tensor_features: int = 32
    radial_basis: str = "bessel"
    num_bessels: int = 8
    bessel_trainable: bool = False
    cutoff_power: int = 6
    num_splines: int = 16
    spline_span: int = 12
    embedding_dim: int | None = None
    two_body_hidden: tuple[int, ...] = (64,)
    two_body_nonlinearity: str = "silu"
    latent_hidden: tuple[int, ...] = (64,)
    latent_nonlinearity: str = "silu"
    readout_hidden: tuple[int, ...] = (32,)
    readout_nonlinearity: str = "silu"
    path_channel_coupling: bool = True
    weight_individual_irreps: bool = True
    forward_normalize: bool = True
    residual_weight: float = 0.5
    average_neighbours: float | Scalars = 1.0
    species_scales: float | Scalars = 1.0
    scales_trainable: bool = False
    species_shifts: float | Scalars = 0.0
    shifts_trainable: bool = False
    zbl: bool = False
    zbl_cutoff_power: int = 6

    @classmethod
    def original(cls, **fields: Any) -> AllegroConfig:
        """The paper's architecture, with its customary choices as defaults."""
        defaults: dict[str, Any] = {
            "architecture": "original",
            "readout_hidden": (128,),
            "readout_nonlinearity": "none",
        }
        return cls(**(defaults | fields))

    def __post_init__(self) -> None:
        self._normalise()
        self._validate()

    # -- derived ----------------------------------------------------------------------------------

    @property
    def num_species(self) -> int:
        return len(self.species)

    @property
    def embedding_width(self) -> int:
        """Width of the two-body embedding."""
        return self.embedding_dim or self.num_scalar_features

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        return tuple(atomic_numbers[symbol] for symbol in self.species)

    def per_species(self, field: str) -> Scalars:
        """``average_neighbours``, ``species_scales`` or ``species_shifts``, one per species."""
        value = getattr(self, field)
        return value if isinstance(value, tuple) else (value,) * self.num_species

    # -- to and from plain data -------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data; :meth:`from_dict` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AllegroConfig:
        """From plain data (JSON or YAML); an unknown key is an error that names it."""
        unknown = set(data) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            known = ", ".join(field.name for field in dataclasses.fields(cls))
            raise ValueError(f"model: unknown field {sorted(unknown)[0]!r}; known are: {known}")
        for name in ("species", "cutoff"):
            if name not in data:
                raise ValueError(f"model: the field {name!r} is missing")
        build = cls.original if data.get("architecture") == "original" else cls
        return build(**data)

    # -- checks -----------------------------------------------------------------------------------

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _normalise(self) -> None:
        """Bring lists, mappings and integers to the declared types."""
        if isinstance(self.species, str) or not isinstance(self.species, Sequence):
            raise ValueError(
                f"species: expected a list of chemical symbols, got {self.species!r}; "
                'write for example ["H", "O"]'
            )
        self._set("species", tuple(self.species))
        for name in ("two_body_hidden", "latent_hidden", "readout_hidden"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ValueError(f"{name}: expected a list of layer widths, got {value!r}")
            self._set(name, tuple(value))
        for name in ("two_body_nonlinearity", "latent_nonlinearity", "readout_nonlinearity"):
            if getattr(self, name) is None:  # YAML's null
                self._set(name, "none")
        for name in ("average_neighbours", "species_scales", "species_shifts"):
            self._set(name, self._species_values(name, getattr(self, name)))
        if self.pair_cutoffs is not None:
            self._set("pair_cutoffs", self._cutoff_table(self.pair_cutoffs))

    def _species_values(self, name: str, value: Any) -> float | Scalars:
        if isinstance(value, Mapping):
            if set(value) != set(self.species):
                raise ValueError(
                    f"{name}: needs one value for each of {', '.join(self.species)}; "
                    f"got {', '.join(map(str, value)) or 'none'}"
                )
            value = [value[symbol] for symbol in self.species]
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != len(self.species):
                raise ValueError(
                    f"{name}: needs one value, or {len(self.species)} (one per species); "
                    f"got {len(value)}"
                )
            return tuple(_number(name, element) for element in value)
        return _number(name, value)

    def _cutoff_table(self, table: Any) -> tuple[Scalars, ...]:
        name = "pair_cutoffs"
        if isinstance(table, Mapping):
            rows = []
            for unknown in set(table) - set(self.species):
                raise ValueError(f"{name}: {unknown!r} is not among the species {self.species}")
            for centre in self.species:
                row = table.get(centre, {})
                if not isinstance(row, Mapping):
                    row = dict.fromkeys(self.species, row)
                for unknown in set(row) - set(self.species):
                    raise ValueError(f"{name}: {unknown!r} is not among the species {self.species}")
                rows.append([row.get(neighbour, self.cutoff) for neighbour in self.species])
            table = rows
        size = len(self.species)
        if len(table) != size or any(len(row) != size for row in table):
            raise ValueError(f"{name}: needs a {size} x {size} table, [centre][neighbour]")
        return tuple(tuple(_number(name, value) for value in row) for row in table)

    def _validate(self) -> None:
        if not self.species:
            raise ValueError("species: at least one is needed")
        for symbol in self.species:
            if symbol not in atomic_numbers or symbol == "X":
                raise ValueError(f"species: {symbol!r} is not a chemical symbol")
        if len(set(self.species)) != len(self.species):
            raise ValueError(f"species: {self.species} names one twice")

        choices = {
            "architecture": ARCHITECTURES,
            "radial_basis": RADIAL_BASES,
            "two_body_nonlinearity": NONLINEARITIES,
            "latent_nonlinearity": NONLINEARITIES,
            "readout_nonlinearity": NONLINEARITIES,
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value in ("sigmoid", "softplus"):
                raise ValueError(
                    f"{name}: {value!r} does not vanish at 0: energies would jump at the cutoff; "
                    f"choose one of {', '.join(allowed)}"
                )
            if value not in allowed:
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}")

        at_least = {
            "l_max": 0 if self.architecture == "modern" else 1,
            "num_layers": 1,
            "num_scalar_features": 1,
            "num_tensor_features": 1,
            "num_bessels": 1,
            "cutoff_power": 2,
            "num_splines": 1,
            "spline_span": 0,
            "zbl_cutoff_power": 2,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: needs a whole number of at least {least}, got {value!r}")
        if self.spline_span > self.num_splines:
            raise ValueError(f"spline_span: at most num_splines ({self.num_splines})")
        if self.embedding_dim is not None and (
            isinstance(self.embedding_dim, bool)
            or not isinstance(self.embedding_dim, int)
            or self.embedding_dim < 2
        ):
            raise ValueError(f"embedding_dim: needs a whole number, got {self.embedding_dim!r}")
        product_embedding = self.radial_basis == "bessel" and self.architecture == "modern"
        if product_embedding and self.embedding_width % 2:
            raise ValueError(
                f"embedding_dim: must be even (half for each species of a pair), "
                f"got {self.embedding_width}"
            )
        for name in ("two_body_hidden", "latent_hidden", "readout_hidden"):
            for width in getattr(self, name):
                if isinstance(width, bool) or not isinstance(width, int) or width < 1:
                    raise ValueError(f"{name}: widths are whole numbers above 0, got {width!r}")
        for field in dataclasses.fields(self):
            if field.type == "bool" and not isinstance(getattr(self, field.name), bool):
                raise ValueError(
                    f"{field.name}: needs true or false, got {getattr(self, field.name)!r}"
                )

        self._set("cutoff", _number("cutoff", self.cutoff))
        if not 0 < self.cutoff < math.inf:
            raise ValueError(f"cutoff: needs a positive distance in Å, got {self.cutoff}")
        for row in self.pair_cutoffs or ():
            for value in row:
                if not 0 < value <= self.cutoff:
                    raise ValueError(
                        f"pair_cutoffs: each must be above 0 and at most cutoff ({self.cutoff} Å), "
                        f"got {value}"
                    )
        if min(self.per_species("average_neighbours")) <= 0:
            raise ValueError("average_neighbours: must be positive")
        self._set("residual_weight", _number("residual_weight", self.residual_weight))
        if self.architecture == "original":
            self._validate_original()

    def _validate_original(self) -> None:
        modern_only = {
            "radial_basis": "bessel",
            "bessel_trainable": False,
            "embedding_dim": None,
            "path_channel_coupling": True,
            "weight_individual_irreps": True,
            "forward_normalize": True,
            "pair_cutoffs": None,
        }
        for name, only in modern_only.items():
            if getattr(self, name) != only:
                raise ValueError(f"{name}: the original architecture has only {only!r}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        try:
            value = float(value)  # numpy scalars, and YAML's "1e-3"
        except (TypeError, ValueError):
            raise ValueError(f"{name}: expected a number, got {value!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"{name}: must be finite, got {value}")
    return float(value)
