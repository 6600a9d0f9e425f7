"""``lemnos models ls --known``, as people run it."""

from __future__ import annotations

from tests.command import lemnos, report


def test_known_checkpoints_are_listed_with_their_figures() -> None:
    known = {each["name"]: each for each in report("models", "ls", "--known")["known"]}
    air = known["glm-4.5-air-fp8"]
    assert (air["parameters"], air["stored"]) == (106_852_251_264, "fp8-channel")
    assert (air["context"], air["size_gib"]) == (131_072, 105.41)
    text = lemnos("models", "ls", "--known").stdout
    assert all(name in text for name in known)
    assert "105.4 GiB" in text and "131,072" in text
