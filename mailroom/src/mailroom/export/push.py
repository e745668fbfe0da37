"""Publishing an export on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from mailroom.errors import MailroomError
from mailroom.service.tokenizers import PUBLIC_HUB


def push(folder: Path, repository: str, *, is_public: bool) -> str:
    """Upload the export without a merged model, making the repository if need be.

    Returns its address.

    Raises:
        MailroomError: no token, no permission, or no network; says which.
    """
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name:
        raise MailroomError(f"--push wants OWNER/NAME, got {repository!r}")
    import httpx
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if get_token() is None:
        raise MailroomError(
            "publishing needs a Hugging Face token: run `hf auth login`, or set HF_TOKEN to one "
            "with write permission"
        )
    hub = HfApi(endpoint=PUBLIC_HUB)
    try:
        made = hub.create_repo(repository, private=not is_public, exist_ok=True)
        hub.upload_folder(folder_path=folder, repo_id=repository, ignore_patterns=["merged/*"])
    except HfHubHTTPError as error:
        raise MailroomError(f"the hub refused {repository}: {error}") from error
    except (OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        raise MailroomError(
            f"cannot reach the hub at {PUBLIC_HUB} ({type(error).__name__}); the export itself is "
            f"complete in {folder}"
        ) from error
    return str(made)
