"""One query's way: options, plan, lanes, fusion, result."""
