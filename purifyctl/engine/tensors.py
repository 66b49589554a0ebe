"""Names of the tensors that go into exported graphs and come out of them."""

INPUT = "images"
PURIFIED, PROBABILITIES, SCORES = "purified", "probabilities", "scores"
OUTPUTS = (PURIFIED, PROBABILITIES, SCORES)  # in the order in which a graph gives those that it has
OWN_INPUT = "own_input"  # what a classifier's own ONNX graph takes; inside a graph
