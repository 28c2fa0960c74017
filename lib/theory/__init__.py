"""Why it works: the paper's facts and theorems as code."""

from lib.theory.approximation import Approximation as Approximation
from lib.theory.approximation import approximate as approximate
from lib.theory.approximation import approximate_literally as approximate_literally
from lib.theory.approximation import approximate_wide as approximate_wide
from lib.theory.pyramids import Pyramids as Pyramids
from lib.theory.pyramids import Target as Target
from lib.theory.pyramids import pyramids as pyramids
from lib.theory.signed_max import Term as Term
from lib.theory.signed_max import Unit as Unit
from lib.theory.signed_max import distance_layer as distance_layer
from lib.theory.signed_max import signed_max as signed_max
from lib.theory.steepest import empirical_lipschitz as empirical_lipschitz
