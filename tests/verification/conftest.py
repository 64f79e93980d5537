"""A verifier, and the report's result of it beside another one, made once for all tests that only read them."""

import pytest
from scored_cases import OPTIONS, system

from dcal_core.verification.report import evaluate


@pytest.fixture(scope="session")
def ours():
    return system()


@pytest.fixture(scope="session")
def result(ours):
    return evaluate([ours, system("other", separation=3.0)], "SYNTHETIC", **OPTIONS)
