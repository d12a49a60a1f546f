"""The compiled kernels: C++ in `src`, the library they make, and what calls it."""
