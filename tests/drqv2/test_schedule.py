import pytest

from drqv2.schedule import parse_schedule
from runs.errors import OptionError


@pytest.mark.parametrize("text", [0.2, "0.2", " 2e-1 "])
def test_constant(text):
    schedule = parse_schedule(text)
    assert schedule(0) == schedule(10**9) == pytest.approx(0.2)


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (25_000, 0.775), (50_000, 0.55), (100_000, 0.1), (10**7, 0.1)])
def test_linear(step, value):
    assert parse_schedule("linear(1.0,0.1,100000)")(step) == pytest.approx(value)


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (50, 0.75), (100, 0.5), (200, 0.3), (300, 0.1), (900, 0.1)])
def test_step_linear(step, value):
    assert parse_schedule("step_linear(1.0, 0.5, 100, 0.1, 200)")(step) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "lin", "linear(1,2)", "linear(1,2,0)", "linear(a,b,c)", "linear(1,2,3)x"])
def test_malformed(text):
    with pytest.raises(OptionError, match="linear"):
        parse_schedule(text)
