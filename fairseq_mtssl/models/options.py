"""The options of the registered classes that a model is composed of: its branch and its image encoder."""

import dataclasses
from typing import Any, Dict, Optional

from omegaconf import DictConfig, OmegaConf

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.registry import Registry


def read_options(
    registry: Registry[Any], kind: Any, cfg: Any, resolved: Optional[Dict[str, Any]] = None
) -> Any:
    """Read the options of a registered class from the configuration of a model.

    kind: a class of the registry. cfg: the model's configuration. resolved: values of fields that replace
    those in cfg. See `Registry.read_options`.
    Raises: ConfigError naming every option that the class does not have.
    """
    fields = cfg if isinstance(cfg, DictConfig) else OmegaConf.structured(cfg)
    key = f"{registry.key}_options"
    further = _plain(fields[key.removeprefix("model.")]) or {}
    if not isinstance(further, dict):
        raise ConfigError(key, [f"got {further!r}, wanted options by name, as {{codes: 1024}}"])
    # plain values, since a list of the configuration refers to all of it, which cannot be pickled
    names = [option.name for option in dataclasses.fields(kind.Options) if option.name in fields]
    shared = {name: _plain(fields[name]) for name in names} | (resolved or {})
    return registry.read_options(kind, shared, further)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
