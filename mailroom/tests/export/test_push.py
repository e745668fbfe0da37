import subprocess
import sys

import pytest
from mailroom.errors import MailroomError
from mailroom.export.push import push


@pytest.mark.parametrize("repository", ["me", "me/", "/name", "me/name/more"])
def test_a_repository_is_named_by_owner_and_name(tmp_path, repository):
    with pytest.raises(MailroomError, match="OWNER/NAME"):
        push(tmp_path, repository, is_public=False)


def test_without_a_token_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))

    with pytest.raises(MailroomError, match="hf auth login"):
        push(tmp_path, "me/name", is_public=False)


def test_a_hub_out_of_reach_is_one_clear_error_and_the_export_stays(tmp_path):
    # In a process of its own: the library reads the variables when it is imported.
    (tmp_path / "README.md").write_text("an export")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mailroom.export.push import push\n"
        "push(Path(sys.argv[1]), 'me/name', is_public=False)\n"
    )
    environment = {"HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "hub"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**environment, "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mailroom.errors.MailroomError: cannot publish on the hub at http://127")
    assert "ConnectError" in last and str(tmp_path) in last
    assert (tmp_path / "README.md").exists()
