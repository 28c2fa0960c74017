"""The experiment chapters run from end to end at smoke size, each from an empty folder."""

from collections.abc import Callable
from pathlib import Path

import papermill
import pytest

from lib.experiments import ledger
from lib.recipes import parse_eps

BOOK = Path(__file__).resolve().parents[2] / "book"


@pytest.mark.parametrize(
    ("chapter", "eps", "recipes"),
    [
        ("quickstart", None, ["digits/linf-dist-net-mlp"]),
        ("mnist", "8/255", ["mnist/linf-dist-net"]),
        ("mnist", 0.1, ["mnist/linf-dist-net-mlp"]),
        ("mnist", None, ["mnist/ibp"]),
        ("fashion_mnist", 0.05, ["fashion-mnist/linf-dist-net"]),
        ("cifar10", "2/255", ["cifar10/linf-dist-net-mlp"]),
        ("tiny_imagenet", None, ["tiny-imagenet/linf-dist-net-mlp"]),
        ("ablation", None, ["cifar10/ablation-a-mlp", "cifar10/ablation-e-mlp"]),
        ("depth", "2/255", ["cifar10/depth-5-identity", "cifar10/depth-5-gauss"]),
        ("convolution", None, ["cifar10/conv-linf-dist-net-mlp"]),
        ("ibp", 0.1, ["mnist/ibp", "mnist/ibp"]),
        ("sortnet", 0.05, ["digits/sortnet", "digits/linf-dist-net-v2"]),
    ],
)
def test_an_experiment_chapter_runs_at_smoke_size(
    chapter: str, eps: float | str | None, recipes: list[str], tmp_path: Path, linf_data: Callable[[str], Path]
) -> None:
    dataset = recipes[0].partition("/")[0]
    data_root = None if dataset == "digits" else str(linf_data(dataset))
    values = {"recipe": recipes[0], "eps": eps, "budget": "smoke", "seed": 3, "data_root": data_root, "device": "cpu"}
    papermill.execute_notebook(
        BOOK / f"{chapter}.ipynb",
        tmp_path / "out.ipynb",
        values,
        cwd=tmp_path,
        kernel_name="python3",
        progress_bar=False,
    )
    records = list(ledger.records(tmp_path / "runs"))
    assert sorted(record.recipe.name for record in records) == sorted(recipes)
    assert all((record.budget, record.seed) == ("smoke", 3) for record in records)
    assert eps is None or all(record.eps == parse_eps(eps) for record in records)
