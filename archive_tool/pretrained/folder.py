"""Reading a folder that `save_pretrained` wrote: what the model is for, and which files an archive of it needs.

Nothing of the folder is run, and no weights are loaded. Files go along as they are. Those of other frameworks, of the
training, and of anything else stay behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

from archive_tool.errors import BuildError
from archive_tool.issues import Problem, refuse_build
from archive_tool.metadata.names import is_skipped_directory, name_problem
from archive_tool.metadata.record import Pretrained, Record, TensorSpec
from archive_tool.pretrained import documents, sentences, signature, task, weights
from handlers.pretrained.tasks import FOLDER, IMAGE_PROCESSOR, MODULES, PROCESSOR, TASKS, TOKENIZER, VLLM

if TYPE_CHECKING:
    from pathlib import Path

    from archive_tool.pretrained.documents import Card

CONFIG: Final = "config.json"
_PIPELINE: Final = "model_index.json"
#: Files that go along: settings, vocabularies, templates, the card and the licence.
_SUFFIXES: Final = frozenset(
    {".bpe", ".codes", ".jinja", ".json", ".md", ".model", ".spm", ".tiktoken", ".tokenizer", ".txt", ".vocab"}
)
_NAMES: Final = frozenset({"LICENSE", "LICENCE", "NOTICE"})
#: Texts of a training, of which nothing is needed to serve the model.
_LEFT: Final = frozenset(
    {"all_results.json", "eval_results.json", "requirements.txt", "train_results.json", "trainer_state.json"}
    | {"torchmar.yaml"}
)
#: Folders of templates that tokenizers bring.
_FOLDERS: Final = ("additional_chat_templates", "chat_templates")
_MAX_FILES: Final = 10_000
#: Files of a vocabulary: all of one of these lines must be there.
_TOKENIZERS: Final = (
    ("tokenizer.json",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("tokenizer.model",),
    ("spm.model",),
    ("source.spm", "target.spm", "vocab.json"),
    ("vocab.json", "tokenizer_config.json"),
    ("sentencepiece.model",),
    ("spm_char.model",),
    ("prophetnet.tokenizer",),
    ("byte_maps.json",),
    ("vocab-src.json", "vocab-tgt.json", "merges.txt"),
)
#: Tokenizers of bytes or characters, which have none.
_WITHOUT: Final = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
_SETTINGS: Final = "tokenizer_config.json"
_PROCESSORS: Final = (("preprocessor_config.json",), ("processor_config.json",))
#: Documents that may name code.
_WITH_CODE: Final = (CONFIG, _SETTINGS, "preprocessor_config.json", "processor_config.json")
_OPTION: Final = "--pretrained"
_NO_FOLDER: Final = "give the folder that model.save_pretrained(folder) wrote"
_HUB_NAME: Final = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        folder: the one that was read.
        task: what the model is for.
        architecture: the class of transformers that it was saved from; empty if the folder does not say.
        files: names of those that an archive needs, relative to the folder.
        weights: names of the model's own weights, relative to the folder that holds its config.json.
        card: what the model card states.
        remote_code: whether code of the folder's own goes along, which runs when the model is loaded.
        inputs, outputs: of the model.
        problems: what keeps it from being served.
        warnings: what is merely odd.
    """

    folder: Path
    task: str
    architecture: str
    files: tuple[str, ...]
    weights: tuple[str, ...]
    card: Card
    remote_code: bool = False
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def handler(self) -> str:
        """The built-in handler of the task."""
        return TASKS[self.task].handler

    def handler_for(self, engine: str) -> str:
        """Return the built-in handler for what is to run the model.

        Raises:
            BuildError: it runs no model of the task.
        """
        if engine != VLLM:
            return self.handler
        if self.task != "text-generation":
            raise BuildError(
                f"vllm runs models for text-generation, and this one is for {self.task}", where="--config-file"
            )
        return "pretrained_vllm_generator"

    @property
    def extra_files(self) -> tuple[str, ...]:
        """The files as options of a build, each with its place in the archive."""
        return tuple(f"{self.folder / name}={FOLDER}/{name}" for name in self.files)

    def record(self, stated: Record) -> Record:
        """Return a record with what the folder tells; what is stated already stays."""
        described = Pretrained(
            path=FOLDER,
            task=self.task,
            architecture=self.architecture or None,
            base_models=self.card.base_models,
            remote_code=self.remote_code,
        )
        return replace(
            stated,
            licence=stated.licence or self.card.licence,
            inputs=stated.inputs or self.inputs,
            outputs=stated.outputs or self.outputs,
            pretrained=described,
        )


