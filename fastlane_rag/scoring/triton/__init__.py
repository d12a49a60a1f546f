"""MaxSim on CUDA, in Triton."""
