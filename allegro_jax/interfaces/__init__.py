"""Adapters to other programs, each small and over :mod:`allegro_jax.potential`."""
