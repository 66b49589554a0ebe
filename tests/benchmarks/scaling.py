"""What GPUs should reach, on paper: the pipeline's simulation with measured and published parts.

    python -m tests.benchmarks.scaling            print the tables
    python -m tests.benchmarks.scaling --write    put them into docs/scaling.md

Whether the simulation is right is measured by `scaling_here.py`, on the machine that it runs on.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tests.benchmarks.pipeline_model import Cost, Need, Outcome, Rest, Stage, predict, simulate

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
GB = 1e9
BATCH, REQUESTS = 64, 3  # of the plan; batches that the engine has at once (`PlanRunner.concurrency`)
WINDOW = REQUESTS + 4  # batches in hand (`worker/process.py`)
CONNECTIONS = 32  # to an object store, of one worker, for reading and as many for writing

Output = Literal["png", "jpeg", "rows only"]


# --- measured: one core of a 2-core machine (AMD EPYC), python -m tests.benchmarks.scaling_here, encoding.py
FILE_BYTES = 110_000.0  # of an ImageNet photograph, mean
PIXELS = 500 * 375.0  # of it, median
SQUARE_BYTES = 3.0 * 256 * 256
OUT_BYTES: dict[Output, float] = {"png": 112_200.0, "jpeg": 27_300.0, "rows only": 0.0}
OPEN_S = 0.047e-3  # to read a file's header, in the decoding thread
CHECK_S = 0.83e-3  # to see whether its data is sound
PNG_S = 0.74e-3  # to encode a square
WORKER_S = 0.18e-3  # everything else in the worker: reading, rows, messages, writing
PARENT_S = 0.15e-3  # in the parent: batches, rows, commits

# --- measured: `make bench` over 512 photographs, on an idle machine of 2 cores (docs/benchmarks.md): images/s
STAGES_HERE, RUN_HERE = {"decode": 830.0, "engine": 84.0, "encode": 332.0}, 57.6

# --- published; docs/scaling.md names the sources
CORES, GPUS = 112, 8  # of a DGX H100
FLOP_PER_S, MEMORY_PER_S = 1979e12 / 2, 3.35e12  # FP16 without sparsity; HBM3
PCIE_PER_S = 64 * GB  # in each direction: generation 5, 16 lanes
NETWORK_PER_S = 100e9 / 8  # of a node
DECODED_PER_S = 16_400.0  # ImageNet photographs, by one GPU
GETS_PER_S, PUTS_PER_S = 5500.0, 3500.0  # of one prefix of an object store
LATENCY_S = 0.15  # of a small object

# --- assumed
OF_ROOFLINE = 0.5  # how much of the roofline a plan reaches
# The roofline for one image, by `roofline.py`, on an H100
ROOFLINE_S = {"shipped": 11.31e-6, "U-Net-64": 22.19e-6}


@dataclass(frozen=True)
class Setting:
    """Machines, and what they do."""

    gpus: int = 1  # all of them
    gpus_per_parent: int = 1  # GPUs whose rows one process commits
    chain: str = "shipped"
    output: Output = "png"
    store: bool = False  # photographs and images lie in an object store
    prefixes: int = 1  # of that store
    of_roofline: float = OF_ROOFLINE
    decoded_per_s: float = DECODED_PER_S
    connections: int = CONNECTIONS
    interpreters: int = 1  # calls that share one GPU, each with a parent and a worker
    python: float = 1.0  # how much Python there is for each image: 1 is today

    @property
    def nodes(self) -> int:
        return -(-self.gpus // GPUS)


def capacity(setting: Setting) -> dict[str, float]:
    """What one worker has: its own GPU, and its share of everything that workers have in common."""
    share = setting.interpreters
    found = {
        "host's cores": CORES / GPUS / share,
        "worker's Python": 1.0,
        "PCIe in": PCIE_PER_S / share,
        "PCIe out": PCIE_PER_S / share,
        "JPEG decoder": 1.0 / share,
        "GPU": 1.0 / share,
        "parent": 1.0 if share > 1 else 1.0 / setting.gpus_per_parent,
        "network": NETWORK_PER_S / GPUS / share,
    }
    if setting.store:
        workers = setting.gpus * share
        found |= {"GET": GETS_PER_S * setting.prefixes / workers, "PUT": PUTS_PER_S * setting.prefixes / workers}
        found |= {"connections that read": setting.connections, "connections that write": setting.connections}
    return found


def stages(setting: Setting) -> list[Stage]:
    """The stages of one worker, as `purifyctl/run/worker` has them with a GPU."""
    made, threads = (
        OUT_BYTES[setting.output],
        min(CORES, BATCH),
    )  # a worker starts as many threads as the node has cores
    read: list[tuple[Need, ...]] = [(Need("network", FILE_BYTES),)]
    write: list[tuple[Need, ...]] = [_python(WORKER_S * setting.python)]
    if setting.output == "png":
        write.insert(0, (Need("host's cores", PNG_S, threads),))
    if made:
        write.append((Need("network", made),))
    if setting.store:
        read.insert(0, (Need("connections that read", LATENCY_S), Need("GET", 1.0)))
        if made:
            write.append((Need("connections that write", LATENCY_S), Need("PUT", 1.0)))
    decode: list[tuple[Need, ...]] = [
        _python(OPEN_S * setting.python),
        (Need("host's cores", CHECK_S, threads),),
        (Need("PCIe in", FILE_BYTES), Need("JPEG decoder", 1 / setting.decoded_per_s)),
    ]
    infer: list[tuple[Need, ...]] = [(Need("GPU", ROOFLINE_S[setting.chain] / setting.of_roofline),)]
    if made:  # JPEG is encoded on the GPU, PNG on the host
        infer.append((Need("PCIe out", SQUARE_BYTES if setting.output == "png" else made),))
    return [
        Stage("read", tuple(read), at_once=4),
        Stage("decode", tuple(decode)),
        Stage("infer", tuple(infer), at_once=REQUESTS),
        Stage("write", tuple(write), at_once=WINDOW),
        Stage("commit", ((Need("parent", PARENT_S * setting.python),),)),
    ]


def _python(seconds: float) -> tuple[Need, ...]:
    """Python code of a worker, which runs in one thread at a time."""
    return (Need("worker's Python", seconds, 1), Need("host's cores", seconds, 1))


def outcome(setting: Setting) -> Outcome:
    """One worker of a setting: images/s, and how busy everything is."""
    return simulate(stages(setting), capacity(setting), batch=BATCH, window=WINDOW)


def total(setting: Setting) -> float:
    """Images/s of all workers."""
    return outcome(setting).images_per_s * setting.gpus * setting.interpreters


def predicted_here() -> float:
    """Images/s of the run that was measured as `RUN_HERE`, from its stages alone."""
    costs = {name: Cost(2 / rate, 2.0) for name, rate in STAGES_HERE.items()}
    return predict(costs, Rest(WORKER_S, PARENT_S), requests=2, batch=16, images=512, cores=2).images_per_s


ONE, NODE, TEN = Setting(), Setting(GPUS, GPUS), Setting(10 * GPUS, 10 * GPUS)
SHARDS = replace(TEN, gpus_per_parent=GPUS)
MACHINES = {
    "one H100 of a DGX H100 (14 cores)": ONE,
    "a DGX H100: 8 GPUs, 112 cores": NODE,
    "ten of them, `--ray`: one parent": TEN,
    "ten of them, `--shard I/10`: ten parents": SHARDS,
}
WORK: dict[str, tuple[str, Output]] = {
    "shipped, PNG": ("shipped", "png"),
    "shipped, JPEG": ("shipped", "jpeg"),
    "shipped, rows only": ("shipped", "rows only"),
    "U-Net-64, PNG": ("U-Net-64", "png"),
    "U-Net-64, rows only": ("U-Net-64", "rows only"),
}


def reach() -> Iterator[Sequence[str]]:
    """What each machine reaches, and what is full then."""
    yield ("", *WORK)
    for name, setting in MACHINES.items():
        cases = (replace(setting, chain=chain, output=output) for chain, output in WORK.values())
        yield (name, *map(_cell, cases))


def alone() -> Iterator[Sequence[str]]:
    """What each resource allows if everything else were free."""
    yield ("resource", *MACHINES)
    for name in capacity(ONE):
        yield (name, *(_thousands(_limit(setting, name) * setting.gpus) for setting in MACHINES.values()))


def _limit(setting: Setting, resource: str) -> float:
    """Images/s of one worker at which the resource is full."""
    needs = (need for stage in stages(setting) for step in stage.steps for need in step)
    used = sum(need.per_image for need in needs if need.resource == resource)
    return capacity(setting)[resource] / used if used else float("inf")


def store() -> Iterator[Sequence[str]]:
    """The same with photographs and images in an object store."""
    cases = {
        "as it is: 32 connections of a worker, one prefix": {},
        "100 prefixes": {"prefixes": 100},
        "1,000 connections, 100 prefixes": {"connections": 1000, "prefixes": 100},
        "rows only, 1,000 connections, 100 prefixes": {"connections": 1000, "prefixes": 100, "output": "rows only"},
    }
    yield ("shipped, PNG", *MACHINES)
    for name, changed in cases.items():
        yield (name, *(_cell(replace(setting, store=True, **changed)) for setting in MACHINES.values()))  # type: ignore[arg-type]


def what_if() -> Iterator[Sequence[str]]:
    """How much the answer depends on a part, with one GPU."""
    cases = {
        "as above": {},
        "the decoder does 7,000 images/s": {"decoded_per_s": 7000.0},
        "the engine reaches a quarter of the roofline": {"of_roofline": 0.25},
        "it reaches all of it": {"of_roofline": 1.0},
        "two calls with `--shard` on each GPU": {"interpreters": 2},
        "half as much Python for each image": {"python": 0.5},
    }
    yield ("one H100", *WORK)
    for name, changed in cases.items():
        settings = (replace(ONE, chain=chain, output=output, **changed) for chain, output in WORK.values())  # type: ignore[arg-type]
        yield (name, *map(_cell, settings))


def _cell(setting: Setting) -> str:
    return f"{_thousands(total(setting))}, {outcome(setting).limited_by}"


def _thousands(rate: float) -> str:
    """Two significant digits: more are not known."""
    if rate == float("inf"):
        return "no limit"
    digits = len(str(int(rate))) - 2
    return f"{round(rate, -digits):,.0f}"


def parts() -> Iterator[Sequence[str]]:
    """What the simulation is made of."""
    yield ("part", "figure", "from")
    yield ("a photograph", f"{FILE_BYTES / 1000:.0f} kB, {PIXELS / 1e6:.3f} megapixels", "measured")
    yield (
        "a square: pixels, PNG, JPEG",
        f"{SQUARE_BYTES / 1000:.0f}, {OUT_BYTES['png'] / 1000:.0f}, {OUT_BYTES['jpeg'] / 1000:.0f} kB",
        "measured",
    )
    yield (
        "a core: read a header, check the data, encode PNG",
        f"{OPEN_S * 1e3:.2f}, {CHECK_S * 1e3:.2f}, {PNG_S * 1e3:.2f} ms",
        "measured",
    )
    yield ("all other Python of a worker, of the parent", f"{WORKER_S * 1e3:.2f}, {PARENT_S * 1e3:.2f} ms", "measured")
    for chain, least in ROOFLINE_S.items():
        yield (f"{chain} and classifier on an H100, roofline", f"{least * 1e6:.0f} µs", "counted (1)")
    yield ("share of the roofline that an engine reaches", f"{OF_ROOFLINE:.0%}", "**assumed**")
    yield ("H100: FP16, memory", f"{FLOP_PER_S / 1e12:.0f} TFLOP/s, {MEMORY_PER_S / 1e12:.2f} TB/s", "published (2)")
    yield ("PCIe, each direction", f"{PCIE_PER_S / GB:.0f} GB/s", "published (2)")
    yield ("decoding, one GPU", f"{DECODED_PER_S:,.0f} images/s", "published, for another GPU (3)")
    yield ("a DGX H100", f"{GPUS} GPUs, {CORES} cores, {NETWORK_PER_S / GB:.1f} GB/s of network", "published (4)")
    yield (
        "object store, one prefix",
        f"{GETS_PER_S:,.0f} GET/s, {PUTS_PER_S:,.0f} PUT/s, {LATENCY_S * 1e3:.0f} ms each",
        "published (5)",
    )


def fit() -> Iterator[Sequence[str]]:
    """The simulation beside a run that was measured."""
    yield ("", "decode, engine, encode alone", "`run`, measured", "simulated", "simulated by measured")
    rates, found = ", ".join(f"{rate:.0f}" for rate in STAGES_HERE.values()), predicted_here()
    yield ("2 cores, batches of 16", rates, f"{RUN_HERE:.1f}", f"{found:.1f}", f"{found / RUN_HERE:.2f}")


TABLES = {"fit": fit, "parts": parts, "reach": reach, "alone": alone, "store": store, "what-if": what_if}


def markdown(rows: Iterator[Sequence[str]]) -> str:
    head, *others = rows
    lines = [head, ["---"] * len(head), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(page: str) -> str:
    """The page with its tables made again. Each stands between two comments that name it."""
    for name, rows in TABLES.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, n = between.subn(lambda found, rows=rows: f"{found[1]}{markdown(rows())}\n{found[2]}", page)  # type: ignore[misc]
        assert n == 1, f"{PAGE} has {n} places for the table {name}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.write:
        PAGE.write_text(filled(PAGE.read_text()))
    else:
        print("\n\n".join(f"{name}\n\n{markdown(rows())}" for name, rows in TABLES.items()))


if __name__ == "__main__":
    main()
