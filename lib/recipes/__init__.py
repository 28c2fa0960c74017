"""What a run is made of: one flat, frozen, validated `Recipe`, and the five budgets at which every recipe can be run.

A recipe is a TOML file below `recipes/`: keys at the top hold at every budget, the tables `[budget.smoke]` to
`[budget.paper]` override them. A file with `base`, the name of another recipe, says only what differs from that one.
Whatever is wrong in a file or an override is refused by name before a run starts.
"""

from lib.recipes.files import BUDGETS, FOLDER, Budget, load, names
from lib.recipes.recipe import Recipe
from lib.recipes.values import parse_eps

__all__ = ["BUDGETS", "FOLDER", "Budget", "Recipe", "load", "names", "parse_eps"]
