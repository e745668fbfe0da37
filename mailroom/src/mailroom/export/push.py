"""Publishing an export on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from mailroom.errors import MailroomError, MisuseError
from mailroom.service.tokenizers import PUBLIC_HUB


def push(folder: Path, repository: str, *, is_public: bool) -> str:
    """Upload the export without a merged model, making the repository if need be.

    Returns its address.

    Raises:
        MailroomError: no token, no permission, or no network; says which.
    """
    check_push(repository)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi(endpoint=PUBLIC_HUB)
    try:
        made = hub.create_repo(repository, private=not is_public, exist_ok=True)
        hub.upload_folder(folder_path=folder, repo_id=repository, ignore_patterns=["merged/*"])
    except HfHubHTTPError as error:
        raise MailroomError(f"the hub refused {repository}: {error}") from error
    except Exception as error:
        # The hub's library lets through whatever its HTTP library raises, which is no OSError.
        raise MailroomError(
            f"cannot publish on the hub at {PUBLIC_HUB} ({type(error).__name__}: {error}). Check "
            f"the network, and that HF_HUB_OFFLINE is not set; the export is complete in {folder}"
        ) from error
    return str(made)


def check_push(repository: str) -> None:
    """What can be known before there is anything to publish.

    Raises:
        MisuseError: the repository is not OWNER/NAME.
        MailroomError: there is no token.
    """
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name:
        raise MisuseError(f"--push wants OWNER/NAME, got {repository!r}")
    from huggingface_hub import get_token

    if get_token() is None:
        raise MailroomError(
            "publishing needs a Hugging Face token: run `hf auth login`, or set HF_TOKEN to one "
            "with write permission"
        )
