"""The report of a run: ``write_report("runs/model")`` writes ``report.html``."""

from allegro_jax.train.report.report import write_report

__all__ = ["write_report"]
