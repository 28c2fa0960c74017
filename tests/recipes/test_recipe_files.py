"""Files of recipes: bases, budgets, and what is refused by name."""

from pathlib import Path

import pytest

from lib.recipes import BUDGETS, FOLDER, load


class TestLoad:
    @pytest.fixture
    def text(self) -> str:
        return (FOLDER / "digits/linf-dist-net.toml").read_text()

    def write(self, folder: Path, text: str) -> Path:
        path = folder / "mine.toml"
        path.write_text(text)
        return path

    def test_a_path_is_a_recipe_named_after_its_file(self, tmp_path: Path, text: str) -> None:
        path = self.write(tmp_path, text)
        assert (
            load(path, "smoke")
            == load(str(path), "smoke")
            == load("digits/linf-dist-net", "smoke").replace(name="mine")
        )

    def test_the_path_of_a_shipped_recipe_keeps_its_name(self) -> None:
        assert load(FOLDER / "digits/linf-dist-net.toml", "smoke") == load("digits/linf-dist-net", "smoke")

    def test_unknown_recipe_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(
            ValueError, match=r"unknown recipe 'mnist/linf-dist-nte', did you mean 'mnist/linf-dist-net'\?"
        ):
            load("mnist/linf-dist-nte")

    def test_the_nearest_is_found_in_any_case(self) -> None:
        with pytest.raises(ValueError, match=r"'DIGITS/LInf-dist-net', did you mean 'digits/linf-dist-net'\?"):
            load("DIGITS/LInf-dist-net")

    def test_unknown_budget_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(ValueError, match=r"unknown budget 'quik', did you mean 'quick'\?"):
            load("mnist/linf-dist-net", "quik")

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"recipe file .*none.toml does not exist"):
            load(tmp_path / "none.toml")

    def test_unknown_key_is_refused_with_the_nearest(self, tmp_path: Path, text: str) -> None:
        path = self.write(tmp_path, text.replace("\nstd =", "\nstdd ="))
        with pytest.raises(ValueError, match=r"unknown key in .*mine.toml 'stdd', did you mean 'std'\?"):
            load(path)

    def test_unknown_key_of_a_budget_is_refused(self, tmp_path: Path, text: str) -> None:
        path = self.write(tmp_path, text.replace("[budget.smoke]", "[budget.smoke]\nheight = 3"))
        for budget in BUDGETS:
            with pytest.raises(ValueError, match=r"unknown key in .*'height'"):
                load(path, budget)

    @pytest.mark.parametrize("where", ["", "[budget.smoke]"])
    def test_a_name_is_the_files_and_no_key(self, tmp_path: Path, text: str, where: str) -> None:
        mine = text.replace("[budget.smoke]", "[budget.smoke]\nname = 'x'") if where else f"name = 'x'\n{text}"
        with pytest.raises(ValueError, match=r"unknown key in .*'name'"):
            load(self.write(tmp_path, mine))

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("budget.smoke = 3", r"budget.smoke in .*mine.toml is 3, expected a table \[budget.smoke\]"),
            ("budget = 3", r"budget in .*mine.toml is 3, expected tables \[budget.X\], X being smoke, quick, "),
        ],
    )
    def test_a_budget_that_is_no_table_is_refused(self, tmp_path: Path, line: str, sentence: str) -> None:
        path = self.write(tmp_path, f'base = "digits/linf-dist-net"\n{line}\n')
        with pytest.raises(ValueError, match=sentence):
            load(path)

    def test_missing_key_is_refused(self, tmp_path: Path, text: str) -> None:
        path = self.write(tmp_path, text.replace("lr = 0.02\n", ""))
        with pytest.raises(ValueError, match=r"mine.toml lacks lr at budget quick"):
            load(path)

    def test_bad_value_is_refused_with_file_and_budget(self, tmp_path: Path, text: str) -> None:
        path = self.write(tmp_path, text.replace("eps_test = 0.1", "eps_test = 1.5"))
        with pytest.raises(ValueError, match=r"mine.toml, budget quick: eps_test is 1.5, expected"):
            load(path)

    def test_a_base_lends_what_the_file_does_not_say(self, tmp_path: Path) -> None:
        text = 'base = "digits/linf-dist-net"\nwidth = 7\nlr = 0.5\n[budget.smoke]\nlr = 0.25\n'
        path, shipped = self.write(tmp_path, text), load("digits/linf-dist-net", "smoke")
        # the file's own width goes before the width that the base has at this budget
        assert load(path, "smoke") == shipped.replace(name="mine", width=7, lr=0.25)
        assert load(path, "quick").lr == 0.5

    def test_a_file_can_take_from_its_base_what_another_loss_does_not_use(self, tmp_path: Path) -> None:
        text = 'base = "digits/linf-dist-net"\nloss = "clipped-hinge"\nhinge_mix = "none"\nce_weight_start = 0.5\n'
        text += "ce_weight_end = 0.01\nlogit_scale_lr = 0.01\nlogit_scale_decay = 0.0\n"
        assert load(self.write(tmp_path, text)).hinge_mix is None

    def test_an_unknown_base_is_refused_with_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"unknown base in .*mine.toml 'digits/linf-dist-nte', did you mean"):
            load(self.write(tmp_path, 'base = "digits/linf-dist-nte"\n'))

    def test_a_base_is_the_name_of_a_shipped_recipe_and_not_a_path(self, tmp_path: Path) -> None:
        sentence = r"unknown base in .* 'mine.toml', expected the name of a recipe of the library, such as '[\w/-]+'$"
        with pytest.raises(ValueError, match=sentence):
            load(self.write(tmp_path, 'base = "mine.toml"\n'))

    def test_an_unknown_budget_is_refused_with_the_nearest(self, tmp_path: Path, text: str) -> None:
        for mine in ('base = "digits/linf-dist-net"\n[budget.smok]\n', text.replace("[budget.smoke]", "[budget.smok]")):
            with pytest.raises(ValueError, match=r"unknown budget in .*mine.toml 'smok', did you mean 'smoke'\?"):
                load(self.write(tmp_path, mine))

    def test_missing_budgets_are_refused_where_no_base_has_them(self, tmp_path: Path, text: str) -> None:
        sentence = r"mine.toml lacks \[budget.smoke\], expected these tables, or base, the name of a recipe$"
        with pytest.raises(ValueError, match=sentence):
            load(self.write(tmp_path, text.replace("[budget.smoke]", "[other.smoke]")))

    def test_a_file_whose_name_can_be_no_folder_is_refused(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, 'base = "digits/linf-dist-net"\n').rename(tmp_path / "my net.toml")
        with pytest.raises(
            ValueError, match=r"the name of the file .*my net.toml, which .* is 'my net', expected words"
        ):
            load(path)

    def test_what_is_no_toml_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"mine.toml is no TOML file"):
            load(self.write(tmp_path, "lr = = 3"))
