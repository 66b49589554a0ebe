"""What TensorRT and TensorRT for RTX share: their Python API.

    library.py  load a library, keep its errors for messages, keep what it learned for the next start
    build.py    an ONNX graph to a plan
    run.py      a plan on the current GPU

Graphs are strongly typed: TensorRT computes in the precision that the ONNX graph has (docs/adr/0003, 0008). The
libraries differ in when they choose kernels: `tensorrt.py` and `tensorrt_rtx.py` hold what differs.
"""
