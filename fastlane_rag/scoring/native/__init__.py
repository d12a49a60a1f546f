"""The compiled kernels: the C++ in `src`, the library built from it, and its callers."""
