"""What the gateway, as a service, is given of the environment in which lemnos was started. Pure.

Services begin with an empty one. The gateway needs where lemnos keeps things, the proxies and
certificates with which clouds are reached, and the clouds' keys that are in variables. Engines get
what their jobs name, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

from lemnos.spec.deployment import DeploymentSpec

_NAMES = {
    *("LEMNOS_HOME", "LEMNOS_MODELS"),
    *("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "CUDA_VISIBLE_DEVICES", "LANG", "TZ"),
}
_PRESETS_END = "_API_KEY"
"""So end the variables that providers' presets name."""


def carried(env: Mapping[str, str], spec: DeploymentSpec) -> dict[str, str]:
    """Of ``env`` what the gateway needs."""
    clouds = spec.endpoint.cloud
    named = {cloud.key_env for cloud in clouds if cloud.key_env}
    return {
        name: value
        for name, value in sorted(env.items())
        if name.upper() in _NAMES
        or name in named
        or (clouds and name.endswith(_PRESETS_END))
    }


def environment_text(env: Mapping[str, str]) -> str:
    """An ``EnvironmentFile``: values in double quotes, as a shell would read them."""
    return "".join(f'{name}="{_escaped(value)}"\n' for name, value in env.items())


def _escaped(value: str) -> str:
    for sign in ("\\", '"', "`", "$"):
        value = value.replace(sign, "\\" + sign)
    return value
