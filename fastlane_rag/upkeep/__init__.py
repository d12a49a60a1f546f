"""What changes or checks a store: writing, merging, recoding, copying, verifying."""
