"""The code in the READMEs and the swapping guide runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["integrations/langchain/README.md", "integrations/llama_index/README.md", "docs/swapping.md"]


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.filterwarnings("error::UserWarning:langchain_fastlane")
def test_every_python_block_runs(model, document, tmp_path, monkeypatch):
    """Block after block in one namespace, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 5
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, document, "exec"), namespace)
