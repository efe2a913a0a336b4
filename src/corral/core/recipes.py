"""Recipes: named experiments as data, found by one registry.

A recipe's settings are packaged as ``recipes/<system>/<profile>.yaml`` (``tiny``, ``small``, ``paper``); what it does
is ``RECIPE`` in ``studies/<system>.py``, imported when first asked for. Where a profile is named, the path of a user's
copy of one may stand: it says whose settings it holds in a line ``recipe: <system>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, Protocol

from corral.core.config import Config, Overrides, config_hash, load_config
from corral.core.errors import ConfigError, NotFoundError, RunError, UserError, suggest
from corral.core.evidence import EVIDENCE, Claim, Evidence
from corral.core.files import atomic_write_text
from corral.core.registry import Registry
from corral.core.runs import Run, resumable_run
from corral.core.yaml import parse_yaml, read_yaml

__all__ = [
    "RECIPES",
    "Claim",
    "Evidence",
    "Recipe",
    "copy_profile",
    "list_recipes",
    "load_profile",
    "plan_recipe",
    "publish_evidence",
    "read_profile",
    "run_recipe",
]

_SUFFIX: Final = ".yaml"


class Recipe(Protocol):
    """A published system as something that can be planned and run."""

    @property
    def name(self) -> str:
        """Its system, as in ``recipes/<system>``."""

    @property
    def config_class(self) -> type[Config]:
        """The class of its settings."""

    def plan(self, config: Any) -> list[str]:
        """What a run would do, a line a step, without doing it."""

    def run(self, config: Any, run: Run) -> None:
        """Do it, inside a run directory; a second call on an unfinished run continues it."""


def _folder() -> Traversable:
    return resources.files("corral") / "recipes"


def _profiles() -> Iterator[tuple[str, str]]:
    """System and profile of every packaged settings file."""
    if not _folder().is_dir():
        return
    for system in _folder().iterdir():
        if system.is_dir():
            for entry in system.iterdir():
                if entry.name.endswith(_SUFFIX):
                    yield system.name, entry.name.removesuffix(_SUFFIX)


def list_recipes() -> dict[str, list[str]]:
    """The packaged systems, sorted, each with its profiles."""
    found: dict[str, list[str]] = {}
    for system, profile in sorted(_profiles()):
        found.setdefault(system, []).append(profile)
    return found


RECIPES: Final[Registry[Recipe]] = Registry("recipe")
for _system in list_recipes():
    RECIPES.register(_system, f"corral.studies.{_system}:RECIPE")


def read_profile(name: str) -> str:
    """Text of a packaged profile.

    Args:
        name: ``system/profile``.

    Raises:
        NotFoundError: there is none of that name; the hint lists near ones.
    """
    system, _, profile = name.partition("/")
    known = [f"{s}/{p}" for s, profiles in list_recipes().items() for p in profiles]
    if f"{system}/{profile}" not in known:
        raise NotFoundError(f"no recipe is named `{name}`", hint=suggest(name, known))
    return (_folder() / system / f"{profile}{_SUFFIX}").read_text(encoding="utf-8")


def copy_profile(name: str, path: Path | str) -> None:
    """Write a packaged profile to a file of the user's, to be edited and run by its path.

    Raises:
        NotFoundError: there is none of that name.
        UserError: the file exists.
    """
    text = read_profile(name)
    if Path(path).exists():
        raise UserError("exists", where=str(path), hint="Choose another file.")
    atomic_write_text(path, f"recipe: {name.partition('/')[0]}\n{text}")


def load_profile(name: str, overrides: Overrides = ()) -> tuple[Recipe, Config]:
    """A recipe and its settings.

    Args:
        name: ``system/profile``, or the path of a user's YAML file with a line ``recipe: <system>``.
        overrides: as for ``load_config``.

    Raises:
        NotFoundError: no such recipe or file.
        ConfigError: the settings are not valid.
    """
    if name.endswith((_SUFFIX, ".yml")):
        values, system = read_yaml(name), ""
    else:
        values, system = parse_yaml(read_profile(name), where=name), name.partition("/")[0]
    if not isinstance(values, dict):
        raise ConfigError("expected `key: value` lines", where=name)
    system = values.pop("recipe", None) or system
    if not system:
        raise ConfigError("does not say whose settings these are", where=name, hint="Add a line `recipe: <system>`.")
    recipe = RECIPES.get(system)
    try:
        return recipe, load_config(recipe.config_class, values, overrides)
    except ConfigError as error:
        error.where = f"{name}: {error.where}" if error.where else name
        raise


def plan_recipe(name: str, overrides: Overrides = ()) -> list[str]:
    """What ``run_recipe`` would do, a line a step."""
    recipe, config = load_profile(name, overrides)
    return recipe.plan(config)


def run_recipe(
    name: str, overrides: Overrides = (), *, root: Path | str = Path("runs"), resume: bool | Path | str = True
) -> Run:
    """Run a recipe; returns its finished run.

    Args:
        name: ``system/profile``, or the path of a user's YAML file.
        overrides: settings to change, as for ``load_config``.
        root: folder of all runs.
        resume: continue the newest unfinished run with the same settings (true), start anew (false), or continue the
            run in a given directory.

    Raises:
        NotFoundError: no such recipe.
        ConfigError: the settings are not valid.
        RunError: the run to continue is of another recipe or other settings, or another process works on it.
    """
    recipe, config = load_profile(name, overrides)
    label = f"{recipe.name}/{Path(name).stem}"
    with _run_for(label, config, Path(root), resume) as run:
        recipe.run(config, run)
    return run


def publish_evidence(run: Run, folder: Path | str) -> Path | None:
    """Copy the evidence of a finished run to ``<folder>/<system>.json``; ``None`` when its recipe gives none.

    Raises:
        UserError: the run did not finish, or shows its claims on a toy only: such a file would hide real evidence.
        DataError: the run's file is not evidence.
    """
    path = run.path / "artefacts" / EVIDENCE
    if run.status != "finished":
        raise UserError(f"the run is `{run.status}`", where=str(run.path), hint="Continue it: corral runs resume RUN")
    if not path.is_file():
        return None
    evidence = Evidence.read(path)
    if all(claim.toy for claim in evidence.claims):
        raise UserError(
            "shows its claims on a toy only, which counts as no evidence", where=str(path), hint="Run `small`."
        )
    Path(folder).mkdir(parents=True, exist_ok=True)
    return evidence.write(folder)


def _run_for(label: str, config: Config, root: Path, resume: bool | Path | str) -> Run:
    digest = config_hash(config)
    if not isinstance(resume, bool):
        run = Run.open(resume)
        if (run.manifest.recipe, run.manifest.config_hash) != (label, digest):
            raise RunError(
                "is a run of another recipe or of other settings",
                where=str(run.path),
                hint=f"Its own are in `{run.path / 'config.yaml'}`; start a new run for these.",
            )
        return run
    found = resumable_run(root, label, digest) if resume else None
    return found or Run.create(root, label, config, seed=getattr(config, "seed", None))
