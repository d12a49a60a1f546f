"""The machine code of the CUDA kernels, compiled without a device: instructions in their inner loops.

python benchmarks/kernel_code.py --json benchmarks/results/kernel_code.json

A count is one warp's, for one tile: a block of document tokens against a block of query tokens, all of one program. It
says what a kernel asks of the device, not how fast it runs: that is `gpu.py`'s to measure.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAPABILITIES = (80, 90)
_POINTERS = {
    "levels": "i8",
    "rows": "i32",
    "residuals": "u8",
    "centroid_ids": "u16",
    "scales": "u8",
    "slots": "i64",
    "starts": "i64",
    "lengths": "i64",
    "argmax": "i64",
}


@dataclass(frozen=True)
class Kernel:
    """One kernel with everything that is known when it is compiled.

    Attributes:
        function: a Triton kernel.
        counts: its whole numbers; all other arguments are pointers or constants.
        constants: by name.
        options: warps and stages.
        pointers: what pointers point to, where it is not float32.
    """

    function: Any
    counts: list[str]
    constants: dict[str, Any]
    options: dict[str, int]
    pointers: dict[str, str]

    def compiled(self, capability: int) -> Any:
        """The kernel for devices of this compute capability."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = self.function.arg_names
        kinds = dict.fromkeys(self.constants, "constexpr") | dict.fromkeys(self.counts, "i32")
        signature = {name: kinds.get(name, "*" + self.pointers.get(name, "fp32")) for name in names}
        source = ASTSource(
            self.function,
            signature,
            constexprs={(names.index(name),): value for name, value in self.constants.items()},
            attrs={(n,): [["tt.divisibility", 16]] for n, name in enumerate(names) if signature[name][0] == "*"},
        )
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=self.options)


def kernels() -> dict[str, Kernel]:
    """The kernels of a search: 128 dimensions; 4, 8 or 32 tokens a query."""
    import torch

    from fastlane_rag.scoring import Codebook
    from fastlane_rag.scoring.triton.backend import block_sizes
    from fastlane_rag.scoring.triton.codes import COUNTS, OPTIONS, Blocks, codes_kernel
    from fastlane_rag.scoring.triton.kernels import COUNTS as ROW_COUNTS
    from fastlane_rag.scoring.triton.kernels import maxsim_kernel

    found = {}
    shapes = [(4, 32, 1), (4, 8, 1), (4, 4, 64), (1, 32, 1), (2, 32, 1), (8, 32, 1)]
    for bits, tokens, queries in shapes:
        book = Codebook(torch.zeros(1, 128), torch.ones(128), bits)
        constants = {
            **Blocks.of(tokens, queries, book).constants(book),
            "GROUPED": False,
            "KEEP": False,
            "PACKED": True,
        }
        name = f"{bits}-bit codes, {queries} x {tokens} tokens"
        found[name] = Kernel(codes_kernel, COUNTS, constants, OPTIONS, _POINTERS)
    for query, document in (("fp32", "fp16"), ("fp32", "fp32"), ("bf16", "bf16")):
        names = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}
        rows = torch.empty(1, 128, dtype=names[document])
        sizes = block_sizes(names[query], rows, width=32, queries=1)
        options = {name: sizes.pop(name) for name in ("num_warps", "num_stages")}
        constants = {"DIM": 128, "SLOTS": 32, "GROUPED": False, "KEEP": False, "PRECISION": "tf32x3", **sizes}
        pointers = _POINTERS | {"queries": query, "documents": document}
        found[f"{query} queries, {document} rows, 1 x 32 tokens"] = Kernel(
            maxsim_kernel, ROW_COUNTS, constants, options, pointers
        )
    return found


def inner_loop(compiled: Any) -> list[str]:
    """The instructions of the longest loop with matrix products that has no such loop inside."""
    code, labels = [], {}
    for line in _assembly(compiled).splitlines():
        if found := re.match(r"\s*(\.L_\w+):", line):
            labels[found[1]] = len(code)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?(.*?);", line):
            code.append(found[1])
    loops = []
    for end, instruction in enumerate(code):
        target = re.match(r"BRA\b.*?(\.L_\w+)", instruction)
        if target and labels[target[1]] < end:
            loops.append((labels[target[1]], end + 1))
    products = [loop for loop in loops if any("MMA" in one.split()[0] for one in code[slice(*loop)])]
    innermost = [a for a in products if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in products)]
    start, end = max(innermost, key=lambda loop: loop[1] - loop[0])
    return code[start:end]


def measured(kernel: Kernel, capability: int) -> dict[str, Any]:
    """What one kernel's machine code is made of."""
    compiled = kernel.compiled(capability)
    loop = inner_loop(compiled)
    kinds = Counter(instruction.split()[0].split(".")[0] for instruction in loop)
    return {
        "document_tokens": kernel.constants["BLOCK_D"],
        "query_tokens": kernel.constants["BLOCK_Q"],
        "warps": kernel.options["num_warps"],
        "shared_bytes": compiled.metadata.shared,
        "instructions": len(loop),
        "instructions_a_token": round(len(loop) * kernel.options["num_warps"] / kernel.constants["BLOCK_D"], 2),
        "commonest": dict(kinds.most_common(8)),
    }


def _assembly(compiled: Any) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Compile all kernels, and write what they are made of."""
    import triton

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the counts")
    arguments = parser.parse_args()
    results = {}
    for name, kernel in kernels().items():
        results[name] = {f"sm_{capability}": measured(kernel, capability) for capability in CAPABILITIES}
        for target, counts in results[name].items():
            print(f"{name:40} {target}  {counts['instructions']:4} instructions, {counts['shared_bytes']} bytes shared")
    if arguments.json:
        arguments.json.write_text(json.dumps({"triton": triton.__version__, "kernels": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
