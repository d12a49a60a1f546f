"""FastLane indexes over HTTP and the Model Context Protocol. The extras `serve` and `mcp` install what this needs."""
