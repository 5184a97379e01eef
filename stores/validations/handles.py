"""Handles: what a service is given of a store, the keys or the events, and nothing else of it."""

from __future__ import annotations

from typing import Any

from transforms.errors import RefusedError
from transforms.validations.matrix import VERBS, Asset, Service, verbs_of


class Handle:
    """The methods that the access matrix lends one service of one asset."""

    __slots__ = ("_asset", "_lent", "_service")

    def __init__(self, service: Service, asset: Asset, target: object) -> None:
        """Take the methods out of the target, which is not kept itself."""
        self._service, self._asset = service, asset
        self._lent = {verb: getattr(target, verb) for verb in verbs_of(service, asset)}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the method of any target
        """Give a lent method. Raises: RefusedError for a verb that the matrix does not lend."""
        if name in VERBS[self._asset]:
            if name in self._lent:
                return self._lent[name]
            raise RefusedError(f"{self._service} may not {name}: {self._asset}")
        raise AttributeError(name)
