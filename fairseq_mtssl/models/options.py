"""The options of what a model is composed of by name: its self-supervised branch, its image encoder."""

import dataclasses
from typing import Any, Dict, Optional

from omegaconf import DictConfig, OmegaConf

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.registry import Registry


def read_options(
    registry: Registry[Any], kind: Any, cfg: Any, resolved: Optional[Dict[str, Any]] = None
) -> Any:
    """The options of a registered class, read from the configuration of a model.

    kind: the class, one of the registry. cfg: the model's configuration. resolved: fields whose value is not
    the one in cfg. See `Registry.read_options`.
    Raises: ConfigError naming every option that there is not.
    """
    fields = cfg if isinstance(cfg, DictConfig) else OmegaConf.structured(cfg)
    key = f"{registry.key}_options"
    own = _plain(fields[key.removeprefix("model.")]) or {}
    if not isinstance(own, dict):
        raise ConfigError(key, [f"got {own!r}, wanted options by name, as {{codes: 1024}}"])
    # plain values: a list of the configuration would keep all of it, which cannot be pickled
    names = [each.name for each in dataclasses.fields(kind.Options) if each.name in fields]
    model = {name: _plain(fields[name]) for name in names} | (resolved or {})
    return registry.read_options(kind, model, own)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
