"""The graphs of a bundle, in each precision and form that is asked for; each is made once."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from purifyctl import console
from purifyctl.config import BACKENDS, EngineConfig, EnginePrecision, is_bf16, is_int8
from purifyctl.engine.graphs import Precision, export_onnx, export_program
from purifyctl.engine.kept import keep_ends_in_fp32
from purifyctl.engine.networks import Networks, graphs_of
from purifyctl.engine.quantize import quantize_purifier
from purifyctl.engine.rewrites import PASSES
from purifyctl.engine.steps import Steps
from purifyctl.photographs import Pixels


@dataclass(frozen=True)
class Drafts:
    """A folder in which graphs are kept while a bundle is built."""

    folder: Path
    networks: Networks
    config: EngineConfig  # its precision does not count
    calibration: Pixels  # the ranges of INT8 come from these photographs
    photographs: Pixels  # on which it is timed
    steps: Steps

    def write(self, precision: EnginePrecision, rewrites: tuple[str, ...], into: Path) -> None:
        """Write all graphs of a bundle in this precision, with these rewrites of the purifier."""
        for name in self.names():
            shutil.copyfile(self._made(name, precision, rewrites), into / self.file_name(name))

    def file_name(self, name: str) -> str:
        """The file of one network's graph in a bundle."""
        return f"{name}.{'onnx' if BACKENDS[self.config.backend].graph == 'onnx' else 'pt2'}"

    def names(self) -> list[str]:
        """The networks of the bundle."""
        present = {
            "purifier": True,
            "classifier": self.networks.classifier is not None,
            "fused": self.config.fused,
            "gate": self.networks.gate is not None,
        }
        return [name for name, is_there in present.items() if is_there]

    def _made(self, name: str, precision: EnginePrecision, rewrites: tuple[str, ...]) -> Path:
        """The graph of one network, made now if it was not made before."""
        if name not in ("purifier", "fused"):  # INT8, rewrites and layers that stay in FP32 are for purifiers
            precision, rewrites = "fp16" if precision == "fp16" else "fp32", ()
        file = self.folder / self.file_name("-".join((name, precision, *rewrites)))
        if file.exists():
            return file
        new = self.folder / self.file_name("new")  # until it is whole
        if is_bf16(precision):
            shutil.copyfile(self._made(name, "int8" if is_int8(precision) else "fp32", rewrites), new)
            keep_ends_in_fp32(new)
        elif is_int8(precision):
            shutil.copyfile(self._made(name, "fp32", rewrites), new)
            self.steps.begin(f"finding INT8 ranges of {name}")
            quantize_purifier(new, self.calibration, symmetric=BACKENDS[self.config.backend].symmetric)
        else:
            console.detail(f"Exporting {name}.")
            self.steps.begin(f"exporting {name}")
            typed: Precision = "fp16" if precision == "fp16" else "fp32"
            passes = [PASSES[rewrite] for rewrite in rewrites]
            graphs = graphs_of(self.networks, typed, passes, fused=self.config.fused)
            export = export_onnx if BACKENDS[self.config.backend].graph == "onnx" else export_program
            export(graphs[name], new, self.config.image_size)
        return new.rename(file)
