"""What TensorRT and TensorRT for RTX share: their Python API.

    library.py  start the library, hear its errors, keep what it found out for the next start
    build.py    an ONNX graph to a plan
    run.py      a plan on the current GPU

Graphs are strongly typed: TensorRT computes in the precision that the ONNX graph has (docs/adr/0003, 0008). The
libraries differ in when kernels are chosen, which `tensorrt.py` and `tensorrt_rtx.py` see to.
"""
