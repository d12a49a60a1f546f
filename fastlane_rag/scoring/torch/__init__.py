"""MaxSim in plain torch, on any device: the baseline for speed, and the fallback where no compiled kernel runs."""
