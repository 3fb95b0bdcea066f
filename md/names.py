"""The names that users choose from. Imports nothing, so that a command line can list them."""

ENSEMBLES = ("nve", "langevin", "nvt", "bussi", "npt", "mtk")
WITH_BAROSTAT = ("npt", "mtk")
COUPLINGS = ("isotropic", "anisotropic", "full")
TRAJECTORY_FORMATS = ("extxyz", "h5md", "traj")
UNCERTAINTY_ACTIONS = ("flag", "stop")
OBSERVABLES = ("rdf", "adf", "msd", "vacf")
QUANTITIES = ("rdf", "coordination", "adf", "bonds", "msd", "vacf", "dos")
