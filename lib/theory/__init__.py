"""Why it works: the paper's facts and theorems as code."""
