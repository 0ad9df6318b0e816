from __future__ import annotations

import pytest

from twotower.errors import MissingExtraError
from twotower.extras import require


def test_what_is_installed_is_imported() -> None:
    assert require("math", "tune").pi > 3


def test_what_is_not_is_named_with_the_line_that_installs_it() -> None:
    with pytest.raises(MissingExtraError, match=r"no_such_module.*not installed.*pip install 'twotower\[tune\]'"):
        require("no_such_module", "tune")
