"""The measurements behind every figure of README.md and docs/figures.md, one module per part."""
