"""A read-only model hub that holds just the tokenizers of the served models.

With HF_ENDPOINT=<this server>/hub the SDK's get_tokenizer finds local models on machines without
network. No key is needed, as none is sent; weights are never served.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from tinsmith.api.front import front_of, in_thread
from tinsmith.domain.records import ServedModel

TOKENIZER_FILES = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
BRANCH = "main"


async def resolve(request: Request) -> Response:
    """One file of one model, or 404 in the words of huggingface_hub."""
    wanted, file = request.path_params["model"], request.path_params["file"]
    model = _find(front_of(request).service.models.list(), wanted)
    if model is None:
        return _missing("RepoNotFound", f"this server has no model {wanted!r}")
    directory = Path(model.directory)
    commit = await in_thread(_commit_of, directory)
    if request.path_params["revision"] not in (BRANCH, commit):
        return _missing("RevisionNotFound", f"the one revision of {wanted} is {BRANCH}")
    if file not in TOKENIZER_FILES or not (directory / file).is_file():
        return _missing("EntryNotFound", f"{wanted} has no tokenizer file {file!r}", commit)
    digest = await in_thread(_digest_of, directory / file)
    return FileResponse(directory / file, headers={"ETag": f'"{digest}"', "X-Repo-Commit": commit})


async def other(request: Request) -> Response:
    """The hub's API: a plain 404 makes transformers go on without, an error code would not."""
    return JSONResponse({"error": "this hub serves tokenizer files only"}, status_code=404)


def _find(models: tuple[ServedModel, ...], wanted: str) -> ServedModel | None:
    """The SDK asks for names without what follows a colon and without a third part."""
    for model in models:
        name = model.name.partition(":")[0]
        parts = name.split("/")
        if wanted in (model.name, name) or (len(parts) == 3 and wanted == "/".join(parts[:2])):
            return model
    return None


def _missing(code: str, message: str, commit: str | None = None) -> Response:
    headers = {"X-Error-Code": code, "X-Error-Message": message.encode("ascii", "replace").decode()}
    if commit is not None:
        headers["X-Repo-Commit"] = commit
    return JSONResponse({"error": message}, status_code=404, headers=headers)


def _commit_of(directory: Path) -> str:
    """40 hexadecimal digits that change with the files, as a git commit would."""
    files = sorted(file for file in TOKENIZER_FILES if (directory / file).is_file())
    listing = "".join(f"{file} {_digest_of(directory / file)}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()[:40]


def _digest_of(path: Path) -> str:
    status = path.stat()
    return _digest_of_version(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _digest_of_version(path: Path, mtime_ns: int, size_bytes: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
