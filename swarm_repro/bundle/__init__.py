"""One archive for a paper: what was run, what was recorded, and how to see that it is so."""
