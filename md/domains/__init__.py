"""Spatial domains: one system spread over a grid of devices, a halo of neighbours around each part.

A domain is a parallelepiped along the cell's own axes; each device holds the atoms of one, with
positions relative to its corner, so that single precision is as good in a box of micrometres as in
a small one. What lies within the range of its neighbour list beyond its faces is copied there (the
*halo*, its atoms are *ghosts*): along x first, then along y with what came along x, then along z,
so that edges and corners need no messages of their own. Strict locality makes one such layer
enough, however many layers a network has.

Between two rebuilds of the lists the copied atoms stay the same: a step sends their positions out,
and the forces on them back. At a rebuild atoms that left their domain migrate, with all they own.

With a single domain along an axis its ghosts are its own periodic images: nothing is special about
one device.

========================  ====================================================================
:mod:`md.domains.grid`       how many domains along each axis, and on which devices
:mod:`md.domains.geometry`   widths and corners of domains; coordinates of atoms within one
:mod:`md.domains.placement`  on the host: atoms to devices, and back in their order
:mod:`md.domains.migration`  atoms that left their domain
:mod:`md.domains.halo`       ghosts: which, and the exchange of what belongs to them
:mod:`md.domains.search`     neighbours among own atoms and ghosts
:mod:`md.domains.lists`      the list of a domain: all of the above, for the run loop
:mod:`md.domains.numbering`  what belongs to atoms by their numbers, and does not migrate
:mod:`md.domains.loads`      how many atoms and ghosts domains hold
:mod:`md.domains.balance`    faces that shift until all hold about as many
========================  ====================================================================
"""
