import json
import math
import os
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from bench import gpu_code
from lib.ops import gpu, gpu_layout, order_gpu

ROOT = Path(__file__).resolve().parent.parent.parent

ASSEMBLY = """
.L_x_0:
        /*0100*/                   FADD R1, R2, -R3 ;
.L_x_1:
        /*0110*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0120*/              @!P0 FADD R8, R4, -R9 ;
        /*0130*/                   FMNMX.NAN R8, |R8|, R1, !PT ;
        /*0140*/                   FFMA R8, R4, R9, R8 ;
        /*0150*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*0160*/              @P1  BRA `(.L_x_1) ;
.L_x_2:
        /*0170*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*0180*/              @P1  BRA `(.L_x_2) ;
        /*0190*/                   BRA `(.L_x_0) ;
        /*01a0*/                   BRA `(.L_x_3) ;
.L_x_3:
        /*01b0*/                   EXIT ;
"""


def test_loops_that_hold_others_and_jumps_ahead_do_not_count() -> None:
    first, second = gpu_code.innermost_loops(ASSEMBLY)
    assert first == Counter(LDG=2, FADD=1, FMNMX=1, FFMA=1, BRA=1)
    assert second == Counter(LDG=1, BRA=1)


def test_instructions_are_counted_a_triple_and_by_unit() -> None:
    # The longer loop loads twice what one step loads: two steps of four triples.
    found = gpu_code.a_triple(gpu_code.innermost_loops(ASSEMBLY), 4)
    assert found == {"all": 6 / 8, "multiply": 2 / 8, "compare": 1 / 8, "memory": 2 / 8, "other": 1 / 8}


def test_all_ways_to_a_power_and_all_shapes_of_a_gradient_are_compiled() -> None:
    gradients = [kernel.constants for kernel in gpu_code.kernels() if kernel.name == "gradient_sums"]
    assert {p["natural_p"] for p in gradients} == {0, 1, 2, 3, 8}
    assert any(not p["natural_p"] and p["squarings"] < 0 for p in gradients)
    assert {p["COLS"] for p in gradients} == {gpu_layout.columns_of(features) for features in range(1, 1000)}
    assert {(p["NEED_X"], p["NEED_W"]) for p in gradients} == {(True, True), (True, False), (False, True)}


def test_a_row_of_the_table_is_one_kernel() -> None:
    rows = [(kernel.what, kernel.p) for kernel in gpu_code.kernels() if kernel.triples]
    assert len(rows) == len(set(rows))


@pytest.mark.skipif(not gpu_code.can_compile(), reason="needs Triton with NVIDIA's disassembler: Linux")
def test_every_kernel_compiles_for_a_gpu_and_spills_in_no_loop(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.gpu_code", "--out", str(tmp_path / "code.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "code.json").read_text())["kernels"]
    assert len(found) == len(list(gpu_code.kernels()))
    assert all(kernel["spilled_in_loops"] == 0 for kernel in found)
    # Triton 3.6 spills four registers of one kernel, once before its loop and back after it
    room = 16 if metadata.version("triton").startswith("3.6.") else 0
    assert all(kernel["spilled"] <= room for kernel in found)
    counted = [kernel for kernel in found if "instructions" in kernel]
    peaks = [kernel["instructions"] for kernel in counted if kernel["kernel"] == "peaks"]
    # A difference and a maximum; everything else is loads and addresses.
    assert all(each["multiply"] == each["compare"] == 1 and each["all"] < 3.5 for each in peaks)


@pytest.mark.skipif(not gpu_code.can_compile(), reason="needs Triton with NVIDIA's disassembler: Linux")
def test_interpreted_kernels_have_no_machine_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu_code", "--out", str(tmp_path / "code.json")]
    environment = os.environ | {"TRITON_INTERPRET": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "expected TRITON_INTERPRET to be unset" in done.stderr
    assert not list(tmp_path.iterdir())


class TargetAlone:
    """A driver of Triton's for a processor that is not there."""

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", gpu_code.TARGET, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_launches() -> set[str]:
    """The kernels that `lib.ops.gpu` launches, each compiled for these arguments and not run."""
    from triton.runtime import JITFunction, driver

    launched: set[str] = set()
    run = JITFunction.run

    def compile_alone(self: Any, *arguments: Any, warmup: bool, **options: Any) -> Any:
        launched.add(self.fn.__name__)
        return run(self, *arguments, warmup=True, **options)

    with mock.patch.object(JITFunction, "run", compile_alone), mock.patch.object(driver, "_active", TargetAlone()):
        # Triton compiles anew for sizes that are 1, multiples of 16 or neither.
        for B, O, I in ((1, 1, 1), (32, 48, 64), (65, 17, 129)):
            launch_all(torch.zeros(B, I), torch.zeros(O, I), torch.zeros(B, O))
    return launched


def launch_all(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> None:
    gpu.linf_dist_bounds(x, x, w)
    gpu.lp_dist_argmax(x, w)
    for p in (8.0, 37.3, math.inf):
        gpu.lp_dist(x, w, p)
        for needs in ((True, True), (True, False), (False, True)):
            gpu.lp_dist_backward(y, x, w, y, torch.zeros_like(y, dtype=torch.int32), p, *needs)
    order_gpu.largest_with_places(x, w, 1)
    for least in (True, False):
        order_gpu.largest(x, x + 1, w, 1, least=least)


@pytest.mark.skipif(not gpu_code.can_compile(), reason="needs Triton with what it brings for NVIDIA: Linux")
def test_every_launch_compiles_whatever_its_sizes() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.bench.test_gpu_code"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {kernel.name for kernel in gpu_code.kernels()}


def test_the_committed_counts_are_of_these_kernels_which_spill_nothing() -> None:
    found = json.loads((ROOT / "bench/results/gpu-code/sm90.json").read_text())
    assert found["code"] == gpu_code.digest(), "run `python -m bench.gpu_code` again"
    assert all(kernel["spilled"] == kernel["spilled_in_loops"] == 0 for kernel in found["kernels"])


if __name__ == "__main__":
    print(*compile_launches())
