"""What the compiler makes of the GPU kernels, without a GPU: `python -m bench.gpu_code`, instructions a triple.

Triton compiles for a processor that need not be there, and brings the disassembler. A kernel spends its time in its
innermost loop, whose steps take one feature each; compilers unroll it, and leave a loop of one step for what remains.
"""

import argparse
import collections
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from lib.experiments import provenance
from lib.experiments.gpu_limit import BACKWARD, SUMS, UNITS
from lib.experiments.speed import BOUNDS, FORWARD
from lib.files import replacing
from lib.ops import gpu, gpu_layout, gpu_scatter, order_gpu

MANY = "ten distances"  # of a neuron of SortNet
TARGET = 90  # compute capability 9.0: H100, H200
# Those whose instructions are counted, and those that are compiled because their powers are computed in other ways.
EXPONENTS, OTHER_EXPONENTS = (2.0, 8.0, 37.3, 1000.5), (1.0, 1.5, 3.0, 20.5)
_POINTERS = dict.fromkeys(("wanted", "span", "index", "places"), "*i32")
_POINTERS |= dict.fromkeys(("sums", "sums_x", "sums_w"), "*i64")
_POINTERS |= dict.fromkeys(("inverse", "unit_x", "unit_w"), "*fp64")
_NUMBERS = {"p": "fp32"} | dict.fromkeys(("B", "O", "I", "K", "slices", "pairs", "pulls", "entries"), "i32")
_SOURCES = (
    *(f"gpu{part}.py" for part in ("", "_launch", "_layout", "_range", "_scatter")),
    "kernels/gpu.py",
    "kernels/gpu_powers.py",
    "order_gpu.py",
    "padding.py",
    "powers.py",
)
_WHOLE = {"ROWS": gpu_layout.TILE, "COLS": gpu_layout.TILE}
_TOOLS = {"nvdisasm": "-c", "cuobjdump": "--dump-resource-usage"}
# By the unit that serves them: 128 lanes a clock, 64, and addresses and data of memory.
_PIPES = {
    "FADD": "multiply",
    "FMUL": "multiply",
    "FFMA": "multiply",
    "FMNMX": "compare",
    "LDG": "memory",
    "STG": "memory",
}


class Kernel(NamedTuple):
    """A kernel as `lib.ops.gpu` launches it: its pass, p, triples of a thread and step, warps and constants.

    Those without triples are compiled but not counted. Those that look at pairs alone round no product and do not fuse.
    """

    what: str
    p: float
    name: str
    triples: int
    warps: int
    constants: dict[str, Any]
    fused: bool = True


def kernels() -> Iterator[Kernel]:
    """Every kernel of `lib.ops.kernels.gpu`; those of p = inf gradients have no loop and no triples."""
    tile, rows = (
        gpu_layout.TILE**2 // (32 * gpu_layout.WARPS),
        gpu_layout.ROWS * gpu_layout.COLS // (32 * gpu_layout.BACKWARD_WARPS),
    )
    for with_span in (False, True):
        what = f"{FORWARD}, for gradients" if with_span else FORWARD
        yield _peaks(what, tile, wanted=None, WITH_SPAN=with_span)
    yield _peaks(SUMS, 0, WITH_SPAN=False)
    yield Kernel(BOUNDS, float("inf"), "box_peaks", tile, gpu_layout.WARPS, _WHOLE)
    for p in (*EXPONENTS, *OTHER_EXPONENTS):
        counted = p in EXPONENTS
        if gpu.at_once(p):
            yield _power_sums(FORWARD, p, tile * counted, scale=None, wanted=None)
            yield _power_sums(SUMS, p, 0)
        else:
            yield _power_sums(SUMS, p, tile * counted, wanted=None)
        yield _gradient_sums(p, rows * counted)
    for changed in ({"NEED_X": False}, {"NEED_W": False}, {"COLS": 64}, {"COLS": gpu_layout.LEAST_COLS}):
        yield _gradient_sums(8.0, 0, **changed)
    pairs = {"PAIRS": gpu.PAIRS}
    yield Kernel(
        f"{FORWARD}, for gradients",
        float("inf"),
        "first_in_span",
        0,
        gpu_layout.WARPS,
        {"SPAN": gpu_layout.SPAN, **pairs},
        False,
    )
    for mark in (False, True):
        scatter = {"NEED_X": True, "NEED_W": True, "MARK": mark, "LOST": gpu_scatter.LOST, "PULLS": gpu_scatter.EACH}
        yield Kernel(BACKWARD, float("inf"), "scatter_sums", 0, gpu_scatter.WARPS, scatter, False)
    rounded = {"LOST": gpu_scatter.LOST, "ENTRIES": gpu_scatter.EACH}
    yield Kernel(BACKWARD, float("inf"), "rounded_sums", 0, gpu_scatter.WARPS, rounded, False)
    yield _largest(f"{FORWARD}, {MANY}", LEAST=True, POINT=True, WITH_PLACES=False)
    yield _largest(f"{FORWARD}, {MANY}, for gradients", LEAST=True, POINT=True, WITH_PLACES=True)
    for least in (True, False):
        yield _largest(
            f"{BOUNDS}, {'least' if least else 'greatest'} {MANY}", LEAST=least, POINT=False, WITH_PLACES=False
        )


