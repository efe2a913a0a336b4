"""What ``import corral`` offers, and what it costs."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import corral

HEAVY = ("torch", "transformers", "numpy", "scipy", "sklearn", "pydantic", "yaml", "typer", "rich")


def declared_for_type_checkers():
    """Names imported under ``if TYPE_CHECKING``, with their modules."""
    tree = ast.parse(Path(corral.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_every_exported_name_can_be_imported():
    for name in corral.__all__:
        assert getattr(corral, name).__name__ == name
    assert sorted(declared_for_type_checkers()) == corral.__all__
    assert all(corral._MODULE_OF[name] == module for name, module in declared_for_type_checkers().items())


def test_names_are_few_and_all_of_them_are_listed():
    assert len(corral.__all__) <= 40
    assert set(dir(corral)) == {*corral.__all__, "__version__"}


def test_star_import_gives_exactly_these(tmp_path):
    (tmp_path / "starred.py").write_text("from corral import *\n")
    spec = importlib.util.spec_from_file_location("starred", tmp_path / "starred.py")
    starred = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(starred)
    assert {name for name in vars(starred) if not name.startswith("__")} == set(corral.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Moderater"):
        corral.Moderater  # noqa: B018
    with pytest.raises(ImportError):
        from corral import Moderater  # noqa: F401


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert corral.__version__ == version("corral")


def test_import_is_cheap():
    """In processor time of a fresh interpreter, the best of three: other processes must not fail it."""
    code = (
        "import sys, time; start = time.process_time(); import corral; took = time.process_time() - start; "
        f"print(took, *[name for name in {HEAVY} if name in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert min(float(took) for took, *_ in runs) < 0.05
    assert all(not imported for _, *imported in runs)
