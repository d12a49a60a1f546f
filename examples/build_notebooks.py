"""Make the notebooks from their scripts, run them and keep what they show.

python examples/build_notebooks.py [NAME ...]      # needs jupytext, nbclient and ipykernel

The scripts are the source: edit those. FASTLANE_EXAMPLES_LLM=smollm2 runs them with a real small language model.
"""

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = (
    "qa_langchain",
    "qa_llama_index",
    "swap_retriever",
    "router",
    "agent_tool",
    "tenants",
    "long_documents",
    "pages",
)


def build(name: str) -> None:
    """Write NAME.ipynb, with outputs and without what changes from run to run."""
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook = jupytext.read(HERE / f"{name}.py", fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{number}".replace("_", "-")
    NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = kept(cell.outputs)
    notebook.metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, HERE / f"{name}.ipynb")


def kept(outputs: list[Any]) -> list[Any]:
    """Results in one piece; without stderr, where progress bars and notices go."""
    merged: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if merged and output.get("name") == "stdout" == merged[-1].get("name"):
            merged[-1]["text"] += output["text"]
        else:
            merged.append(output)
    return merged


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for wanted in sys.argv[1:] or NAMES:
        build(wanted)
        print(f"built {wanted}.ipynb")
