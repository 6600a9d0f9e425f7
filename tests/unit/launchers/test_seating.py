"""Which hosts and GPUs a unit is given, of those that tell of themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.errors import LemnosError
from lemnos.launchers.others import address_of, is_this_machine, reaches
from lemnos.launchers.seating import Told, choose, parse
from lemnos.launchers.shape import Shape
from lemnos.spec.facts import Gpu

GIB = 1024**3
SAID = """sees it
connection 10.99.0.1 40112 10.99.0.2 22
addresses 10.99.0.2 192.168.7.1
visible 1,0
gpu 0, NVIDIA H100 80GB HBM3, 81559, 81000
gpu 1, NVIDIA H100 80GB HBM3, 81559, 900
tcp   sl  local_address rem_address   st tx_queue rx_queue
tcp    0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000
tcp    1: 0200630A:0016 0100630A:9CB0 01 00000000:00000000 02:00000000
mark abc|box|engine-0.1;
mark abc|box|engine-1;
mark abcd|box|engine-7;
mark /home/ada/state|other|engine-2
mark
"""


def box(gpus: int = 4, held: int = -1, visible: str | None = None) -> Told:
    return Told(
        visible=visible,
        gpus=tuple(
            Gpu(
                index=number,
                name="H100",
                memory_bytes=80 * GIB,
                free_bytes=(5 if number == held else 79) * GIB,
            )
            for number in range(gpus)
        ),
    )


def test_what_a_host_tells_is_read() -> None:
    told = parse(SAID, ("abc", "/home/ada/state"))
    assert told.sees and told.visible == "1,0" and told.listening == {22}
    assert told.connection == ("10.99.0.1", "40112", "10.99.0.2", "22")
    assert [gpu.index for gpu in told.gpus] == [0, 1]
    assert told.units == {("box", "engine-0"), ("box", "engine-1"), ("other", "engine-2")}  # fmt: skip
    nothing = parse("", ("abc",))
    assert nothing == Told() and nothing.visible is None
    assert parse("visible \n", ()).visible == ""
    assert parse("connection UNKNOWN 65535 UNKNOWN 65535\n", ()).connection == ()


@given(st.text())
def test_whatever_a_host_says_is_no_traceback(text: str) -> None:
    assert isinstance(parse(text, ("abc",)), Told)


def test_hosts_with_the_fewest_units_come_first() -> None:
    told = {"n1": Told(), "n2": Told(), "n3": Told()}
    assert choose(Shape(), told, {}, {}) == (("n1",), ())
    assert choose(Shape(), told, {"n1": 1}, {}) == (("n2",), ())
    assert choose(Shape(), told, {"n1": 1, "n2": 1, "n3": 1}, {}) == (("n1",), ())


def test_gpus_are_those_that_nobody_has() -> None:
    told = {"n1": box(held=0), "n2": box()}
    taken = {"n2": {"0", "1"}}
    assert choose(Shape(gpus=2), told, {}, taken) == (("n1",), ("1", "2"))
    assert choose(Shape(gpus=2), told, {"n1": 1}, taken) == (("n2",), ("2", "3"))
    assert choose(Shape(gpus=4), told | {"n3": box()}, {}, taken)[0] == ("n3",)
    with pytest.raises(LemnosError, match=r"a host with 4 free GPUs is needed, and .*n1: 3 of 4 GPUs are free; n2: 2 of 4"):  # fmt: skip
        choose(Shape(gpus=4), told, {}, taken)


def test_hosts_of_one_unit_give_it_the_same_gpus() -> None:
    told = {"n1": box(held=0), "n2": box(held=1), "n3": box()}
    assert choose(Shape(gpus=2, hosts=2), told, {}, {}) == (("n1", "n2"), ("2", "3"))
    assert choose(Shape(gpus=3, hosts=2), told, {}, {}) == (("n1", "n3"), ("1", "2", "3"))  # fmt: skip
    with pytest.raises(LemnosError, match="2 hosts with 4 free GPUs are needed"):
        choose(Shape(gpus=4, hosts=2), told, {}, {})


def test_what_the_host_and_the_spec_allow_holds() -> None:
    assert choose(Shape(gpus=1), {"n1": box(visible="3,2")}, {}, {})[1] == ("3",)
    assert choose(Shape(gpus=1), {"n1": box()}, {}, {}, ("2",))[1] == ("2",)
    with pytest.raises(LemnosError, match="GPU 7 is not among those"):
        choose(Shape(gpus=1), {"n1": box()}, {}, {}, ("7",))
    # A scheduler says which there are, and no driver does.
    step = Told(visible="0,1")
    assert choose(Shape(gpus=1), {"n1": step}, {}, {"n1": {"0"}}) == (("n1",), ("1",))
    with pytest.raises(LemnosError, match="0 of 0 GPUs are free"):
        choose(Shape(gpus=1), {"n1": Told()}, {}, {})


def test_a_host_is_reached_where_nothing_is_between() -> None:
    closed = 9  # discard: nobody listens
    assert reaches(("127.0.0.1", "40112", "127.0.0.1", "22"), closed)
    assert not reaches(("10.99.0.1", "40112", "127.0.0.1", "22"), closed), "a jump host"
    assert not reaches((), closed)
    assert not reaches(("fe80::1%eth0", "1", "fe80::2%eth0", "22"), closed)


def test_the_address_for_other_hosts() -> None:
    told = parse(SAID, ())
    assert address_of("n1", told) == "10.99.0.2"
    assert address_of("n1", told.model_copy(update={"interface": "10.1.0.2"})) == "10.1.0.2"  # fmt: skip
    step = told.model_copy(update={"connection": ()})
    assert address_of("10.5.0.1", step) == "10.5.0.1"
    assert address_of("localhost", step) == "10.99.0.2", "loopback is nobody else's"


def test_this_machine_has_several_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "gpu.a.example")
    for name in ("localhost", "gpu", "gpu.a.example", "ada@gpu"):
        assert is_this_machine(name)
    assert not is_this_machine("gpu.b.example") and not is_this_machine("gpu2")
