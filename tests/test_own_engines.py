"""Engines of a classifier in an ONNX file: its graph is joined to ours, and computes what its file computes."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from purifyctl.classifiers import load_classifier
from purifyctl.config import BackendName, ClassifierConfig, EngineConfig, EnginePrecision
from purifyctl.config.build import BuildOptions
from purifyctl.config.classifier import ClassifierOptions
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import load_bundle
from purifyctl.engine.chain import open_chain
from purifyctl.engine.chosen import build_chosen
from purifyctl.engine.default import _key
from purifyctl.engine.graphs import classifier_graph, export_onnx
from purifyctl.images.synthetic import natural_images
from tests import tiny
from tests.own_networks import CLASSES, SIDE, Answering, Net, export, reshaped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return export(Net(), folder / "mine.onnx", batch=1)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return tiny.checkpoint(folder / "run")


def config(file: Path, backend: BackendName = "openvino", precision: EnginePrecision = "fp32") -> EngineConfig:
    about = ClassifierConfig(str(file), mean=(0.5,), std=(0.25,))
    fused = backend == "openvino"
    return EngineConfig(
        backend, precision, image_size=64, batch_size=4, classifier=about, gate="none", fused=fused
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "precision"), [("openvino", "fp32"), ("onnxruntime", "fp32"), ("openvino", "int8")]
)
def test_an_onnx_classifier_runs_on_every_backend_here(
    backend: BackendName, precision: EnginePrecision, file: Path, checkpoint: Path, tmp_path: Path
) -> None:
    bundle = build_engine(config(file, backend, precision), checkpoint, tmp_path / "bundle")  # it checks the agreement
    images = natural_images(5, 64)
    with open_chain(bundle, ("purifier", "classifier")) as chain:
        purified, probabilities = chain.run(images[:4])
    own = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    x = torch.from_numpy(np.ascontiguousarray(purified)).permute(0, 3, 1, 2) / 255
    x = (torch.nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear") - 0.5) / 0.25
    logits = [own.run(None, {own.get_inputs()[0].name: one[None].numpy()})[0] for one in x]
    np.testing.assert_allclose(probabilities, torch.from_numpy(np.concatenate(logits)).softmax(1), atol=1e-4)
    recorded = load_bundle(bundle.path).manifest
    assert recorded.classifier is not None
    assert (recorded.classifier.size, recorded.classifier.crop, recorded.classifier.mean) == (
        (SIDE, SIDE),
        1,
        (0.5,) * 3,
    )
    classifier = recorded.networks["classifier"]
    assert (classifier.name, classifier.source, len(classifier.sha256)) == ("mine.onnx", str(file), 64)
    assert classifier.parameters == 8 * 3 * 9 + 8 + 8 * CLASSES + CLASSES  # the norm is folded
    assert classifier.multiply_adds == (SIDE // 2) ** 2 * 8 * 3 * 9 + 8 * CLASSES
    assert recorded.class_names[:2] == ("class 0", "class 1")


@pytest.mark.parametrize("form", ["plain", "nhwc", "softmax"])
def test_the_joined_graph_computes_what_torch_computes(form: str, file: Path, folder: Path) -> None:
    if form == "nhwc":
        path = reshaped(file, folder / "nhwc.onnx", nhwc=True)
    else:
        path = export(
            Net() if form == "plain" else Answering(lambda z: z.softmax(1)), folder / f"{form}.onnx", opset=20
        )
    classifier = load_classifier(str(path))
    export_onnx(classifier_graph(classifier), folder / "joined.onnx", 64)
    images = natural_images(3, 64)
    session = onnxruntime.InferenceSession(str(folder / "joined.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"images": images})
    with torch.no_grad():
        np.testing.assert_allclose(found, classifier_graph(classifier)(torch.from_numpy(images)), atol=1e-5)
    assert found.shape == (3, CLASSES)


def test_in_fp16_the_joined_graph_has_fp16_weights(file: Path, folder: Path) -> None:
    classifier = load_classifier(str(file))
    export_onnx(classifier_graph(classifier, "fp16"), folder / "half.onnx", 64)
    images = natural_images(3, 64)
    session = onnxruntime.InferenceSession(str(folder / "half.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"images": images})
    with torch.no_grad():
        np.testing.assert_allclose(found, classifier_graph(classifier)(torch.from_numpy(images)), atol=2e-3)
    import onnx

    kinds = {t.data_type for t in onnx.load(folder / "half.onnx").graph.initializer if t.name.startswith("own/")}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds


def test_a_cached_engine_goes_by_what_files_hold(file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine.onnx"
    elsewhere.write_bytes(file.read_bytes())
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(map(str, range(CLASSES))))

    def key(**flags: str) -> str:
        return _key(EngineConfig(classifier=ClassifierOptions(**flags).choice))

    assert key(classifier=str(file)) == key(classifier=str(elsewhere))
    assert key(classifier=str(file)) != key(classifier=str(elsewhere), labels=str(labels))
    before = key(classifier="tests.own_networks:plain")
    assert before == key(classifier="tests.own_networks:plain") != key(classifier="tests.own_networks:softmax")


@pytest.mark.slow
def test_a_recipe_can_hold_a_classifier_as_a_table(file: Path, checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'image_size = 64\nbatch_size = 2\ngate = "none"\n\n[classifier]\nname = "{file}"\nstd = [0.00392157]\n'
    )
    bundle = build_chosen(BuildOptions(checkpoint=checkpoint, out=tmp_path / "bundle", precision="fp32"), recipe)
    assert bundle.manifest.classifier is not None
    assert bundle.manifest.classifier.std == (0.003922,) * 3
    assert f"--classifier {file} --std 0.00392157" in bundle.manifest.rebuild
