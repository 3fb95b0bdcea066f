"""Models whose tensor track is quadratic: their site energies are sums of radial functions.

With one layer, and networks behind its tensor product that are linear, nothing that depends on two
neighbours at once passes through a nonlinearity. The product of a feature V = b(r) Y(r̂) with the
environment Σ_k a(r_k) Y(r̂_k), summed over the neighbours, is then a product of two sums, and

    E_i = s_i + Σ_j α(r_ij) + Σ_ul [Σ_j b_ul(r_ij) Y_l(r̂_ij)] · [Σ_k a_ul(r_ik) Y_l(r̂_ik)]

exactly, with 1 + 2·U·(l_max + 1) functions of the distance for every ordered pair of species (U
channels, Y_l of norm 1). The two speed models of the paper (Musaelian et al., Nat. Commun. 14, 579
(2023); U = 1, l_max = 1) need five. Tabulated as splines they cost what an embedded-atom potential
costs, and the gradient is known in closed form: with A_ul and B_ul the sums of a_ul Y_l and of
b_ul Y_l,

    ∂E_i/∂r_ij = α′ r̂ + Σ_ul ∇(b_ul Y_l) · A_ul + ∇(a_ul Y_l) · B_ul.

The ZBL repulsion, which diverges at r = 0, is kept as r times itself, one function more.
"""

from __future__ import annotations

from allegro_jax.collapsed.functions import num_functions, obstacle
from allegro_jax.collapsed.potentials import CollapsedAllegro, TabulatedAllegro
from allegro_jax.collapsed.tabulation import Collapse, NotTabulated, collapse

__all__ = [
    "Collapse",
    "CollapsedAllegro",
    "NotTabulated",
    "TabulatedAllegro",
    "collapse",
    "num_functions",
    "obstacle",
]