def _peaks(what: str, triples: int, **changed: bool | None) -> Kernel:
    return Kernel(
        what, float("inf"), "peaks", triples, gpu_layout.WARPS, {"SPAN": gpu_layout.SPAN, **_WHOLE, **changed}
    )


def _power_sums(what: str, p: float, triples: int, **left_out: None) -> Kernel:
    constants = {**gpu.exponent_of(p, p), "CHUNK": gpu.CHUNK, **_WHOLE, **left_out}
    return Kernel(what, p, "power_sums", triples, gpu_layout.WARPS, constants)


def _gradient_sums(p: float, triples: int, **changed: int) -> Kernel:
    constants = {
        "NEED_X": True,
        "NEED_W": True,
        "CHUNK": gpu.CHUNK,
        "ROWS": gpu_layout.ROWS,
        "COLS": gpu_layout.COLS,
        **changed,
    }
    return Kernel(
        BACKWARD, p, "gradient_sums", triples, gpu_layout.BACKWARD_WARPS, {**gpu.exponent_of(p, p - 2), **constants}
    )


def _largest(what: str, **kind: bool) -> Kernel:
    constants = {**kind, "COUNT": order_gpu.MOST, "ROWS": order_gpu.ROWS, "COLS": order_gpu.COLS}
    triples = order_gpu.ROWS * order_gpu.COLS // (32 * order_gpu.WARPS)
    return Kernel(what, float("inf"), "largest", triples, order_gpu.WARPS, constants)


def compiled(kernel: Kernel) -> bytes:
    """The machine code of a kernel for `TARGET`, specialised as a launch on whole tiles does it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lib.ops.kernels import gpu as gpu_kernels

    function = getattr(gpu_kernels, kernel.name)
    kinds = {name: _kind(name, kernel.constants) for name in function.arg_names}
    whole = [n for n, name in enumerate(kinds) if str(kinds[name]).startswith("*") or name in ("B", "O", "I")]
    source = ASTSource(
        fn=function,
        signature=kinds,
        constexprs={(n,): kernel.constants[name] for n, name in enumerate(kinds) if kinds[name] == "constexpr"},
        attrs={(n,): [["tt.divisibility", 16]] for n in whole},
    )
    options = {"num_warps": kernel.warps, "enable_fp_fusion": kernel.fused}
    return bytes(triton.compile(source, target=GPUTarget("cuda", TARGET, 32), options=options).asm["cubin"])


def _kind(name: str, constants: dict[str, Any]) -> Any:
    if name == "fit":
        return tuple("fp32" for _ in constants[name])
    if name in constants and name not in _NUMBERS:
        return "constexpr"
    return _POINTERS.get(name) or _NUMBERS.get(name, "*fp32")


def disassembled(code: bytes) -> tuple[str, ...]:
    """Its instructions, and what it takes of registers and memory, as NVIDIA's tools print them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        commands = ([str(_tools() / tool), option, file.name] for tool, option in _TOOLS.items())
        return tuple(subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)


