"""Who is asking, sessions and how they are found, projects, copies."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import tinker
from click.testing import CliRunner
from sdk_steps import KEY, MODEL, adapter_of, assert_equal_adapters, train
from tinker import types
from tinker.cli.__main__ import main_cli


@pytest.fixture(scope="module")
def own_service(live_server):
    """A service client whose session is named and labelled."""
    client = tinker.ServiceClient(
        base_url=live_server.url,
        api_key=KEY,
        user_metadata={"purpose": "search"},
        project_id="mail",
        display_name="Nightly triage run",
    )
    client.create_lora_training_client(MODEL, rank=2).result().save_state("state").result()
    yield client
    client.close("interrupted").result()


def search(rest, **conditions) -> types.SessionSearchResponse:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tinker.lib.experimental.ExperimentalWarning)
        return rest.search_sessions(types.SessionSearchRequest(**conditions)).result()


def test_whoami_names_the_user_of_the_key(rest, live_server):
    me = rest.whoami().result()
    assert me.user_urn == "tml:organization_user:local"
    assert me.org_urn == "tml:organization:tinsmith"
    program = CliRunner().invoke(main_cli, ["auth", "whoami"], env=live_server.environment())
    assert program.exit_code == 0, program.output
    assert me.user_urn in program.output


def test_sessions_are_found_by_name_metadata_project_and_status(rest, own_service):
    for conditions in (
        {"display_name": "triage NIGHTLY"},
        {"user_metadata": {"purpose": "search"}},
        {"project_ids": ["mail"]},
    ):
        (found,) = search(rest, **conditions).sessions
        assert found.display_name == "Nightly triage run"
        assert found.project_id == "mail"
        assert found.checkpoints_count == 1
        assert found.checkpoint_storage_bytes > 0
        assert found.status.type == "active"
        active = [types.ActiveSessionStatusQuery()]
        assert search(rest, **conditions, statuses=active).sessions
        failed = [types.FailedSessionStatusQuery(), types.CancelledSessionStatusQuery()]
        assert not search(rest, **conditions, statuses=failed).sessions
    assert not search(rest, display_name="daily triage").sessions
    assert not search(rest, user_metadata={"purpose": "other"}).sessions
    by_id = search(rest, session_id=found.session_id).sessions
    assert [one.session_id for one in by_id] == [found.session_id]
    nobody = types.UserSearchOwner(owner_urns=["tml:organization_user:somebody"])
    assert not search(rest, owner=nobody).sessions


def test_a_finished_session_is_found_by_its_reason(rest, live_server):
    client = tinker.ServiceClient(base_url=live_server.url, api_key=KEY, display_name="doomed")
    client.create_sampling_client(base_model=MODEL)
    client.close("errored").result()
    errored = [types.ClientFinishedSessionStatusQuery(reasons=["errored"])]
    (found,) = search(rest, display_name="doomed", statuses=errored).sessions
    assert (found.status.type, found.status.reason.type) == ("client_finished", "errored")
    success = [types.ClientFinishedSessionStatusQuery(reasons=["success"])]
    assert not search(rest, display_name="doomed", statuses=success).sessions


def test_pages_of_a_search_hold_every_session_once(rest, own_service, live_server):
    for _ in range(3):
        with tinker.ServiceClient(base_url=live_server.url, api_key=KEY) as client:
            client.create_sampling_client(base_model=MODEL)
    whole = [one.session_id for one in search(rest, limit=200).sessions]
    paged, cursor = [], None
    while True:
        page = search(rest, limit=2, cursor=cursor)
        paged += [one.session_id for one in page.sessions]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert paged == whole
    assert len(set(whole)) == len(whole) >= 4


def test_a_session_and_its_runs_move_into_a_project(rest, live_server):
    with tinker.ServiceClient(base_url=live_server.url, api_key=KEY) as client:
        run = client.create_lora_training_client(MODEL, rank=2).result()
        rest.assign_session_project(run.model_id.partition(":")[0], "moved").result()
    page = rest.list_training_runs(project_id="moved").result()
    assert [one.training_run_id for one in page.training_runs] == [run.model_id]
    assert page.cursor.total_count == 1
    with pytest.raises(tinker.NotFoundError):
        rest.assign_session_project("no-such-session", "moved").result()


def test_a_copied_checkpoint_goes_on_where_its_source_was(rest, make_run, service):
    run = make_run()
    train(run, [0])
    source = run.save_state("to-copy").result().path
    copy = rest.copy_weights(source, "archive", ttl_seconds=7200).result()
    assert copy.endswith("/weights/to-copy") and copy != source
    assert rest.get_weights_info_by_tinker_path(copy).result().lora_rank == 4
    rest.delete_checkpoint_from_tinker_path(source).result()
    train(run, [1])
    resumed = service.create_training_client_from_state_with_optimizer(copy).result()
    train(resumed, [1])
    assert_equal_adapters(adapter_of(run, rest, "a"), adapter_of(resumed, rest, "b"))
    owner = rest.get_training_run_by_tinker_path(copy).result()
    assert copy.startswith(f"tinker://{owner.training_run_id}/")


def test_a_copy_with_somebody_elses_token_is_refused_by_name(rest, run):
    path = run.save_state("mine").result().path
    with pytest.raises(tinker.BadRequestError, match="access tokens are not supported"):
        rest.copy_weights(path, "p", weights_access_token="secret").result()


def test_logging_out_forgets_the_key_on_this_side(live_server, tmp_path):
    environment = live_server.environment(HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))
    login = CliRunner().invoke(main_cli, ["auth", "login"], input="tml-mine\n", env=environment)
    assert login.exit_code == 0, login.output
    program = str(Path(sys.executable).with_name("tinker"))
    child = subprocess.run(
        [program, "auth", "logout"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert child.returncode == 0, child.stderr
    with live_server.http() as http:
        assert http.delete("/auth/apikey/me").status_code == 403
