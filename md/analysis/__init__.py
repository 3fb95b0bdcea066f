"""What trajectories tell: structure and motion of atoms, from files of ours and of others."""

from __future__ import annotations

from md.analysis.analysis import Analysis, analyse

__all__ = ["Analysis", "analyse"]
