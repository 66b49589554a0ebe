"""What `--precision auto` chooses among: precisions and forms of the purifier, timed on this machine.

The times are kept in the user's cache, by machine, library version and networks (docs/adr/0034).
"""

import hashlib
import itertools
import json
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

import purifyctl
from purifyctl import console
from purifyctl.classifiers import weights_sha256
from purifyctl.config import EngineConfig, EnginePrecision
from purifyctl.engine.backends import implementation, open_runner
from purifyctl.engine.chain import Chain
from purifyctl.engine.drafts import Drafts
from purifyctl.engine.manifest import Candidate
from purifyctl.engine.rate import per_second
from purifyctl.engine.times import Times, file_of, read_times, this_machine, write_times
from purifyctl.errors import PurifyctlError

ROUNDS, WINDOW_S = 3, 0.3  # of each candidate; the fastest counts, because other programs only slow it down
WORTH = 1.05  # another precision than FP32 has to be faster by this factor


def find_candidates(drafts: Drafts) -> tuple[Candidate, ...]:
    """The candidates for this machine, the best first: timed now, or as an earlier build on this machine timed them.

    A single candidate is not timed.
    """
    backend = implementation(drafts.config.backend)
    precisions = backend.candidates()
    if len(precisions) == 1:
        return named(drafts.config, precisions[0])
    if known := read_times(_file(drafts)):
        drafts.steps.leave_out("timing")
        return known.candidates
    forms: list[tuple[str, ...]] = [("fold_norms",)]
    if any(isinstance(module, nn.ConvTranspose2d) for module in drafts.networks.purifier.net.modules()):
        forms += [("fold_norms", "deconvs_as_conv2"), ("fold_norms", "deconvs_as_conv3")]
    timed = [_timed(drafts, precision, form) for precision, form in itertools.product(precisions, forms)]
    candidates = tuple(sorted(filter(None, timed), key=_cost))
    keep(drafts, candidates)
    return candidates


def named(config: EngineConfig, precision: EnginePrecision) -> tuple[Candidate, ...]:
    """A precision that was named, in the form that its backend has for it."""
    rewrites = implementation(config.backend).rewrites(precision)
    return (Candidate(precision, tuple(rewrite.__name__ for rewrite in rewrites), 0.0),)


def keep(drafts: Drafts, candidates: tuple[Candidate, ...]) -> None:
    """Keep the times, and which candidates were refused, for the next build. Without a cache they are found again."""
    config, classifier = drafts.config, drafts.networks.classifier
    networks = drafts.networks.purifier.network.kind + (f" + {classifier.name}" if classifier else "")
    version = implementation(config.backend).version()
    try:
        write_times(_file(drafts), Times(networks, config.backend, version, this_machine(), candidates))
    except OSError as error:
        console.detail(f"The times of precisions are not kept: {error}")


def _timed(drafts: Drafts, precision: EnginePrecision, form: tuple[str, ...]) -> Candidate | None:
    """A candidate with its time; None: the backend refuses it."""
    found = Candidate(precision, form, 0.0)
    config = drafts.config
    images = np.resize(drafts.photographs, (config.batch_size, *drafts.photographs.shape[1:]))
    with tempfile.TemporaryDirectory(dir=drafts.folder) as name, ExitStack() as stack:
        folder = Path(name)
        try:
            drafts.write(precision, form, folder)
            drafts.steps.begin(f"timing {found}")
            runners = {
                network: stack.enter_context(
                    open_runner(
                        config.backend,
                        folder / drafts.file_name(network),
                        precision=precision,
                        image_size=config.image_size,
                        batch_size=config.batch_size,
                    )
                )
                for network in drafts.names()
                if network in (("fused",) if config.fused else ("purifier", "classifier"))
            }
            chain = Chain(runners)
            call = partial(chain.run, images)
            rates = [per_second(call, chain.concurrency, seconds=WINDOW_S) for _ in range(ROUNDS)]
        except (PurifyctlError, RuntimeError, ValueError) as error:
            console.warn(f"auto leaves out {found}: {error}")
            return None
    found = replace(found, ms_per_image=round(1e3 / (max(rates) * config.batch_size), 3))
    console.detail(f"{found}: {found.ms_per_image:.2f} ms per image.")
    return found


def _cost(candidate: Candidate) -> float:
    return candidate.ms_per_image * (1.0 if candidate.precision == "fp32" else WORTH)


def _file(drafts: Drafts) -> Path:
    """Where the times are kept. Another machine, library version, network, size or batch has another file."""
    config, networks = drafts.config, drafts.networks
    facts = {
        "machine": this_machine(),
        "backend": [config.backend, implementation(config.backend).version()],
        "purifyctl": purifyctl.__version__,
        "purifier": networks.purifier.sha256,
        "classifier": weights_sha256(networks.classifier) if networks.classifier else "",
        "config": [config.image_size, config.batch_size, config.fused],
    }
    return file_of(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16])
