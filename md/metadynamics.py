"""Metadynamics: hills of energy left along a path through collective variables, to drive it on."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from md import bias, collective_variables, units
from md.bias import Table
from md.cells import Periodicity
from md.collective_variables import CollectiveVariable, wrapped
from md.state import State

_FEWEST = 64  # hills that there is room for at first
_GRID_BLOCK = 2**20
_GRID_POINTS = 101  # per variable


@struct.dataclass
class Hills:
    """Hills deposited so far, in the first ``count`` of M places.

    Attributes:
        centres: [M, D] in the units of the variables.
        heights: [M] eV; 0 in places not yet taken.
        steps: [M] step at which each was deposited.
        count: how many there are.
    """

    centres: Float[Array, "hills variables"]
    heights: Float[Array, " hills"]
    steps: Int[Array, " hills"]
    count: Int[Array, ""]


@struct.dataclass
class Metadynamics:
    r"""Metadynamics on a few collective variables ξ, well-tempered where a bias factor is given.

        V(ξ) = Σ_k w_k exp(−½ Σ_d (ξ_d − ξ_kd)² / σ_d²),
        w_k = w exp(−V(ξ_k) / (k_B T (γ − 1)))

    In time the bias levels the free energy F out: V → −(1 − 1/γ) F, up to a constant. Without a
    bias factor, the limit γ → ∞, all hills are equally high and V fluctuates around −F.

    ======  ====================  ======================================
    Symbol  In the code           Meaning
    ======  ====================  ======================================
    ξ_d     ``variables``         collective variables
    σ_d     ``widths``            widths, in the units of the variables
    w       ``height``            height of the first hill, eV
    γ       ``bias_factor``       (T + ΔT) / T > 1; None for all equal
    T       ``temperature_K``     of the bath, K
    ======  ====================  ======================================

    A hill is left every ``every`` steps at the place where the system is; there it has no slope,
    so the forces of that step stay right, and the energy rises by w_k.

    Source: A. Barducci, G. Bussi and M. Parrinello, Phys. Rev. Lett. 100, 020603 (2008).
    """

    variables: Sequence[CollectiveVariable] = struct.field(pytree_node=False)
    widths: Sequence[float | int] = struct.field(pytree_node=False)
    height: Float[Array, ""] | float
    every: int = struct.field(pytree_node=False)
    bias_factor: Float[Array, ""] | float | None = None
    temperature_K: Float[Array, ""] | float | None = None

    def __post_init__(self) -> None:
        for field in ("variables", "widths"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        names = [variable.name for variable in self.variables]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"metadynamics needs variables with different names, not {names}")
        if len(self.widths) != len(names) or not all(width > 0 for width in self.widths):
            raise ValueError(
                f"widths must be {len(names)} positive numbers, one per variable, not {self.widths}"
            )
        if self.every < 1:
            raise ValueError(f"hills must be at least 1 step apart, not {self.every}")

    def init(self, state: State) -> Hills:
        """No hills yet. Checks the numbers: on the host, where they are known."""
        if not self.height > 0:
            raise ValueError(f"the height of hills must be positive, not {self.height} eV")
        if self.bias_factor is not None:
            if not self.bias_factor > 1:
                raise ValueError(f"bias_factor must be above 1, not {self.bias_factor}")
            if self.temperature_K is None or not self.temperature_K > 0:
                raise ValueError("well-tempered metadynamics needs temperature_K, that of the bath")
        collective_variables.check_atoms(self.variables, state)
        dtype = state.positions.dtype
        return Hills(
            centres=jnp.zeros((_FEWEST, len(self.variables)), dtype),
            heights=jnp.zeros(_FEWEST, dtype),
            steps=jnp.zeros(_FEWEST, jnp.int32),
            count=jnp.int32(0),
        )

    def reserve(self, variables: Hills, steps: int) -> Hills:
        """Room for the hills of so many steps, at least doubled where it has to grow."""
        room, needed = len(variables.heights), int(variables.count) + steps // self.every + 1
        if needed <= room:
            return variables
        more = max(needed, 2 * room) - room

        def longer(values: Array) -> Array:
            return jnp.pad(values, [(0, more)] + [(0, 0)] * (values.ndim - 1))

        return variables.replace(
            centres=longer(variables.centres),
            heights=longer(variables.heights),
            steps=longer(variables.steps),
        )

    def values(
        self, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"], pbc: Periodicity
    ) -> Float[Array, " variables"]:
        """The collective variables, each in its unit."""
        return jnp.stack([v.value(positions, cell, pbc) for v in self.variables])

    def energy(
        self,
        variables: Hills,
        positions: Float[Array, "atoms 3"],
        cell: Float[Array, "3 3"],
        pbc: Periodicity,
    ) -> Float[Array, ""]:
        return self._height_at(variables, self.values(positions, cell, pbc))

    def update(self, variables: Hills, state: State) -> tuple[Hills, Float[Array, ""]]:
        """One hill more, if one is due. Without :meth:`reserve` done in time, it is NaN."""

        def deposit(hills: Hills) -> tuple[Hills, Array]:
            place = self.values(bias.path(state), state.cell, state.pbc)
            height = jnp.asarray(self.height, place.dtype)
            if self.bias_factor is not None and self.temperature_K is not None:
                scale = units.BOLTZMANN * self.temperature_K * (self.bias_factor - 1)
                height = height * jnp.exp(-self._height_at(hills, place) / scale)
            # a hill without a place must not be lost silently: NaN stops the run
            height = jnp.where(hills.count < len(hills.heights), height, jnp.nan)
            at = jnp.minimum(hills.count, len(hills.heights) - 1)
            more = hills.replace(
                centres=hills.centres.at[at].set(place),
                heights=hills.heights.at[at].set(height),
                steps=hills.steps.at[at].set(state.step.astype(hills.steps.dtype)),
                count=hills.count + 1,
            )
            return more, height

        def keep(hills: Hills) -> tuple[Hills, Array]:
            return hills, jnp.zeros((), hills.heights.dtype)

        due = (state.step > 0) & (state.step % self.every == 0)
        return jax.lax.cond(due, deposit, keep, variables)

    def results(self, variables: Hills) -> dict[str, Table]:
        """The hills in order (step, place and height of each), and the free energy they leave.

        The free energy, eV, of one or two variables is on a grid around the hills.
        """
        count = int(variables.count)
        table: Table = {"step": np.asarray(variables.steps, np.float64)[:count]}
        for column, variable in enumerate(self.variables):
            table[variable.name] = np.asarray(variables.centres, np.float64)[:count, column]
        table["height_eV"] = np.asarray(variables.heights, np.float64)[:count]
        tables = {"hills": table}
        if count > 0 and len(self.variables) <= 2:
            axes = [
                _axis(table[variable.name], width, variable.period)
                for variable, width in zip(self.variables, self.widths, strict=True)
            ]
            energies = self.free_energy(variables, *axes)
            places = np.meshgrid(*axes, indexing="ij")
            named = zip(self.variables, places, strict=True)
            tables["free_energy"] = {variable.name: grid.ravel() for variable, grid in named}
            tables["free_energy"]["free_energy_eV"] = energies.ravel()
        return tables

    def free_energy(self, variables: Hills, *axes: Any) -> np.ndarray:
        """Free energy in eV on a grid, from the bias; its lowest value is 0. On the host.

        Args:
            variables: the hills.
            axes: the grid's values of each collective variable.

        Returns:
            array with one dimension per variable.
        """
        if len(axes) != len(self.variables):
            raise ValueError(f"free_energy needs {len(self.variables)} axes, not {len(axes)}")
        grid = [np.asarray(axis, np.float64) for axis in axes]
        count = int(variables.count)
        heights = np.asarray(variables.heights, np.float64)[:count]
        # each hill is a product over the variables, so the exponentials are few
        factors = []
        for d, (axis, variable, width) in enumerate(
            zip(grid, self.variables, self.widths, strict=True)
        ):
            apart = axis - np.asarray(variables.centres, np.float64)[:count, d, None]
            apart = wrapped(apart, variable.period)
            factors.append(np.exp(-(apart**2) / (2 * width**2)))
        letters = "abcdefgh"[: len(grid)]
        terms = ",".join("z" + letter for letter in letters)
        block = max(1, _GRID_BLOCK // max(1, prod(map(len, grid))))
        potential = np.zeros(tuple(map(len, grid)))
        for start in range(0, count, block):
            rows = slice(start, start + block)
            potential += np.einsum(
                f"z,{terms}->{letters}", heights[rows], *(f[rows] for f in factors)
            )
        factor = 1.0
        if self.bias_factor is not None:
            factor = float(self.bias_factor) / (float(self.bias_factor) - 1)
        return factor * (potential.max() - potential)

    def _height_at(self, hills: Hills, place: Float[Array, " variables"]) -> Float[Array, ""]:
        """V(ξ), eV."""
        exponent = jnp.zeros_like(hills.heights)
        for d, (variable, width) in enumerate(zip(self.variables, self.widths, strict=True)):
            apart = wrapped(place[d] - hills.centres[:, d], variable.period)
            exponent = exponent + (apart / width) ** 2
        return jnp.sum(hills.heights * jnp.exp(-exponent / 2))


def _axis(centres: np.ndarray, width: float, period: float | None) -> np.ndarray:
    """A grid over all places that the hills of one variable reach, or over its period."""
    if period is not None:
        return np.linspace(-period / 2, period / 2, _GRID_POINTS)
    return np.linspace(centres.min() - 3 * width, centres.max() + 3 * width, _GRID_POINTS)
