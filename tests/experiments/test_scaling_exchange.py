"""What domains exchange is counted right: in a program, and over the surface of a domain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "scaling"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.slow
def test_a_compiled_step_sends_what_the_layout_says():
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_cpu_multi_thread_eigen=false",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run(
        [sys.executable, "exchange.py", "--one", "silver", "4,5,6", "1,2,2"],
        cwd=FOLDER,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    rows = found["rows_of_layout"]
    assert found["bytes_per_step"] == 2 * 12 * rows  # positions out, forces back
    assert found["messages_per_step"] == 2 * 4  # two axes, two sides
    # positions and species (a byte) of ghosts, and how many leave through each of four faces
    migrants = found["bytes_per_rebuild"] - 13 * rows - 4 * 4
    # 14 numbers and two bytes of each, to two sides, in multiples of eight
    assert migrants > 0 and migrants % ((4 * 14 + 2) * 16) == 0
    assert found["messages_per_rebuild"] == 4 * (2 + 1 + 3)
    assert 0 < found["ghosts_held"] < rows


PROGRAM = """
%turn (a: f32[4,3]) -> f32[4,3] {
  ROOT %p.1 = f32[4,3]{1,0} collective-permute(%a), channel_id=1, source_target_pairs={{0,1}}
}
%more (a: f32[4,3]) -> pred[] {
  %p.2 = (s32[], f32[3,3]{1,0}) all-reduce(%b, %c), channel_id=1, to_apply=%sum
}
%step (a: f32[4,3]) -> f32[4,3] {
  %p.3 = f32[5,3]{1,0} collective-permute(%a), channel_id=1
  %w.1 = f32[4,3]{1,0} while(%a), condition=%more, body=%turn, metadata={op_name="while/body"}
}
%skipped (a: f32[4,3]) -> f32[4,3] {
  %p.4 = s32[8]{0} all-gather(%a), dimensions={0}
}
%goes (a: f32[4,3]) -> pred[] {
}
ENTRY %main (a: f32[4,3]) -> f32[4,3] {
  %w.2 = f32[4,3]{1,0} while(%a), condition=%goes, body=%step
  %c.1 = f32[4,3]{1,0} conditional(%a), branch_computations={%goes, %skipped}
}
"""


def test_collectives_of_a_program():
    from collectives import Collective, collectives

    assert sorted(collectives(PROGRAM)) == [
        Collective("all-gather", 32, 0),
        Collective("all-reduce", 40, 2),
        Collective("collective-permute", 48, 2),
        Collective("collective-permute", 60, 1),
    ]
    with pytest.raises(ValueError, match="synchronous"):
        collectives(PROGRAM.replace("all-gather(", "all-gather-start("))


def test_surface_of_a_domain():
    from exchange import ghosts

    a, b, c, reach, density = 20.0, 30.0, 40.0, 4.5, 0.06
    shell = (a + 2 * reach) * (b + 2 * reach) * (c + 2 * reach) - a * b * c
    assert ghosts((a, b, c), reach, (2, 2, 2), density) == pytest.approx(density * shell)
    assert ghosts((a, b, c), reach, (1, 1, 1), density) == 0
    # its own images along x and y travel along z
    along_z = 2 * reach * (a + 2 * reach) * (b + 2 * reach)
    assert ghosts((a, b, c), reach, (1, 1, 8), density) == pytest.approx(density * along_z)
    along_x = 2 * reach * b * c
    assert ghosts((a, b, c), reach, (8, 1, 1), density) == pytest.approx(density * along_x)
