"""Engine bundles: build, check, trust and open them.

default.py    the engine that `run` uses if none is named
build.py      a recipe and a checkpoint to a bundle
networks.py   the networks that it is built from; staging.py: the folder that it is built in
agreement.py  compare what was built with torch: parity.py by results, locate.py layer by layer
quantize.py   8-bit integers inside a purifier's graph
chain.py      purifier and classifier, run one after the other on a batch
bundle.py     the bundle on disk; manifest.py: its manifest; trust.py: which ones may run here
graphs.py     torch networks to ONNX; rewrites.py: the same network from other layers; tensors.py: the graphs' ends
backends/     the libraries that run graphs and plans
"""
