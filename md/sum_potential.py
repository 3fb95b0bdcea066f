"""Sums of local potentials."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from md.evaluation import DEFAULT_BYTES_PER_SLOT
from md.local_potential import LocalPotential, prepared


@struct.dataclass
class Sum:
    """Several potentials of the same species, added up.

    Every part keeps its own cutoff. The neighbour list is that of the longest, so that a costly
    part also looks at (and masks out) the neighbours that only a cheaper part needs.

    Attributes:
        params: those of the parts.
        parts: the potentials, without their params.
    """

    params: tuple[Any, ...]
    parts: tuple[Any, ...] = struct.field(pytree_node=False)

    @classmethod
    def create(cls, *parts: LocalPotential) -> Sum:
        """The sum of potentials.

        Raises:
            ValueError: without any part, or if they list different species.
        """
        if not parts:
            raise ValueError("a sum of potentials needs at least one part")
        for part in parts[1:]:
            if tuple(part.species) != tuple(parts[0].species):
                raise ValueError(
                    "the parts of a sum must list the same species in the same order, not "
                    f"{', '.join(parts[0].species)} and {', '.join(part.species)}"
                )
        stripped = tuple(dataclasses.replace(part, params=None) for part in parts)  # type: ignore
        return cls(tuple(part.params for part in parts), stripped)

    @property
    def species(self) -> tuple[str, ...]:
        return self.parts[0].species

    @property
    def cutoff(self) -> float:
        return max(part.cutoff for part in self.parts)

    @property
    def pair_cutoffs(self) -> tuple[tuple[float, ...], ...] | None:
        """For each directed pair the longest of the parts; None if none of them has a table."""
        if all(part.pair_cutoffs is None for part in self.parts):
            return None
        count = len(self.species)
        tables = [
            np.full((count, count), part.cutoff)
            if part.pair_cutoffs is None
            else np.minimum(part.pair_cutoffs, part.cutoff)
            for part in self.parts
        ]
        return tuple(tuple(map(float, row)) for row in np.max(tables, axis=0))

    @property
    def reference_energies(self) -> tuple[float, ...]:
        return tuple(map(sum, zip(*(part.reference_energies for part in self.parts), strict=True)))

    @property
    def bytes_per_slot(self) -> int:
        return sum(getattr(part, "bytes_per_slot", DEFAULT_BYTES_PER_SLOT) for part in self.parts)

    @property
    def pairwise(self) -> bool:
        return all(getattr(part, "pairwise", False) for part in self.parts)

    def prepare(self, params: Any) -> Any:
        return tuple(prepared(part, own) for part, own in zip(self.parts, params, strict=True))

    def site_energies(
        self,
        params: Any,
        vectors: Float[Array, "n K 3"],
        mask: Bool[Array, "n K"],
        centre_species: Int[Array, " n"],
        neighbour_species: Int[Array, "n K"],
    ) -> Float[Array, " n"]:
        first, *others = (
            part.site_energies(own, vectors, mask, centre_species, neighbour_species)
            for part, own in zip(self.parts, params, strict=True)
        )
        return sum(others, start=first)
