"""MaxSim in plain torch, on any device: the reference in speed and the way out where nothing else can run."""
