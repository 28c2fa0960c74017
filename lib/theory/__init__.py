"""Why it works: the paper's facts and theorems as code."""

from lib.theory.steepest import empirical_lipschitz as empirical_lipschitz
