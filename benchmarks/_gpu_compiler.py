"""What XLA compiles a function to for an NVIDIA GPU; a GPU is not needed.

XLA compiles for a described chip. Its dumps and the machine code of its kernels give launches,
bytes, instructions and a lower bound of the time.
"""

import collections
import functools
import importlib.util
import math
import os
import pathlib
import re
import shutil
import subprocess
import sysconfig
import tempfile
from typing import NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

INSTALL = (
    "gpu: expected XLA's compiler for CUDA, with the version of jax, and NVIDIA's assembler and "
    "disassembler; no GPU is needed. Install them without their dependencies:\n"
    '  v=$(python -c "import jax; print(jax.__version__)")\n'
    "  pip install --no-deps jax-cuda12-plugin==$v jax-cuda12-pjrt==$v nvidia-cuda-nvcc-cu12 "
    "nvidia-cuda-nvdisasm"
)

# An H200: what XLA needs to know of a chip, and the figures for the bound.
_CHIP = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132
  fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 62914560
  clock_rate_ghz: 1.98 device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 } device_description_str: "NVIDIA H200"
"""
_BYTES_A_SECOND = 4.3e12
_INSTRUCTIONS_A_SECOND = 132 * 64 * 1.755e9  # of each of two pipes
_LAUNCH, _LAUNCH_IN_GRAPH = 2e-6, 1e-6  # seconds
_KERNEL = re.compile(r"\b(kCustomKernel|kKernel|kMemset|kCopy|kCustomCall|kGemm|kMemzero)\b")
_GRID = re.compile(r"\] (\S+) grid: \[(\d+), (\d+), (\d+)\] threads: \[(\d+), (\d+), (\d+)\]")
# Multiplications run on another pipe than other integer instructions; these run on neither.
_MULTIPLICATION = re.compile(r"IMAD|FFMA|FMUL|FADD|HFMA2|HMUL2|HADD2")
_ELSEWHERE = re.compile(
    r"LD|ST|S2|BAR|BRA|EXIT|NOP|ULDC|R2UR|ACQBULK|CS2R|DEPBAR|WARPSYNC|BSYNC|BSSY"
)
_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8}
_WIDTHS |= {"s64": 8, "u64": 8}


class Cost(NamedTuple):
    """What one call costs.

    Attributes:
        launches: launches of kernels and copies; each trip of a loop counts.
        megabytes: megabytes that they read and write; operands and results count in full.
        instructions: instructions of all threads; a loop within a kernel counts once.
        microseconds: lower bound of the time: per launch the largest of the times for its
            overhead, its bytes and its instructions.
    """

    launches: int
    megabytes: float
    instructions: int
    microseconds: float


def is_installed():
    """Whether the compiler and the tools for its kernels are installed."""
    return importlib.util.find_spec("jax_cuda12_plugin") is not None and all(
        map(_tool, ("ptxas", "nvdisasm"))
    )


def cost(function, *shapes) -> Cost:
    """What ``function`` costs on arrays of these shapes, compiled for an H200."""
    with tempfile.TemporaryDirectory() as folder:
        text = _compile(function, shapes, folder).as_text()
        code = _instructions(pathlib.Path(folder))
        launched = list(_launches(pathlib.Path(folder), text))
    total = [0, 0.0, 0, 0.0]
    for name, times, threads, in_graph in launched:
        integer, multiplied = (count * threads for count in code.get(name, (0, 0)))
        moved = _moved(text, name)
        busiest = max(integer, multiplied, (integer + multiplied) / 2)  # two pipes
        seconds = max(
            _LAUNCH_IN_GRAPH if in_graph else _LAUNCH,
            moved / _BYTES_A_SECOND,
            busiest / _INSTRUCTIONS_A_SECOND,
        )
        for number, part in enumerate((1, moved / 1e6, integer + multiplied, seconds * 1e6)):
            total[number] += times * part
    return Cost(*total)  # pyright: ignore


@functools.cache
def _place():
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    topology = topologies.get_topology_desc(platform="cuda", target_config=_CHIP, topology="1x1x1")
    return NamedSharding(topologies.make_mesh(topology, (1,), ("device",)), PartitionSpec())


def _compile(function, shapes, folder):
    place = _place()
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
    with jax.debug_key_reuse(False):  # because it adds operations to the program
        lowered = jax.jit(function, out_shardings=place).lower(*placed)
    options = {
        "xla_gpu_autotune_level": 0,
        "xla_gpu_cuda_data_dir": str(pathlib.Path(_tool("ptxas")).parent.parent),
        "xla_dump_to": folder,
        "xla_dump_hlo_as_text": True,
        "xla_dump_emitter_re": ".*",
    }
    return lowered.compile(compiler_options=options)


def _tool(name):
    """Path of an NVIDIA tool, on PATH or in a wheel; an empty string if it is not installed."""
    found = shutil.which(name)
    if found:
        return found
    wheels = pathlib.Path(sysconfig.get_path("purelib")) / "nvidia"
    return next(map(str, wheels.glob(f"*/bin/{name}")), "")


def _launches(folder, text):
    """``(name, times, threads, in a graph)`` of every launch, from the list that XLA writes."""
    trips = iter(re.findall(r'known_trip_count":\{"n":"(\d+)"', text))
    path = max(folder.glob("*thunk_sequence*.txt"), key=lambda path: len(path.name))  # the last
    inside = []  # (indent, times, whether a graph)
    for line in path.read_text().splitlines():
        indent, content = len(line) - len(line.lstrip()), line.strip()
        part_of_loop = content.startswith(("condition", "body"))
        while inside and (inside[-1][0] > indent or (inside[-1][0] == indent and not part_of_loop)):
            inside.pop()
        if "kWhile" in line:
            inside.append((indent, int(next(trips, "1")), False))
        elif "kCommandBuffer" in line:
            inside.append((indent, 1, True))
        elif _KERNEL.search(line):
            times = math.prod(times for _, times, _ in inside)
            grid = _GRID.search(line)
            name, threads = (grid[1], math.prod(map(int, grid.groups()[1:]))) if grid else ("", 0)
            yield name, times, threads, any(graph for *_, graph in inside)


def _instructions(folder):
    """Machine instructions of one thread of each kernel: ``{name: (others, multiplications)}``."""
    counts = collections.defaultdict(lambda: [0, 0])
    for assembly in folder.glob("*.ptx"):
        binary = assembly.with_suffix(".cubin")
        command = [_tool("ptxas"), "-arch=sm_90a", "-O3", assembly, "-o", binary]
        subprocess.run(command, check=True, capture_output=True)
        listing = subprocess.run(
            [_tool("nvdisasm"), "-c", binary], check=True, capture_output=True, text=True
        ).stdout
        kernel = ""
        for line in listing.splitlines():
            section = re.match(r"\s*\.section\s+\.text\.(\S+?),", line)
            kernel = section[1] if section else kernel
            code = re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", line)
            if code and kernel and not _ELSEWHERE.match(code[1]):
                counts[kernel][bool(_MULTIPLICATION.match(code[1]))] += 1
    return {kernel: tuple(pair) for kernel, pair in counts.items()}


def _moved(text, name):
    """Bytes of the operands and the results of a fusion."""
    if not name:
        return 0
    pattern = re.escape(name).replace("_", "[_.]")
    found = re.search(rf"%{pattern} = (.*?) fusion\((.*?)\)", text)
    if not found:
        return 0
    moved = _bytes(found[1])
    for operand in re.findall(r"%([\w.\-]+)", found[2]):
        made = re.search(rf"%{re.escape(operand)} = (\(.*?\)|\S+?\[[\d,]*\])", text)
        moved += _bytes(made[1]) if made else 0
    return moved


def _bytes(shapes):
    return sum(
        _WIDTHS.get(dtype, 4) * math.prod(map(int, filter(None, sizes.split(","))))
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    )
