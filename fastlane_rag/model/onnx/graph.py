"""A BERT-like encoder as an ONNX graph, in float32 or with its matrix products in int8.

The graph is written by hand and not traced, because it is fixed but for its weights: attention, activation and layer
norm are single nodes of onnxruntime, and tokens of all texts are one long matrix outside attention.

In int8 a weight is a whole number from -127 to 127 times a scale of its output (per channel), and an activation is one
from 1 to 255 around 128, times a scale of its own token. onnxruntime's dynamic quantisation takes one scale for all
tokens of a batch: then a document's embeddings depend on its neighbours in the batch, and a token of large values
coarsens all others (cosine with float32 .994 on average and .96 at worst; with a scale a token .999 and .997).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fastlane_rag.model.onnx.plan import Affine, Plan

__all__ = ["FULL", "GRAPH_VERSION", "REDUCED", "serialized"]

GRAPH_VERSION = 1
"""Counts changes of what is written here, so that a cached graph of another version is not taken."""

FULL, REDUCED = 127, 63
"""Largest weight in int8. Without VNNI, x86 adds two products of bytes in 16 bits, where 2 * 255 * 127 overflows."""

_FUSED = "com.microsoft"
_OPSET, _IR = 17, 8  # what onnxruntime 1.20 reads


def serialized(plan: Plan, largest: int | None, *, masked: bool) -> bytes:
    """The graph as a file has it: ``input_ids`` (B, L) int64 to ``states`` (B, L, width) float32.

    Args:
        plan: the encoder.
        largest: `FULL` or `REDUCED` for int8, None for float32.
        masked: add the input ``lengths`` (B,) int32: tokens that attention sees of each text, from its first.
            Without it attention sees all, and is faster.
    """
    written: bytes = _Writer(plan, largest, masked=masked).model().SerializeToString()
    return written


class _Writer:
    def __init__(self, plan: Plan, largest: int | None, *, masked: bool) -> None:
        self.plan, self.largest, self.masked = plan, largest, masked
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        plan, width = self.plan, self.plan.words.shape[1]
        self.constant("flat", np.array([-1, width], np.int64))
        self.constant("third", np.array([width] * 3, np.int64))
        self.node("Shape", ["input_ids"], "batch_length")
        self.node("Concat", ["batch_length", self.constant("rest", np.array([-1], np.int64))], "padded", axis=0)
        x = self.embedded()
        for number, layer in enumerate(plan.layers):
            name = f"layer{number}."
            together = tuple(np.concatenate(parts) for parts in zip(layer.query, layer.key, layer.value, strict=True))
            x = self.normed(self.attended(x, (together[0], together[1]), layer.attended, name), x, layer.attended_norm)
            wide = self.linear(x, layer.wide, f"{name}wide")
            active = (
                self.node("Relu", [wide], f"{name}active")
                if plan.activation == "relu"
                else self.node("Gelu", [wide], f"{name}active", domain=_FUSED)
            )
            x = self.normed(self.linear(active, layer.narrow, f"{name}narrow"), x, layer.norm)
        self.node("Reshape", [x, "padded"], "states")
        inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])]
        if self.masked:
            inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
        outputs = [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "length", width])]
        graph = helper.make_graph(self.nodes, "encoder", inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR)

    def embedded(self) -> str:
        """(B * L, width): the normed sum of words and positions."""
        words = self.plan.words
        halves = words.astype(np.float16)
        # Weights that were saved in half precision lose nothing in it, and take half the memory.
        exact = bool(np.array_equal(halves.astype(np.float32), words))
        found = self.node("Gather", [self.constant("words", halves if exact else words), "input_ids"], "found")
        if exact:
            found = self.node("Cast", [found], "found_float", to=TensorProto.FLOAT)
        length = self.node("Gather", ["batch_length", self.constant("one", np.array([1], np.int64))], "length")
        start = self.constant("start", np.array([0], np.int64))
        here = self.node("Slice", [self.constant("positions", self.plan.positions), start, length], "here")
        placed = self.node("Add", [found, here], "placed")
        return self.norm(self.node("Reshape", [placed, "flat"], "placed_flat"), self.plan.norm, "embedded")

    def attended(self, x: str, together: Affine, out: Affine, name: str) -> str:
        """Attention over the tokens of each text, (B * L, width)."""
        three = self.linear(x, together, f"{name}three")
        parts = [f"{name}{part}" for part in ("query", "key", "value")]
        self.nodes.append(helper.make_node("Split", [three, "third"], parts, axis=1))
        padded = [self.node("Reshape", [part, "padded"], f"{part}_padded") for part in parts]
        mask = ["", "lengths"] if self.masked else []
        mixed = self.node(
            "MultiHeadAttention", [*padded, *mask], f"{name}mixed", domain=_FUSED, num_heads=self.plan.heads
        )
        return self.linear(self.node("Reshape", [mixed, "flat"], f"{name}mixed_flat"), out, f"{name}attended")

    def linear(self, x: str, layer: Affine, name: str) -> str:
        weight, bias = layer
        added = self.constant(f"{name}.bias", bias)
        if self.largest is None:
            return self.node("Gemm", [x, self.constant(f"{name}.weight", weight), added], name, transB=1)
        scale = np.maximum(np.abs(weight).max(1) / self.largest, 1e-12).astype(np.float32)
        codes = np.rint(weight / scale[:, None]).clip(-self.largest, self.largest).astype(np.int8)
        most = self.node("ReduceMax", [self.node("Abs", [x], f"{name}.abs")], f"{name}.most", axes=[-1], keepdims=1)
        most = self.node("Max", [most, self.constant("tiny", np.float32(1e-12))], f"{name}.above_zero")
        inverse = self.node("Div", [self.constant("steps", np.float32(127)), most], f"{name}.inverse")
        spread = self.node("Mul", [x, inverse], f"{name}.spread")
        unit, zero = self.constant("unit", np.float32(1)), self.constant("zero", np.uint8(128))
        bytes_ = self.node("QuantizeLinear", [spread, unit, zero], f"{name}.bytes")
        step = self.constant("step", np.float32(1 / 127))
        weights = [self.constant(f"{name}.codes", codes.T), step, self.constant(f"{name}.scale", scale)]
        product = self.node("MatMulIntegerToFloat", [bytes_, *weights, zero], f"{name}.product", domain=_FUSED)
        return self.node("Add", [self.node("Mul", [product, most], f"{name}.scaled"), added], name)

    def normed(self, x: str, skipped: str, layer: Affine) -> str:
        return self.norm(self.node("Add", [x, skipped], f"{x}.sum"), layer, f"{x}.normed")

    def norm(self, x: str, layer: Affine, name: str) -> str:
        scale, shift = self.constant(f"{name}.scale", layer[0]), self.constant(f"{name}.shift", layer[1])
        return self.node("LayerNormalization", [x, scale, shift], name, epsilon=self.plan.epsilon, axis=-1)

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return name

    def node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output
