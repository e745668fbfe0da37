from __future__ import annotations

import pytest
from tinsmith.domain.errors import ForbiddenError
from tinsmith.domain.projects import Role
from tinsmith.domain.records import Caller
from tinsmith.domain.rights import RIGHTS, Right, check_right


@pytest.mark.parametrize("right", [Right.READ, Right.WORK, Right.MANAGE])
@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_what_the_table_says_and_else_learns_who_may(role: Role, right: Right):
    caller = Caller("anna", role)
    if right in RIGHTS[role]:
        check_right(caller, right)
    else:
        with pytest.raises(ForbiddenError, match=f"is {role}, which may not .* owner"):
            check_right(caller, right)


def test_each_role_may_what_the_one_below_may():
    assert RIGHTS[Role.READ_ONLY] < RIGHTS[Role.MEMBER] < RIGHTS[Role.OWNER]


@pytest.mark.parametrize("role", list(Role))
def test_the_whole_server_is_shown_to_the_operators_project_alone(role: Role):
    check_right(Caller("local", role), Right.OPERATE)
    with pytest.raises(ForbiddenError, match="'local'"):
        check_right(Caller("anna", role), Right.OPERATE)
