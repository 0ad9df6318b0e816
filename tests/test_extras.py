from __future__ import annotations

import math

import pytest

from twotower.errors import ConfigError
from twotower.extras import require


def test_what_is_installed_is_imported() -> None:
    assert require("math", "tune") is math


def test_what_is_not_is_named_with_the_line_that_installs_it() -> None:
    with pytest.raises(ConfigError, match=r"no_such_module.*not installed.*pip install 'twotower\[tune\]'"):
        require("no_such_module", "tune")
