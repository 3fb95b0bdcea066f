"""Domains as parts of the cell: their widths, and the coordinates of atoms within one.

Along an axis that repeats, coordinates and widths are fractions of the cell; along one that does
not they are Å, and the outermost domains reach to infinity. Widths are kept, not faces: rounded to
single precision, the difference of two faces of a box of thousands of Å is wrong by 1e-4 Å.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from md import cells
from md.cells import Periodicity
from md.domains.grid import AXES, Counts


@struct.dataclass
class Geometry:
    """How a box is cut into domains.

    Attributes:
        widths: for each axis, [domains along it] widths, in the units of that axis.
        corner: [3] the coordinates of the first domain's corner; 0 along axes that repeat.
        counts, pbc: static.
    """

    widths: tuple[Float[Array, " nx"], Float[Array, " ny"], Float[Array, " nz"]]
    corner: Float[Array, " 3"]
    counts: Counts = struct.field(pytree_node=False)
    pbc: Periodicity = struct.field(pytree_node=False)

    # -- of the domain at hand: within compiled code that is spread over the mesh -----------------

    def index(self, d: int) -> Int[Array, ""] | int:
        """Which domain this is along an axis."""
        return jax.lax.axis_index(AXES[d]) if self.counts[d] > 1 else 0

    def width(self, d: int, beside: int = 0) -> Float[Array, ""]:
        """Width of this domain, or of the one beside it."""
        return self.widths[d][(self.index(d) + beside) % self.counts[d]]

    def lower(self) -> Float[Array, " 3"]:
        """Coordinates of this domain's corner, that of all domains counted in."""
        before = [
            jnp.sum(jnp.where(jnp.arange(count) < self.index(d), self.widths[d], 0))
            for d, count in enumerate(self.counts)
        ]
        return self.corner + jnp.stack(before)

    def origin(self, cell: Float[Array, "3 3"]) -> Float[Array, " 3"]:
        """Where this domain's corner is, Å: what its positions are relative to."""
        return cells.lattice_vector(self.lower(), cells.frame(cell, self.pbc))

    def ends(self, d: int, side: int) -> Bool[Array, ""] | bool:
        """Whether there is nothing beyond the lower (−1) or upper (+1) face."""
        if self.pbc[d]:
            return False
        return jnp.asarray(self.index(d) == (0 if side < 0 else self.counts[d] - 1))

    def wraps(self, d: int, side: int) -> Int[Array, ""]:
        """1 where the domain beyond a face is that at the other end of the cell, else 0."""
        last = 0 if side < 0 else self.counts[d] - 1
        return jnp.asarray((self.index(d) == last) & self.pbc[d], jnp.int32)


def coordinate(
    positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"], pbc: Periodicity, d: int
) -> Float[Array, " atoms"]:
    """Coordinates along one axis, from the corner of the domain that positions are relative to."""
    direction = cells.reciprocal(cells.frame(cell, pbc))[d]
    return (
        positions[:, 0] * direction[0]
        + positions[:, 1] * direction[1]
        + positions[:, 2] * direction[2]
    )
