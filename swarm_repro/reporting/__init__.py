"""Reports to look at: one self-contained HTML file from a report's JSON."""
