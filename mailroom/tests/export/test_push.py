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
