import hashlib
import re

import pytest

BASE = "/hub/org/tiny/resolve"


@pytest.fixture
def hub(rooms):
    with rooms.client(key=None) as client:
        yield client


def test_a_tokenizer_file_has_what_huggingface_hub_checks(hub, rooms):
    content = (rooms.model_directory / "tokenizer.json").read_bytes()
    head = hub.head(f"{BASE}/main/tokenizer.json")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert head.headers["content-length"] == str(len(content))
    assert re.fullmatch(r"[0-9a-f]{40}", head.headers["x-repo-commit"])
    by_commit = hub.get(f"{BASE}/{head.headers['x-repo-commit']}/tokenizer.json")
    assert by_commit.content == content


def test_the_commit_changes_with_the_files(hub, rooms):
    before = hub.head(f"{BASE}/main/config.json").headers["x-repo-commit"]
    (rooms.model_directory / "vocab.json").write_text("{}")
    assert hub.head(f"{BASE}/main/config.json").headers["x-repo-commit"] != before


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/hub/org/other/resolve/main/config.json", "RepoNotFound"),
        ("/hub/tiny/resolve/main/config.json", "RepoNotFound"),
        (f"{BASE}/v2/config.json", "RevisionNotFound"),
        (f"{BASE}/main/added_tokens.json", "EntryNotFound"),
        (f"{BASE}/main/model.safetensors", "EntryNotFound"),
        (f"{BASE}/main/..%2fmodel%2fconfig.json", "EntryNotFound"),
        (f"{BASE}/main/sub/config.json", "EntryNotFound"),
    ],
)
def test_what_is_not_a_tokenizer_file_is_404_with_the_hubs_code(hub, path, code):
    for method in ("GET", "HEAD"):
        response = hub.request(method, path)
        assert response.status_code == 404
        assert response.headers["x-error-code"] == code


@pytest.mark.parametrize(
    "path", ["/hub/api/models/org/tiny", "/hub/api/models/org/tiny/tree/main", "/hub/"]
)
def test_the_rest_of_the_hub_is_a_plain_404(hub, path):
    response = hub.get(path)
    assert response.status_code == 404
    assert "x-error-code" not in response.headers
