"""The presets: whole, dated, and with the models that people run themselves."""

from __future__ import annotations

import datetime

import pytest

from lemnos.errors import UsageError
from lemnos.gateway.providers import model_at, provider_named, providers

NAMES = ["novita", "zai", "openrouter", "openai", "anthropic"]


def test_every_provider_is_whole() -> None:
    assert sorted(providers()) == sorted(NAMES)
    for name, preset in providers().items():
        day = datetime.date.fromisoformat(preset.as_of)
        assert datetime.date(2026, 1, 1) <= day <= datetime.date.today(), name
        assert preset.key_env.isupper() and preset.read_from
        for base in preset.bases:
            assert base.url.startswith("https://") and not base.url.endswith("/v1")
        served = [api for base in preset.bases for api in base.apis]
        assert len(served) == len(set(served)), f"{name}: an API at two bases"
        for model, offer in preset.models.items():
            assert preset.bases_for(model), model
            assert set(offer.apis or ()) <= set(served), model
            assert 0 <= (offer.cached_input or 0) <= offer.input, model
            assert offer.output == 0 or offer.output >= offer.input, model
            price = preset.price(model)
            assert price and price.as_of == preset.as_of


@pytest.mark.parametrize("name", ["novita", "zai", "openrouter"])
@pytest.mark.parametrize("model", ["GLM-4.5", "GLM-4.5-Air", "zai-org/GLM-4.6", "glm-4.7"])  # fmt: skip
def test_models_are_found_by_what_people_call_them(name: str, model: str) -> None:
    preset = providers()[name]
    assert model_at(preset, model) in preset.models


def test_a_model_of_another_name_is_not_guessed() -> None:
    novita = providers()["novita"]
    with pytest.raises(UsageError) as error:
        model_at(novita, "GLM-4.6-FP8", where="models.x.cloud.0")
    said = str(error.value)
    assert said.startswith("models.x.cloud.0: does not say what Novita AI calls")
    assert "'zai-org/glm-4.6'" in said


def test_unknown_providers_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'openrouter'"):
        provider_named("openruter", providers())
    with pytest.raises(UsageError, match="known: novita, zai"):
        provider_named("qqqq", providers())


def test_a_model_without_a_price_is_served_wherever_its_provider_is() -> None:
    novita = providers()["novita"]
    assert novita.price("new/model") is None
    assert [b.apis for b in novita.bases_for("new/model")] == [
        b.apis for b in novita.bases
    ]
    only_chat = novita.bases_for("openai/gpt-oss-20b")
    assert [base.apis for base in only_chat] == [("chat", "completions")]
