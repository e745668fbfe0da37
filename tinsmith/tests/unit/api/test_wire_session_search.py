from __future__ import annotations

import pytest
from tinsmith.api.wire.fields import Fields
from tinsmith.api.wire.session_search import read_session_search
from tinsmith.domain.errors import InvalidInputError


@pytest.mark.parametrize("kind", [[], {}, None, 3, "lost"])
def test_a_status_of_no_known_type_is_refused(kind: object):
    with pytest.raises(InvalidInputError, match="statuses"):
        read_session_search(Fields({"statuses": [{"type": kind}]}), "anna")