def read(folder: Path, *, asked: str | None = None, trust_remote_code: bool = False) -> Found:
    """Read a folder.

    Args:
        folder: what `save_pretrained` of transformers, or `save` of sentence-transformers, wrote.
        asked: the task; None to find it.
        trust_remote_code: take the folder's own code along.

    Raises:
        BuildError: it is no such folder, a document of it cannot be used, or it is not known what the model is for.
            What else is wrong is among the result's problems.
    """
    modules = sentences.read(folder)
    inner = folder / modules.model if modules else folder
    if not (inner / CONFIG).is_file():
        _refuse_without_config(folder, inner)
    config = documents.read_object(inner / CONFIG)
    card, odd = documents.read_card(folder)
    architecture = _architecture(config)
    if asked is not None:
        found = task.given(asked)
    elif modules is not None:
        found = "feature-extraction"
    elif architecture:
        found = task.find(config, architecture, card, str(inner / CONFIG))
    else:
        raise BuildError(
            f"{inner / CONFIG} names no architecture, so nothing shows what the model is for",
            hint=f"say it: --task, one of {', '.join(TASKS)}",
        )
    problems: list[Problem] = []
    code = _code(inner, problems, trust=trust_remote_code)
    own = weights.find(inner, problems)
    serving = [*_texts(inner), *own, *code]
    names = [f"{modules.model}/{name}" if modules and modules.model else name for name in serving]
    names += [name for name in _texts(folder) if name not in names] if inner != folder else []
    for place in modules.others if modules else ():
        names += _module(folder, place, problems)
    _check_parts(inner, found, problems)
    if len(names) > _MAX_FILES:
        raise BuildError(f"{folder} holds more than {_MAX_FILES} files", hint=_NO_FOLDER)
    inputs, outputs = signature.find(inner, config, found)
    return Found(
        folder=folder,
        task=found,
        architecture=architecture,
        files=tuple(dict.fromkeys(names)),
        weights=tuple(own),
        card=card,
        remote_code=bool(code),
        inputs=inputs,
        outputs=outputs,
        problems=tuple(problems),
        warnings=(Problem(odd, str(folder / documents.CARD)),) if odd else (),
    )


def is_one(folder: Path) -> bool:
    """Return whether a folder looks as if `save_pretrained` had written it."""
    if (folder / MODULES).is_file():
        return True
    return ((folder / CONFIG).is_file() and weights.has(folder)) or (folder / weights.ADAPTER).is_file()


def absent(folder: Path, option: str, hint: str) -> BuildError:
    """Return the error for a folder that is not there, and may be a name of the Hub."""
    if _HUB_NAME.fullmatch(str(folder)):
        hint += (
            f"; nothing is fetched here, so for one of the Hub first: hf download {folder} --local-dir {folder.name}"
        )
    return BuildError(f"the folder {folder} does not exist", where=option, hint=hint)


def _refuse_without_config(folder: Path, inner: Path) -> NoReturn:
    """Say what a folder is that lacks its config.json.

    Raises:
        BuildError: always.
    """
    if not folder.exists():
        raise absent(folder, _OPTION, _NO_FOLDER)
    is_file = not folder.is_dir()
    problem = weights.of_others([folder.name], str(folder)) if is_file else weights.foreign(folder)
    refuse_build([problem] if problem else ())
    if is_file:
        hint = f"give its folder: {folder.parent}" if (folder.parent / CONFIG).is_file() else _NO_FOLDER
        raise BuildError(f"{folder} is no folder", where=_OPTION, hint=hint)
    if (folder / _PIPELINE).is_file():
        raise BuildError(f"{folder} holds a pipeline of diffusers, which is not served", where=_OPTION, hint=_NO_FOLDER)
    # As in a folder of a training, or of the Hub's cache.
    below = sorted(path for place in ("*", "snapshots/*") for path in folder.glob(f"{place}/{CONFIG}"))
    hint = f"give the folder that holds it, such as {below[0].parent}" if below else _NO_FOLDER
    raise BuildError(f"{CONFIG} is missing in {inner}", where=_OPTION, hint=hint)


