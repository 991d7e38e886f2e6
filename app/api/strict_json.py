"""JSON as the standard has it, and no more of it than a request can need.

Standard: no NaN token, no bad Unicode, bounded depth and number length. And no more:
every wrong field of a body becomes a fault, so a megabyte of them would keep the event
loop busy for seconds.
"""

from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from app.api.faults import Fault, InvalidRequestError, shorten

FIELDS_MAX = 16


class StrictJsonRequest(Request):
    """A request whose `json()` accepts only standard JSON."""

    async def json(self) -> Any:
        """Parse the body; raise InvalidRequestError, which is answered with 422."""
        if not hasattr(self, "_document"):
            try:
                self._document = from_json(await self.body(), allow_inf_nan=False)
            except ValueError as error:
                fault = Fault("body", None, f"must be standard JSON: {error}")
                raise InvalidRequestError([fault]) from error
        return self._document


class StrictJsonRoute(APIRoute):
    """A route whose body must be JSON, declared as such, and within bounds."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler, which would turn our exceptions into its own."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            _require_json(request)
            strict = StrictJsonRequest(request.scope, request.receive)
            faults = list(bulk_faults(await strict.json(), _sites_max(request)))
            if faults:
                raise InvalidRequestError(faults[:1])
            return await handle(strict)

        return handle_strictly


def bulk_faults(document: Any, sites_max: int) -> Iterator[Fault]:
    """Find the objects and lists with more in them than any good request has."""
    if not isinstance(document, dict):
        return
    sites = document.get("sites")
    if isinstance(sites, list) and len(sites) > sites_max:
        yield Fault("sites", shorten(sites), f"at most {sites_max} sites in one request")
        return
    parts = {"body": document, "years": document.get("years")}
    parts["scenarios"] = document.get("scenarios")
    if isinstance(sites, list):
        parts |= {f"sites[{index}]": site for index, site in enumerate(sites)}
    for name, part in parts.items():
        if isinstance(part, (dict, list)) and len(part) > FIELDS_MAX:
            yield Fault(name, shorten(part), f"at most {FIELDS_MAX} entries")


def _require_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"
        )


def _sites_max(request: Request) -> int:
    limit: int = request.app.state.services.settings.limits.sites_max
    return limit
