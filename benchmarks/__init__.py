"""Scripts that measure what the documentation claims, as ratios in one run."""
