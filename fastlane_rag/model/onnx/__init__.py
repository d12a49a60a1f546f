"""Token states by onnxruntime instead of torch: the same encoder, in half the processor time or less on a CPU.

`plan` reads a BERT-like encoder's weights, `graph` writes them as an ONNX graph, `cache` keeps the file, `session` runs
it, and `backend` decides and checks. onnxruntime and onnx load when a model is opened that uses them.
"""