def _tools() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin"


def innermost_loops(text: str) -> list[collections.Counter[str]]:
    """How often each instruction stands in each loop that holds no other; NVIDIA's assembly."""
    lines, labels, loops = text.splitlines(), {}, []
    for n, line in enumerate(lines):
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = n
        jump = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
        if jump and jump[1] in labels:
            loops.append(range(labels[jump[1]], n + 1))
    inner = [a for a in loops if not any(a != b and a.start <= b.start and b.stop <= a.stop for b in loops)]
    return [collections.Counter(filter(None, map(_instruction, lines[loop.start : loop.stop]))) for loop in inner]


def _instruction(line: str) -> str:
    text = re.sub(r"/\*.*?\*/", "", line).strip()
    found = re.match(r"(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]+)\b", text)
    return found[1] if found else ""


def a_triple(loops: list[collections.Counter[str]], triples: int) -> dict[str, float]:
    """Instructions a triple by the unit that serves them, in the longest loop; the loop of fewest loads is one step."""
    loading = [loop for loop in loops if loop["LDG"]]
    main = max(loading, key=collections.Counter.total)
    done = triples * main["LDG"] / min(loop["LDG"] for loop in loading)
    counts: collections.Counter[str] = collections.Counter()
    for name, count in main.items():
        counts[_PIPES.get(name, "other")] += count
    return {"all": main.total() / done} | {unit: counts[unit] / done for unit in UNITS}


def _measured(kernel: Kernel) -> dict[str, Any]:
    text, resources = disassembled(compiled(kernel))
    used = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", resources))
    found = {"what": kernel.what, "p": str(kernel.p), "kernel": kernel.name, "registers": int(used["REG"])}
    found["spilled"] = int(used["STACK"]) + int(used["LOCAL"])
    loops = innermost_loops(text)
    found["spilled_in_loops"] = sum(loop["LDL"] + loop["STL"] for loop in loops)  # loads and stores of local memory
    return found | ({"instructions": a_triple(loops, kernel.triples)} if kernel.triples else {})


def can_compile() -> bool:
    """Whether Triton and the tools that it brings for NVIDIA's processors are installed."""
    return importlib.util.find_spec("triton") is not None and all((_tools() / tool).exists() for tool in _TOOLS)


def _interpreted() -> bool:
    import triton

    from lib.ops.kernels import gpu as gpu_kernels

    return not isinstance(gpu_kernels.peaks, triton.JITFunction)


def digest() -> str:
    """Of all that the machine code depends on in this repository."""
    folder = Path(gpu.__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in _SOURCES)).hexdigest()[:16]


def main() -> int:
    """Compile every kernel and write what came out, where that can be done; 1 where Triton would interpret them."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_code", description=__doc__)
    folder = Path(__file__).resolve().parent / "results/gpu-code"
    parser.add_argument("--out", type=Path, default=folder / f"sm{TARGET}.json", help="where it goes")
    out = parser.parse_args().out
    if not can_compile():
        print("skipped: needs Triton with NVIDIA's disassembler, which it has on Linux", file=sys.stderr)
        return 0
    if _interpreted():
        print(
            "kernels are interpreted and have no machine code, expected TRITON_INTERPRET to be unset", file=sys.stderr
        )
        return 1
    commit, dirty = provenance.commit()
    found = {"target": f"sm_{TARGET}", "triton": metadata.version("triton"), "commit": commit, "dirty": dirty}
    found["code"] = digest()
    text = json.dumps(found | {"kernels": [_measured(kernel) for kernel in kernels()]}, indent=1, allow_nan=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as new:
        new.write_text(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
