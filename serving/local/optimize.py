"""Search for the section `optimize:` that makes a model the fastest on this machine, written into a new archive."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from archive_tool.building.aot import has_compiler
from archive_tool.config import effective
from archive_tool.config.safe_yaml import NotYamlError, compose, construct
from archive_tool.config.yaml_edit import with_section
from archive_tool.errors import BuildError, InputError
from archive_tool.metadata import names as layout
from archive_tool.metadata.manifest import Manifest, build_time
from archive_tool.metadata.names import MANIFEST_NAME
from archive_tool.metadata.record import Record
from archive_tool.reading.archive import open_archive
from archive_tool.verification.extraction import extract
from archive_tool.writing import writer
from archive_tool.writing.plan import Member, Plan
from handlers.builtin import TWINS
from handlers.optimization.machine import INSTRUCTIONS
from handlers.optimization.settings import SECTION, UNASKED, Optimization, read
from serving.check import Input
from serving.check.run import device_index, read_config, refuse_unservable
from serving.local.contest import Budget, Candidate, Contest, Row, best

_CONFIG: Final = "model-config.yaml"
# Seconds until a worker must be ready; TorchServe's 120 are too few for a compiler on a busy machine.
_STARTUP_S: Final = 600
_LARGE: Final = 1 << 20  # bytes
#: In the archive; see `handlers.optimization.compile_cache`.
_CACHE: Final = "compile-cache.bin"
DEFAULT_TIMEOUT_S: Final = 300.0
DEFAULT_BUDGET_S: Final = 300.0


@dataclass(frozen=True)
class Options:
    """What to optimize, and how.

    Attributes:
        archive: a .mar, a .tar.gz or a folder.
        inputs: requests that the model can answer; at least one.
        output: the new archive; None for ``NAME-optimized.mar`` beside the old one.
        device: "cpu" or "cuda:N".
        batch: requests that go together in the measurement of throughput.
        tolerance: by how much answers may differ, as a part of the largest number; None for that of the types.
        rounds: in each of which a candidate and the plain model take turns.
        seconds: of a measurement in a round.
        timeout: seconds for loading, compiling and each measurement of a candidate.
        budget: seconds that all of it may take. Where they are few for the model there are fewer rounds, then smaller
            batches; what is not measured when they are over is left out.
        dry_run: measure, and write nothing.
        force: replace what is there.
        allow_pickles: names of members that may run code when they are loaded.
    """

    archive: Path
    inputs: tuple[Input, ...]
    output: Path | None = None
    device: str = "cpu"
    batch: int = 8
    tolerance: float | None = None
    rounds: int = 5
    seconds: float = 0.5
    timeout: float = DEFAULT_TIMEOUT_S
    budget: float = DEFAULT_BUDGET_S
    dry_run: bool = False
    force: bool = False
    allow_pickles: tuple[str, ...] = ()


@dataclass
class Found:
    """The result of a search.

    Attributes:
        rows: the plain model, then every candidate that was begun.
        batch: requests that went together in the measurement of throughput.
        best: the one to recommend; None if nothing is faster by more than the noise.
        written: the new archive; None if none was written.
        notes: what is good to know.
    """

    rows: list[Row]
    batch: int
    best: Row | None = None
    written: Path | None = None
    notes: list[str] = field(default_factory=list)


def optimize(
    options: Options,
    tell: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[Found], None] = lambda _: None,
) -> Found:
    """Measure what there is to try, and write the best into a new archive. Nothing else is left behind.

    Args:
        tell: gets a line for each step: what is measured next, and how much of the budget is left.
        interrupted: gets what was found so far when an exception that ends the program, such as that of Ctrl-C, comes
            between; it goes on its way then, and no archive is written.

    Raises:
        ArchiveError: the archive cannot be read, or is not safe to unpack.
        InputError: it cannot be run here, or has nothing to optimize.
        CheckError: the model refuses an input.
        TargetExistsError: the new archive exists, and force is not set.
        BuildError: it cannot be written.
    """
    budget = Budget(options.budget)
    device_index(options.device)
    target, archive_format = _target(options)
    if not options.dry_run:
        writer.check_target(target, as_folder=archive_format == "no-archive", force=options.force)
    with open_archive(options.archive) as archive:
        manifest = archive.manifest
        if manifest is None or not manifest.model.handler:
            raise InputError(f"{options.archive} names no handler, so there is nothing to optimize")
        text = (read_config(archive, manifest) or b"").decode("utf-8", "replace")
        config = effective.understand(text.encode() or None)
        refuse_unservable(manifest, config)
        if config.value("asyncCommunication") is True or config.value("continuousBatching") is True:
            raise InputError("a model that answers requests in parts, or asynchronously, cannot be measured so")
        with tempfile.TemporaryDirectory(prefix="torchmar-optimize-", ignore_cleanup_errors=True) as root:
            scratch = Path(root).resolve()
            extract(archive, scratch / "model", allow_pickles=options.allow_pickles)
            variants = _Variants(scratch, manifest, text)
            found = _measure(options, variants, scratch, budget, tell, interrupted)
            if found.best is not None and not options.dry_run:
                found.written = _write(options, variants, found, target, archive_format)
    return found


def _target(options: Options) -> tuple[Path, str]:
    old = options.archive
    if options.output is None:
        name = next((old.name.removesuffix(end) for end in (".tar.gz", ".mar") if old.name.endswith(end)), old.name)
        return old.resolve().with_name(f"{name}-optimized.mar"), "default"
    for archive_format in ("default", "tgz"):
        if options.output.name.endswith(layout.SUFFIXES[archive_format]):
            if not options.output.resolve().parent.is_dir():
                raise BuildError(f"the folder {options.output.parent} does not exist", where="--output")
            return options.output, archive_format
    raise BuildError(f"{options.output} is no name of an archive", where="--output", hint="end it in .mar or .tar.gz")


# ---- measuring -------------------------------------------------------------------------------------------------------


def _measure(
    options: Options,
    variants: _Variants,
    scratch: Path,
    budget: Budget,
    tell: Callable[[str], None],
    interrupted: Callable[[Found], None],
) -> Found:
    inputs = []
    for number, one in enumerate(options.inputs):
        file = scratch / f"input-{number}"
        file.write_bytes(one.body)
        inputs.append((one.name, file, one.content_type))
    settings = {"batch": options.batch, "rounds": options.rounds, "seconds": options.seconds}
    tell(f"loading the plain model; {_clock(budget.left)} for everything")
    plain = variants.make(Candidate("plain float32"), None)
    with Contest(
        scratch,
        plain,
        options.device,
        inputs,
        timeout=options.timeout,
        budget=budget,
        **settings,  # type: ignore[arg-type]
    ) as contest:
        _require_sdk(options.archive, contest.facts)
        candidates, notes = candidates_for(contest.facts, compiler=has_compiler())
        contest.fit(len(candidates))
        tell(
            f"a request takes {contest.request:.3g} s; {len(candidates)} candidates, {contest.rounds} rounds each, "
            f"alone and in batches of {contest.batch}"
        )
        found = Found([contest.row], contest.batch, notes=[*variants.notes, *notes])
        if (contest.batch, contest.rounds) != (options.batch, options.rounds):
            found.notes.append(
                f"{contest.rounds} rounds in batches of {contest.batch}, for the budget of {budget.seconds:g} s: more "
                "of both with a larger --budget"
            )

        def try_all(some: Sequence[Candidate]) -> None:
            for done, candidate in enumerate(some):
                if budget.left <= 0:
                    names = "; ".join(one.name for one in some[done:])
                    found.notes.append(f"the budget of {budget.seconds:g} s was over before these were tried: {names}")
                    return
                number = len(found.rows)
                tell(f"{number} of {number + len(some) - done - 1}: {candidate.name}; {_clock(budget.left)} left")
                folder = variants.make(candidate, options.tolerance)
                found.rows.append(contest.measure(candidate, folder, number))
                shutil.rmtree(folder)

        try:
            try_all(candidates)
            if (fewer := with_one_thread(best(found.rows), contest.facts)) is not None:
                try_all([fewer])
        except Exception:
            raise
        except BaseException:  # Ctrl-C, SIGTERM
            found.best = best(found.rows)
            interrupted(found)
            raise
        found.best = best(found.rows)
    return found


def _clock(seconds: float) -> str:
    return f"{max(0, int(seconds)) // 60}:{max(0, int(seconds)) % 60:02}"


def _require_sdk(archive: Path, facts: Mapping[str, Any]) -> None:
    if facts["old"]:
        raise InputError(
            f"the copy of the handler SDK in {archive} does not know the section optimize", hint="build it again"
        )
    if not facts["sdk"]:
        raise InputError(
            f"the handler of {archive} is not one of torchmar's SDK, so the section optimize would have no effect",
            hint="derive it from a class of the package handlers; docs/migrating.md tells how",
        )
    if not facts["module"]:
        raise InputError(
            f"the model of {archive} is {facts['kind']}, which is compiled already: there is nothing to optimize"
        )


def candidates_for(facts: Mapping[str, Any], *, compiler: bool) -> tuple[list[Candidate], list[str]]:
    """List what is sensible to try.

    Args:
        facts: of the model and the machine; see `serving.local.trial.Trial.facts`.
        compiler: whether there is a C++ compiler.

    Returns:
        The candidates, from the simplest on, and notes on what was left out.
    """
    notes = []
    on_gpu = facts["device"] == "cuda"
    dtypes = [Optimization.dtype]
    dtypes += [one for one, sets in INSTRUCTIONS.items() if on_gpu or not sets.isdisjoint(facts["capability"])]
    if len(dtypes) == 1:
        notes.append("16-bit types were not tried: this processor has no instructions for them")
    layouts = (False, True) if facts["pictures"] else (False,)
    makes: list[dict[str, Any]] = [{}]
    if facts["script"]:
        makes.append({"freezing": True})
    elif compiler:
        makes.append({"compile": True, "freezing": True})
        if on_gpu:
            makes.append({"compile": True, "freezing": True, "cuda_graphs": True})
    else:
        notes.append("torch.compile was not tried: there is no C++ compiler")
    by_itself = replace(UNASKED, freezing=facts["folds"], tolerance=None, unasked=False)
    found = []
    for make in makes:
        for dtype in dtypes:
            for channels_last in layouts:
                folds = channels_last and facts["folds"] and not make  # the two belong together
                section = {
                    **({} if dtype == Optimization.dtype else {"dtype": dtype}),
                    **({"channels_last": True} if channels_last else {}),
                    **({"freezing": True} if folds else make),
                }
                if facts["unasked"] and read({SECTION: section}) == by_itself:
                    freezing = " and freezing" if by_itself.freezing else ""
                    notes.append(f"the plain model runs with channels last{freezing} by itself: it has convolutions")
                elif section:
                    found.append(Candidate(_name(dtype, section), section))
    return found, notes


def _name(dtype: str, section: Mapping[str, Any]) -> str:
    return ", ".join([dtype, *(key.replace("_", " ") for key in section if key != "dtype")])


def with_one_thread(row: Row | None, facts: Mapping[str, Any]) -> Candidate | None:
    """Return the best so far with one thread: compiled code is for one number, and the worker tries no other."""
    if row is None or not row.candidate.section.get("compile") or facts["device"] != "cpu" or facts["threads"] < 2:
        return None
    return replace(row.candidate, name=f"{row.candidate.name}, 1 thread", threads=1)


# ---- archives that differ in their settings --------------------------------------------------------------------------


class _Variants:
    """Folders of the model with other settings; large files are not copied.

    Args:
        scratch: with the extracted archive as `model`.
        text: of its config file; empty without one.
    """

    def __init__(self, scratch: Path, manifest: Manifest, text: str) -> None:
        self._scratch = scratch
        self._source = scratch / "model"
        self._text = text
        self.notes: list[str] = []
        self._config = manifest.model.config_file or _CONFIG
        if manifest.model.config_file is None and (self._source / _CONFIG).exists():
            raise InputError(f"the archive has a file {_CONFIG} that its manifest does not name as its config file")
        model = replace(manifest.model, config_file=self._config)
        record = manifest.record or Record()
        if record.compiled is not None:
            self.notes.append("what was compiled ahead of time is left out: build the archive with --aot again")
        handler = manifest.model.handler or ""
        if handler in TWINS and not (self._source / f"{handler}.py").exists():
            self.notes.append(
                f"TorchServe's own worker has a class of its own for {handler}, and serves the plain model with it"
            )
        self._without = f"{record.compiled.path}/" if record.compiled else None
        record = replace(record, compiled=None)
        record = replace(record, extra={key: one for key, one in record.extra.items() if key != "compileCache"})
        self._manifest = replace(manifest, model=model).with_record(record)

    def make(self, candidate: Candidate, tolerance: float | None) -> Path:
        """Make a folder for a candidate."""
        folder = Path(tempfile.mkdtemp(prefix="variant-", dir=self._scratch))
        for name, source in self._files():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            _share(source, place)
        (folder / self._config).unlink(missing_ok=True)  # a link, perhaps
        (folder / self._config).write_text(self.config(candidate, tolerance) or "{}\n", encoding="utf-8")
        place = folder / MANIFEST_NAME
        place.parent.mkdir(exist_ok=True)
        record = replace(self._manifest.record or Record(), members={})  # their hashes are of the old ones
        place.write_bytes(self._manifest.with_record(record).to_json())
        return folder

    def _files(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self._source.rglob("*")):
            name = path.relative_to(self._source).as_posix()
            if path.is_file() and name != MANIFEST_NAME and not (self._without and name.startswith(self._without)):
                yield name, path

    def config(self, candidate: Candidate, tolerance: float | None) -> str:
        """Return the config file with the candidate's settings; all else in it stays as it is written."""
        section = dict(candidate.section)
        if section and tolerance is not None:
            section["tolerance"] = tolerance
        try:
            document = construct(compose(self._text)) or {}
            text = with_section(self._text, SECTION, section or None)
            text = with_section(text, "pt2", None)  # another way to ask for torch.compile
            if section.get("compile") and "startupTimeout" not in document:
                text = with_section(text, "startupTimeout", _STARTUP_S)
            if candidate.threads is not None:
                backend = document.get("backend")
                backend = backend if isinstance(backend, dict) else {}
                text = with_section(text, "backend", {**backend, "threads": candidate.threads})
        except NotYamlError as error:
            raise InputError(f"the archive's config file is {error}", where=self._config) from error
        return text

    def plan(self, row: Row, tolerance: float | None) -> Plan:
        """Plan the archive with the settings of a row, and with what was compiled for it."""
        config = self.config(row.candidate, tolerance)
        members = {name: Member(name, path) for name, path in self._files()}
        members[self._config] = Member(self._config, config.encode())
        members.pop(_CACHE, None)
        record = replace(self._manifest.record or Record(), members={})
        if row.cache is not None:
            file, entry = row.cache
            members[_CACHE] = Member(_CACHE, file)
            record = replace(record, extra={**record.extra, "compileCache": {**entry, "file": _CACHE}})
        manifest = self._manifest.with_record(record)
        return Plan.of(members.values(), manifest, build_time())


def _share(source: Path, place: Path) -> None:
    """Link large files, and copy what a handler may write to."""
    if source.stat().st_size >= _LARGE:
        with contextlib.suppress(OSError):  # a file system without links
            os.link(source, place)
            return
    shutil.copyfile(source, place)


def _write(options: Options, variants: _Variants, found: Found, target: Path, archive_format: str) -> Path:
    if found.best is None:
        raise ValueError("there is nothing to write")
    plan = variants.plan(found.best, options.tolerance)
    writer.write(plan, target, archive_format, force=options.force)
    return target
