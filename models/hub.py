"""Weights in the Hugging Face cache, downloaded only when asked, with errors that name model, repository and folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.models import PretrainedCfg

from ..bench.contract import BadInputError

FILENAMES = ("model.safetensors", "pytorch_model.bin")
"""What timm's repositories hold, preferred first."""


def find_weights(id: str, cfg: PretrainedCfg, online: bool) -> Path:
    """The weights file of a timm model in the cache or, with ``online``, on the hub.

    Raises:
        BadInputError: timm knows no weights of this model, or they are not cached, or the hub cannot be reached; the
            text names model, repository, file, cache folder and what to do.
    """
    if not cfg.hf_hub_id:
        raise BadInputError(
            f"timm has no weights on the hub for {id!r}; give weights=FILE, or type random=true for random weights."
        )
    repository, _, revision = cfg.hf_hub_id.partition("@")
    names = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else FILENAMES
    for name in names:
        cached = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    if not online:
        raise BadInputError(
            f"the weights of timm model {id!r} are not in the cache {constants.HF_HUB_CACHE} (repository {repository}, "
            f"file {names[0]}). {_ways_out(repository)} Random weights must be typed: random=true."
        )
    return _download(id, repository, revision or None, names)


def hub_snapshot(repository: str, online: bool, patterns: Sequence[str] = ("config.json", *FILENAMES)) -> Path:
    """The folder of a hub repository's snapshot in the cache; ``USER/REPO@REVISION`` names another than the newest.

    Args:
        patterns: the files needed of it.

    Raises:
        BadInputError: it is not cached and may not or cannot be downloaded; the text names repository and cache folder.
    """
    name, _, revision = repository.partition("@")
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=list(patterns), local_files_only=not online
        )
    except (OSError, ValueError) as error:
        reason = str(error).partition(" To enable")[0]  # the library goes on with an argument that nobody can pass here
        raise BadInputError(
            f"repository {name} is not in the cache {constants.HF_HUB_CACHE}: {reason} On a machine with a network run "
            f"`hf download {name}`, or add online=true; on one without, copy the folder and name it instead of the "
            "repository (timm: id=local-dir:FOLDER, transformers: path=FOLDER)."
        ) from error
    return Path(folder)


def _download(id: str, repository: str, revision: str | None, names: tuple[str, ...]) -> Path:
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision))
        except LocalEntryNotFoundError as error:  # the hub could not be reached; a subclass of the next
            raise _unreachable(id, repository, name, error) from error
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _unreachable(id, repository, name, error) from error
    raise BadInputError(f"repository {repository} of timm model {id!r} holds none of {', '.join(names)}.")


def _unreachable(id: str, repository: str, name: str, error: Exception) -> BadInputError:
    return BadInputError(
        f"the weights of timm model {id!r} could not be fetched (repository {repository}, file {name}, cache "
        f"{constants.HF_HUB_CACHE}): {error} {_ways_out(repository)}"
    )


def _ways_out(repository: str) -> str:
    return (
        f"On a machine with a network run `hf download {repository}`, or add online=true; on one without, copy the "
        "file and add weights=FILE."
    )