def _architecture(config: Mapping[str, Any]) -> str:
    found = config.get("architectures")
    first = found[0] if isinstance(found, list) and found else None
    return first if isinstance(first, str) and first.isidentifier() else ""


def _texts(folder: Path) -> list[str]:
    """List the files of a folder that go along besides weights and code."""
    found = []
    for path in sorted(folder.iterdir()):
        name = path.name
        if path.is_dir():
            if name in _FOLDERS:
                found += [f"{name}/{inner.name}" for inner in sorted(path.iterdir()) if inner.is_file()]
        elif _is_text(name) and not name.endswith(weights.INDEX):
            found.append(name)
    return found


def _is_text(name: str) -> bool:
    if name.startswith(".") or name in _LEFT:
        return False
    return name in _NAMES or any(name.endswith(suffix) for suffix in _SUFFIXES)


def _module(folder: Path, place: str, problems: list[Problem]) -> list[str]:
    """List the files of one module of sentence-transformers."""
    path = folder / place
    if not path.is_dir():
        # A module without settings, such as one that normalises, has no folder in some versions.
        return []
    names = [f"{place}/{name}" for name in _texts(path)]
    if (path / weights.SINGLE[0]).is_file() or (path / weights.SINGLE[1]).is_file():
        names += [f"{place}/{name}" for name in weights.find(path, problems)]
    return names


def _check_parts(folder: Path, name: str, problems: list[Problem]) -> None:
    """Report the parts that a task needs besides the model."""
    needs = TASKS[name].needs
    if needs in (TOKENIZER, PROCESSOR) and not (_has(folder, _TOKENIZERS) or _needs_no_vocabulary(folder)):
        problems.append(
            Problem(
                f"the tokenizer is missing, which {name} needs: there is no tokenizer.json, and no vocabulary",
                str(folder),
                "save it into the same folder: tokenizer.save_pretrained(folder); or name another task: --task",
            )
        )
    if needs in (IMAGE_PROCESSOR, PROCESSOR) and not _has(folder, _PROCESSORS):
        problems.append(
            Problem(
                f"the {needs} is missing, which {name} needs: there is no preprocessor_config.json",
                str(folder),
                "save it into the same folder: processor.save_pretrained(folder)",
            )
        )


def _has(folder: Path, choices: tuple[tuple[str, ...], ...]) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in choices)


def _needs_no_vocabulary(folder: Path) -> bool:
    """Return whether the tokenizer is of a kind without one, or code of its own that knows its files."""
    settings = documents.read_object(folder / _SETTINGS) if (folder / _SETTINGS).is_file() else {}
    return settings.get("tokenizer_class") in _WITHOUT or "auto_map" in settings


def _code(folder: Path, problems: list[Problem], *, trust: bool) -> list[str]:
    """List the Python files of a folder whose documents name code; report it unless it is trusted."""
    named: dict[str, str] = {}
    for document in _WITH_CODE:
        if (folder / document).is_file():
            for reference in _references(documents.read_object(folder / document).get("auto_map")):
                named.setdefault(reference, document)
    if not named:
        return []
    first, document = next(iter(named.items()))
    if not trust:
        problems.append(
            Problem(
                f"the model needs code of its own, {first}, which runs where it is served",
                str(folder / document),
                "read the Python files of the folder; if you trust them, give --trust-remote-code",
            )
        )
        return []
    for reference, source in named.items():
        module = f"{reference.rpartition('.')[0]}.py"
        if "--" in reference:
            problems.append(
                Problem(
                    f"the code {reference} is another repository's, and would be fetched from there",
                    str(folder / source),
                    "put the code into this folder, and name it without the repository",
                )
            )
        elif name_problem(module) or not (folder / module).is_file():
            problems.append(Problem(f"the code {reference} is missing: there is no {module}", str(folder / source)))
    return list(_sources(folder))


def _references(value: object) -> Iterator[str]:
    """Yield the classes that an `auto_map` names: texts, or lists of texts and null."""
    for part in value.values() if isinstance(value, Mapping) else (value,):
        for reference in part if isinstance(part, list) else (part,):
            if isinstance(reference, str):
                yield reference


def _sources(folder: Path, prefix: str = "") -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            # A link may lead back.
            if not (is_skipped_directory(path.name) or path.is_symlink()):
                yield from _sources(path, f"{prefix}{path.name}/")
        elif path.suffix == ".py":
            yield prefix + path.name
