"""Molecular dynamics for any local potential, every step compiled. It knows nothing of Allegro."""
