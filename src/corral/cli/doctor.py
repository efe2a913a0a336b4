"""``corral doctor``: what is installed, what is missing, and the line that mends it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from corral.cli.output import print_json, print_table
from corral.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

State = Literal["ok", "optional", "warn", "missing"]
_GIB: Final = 1024**3
_ENOUGH_MEMORY_GIB: Final = 3.0  # the default guard on CPU, its tokenizer and torch, with room for a batch
_ENOUGH_CACHE_GIB: Final = 1.0  # every form of the embedded model that commands cache


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; ``missing`` is what `corral moderate` cannot work without."""

    name: str
    state: State
    detail: str
    mend: str | None = None


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Check this installation and say what to mend.

    Exits with 1 when something that `corral moderate` needs is missing.
    """
    checks = run_checks()
    healthy = all(check.state != "missing" for check in checks)
    if as_json:
        print_json({"healthy": healthy, "checks": [asdict(check) for check in checks]})
    else:
        print_table(("check", "state", "found"), ((c.name, c.state, c.detail) for c in checks))
        for check in checks:
            if check.mend and check.state in {"warn", "missing"}:
                print(f"{check.name}: {check.state}. To mend it:\n{check.mend}")
    if not healthy:
        raise typer.Exit(1)


def run_checks() -> list[Check]:
    """Every check, in the order in which to mend things."""
    found: list[Check] = [_python(), *_packages()]
    if all(check.state != "missing" for check in found):
        found += [_torch(), _default_guard()]
    models = [
        _embedded_model("embedded model", "smollm2-135m-instruct"),
        _embedded_model("multilingual model", "multilingual-e5-small"),
    ]
    return [*found, *models, _memory(), _cache(), *_extras()]


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Check]:
    """Corral itself and the libraries it cannot do without, each against the version that it declares."""
    yield Check("corral", "ok", version("corral"))
    unmet = _unmet(_requirements(None))
    if unmet:
        yield Check("libraries", "missing", "; ".join(unmet.values()), _install_line(unmet))
    else:
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers"))
        yield Check("libraries", "ok", versions)


def _torch() -> Check:
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU, which is fine"
    detail = f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, {_cpu_features()}; {device}"
    if torch.get_num_threads() > (os.cpu_count() or 1):
        return Check("compute", "warn", detail, "unset OMP_NUM_THREADS")
    return Check("compute", "ok", detail)


def _cpu_features() -> str:
    """The vector instructions that torch chose, and whether bfloat16 is computed natively."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:  # not Linux: torch's own choice has to do
        flags = set()
    bf16 = [flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags]
    return f"{capability}, {bf16[0] if bf16 else 'no native bfloat16'}"


def _default_guard() -> Check:
    from corral.guards.default.guard import ENGLISH_WEIGHTS, MULTILINGUAL_WEIGHTS, WEIGHT_FILES
    from corral.guards.default.pair import ENSEMBLE_FILE, PAIR

    files = [folder / name for folder in (ENGLISH_WEIGHTS, MULTILINGUAL_WEIGHTS) for name in WEIGHT_FILES]
    files.append(PAIR / ENSEMBLE_FILE)
    if missing := [f"{file.parent.name}/{file.name}" for file in files if not file.is_file()]:
        return Check(
            "default guard", "missing", f"not in this installation: {', '.join(missing)}", "Install Corral anew."
        )
    return Check("default guard", "ok", f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB of weights")


def _embedded_model(label: str, name: str) -> Check:
    from corral.core.files import sha256_file
    from corral.models.embedded import embedded_model, find_packed

    model = embedded_model(name)
    try:
        path = find_packed(name)
    except MissingDependencyError as error:
        return Check(label, "missing", error.message, model.install_line)
    if sha256_file(path) != model.sha256:
        again = f"{model.install_line} --force-reinstall"
        return Check(label, "missing", f"{path}: not the expected file", again)
    return Check(label, "ok", f"{name} ({model.licence}), {path.stat().st_size / 1e6:.0f} MB")


def _memory() -> Check:
    available = _available_memory()
    if available is None:
        return Check("memory", "ok", "unknown on this system")
    detail = f"{available / _GIB:.1f} GiB available"
    if available < _ENOUGH_MEMORY_GIB * _GIB:
        return Check("memory", "warn", detail, f"Close other programs: {_ENOUGH_MEMORY_GIB:g} GiB are comfortable.")
    return Check("memory", "ok", detail)


def _available_memory() -> int | None:
    try:
        report = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", report, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _cache() -> Check:
    from corral.models.embedded import cache_root

    root = cache_root()
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    mend = "Set CORRAL_CACHE to a folder that can be written."
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check("cache", "missing", f"`{root}` cannot be written", mend)
    free = shutil.disk_usage(existing).free / _GIB
    state: State = "ok" if free >= _ENOUGH_CACHE_GIB else "warn"
    return Check("cache", state, f"{root}, {free:.1f} GiB free", None if state == "ok" else mend)


def _extras() -> Iterator[Check]:
    """One line for each optional extra that the installed package declares, but for the developers' own."""
    for extra in metadata("corral").get_all("Provides-Extra") or ():
        if extra == "dev":
            continue
        unmet = _unmet(_requirements(extra))
        if unmet:
            yield Check(f"extra {extra}", "optional", "; ".join(unmet.values()), _install_line(unmet))
        else:
            yield Check(f"extra {extra}", "ok", "installed")


def _requirements(extra: str | None) -> Iterator[Requirement]:
    """What the installed package declares to need: always (``None``), or for one extra only."""
    from packaging.requirements import Requirement

    for line in requires("corral") or ():
        requirement = Requirement(line)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        only_in_extra = marker is not None and not always and marker.evaluate({"extra": extra or ""})
        if always if extra is None else only_in_extra:
            yield requirement


def _unmet(requirements: Iterable[Requirement]) -> dict[str, str]:
    """What to ask pip for, and what is wrong now, of each requirement that the environment does not meet."""
    problems = {}
    for needed in requirements:
        wanted = f"{needed.name}{needed.specifier}"
        try:
            installed = version(needed.name)
        except PackageNotFoundError:
            problems[wanted] = f"{needed.name} is not installed"
            continue
        if not needed.specifier.contains(installed, prereleases=True):
            problems[wanted] = f"{needed.name} is {installed}, not {needed.specifier}"
    return problems


def _install_line(wanted: Iterable[str]) -> str:
    return f"pip install {' '.join(map(shlex.quote, wanted))}"
