"""Names in exported graphs: of the tensors that go in and come out, and of what their metadata says."""

INPUT = "images"
PURIFIED, PROBABILITIES, SCORES = "purified", "probabilities", "scores"
OUTPUTS = (PURIFIED, PROBABILITIES, SCORES)  # in the order in which a graph gives those that it has
OWN_INPUT = "own_input"  # what a classifier's own ONNX graph takes; inside a graph
KEPT_IN_FP32 = "purifyctl.fp32"  # metadata: names of operators, with spaces between, that a BF16 engine leaves in FP32
